"""The gradients' principal components, brought to one length."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask._spectrum import spectrum
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.mean import equal_weights


@serializable
class AlignedMTL(Combiner):
    """Gives all principal components of the gradients the length of the shortest, and averages.

        d = J^T B w,    B = sqrt(l_min) V diag(l)^(-1/2) V^T,    w_i = 1/T,    M = V diag(l) V^T

    over the eigenvalues l of M = J J^T that are not 0; a component of less than some 1e-6 of the
    longest is taken for rounding, and left out. The condition number of the gradients,
    which conflicts and differences in length raise, becomes 1. Equal and orthogonal gradients
    give their mean.

    Example:
        >>> combine = keras_bp.multitask.AlignedMTL()
        >>> combine(tf.constant([[2.0, 0.0], [0.0, 4.0]])).numpy().tolist()
        [1.0, 1.0]

    References:
        Senushkin et al., 2023, "Independent component alignment for multi-task learning",
        Algorithm 1.
    """

    def _weights(self, gramian, present):
        values, vectors, counts = spectrum(gramian)
        mean = equal_weights(present, gramian.dtype)
        values = tf.where(counts, values, 1.0)
        shortest = tf.reduce_min(tf.where(counts, values, tf.reduce_max(values)))
        shares = tf.where(counts, tf.sqrt(shortest / values), 0.0)
        return tf.linalg.matvec(vectors, shares * tf.linalg.matvec(vectors, mean, transpose_a=True))
