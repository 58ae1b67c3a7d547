"""The direction near the mean gradient that lowers the worst task most."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.multitask._least_squares import nearest_to_origin
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.mean import equal_weights

# Of the norm of the gradients that g_w is made of: a shorter g_w is taken for 0.
STATIONARY = 1e-4
# Of k, and so of d: as Newton's method closes in quadratically, it is far better when it stops.
PRECISION = 1e-9
ROUNDS = 60


@serializable
class CAGrad(Combiner):
    """Looks in a ball around the mean gradient for the direction that helps the worst task most.

        d = argmax over d of min over i of g_i . d,    ||d - g_0|| <= c ||g_0||,   g_0 = mean of g

    by its dual, with g_w = sum over i of w_i g_i, w_i >= 0 and sum of w = 1:

        d = g_0 + c ||g_0|| g_w / ||g_w||,    w = argmin g_w . g_0 + c ||g_0|| ||g_w||

    With c = 0 it is the mean. Where the best g_w is 0, or shorter than 1e-4 of the gradients that
    it is made of, no direction in the ball lowers every loss: the point is taken for Pareto
    stationary, and d is 0. One task with a gradient of 0 is enough for that, if g_0 raises no
    other's loss.

    Args:
        c: Number of 0 or more, the ball's radius over ||g_0||; the paper's are 0.2 to 0.8. Below
            1, a step lowers the mean loss. Defaults to 0.5.

    Raises:
        TypeError: If `c` is not a number.
        ValueError: If `c` is negative or not finite.

    Example:
        >>> combine = keras_bp.multitask.CAGrad(c=0.5)
        >>> [round(float(x), 4) for x in combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]]))]
        [0.25, 0.5]

    References:
        Liu et al., 2021, "Conflict-averse gradient descent for multi-task learning", equation 3
        and Algorithm 1.
    """

    def __init__(self, c=0.5):
        self.c = check_number("c", c, 0.0)
        super().__init__(c=self.c)

    def _weights(self, gramian, present):
        mean = equal_weights(present, gramian.dtype)
        along = tf.linalg.matvec(gramian, mean)
        square = tf.maximum(tf.tensordot(mean, along, 1), 0.0)
        radius = self.c * tf.sqrt(square)
        w = _worst_case(gramian, present, along, square, radius)
        length = tf.sqrt(tf.maximum(tf.tensordot(w, tf.linalg.matvec(gramian, w), 1), 0.0))
        lengths = tf.sqrt(tf.linalg.diag_part(gramian))
        stationary = length <= STATIONARY * tf.tensordot(w, lengths, 1)
        # With a gradient of 0 the best w lies on it as a whole, but for rounding, or not at all.
        on_zeros = tf.where(present & (lengths <= 0.0), w, tf.zeros_like(w))
        stationary |= tf.reduce_sum(on_zeros) > 0.5
        pull = radius / tf.where(~stationary, length, 1.0)
        found = tf.where(stationary, tf.zeros_like(mean), mean + pull * w)
        # Without a radius there is nothing to look for.
        return tf.where(radius > 0.0, found, mean)


def _worst_case(gramian, present, along, square, radius):
    """Return argmin over the simplex of g_w . g_0 + r ||g_w||, with g_i . g_0 in `along`.

    As r ||g_w|| is the least r (||g_w||^2 / t + t) / 2 over t, the best w for a given t = k r is
    the point nearest to the origin in the hull of the g_i + k g_0; and k is right where
    ||g_w|| = k r. The sum to be minimized is convex in (w, t), so that k is too small exactly
    where ||g_w|| is larger than k r. On the set of the w_i that are not 0, w is linear in k, which
    gives the next k: the last one, once the set is right. A bracket around k makes it sure.
    """
    there = tf.cast(present, gramian.dtype)
    squares = tf.linalg.diag_part(gramian)
    shortest = tf.sqrt(tf.reduce_min(tf.where(present, squares, tf.reduce_max(squares))))
    safe_radius = tf.where(radius > 0.0, radius, 1.0)

    def weights(k):
        cross = along[:, None] + along[None, :]
        shifted = gramian + (k * cross + k**2 * square) * there[:, None] * there[None, :]
        return nearest_to_origin(shifted, there, floor=1e-2)

    def excess(w, k):
        return tf.tensordot(w, tf.linalg.matvec(gramian, w), 1) - (k * safe_radius) ** 2

    def step(low, high, k, w, done):
        w = weights(k)
        short = excess(w, k) > 0.0
        low = tf.where(short, k, low)
        high = tf.where(short, high, k)
        guess = _on_the_set(gramian, along, w > 0.0, safe_radius, k)
        inside = (guess > low) & (guess < high)
        following = tf.where(inside, guess, (low + high) / 2.0)
        near = (tf.abs(guess - k) <= PRECISION * k) | (high - low <= PRECISION * high)
        # ||g_w|| is at most high r here: shorter than what is told from 0.
        none = high * safe_radius < STATIONARY / 2.0 * shortest
        return low, high, tf.where(near, k, following), w, near | none

    top = 1.01 * tf.sqrt(tf.reduce_max(tf.linalg.diag_part(gramian))) / safe_radius
    zero = tf.zeros_like(top)
    *_, w, _ = tf.while_loop(
        lambda low, high, k, w, done: ~done,
        step,
        (zero, top, top / 2.0, there, radius <= 0.0),
        maximum_iterations=ROUNDS,
    )
    return w


def _on_the_set(gramian, along, active, radius, k):
    """Return the k with ||g_w|| = k r where the given w_i alone differ from 0, nearest to k."""
    size = gramian.shape[0]
    one = tf.cast(active, gramian.dtype)
    scale = tf.reduce_max(tf.linalg.diag_part(gramian))
    scale = tf.where(scale > 0.0, scale, 1.0)
    inner = gramian * one[:, None] * one[None, :] / scale
    # M w + k b = m 1 and 1^T w = 1, with 1 1^T added to M, which moves m alone.
    matrix = inner + one[:, None] * one[None, :] + tf.linalg.diag(1.0 - one + 1e-12)
    right = tf.stack([one, one * along / scale], axis=1)
    factor = tf.linalg.cholesky(matrix)
    solved = tf.linalg.cholesky_solve(factor, right)
    level, slope = solved[:, 0], solved[:, 1]
    fixed = level / tf.reduce_sum(level)
    moving = fixed * tf.reduce_sum(slope) - slope
    square = tf.linalg.matvec(tf.reshape(inner, (size, size)), moving)
    a = tf.tensordot(moving, square, 1) - radius**2 / scale
    b = tf.tensordot(fixed, square, 1)
    c = tf.tensordot(fixed, tf.linalg.matvec(inner, fixed), 1)
    root = tf.sqrt(tf.maximum(b * b - a * c, 0.0))
    a = tf.where(tf.abs(a) > 0.0, a, 1.0)
    one_root, other = (-b - root) / a, (-b + root) / a
    # An index that depends on values would have XLA compile the step anew for each of them.
    return tf.where(tf.abs(one_root - k) <= tf.abs(other - k), one_root, other)
