"""Batch normalization with its closed-form backward pass.

docs/batch_normalization.md derives it step by step.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from keras_bp._arguments import check_axis, check_floating, check_number
from keras_bp._types import Array
from keras_bp._xla import clustered, row_sum


class Normalized(NamedTuple):
    """What `batch_normalization` returns."""

    outputs: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def batch_normalization(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    axis: int = -1,
    epsilon: float = 1e-3,
    mask: Array | None = None,
    synchronized: bool = False,
) -> Normalized:
    """Normalizes every channel to the statistics of the batch, then scales and shifts it.

    Forward, with k a channel (an index of `axis`), i a position (an index of all other axes), w_i
    1 where the mask is true (everywhere without a mask) and 0 elsewhere, n = sum_i w_i:

        mean_k     = 1/n sum_i w_i x_ik
        variance_k = 1/n sum_i w_i (x_ik - mean_k)^2             (the biased estimate)
        xh_ik      = (x_ik - mean_k) / sqrt(variance_k + epsilon)
        y_ik       = gamma_k xh_ik + beta_k

    Backward, from `dy = dL/dy` (exact):

        dgamma_k = sum_i dy_ik xh_ik
        dbeta_k  = sum_i dy_ik
        dx_ik    = gamma_k / sqrt(variance_k + epsilon)
                   * (dy_ik - w_i/n (dbeta_k + xh_ik dgamma_k))

    Positions outside the mask are normalized too, but do not count in the statistics. The mean and
    the variance are returned for running averages and carry no gradient. Of a float16 or bfloat16
    `x` everything but the result is computed in float32.

    Args:
        x: floating-point tensor of rank 1 or more.
        gamma: scale, a tensor of shape `(channels,)`, or `None` for 1.
        beta: offset, a tensor of shape `(channels,)`, or `None` for 0.
        axis: integer, the axis of the channels; its length must be known.
        epsilon: non-negative float, added to the variance.
        mask: boolean tensor that broadcasts to `x`'s shape without the last axis, or `None`.
        synchronized: whether the statistics are those of all replicas of the `tf.distribute`
            strategy in whose replica context this runs. In `dx` the two sums `dgamma` and `dbeta`
            then run over all replicas too; those returned are this replica's own, as gradients of
            variables are.

    Returns:
        `(outputs, mean, variance)`: `outputs` of `x`'s shape and dtype, the other two of shape
        `(channels,)`, float64 for a float64 `x` and float32 else. Without any position they are
        0, and so are the gradients.

    Raises:
        TypeError: if `x` is not floating point, or `axis` or `epsilon` is not a number of its kind.
        ValueError: if `axis` is outside `x`'s rank or of unknown length, `gamma` or `beta` has
            another shape, `mask` does not fit, or `epsilon` is negative.

    Example:
        >>> x = tf.constant([[2.0], [4.0], [6.0], [8.0]])
        >>> keras_bp.ops.batch_normalization(x, epsilon=1e-5).outputs.numpy().ravel().round(4)
        array([-1.3416, -0.4472,  0.4472,  1.3416], dtype=float32)

    References:
        Ioffe and Szegedy, 2015, "Batch normalization: accelerating deep network training by
        reducing internal covariate shift", algorithm 1 and section 3.
    """
    x = check_floating("x", x)
    axis = channel_axis(x, axis)
    channels = x.shape[axis]
    check_number("epsilon", epsilon, 0.0)
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    gamma = per_channel("gamma", gamma, channels, dtype, tf.ones)
    beta = per_channel("beta", beta, channels, dtype, tf.zeros)

    if mask is not None:
        mask = _boolean(mask, x)
    # XLA rounds the long sum of a single channel worse than TensorFlow's own kernel does.
    options = {"apart": channels > 1 and not synchronized}
    options |= {"axis": axis, "mask": mask, "synchronized": synchronized}

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        y, *statistics = _forward(x, gamma, beta, epsilon=epsilon, **options)
        mean, variance = statistics[:2]

        def backward(dy, *_):
            return _backward(dy, x, gamma, *statistics, epsilon=epsilon, **options)

        return (y, mean, variance), backward

    y, mean, variance = normalize(x, gamma, beta)
    return Normalized(y, tf.stop_gradient(mean), tf.stop_gradient(variance))


@clustered
def _forward(x, gamma, beta, *, axis, mask, synchronized, epsilon, in_xla):
    """Return y, the mean, the variance and the number of positions."""
    channels = _Channels(x, axis, mask, synchronized, gamma.dtype, in_xla)
    batch = channels.lay_out(x)
    total, count = channels.over_replicas(
        channels.sum(channels.masked(batch)), channels.positions(batch)
    )
    mean = _divide(total, count)
    squares = tf.math.squared_difference(batch, channels.spread(mean))
    [total] = channels.over_replicas(channels.sum(channels.masked(squares)))
    variance = _divide(total, count)
    scale = tf.math.rsqrt(variance + epsilon) * gamma
    y = (batch - channels.spread(mean)) * channels.spread(scale) + channels.spread(beta)
    return channels.like_x(y), mean, variance, count


@functools.partial(clustered, backward=True)
def _backward(dy, x, gamma, mean, variance, count, *, axis, mask, synchronized, epsilon, in_xla):
    """Return dx, dgamma and dbeta."""
    channels = _Channels(x, axis, mask, synchronized, gamma.dtype, in_xla)
    dy, inverse = channels.lay_out(dy), tf.math.rsqrt(variance + epsilon)
    x_hat = (channels.lay_out(x) - channels.spread(mean)) * channels.spread(inverse)
    dgamma, dbeta = channels.sum(dy * x_hat), channels.sum(dy)
    means = [_divide(total, count) for total in channels.over_replicas(dgamma, dbeta)]
    through_statistics = x_hat * channels.spread(means[0]) + channels.spread(means[1])
    dx = (dy - channels.masked(through_statistics)) * channels.spread(inverse * gamma)
    return channels.like_x(dx), dgamma, dbeta


_divide = tf.math.divide_no_nan


class _Channels:
    """Sums over the positions of each channel, and what a number for each channel spreads to.

    Every layout becomes (outer, channels, inner), or (rows, channels) where the channels come last:
    reductions over few axes are faster than over many, most of all under XLA.
    """

    def __init__(self, x, axis, mask, synchronized, dtype, in_xla):
        rank = x.shape.rank
        self._x, self._dtype, self._synchronized, self._in_xla = x, dtype, synchronized, in_xla
        self._number, self._last = x.shape[axis], axis == rank - 1
        self._as_it_is = self._last and rank == 2
        self._layout = [-1, self._number]
        if not self._last:
            self._layout += [tf.reduce_prod(tf.shape(x)[axis + 1 :])]
        self._mask = mask
        if mask is not None:
            self._mask = (
                tf.reshape(mask, [-1, 1])
                if self._last
                else tf.reshape(tf.broadcast_to(mask, tf.shape(x)), self._layout)
            )

    def lay_out(self, t):
        t = tf.cast(t, self._dtype)
        return t if self._as_it_is else tf.reshape(t, self._layout)

    def like_x(self, t):
        t = t if self._as_it_is else tf.reshape(t, tf.shape(self._x))
        t = tf.cast(t, self._x.dtype)
        t.set_shape(self._x.shape)
        return t

    def spread(self, t):
        return t if self._last else t[:, tf.newaxis]

    def masked(self, t):
        # A product with 0 and 1 would let a NaN in the padding into the statistics.
        return t if self._mask is None else tf.where(self._mask, t, tf.zeros([], t.dtype))

    def positions(self, t):
        if self._mask is not None:
            return self.sum(tf.cast(self._mask, self._dtype))
        return tf.cast(tf.size(t) // self._number, self._dtype)

    def sum(self, t):
        if self._last:
            return row_sum(t, self._in_xla)
        return tf.reduce_sum(t, [0, 2])

    def over_replicas(self, *tensors):
        if not self._synchronized:
            return tensors
        # Together: over workers it is the number of such sums that costs.
        return tf.distribute.get_replica_context().all_reduce("SUM", list(tensors))


def _boolean(mask, x):
    """Return the mask, broadcast to `x`'s shape with a last axis of length 1."""
    mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
    expected = x.shape[:-1]
    fits = mask.shape.rank == expected.rank and all(
        m in (None, 1) or n is None or m == n for m, n in zip(mask.shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(
            "`mask` must broadcast to `x`'s shape without the last axis. "
            f"Received: mask of shape {mask.shape}, x of shape {x.shape}"
        )
    return tf.broadcast_to(mask, tf.shape(x)[:-1])[..., tf.newaxis]


def channel_axis(x, axis):
    """Return `axis` counted from the front, once `x` is known to have such channels."""
    if not x.shape.rank:
        raise ValueError(f"`x` must have a known rank, 1 or more. Received: shape={x.shape}")
    return check_axis("axis", axis, x.shape, known=True)


def per_channel(name, weight, channels, dtype, default):
    """Return a weight of shape (channels,) in `dtype`; `None` stands for `default(shape)`."""
    if weight is None:
        return default([channels], dtype)
    weight = tf.convert_to_tensor(weight)
    if not weight.shape.is_compatible_with([channels]):
        raise ValueError(
            f"`{name}` must have shape ({channels},), one entry per channel. "
            f"Received: shape={weight.shape}"
        )
    return tf.cast(weight, dtype)
