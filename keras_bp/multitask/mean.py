"""The mean of the tasks' gradients."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask.combiner import Combiner


@serializable
class Mean(Combiner):
    """Averages the tasks' gradients: equal weights.

        d = 1/T * sum over i of g_i

    A task that is left out of the step does not count in T.

    Example:
        >>> combine = keras_bp.multitask.Mean()
        >>> combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.0, 0.5]

    References:
        Caruana, 1997, "Multitask learning".
    """

    def _weights(self, gramian, present):
        return equal_weights(present, gramian.dtype)


def equal_weights(present, dtype):
    """Return 1/n for each of the n tasks that are present, and 0 for the others.

    The tasks are along the last axis.
    """
    present = tf.cast(present, dtype)
    return present / tf.maximum(tf.reduce_sum(present, axis=-1, keepdims=True), 1.0)
