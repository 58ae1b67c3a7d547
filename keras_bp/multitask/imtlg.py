"""The combination whose projection on every task's gradient is equally long."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask._spectrum import spectrum
from keras_bp.multitask.combiner import Combiner

# Of the sum of the sizes: below it a sum of weights is rounding, and there is no scale to take.
VANISHING = 1e-9


@serializable
class IMTLG(Combiner):
    """Takes the direction that lies equally along every task's gradient, impartial to its length.

        d = J^T a,    a = v / sum of v,    v = M^+ sqrt(diag M),    M = J J^T

    so that g_i . d / ||g_i|| is the same for all i, where the gradients are independent. M^+ is
    the pseudoinverse; a gradient of 0 gets no weight, and directions in which no gradient reaches
    some 1e-6 of the longest one are taken for rounding. Weights may be negative. Where the v sum up
    to 0, as in opposite gradients, d is 0.

    Example:
        >>> combine = keras_bp.multitask.IMTLG()
        >>> [round(float(x), 4) for x in combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]]))]
        [0.1716, 0.4142]

    References:
        Liu et al., 2021, "Towards impartial multi-task learning", section 3.1.
        Quinton and Rey, 2024, "Jacobian descent for multi-objective optimization", appendix: the
        form with the pseudoinverse.
    """

    def _weights(self, gramian, present):
        values, vectors, counts = spectrum(gramian)
        lengths = tf.sqrt(tf.maximum(tf.linalg.diag_part(gramian), 0.0))
        along = tf.linalg.matvec(vectors, lengths, transpose_a=True)
        inverse = tf.where(counts, 1.0 / tf.where(counts, values, 1.0), 0.0)
        weights = tf.linalg.matvec(vectors, inverse * along)
        total = tf.reduce_sum(weights)
        scale = tf.reduce_sum(tf.abs(weights))
        # Gradients with M^+ sqrt(diag M) = 0 leave rounding alone: of v, not of its sum.
        smallest = tf.sqrt(tf.reduce_sum(lengths**2) + 1e-300)
        vanishing = tf.abs(total) <= VANISHING * scale + 1e-12 / smallest
        return tf.where(~vanishing, weights / tf.where(~vanishing, total, 1.0), 0.0)
