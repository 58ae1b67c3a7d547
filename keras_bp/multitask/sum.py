"""The sum of the tasks' gradients."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask.combiner import Combiner


@serializable
class Sum(Combiner):
    """Adds up the tasks' gradients: what the gradient of the summed loss is.

        d = sum over i of g_i

    The baseline that heeds no conflict: a task with a long gradient decides.

    Example:
        >>> combine = keras_bp.multitask.Sum()
        >>> combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.0, 1.0]

    References:
        Caruana, 1997, "Multitask learning".
    """

    def _weights(self, gramian, present):
        return tf.cast(present, gramian.dtype)
