"""Batch normalization with its closed-form backward pass.

docs/batch_normalization.md derives it step by step.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_bp._arguments import check_axis, check_floating, check_number
from keras_bp._keras import compiled_by_xla
from keras_bp._types import Array

_MOST_PARTS = 64


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

    # Every layout becomes (outer, channels, inner), or (rows, channels) where the channels come
    # last: reductions over few axes are faster than over many, most of all under XLA.
    shape = tf.shape(x)
    last = axis == x.shape.rank - 1
    layout = [-1, channels] if last else [-1, channels, tf.reduce_prod(shape[axis + 1 :])]
    batch = tf.reshape(tf.cast(x, dtype), layout)
    if mask is not None:
        mask = _boolean(mask, x)
        mask = (
            tf.reshape(mask, [-1, 1]) if last else tf.reshape(tf.broadcast_to(mask, shape), layout)
        )
    y, mean, variance = _normalize(batch, gamma, beta, epsilon, mask, synchronized)
    y = tf.cast(tf.reshape(y, shape), x.dtype)
    y.set_shape(x.shape)
    return Normalized(y, tf.stop_gradient(mean), tf.stop_gradient(variance))


def _normalize(x, gamma, beta, epsilon, mask, synchronized):
    """Apply the equations above to an `x` of shape (rows, channels) or (outer, channels, inner)."""
    matrix = x.shape.rank == 2
    axes = [0] if matrix else [0, 2]
    replicas = tf.distribute.get_replica_context() if synchronized else None

    def totals(*tensors):
        # Together: over workers it is the number of such sums that costs.
        return tensors if replicas is None else replicas.all_reduce("SUM", list(tensors))

    if matrix:
        channel_sum = _row_sum(tf.shape(x)[0], x.shape[1], x.dtype)
    else:

        def channel_sum(t):
            return tf.reduce_sum(t, axes)

    def spread(t):
        return t if matrix else t[:, tf.newaxis]

    def masked(t):
        # A product with 0 and 1 would let a NaN in the padding into the statistics.
        return t if mask is None else tf.where(mask, t, tf.zeros([], t.dtype))

    if mask is None:
        positions = tf.cast(tf.size(x) // x.shape[1], x.dtype)
    else:
        positions = tf.reduce_sum(tf.cast(mask, x.dtype), axes)
    divide = tf.math.divide_no_nan

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        total, count = totals(channel_sum(masked(x)), positions)
        mean = divide(total, count)
        centered = x - spread(mean)
        # XLA fuses a difference better if nothing else reads it; elsewhere it is another pass.
        in_xla = compiled_by_xla()
        squares = tf.math.squared_difference(x, spread(mean)) if in_xla else tf.square(centered)
        [total] = totals(channel_sum(masked(squares)))
        variance = divide(total, count)
        inverse = tf.math.rsqrt(variance + epsilon)
        y = centered * spread(inverse * gamma) + spread(beta)

        def backward(dy, *_):
            # xh = form * unit. The product comes last where it is a pass over the batch; XLA fuses
            # it, and fuses worse around a tensor that the forward pass also reads.
            form, unit = (centered * spread(inverse), 1) if in_xla else (centered, inverse)
            dbeta = channel_sum(dy)
            dgamma = channel_sum(dy * form) * unit
            mean_dy, mean_dy_x_hat = (divide(t, count) for t in totals(dbeta, dgamma))
            through_statistics = form * spread(unit * mean_dy_x_hat) + spread(mean_dy)
            dx = (dy - masked(through_statistics)) * spread(inverse * gamma)
            return dx, dgamma, dbeta

        return (y, mean, variance), backward

    return normalize(x, gamma, beta)


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


def _row_sum(rows, columns, dtype):
    """Return a function that sums a matrix over its rows: (rows, columns) -> (columns,).

    On a CPU without XLA products with vectors of ones are faster than `tf.reduce_sum`. There are
    two, over parts of the rows and over the parts' rows: oneDNN's product adds one row after
    another, and so rounds thousands of rows worse than `tf.reduce_sum` does. (An odd number of rows
    is one part: handling a remainder would cost small batches more than it is worth.) XLA fuses a
    plain sum into its neighbours, and GPUs may round the factors of a product to ten bits.
    """
    if compiled_by_xla() or tf.config.get_visible_devices("GPU"):
        return lambda x: tf.reduce_sum(x, axis=0)
    # The power of two in the number of rows, so that no row is left over; 1 without any row.
    parts = tf.maximum(tf.minimum(tf.bitwise.bitwise_and(rows, -rows), _MOST_PARTS), 1)
    rest = rows // parts
    over_parts, over_rest = tf.ones([1, parts], dtype), tf.ones([1, rest], dtype)
    folded, unfolded = tf.stack([parts, -1]), tf.stack([rest, columns])

    def sum_rows(x):
        x = tf.reshape(tf.matmul(over_parts, tf.reshape(x, folded)), unfolded)
        return tf.reshape(tf.matmul(over_rest, x), [columns])

    return sum_rows
