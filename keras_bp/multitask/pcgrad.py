"""Gradients that are projected off one another where they conflict, in a random order."""

import keras
import tensorflow as tf

from keras_bp._arguments import check_integer
from keras_bp._keras import compiled_by_xla, serializable
from keras_bp.multitask.combiner import Combiner


@serializable
class PCGrad(Combiner):
    """Projects each task's gradient off every gradient that it conflicts with.

    For each task i, over the other tasks j in random order:

        h_i = g_i;    if h_i . g_j < 0:  h_i <- h_i - (h_i . g_j / ||g_j||^2) g_j

    with the original g_j, and d is the sum of the h_i. With two tasks no conflict is left; with
    more, a later projection may bring back an earlier conflict, and the order matters.

    The order is drawn anew in each step, for each task, from a `keras.random.SeedGenerator`:
    reproducible from `keras.utils.set_random_seed`, and from `seed`. Compiled by XLA it is
    another one.

    Args:
        reduction: `"sum"`, as in the paper, or `"mean"` of the projected gradients. Defaults to
            `"sum"`.
        seed: Integer of 0 or more, or `None` to draw one.

    Raises:
        TypeError: If `seed` is not an integer.
        ValueError: If `reduction` is another, or `seed` is negative.

    Example:
        >>> combine = keras_bp.multitask.PCGrad()
        >>> combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.5, 1.5]

    References:
        Yu et al., 2020, "Gradient surgery for multi-task learning", Algorithm 1.
    """

    def __init__(self, reduction="sum", seed=None):
        if reduction not in ("sum", "mean"):
            raise ValueError(
                f'`reduction` must be "sum" or "mean". Received: reduction={reduction!r}'
            )
        if seed is not None:
            seed = check_integer("seed", seed, 0)
        self.reduction = reduction
        self.seed_generator = keras.random.SeedGenerator(seed)
        super().__init__(reduction=reduction, seed=seed)

    def _weights(self, gramian, present):
        size = gramian.shape[0]
        coefficients = project(gramian, self._orders(size))
        kept = tf.cast(present, gramian.dtype)
        weights = tf.linalg.matvec(coefficients, kept, transpose_a=True)
        if self.reduction == "mean":
            weights /= tf.maximum(tf.reduce_sum(kept), 1.0)
        return weights

    def _orders(self, size):
        """Draw a permutation of the tasks for each of them, as a tensor of shape (T, T)."""
        # As Keras narrows its generator's int64 state, which XLA does not take.
        state = tf.convert_to_tensor(self.seed_generator.next())
        seed = tf.cast(tf.math.floormod(state, tf.int32.max - 1), tf.int32)
        algorithm = "philox" if compiled_by_xla() else "auto_select"
        draws = tf.random.stateless_uniform((size, size), seed, alg=algorithm)
        return tf.argsort(draws, axis=1)


def project(gramian, orders):
    """Project each gradient off those that it conflicts with.

    Args:
        gramian: Tensor M = J J^T of shape (T, T).
        orders: Integer tensor of shape (T, T): row i holds the order in which task i meets the
            others; itself, wherever it stands, is passed over.

    Returns:
        A tensor C of shape (T, T) with h_i = sum over j of C_ij g_j.
    """
    size = gramian.shape[0]
    squares = tf.linalg.diag_part(gramian)
    squares = tf.where(squares > 0.0, squares, 1.0)
    own = tf.range(size, dtype=orders.dtype)
    coefficients = tf.eye(size, dtype=gramian.dtype)
    for step in range(size):
        other = orders[:, step]
        product = tf.reduce_sum(coefficients * tf.gather(gramian, other), axis=1)
        conflict = (product < 0.0) & (other != own)
        off = tf.where(conflict, product / tf.gather(squares, other), 0.0)
        coefficients -= off[:, None] * tf.one_hot(other, size, dtype=gramian.dtype)
    return coefficients
