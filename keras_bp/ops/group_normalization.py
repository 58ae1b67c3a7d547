"""Group normalization with its closed-form backward pass."""

import tensorflow as tf

from keras_bp._arguments import check_floating, check_number
from keras_bp._types import Array
from keras_bp.ops.batch_normalization import channel_axis, per_channel
from keras_bp.ops.layer_normalization import normalize_over


def group_normalization(
    x: Array,
    groups: int,
    gamma: Array | None = None,
    beta: Array | None = None,
    axis: int = -1,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    """Normalizes each group of channels of each example to its own mean and variance.

    Forward, with b an example, k a channel, i a position (an index of all other axes), G(k) the
    channels of k's group and n the positions times the channels in a group:

        mean_bk     = 1/n sum_i sum_{c in G(k)} x_bic
        variance_bk = 1/n sum_i sum_{c in G(k)} (x_bic - mean_bk)^2
        xh_bik      = (x_bik - mean_bk) r_bk,    r_bk = 1 / sqrt(variance_bk + epsilon)
        y_bik       = gamma_k xh_bik + beta_k

    Backward, from `dy = dL/dy` (exact):

        s_bk     = sum_i dy_bik                t_bk = sum_i dy_bik xh_bik
        dbeta_k  = sum_b s_bk              dgamma_k = sum_b t_bk
        dx_bik   = r_bk (gamma_k dy_bik - 1/n sum_{c in G(k)} gamma_c s_bc
                                 - xh_bik 1/n sum_{c in G(k)} gamma_c t_bc)

    so that two sums over the positions serve both the weights' gradients and the input's. Of a
    float16 or bfloat16 `x` everything but the result is computed in float32.

    Args:
        x: floating-point tensor of rank 2 or more, the examples on its first axis.
        groups: positive integer that divides the number of channels.
        gamma: scale, a tensor of shape `(channels,)`, or `None` for 1.
        beta: offset, a tensor of shape `(channels,)`, or `None` for 0.
        axis: integer, the axis of the channels, not the first; its length must be known.
        epsilon: non-negative float, added to the variance.

    Returns:
        Tensor of `x`'s shape and dtype.

    Raises:
        TypeError: if `x` is not floating point, or `axis` or `epsilon` is not a number of its kind.
        ValueError: if `axis` is the first, outside `x`'s rank or of unknown length, `groups` does
            not divide the channels, `gamma` or `beta` has another shape, or `epsilon` is negative.

    Example:
        >>> x = tf.constant([[1.0, 3.0, 5.0, 9.0]])
        >>> keras_bp.ops.group_normalization(x, groups=2, epsilon=0.0).numpy()
        array([[-1.,  1., -1.,  1.]], dtype=float32)

    References:
        Wu and He, 2018, "Group normalization", equations 1 to 3 and 7.
    """
    x = check_floating("x", x)
    axis = channel_axis(x, axis)
    channels = x.shape[axis]
    if axis == 0:
        raise ValueError(
            "`axis` must not be the first axis, which holds the examples. "
            f"Received: axis={axis} for x of shape {x.shape}"
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
        raise ValueError(
            f"`groups` must be a positive integer that divides the {channels} channels. "
            f"Received: groups={groups!r}"
        )
    check_number("epsilon", epsilon, 0.0)
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    gamma = per_channel("gamma", gamma, channels, dtype, tf.ones)
    beta = per_channel("beta", beta, channels, dtype, tf.zeros)

    shape, batch, members = tf.shape(x), tf.cast(x, dtype), channels // groups
    if x.shape.rank == 2:
        # Without positions each group is a layer normalization by itself.
        batch, gamma, beta = (tf.reshape(t, [-1, groups, members]) for t in (batch, gamma, beta))
        y = normalize_over([2], batch, gamma, beta, epsilon, examples=[0])
    else:
        # (examples, positions before the channels, channels, positions after them)
        before, after = tf.reduce_prod(shape[1:axis]), tf.reduce_prod(shape[axis + 1 :])
        batch = tf.reshape(batch, [shape[0], before, channels, after])
        count = tf.cast(before * after * members, dtype)
        y = _normalize(batch, gamma, beta, groups, count, epsilon)
    y = tf.cast(tf.reshape(y, shape), x.dtype)
    y.set_shape(x.shape)
    return y


def _normalize(x, gamma, beta, groups, count, epsilon):
    """Apply the equations above to an `x` of shape (examples, before, channels, after)."""
    channels = x.shape[2]
    members = channels // groups

    def positions(t):
        """(examples, before, channels, after) summed to (examples, channels)."""
        return tf.reduce_sum(t, axis=[1, 3])

    def group_mean(t):
        """(examples, channels) averaged in each group, and spread over its channels again."""
        mean = tf.reduce_sum(tf.reshape(t, [-1, groups, members]), axis=2) / count
        return tf.repeat(mean, members, axis=1)

    def spread(t):
        return t[:, tf.newaxis, :, tf.newaxis]

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        mean = group_mean(positions(x))
        variance = group_mean(positions(tf.math.squared_difference(x, spread(mean))))
        inverse = tf.math.rsqrt(variance + epsilon)
        y = (x - spread(mean)) * spread(inverse * gamma) + beta[:, tf.newaxis]

        def backward(dy):
            x_hat = (x - spread(mean)) * spread(inverse)
            sum_dy, sum_dy_x_hat = positions(dy), positions(dy * x_hat)
            through_mean = inverse * group_mean(sum_dy * gamma)
            through_variance = inverse * group_mean(sum_dy_x_hat * gamma)
            dx = dy * spread(inverse * gamma)
            dx -= x_hat * spread(through_variance) + spread(through_mean)
            return dx, tf.reduce_sum(sum_dy_x_hat, axis=0), tf.reduce_sum(sum_dy, axis=0)

        return y, backward

    return normalize(x, gamma, beta)
