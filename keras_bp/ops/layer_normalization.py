"""Layer normalization with its closed-form backward pass."""

import functools
from collections.abc import Sequence

import tensorflow as tf

from keras_bp._arguments import check_axis, check_floating, check_number
from keras_bp._types import Array
from keras_bp._xla import clustered, column_sum, row_sum


def layer_normalization(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    """Normalizes every example to its own mean and variance over `axis`, then scales and shifts.

    Forward, with i an example (an index of the axes not normalized) and k one of the D features
    (an index of the normalized axes):

        mean_i     = 1/D sum_k x_ik
        variance_i = 1/D sum_k (x_ik - mean_i)^2
        xh_ik      = (x_ik - mean_i) / sqrt(variance_i + epsilon)
        y_ik       = gamma_k xh_ik + beta_k

    Backward, from `dy = dL/dy` and with `g_ik = dy_ik gamma_k` (exact):

        dgamma_k = sum_i dy_ik xh_ik
        dbeta_k  = sum_i dy_ik
        dx_ik    = (g_ik - 1/D sum_j g_ij - xh_ik 1/D sum_j g_ij xh_ij) / sqrt(variance_i + epsilon)

    Of a float16 or bfloat16 `x` everything but the result is computed in float32.

    Args:
        x: floating-point tensor of rank 1 or more.
        gamma: scale, a tensor with as many entries as the normalized axes have together, in the
            order of `x`'s axes; or `None` for 1.
        beta: offset, likewise; or `None` for 0.
        axis: integer or sequence of integers, the axes normalized over.
        epsilon: non-negative float, added to the variance.

    Returns:
        Tensor of `x`'s shape and dtype.

    Raises:
        TypeError: if `x` is not floating point, or `axis` or `epsilon` is not a number of its kind.
        ValueError: if `axis` is empty, repeated or outside `x`'s rank, `gamma` or `beta` does not
            have as many entries as the normalized axes, or `epsilon` is negative.

    Example:
        >>> x = tf.constant([[1.0, 3.0, 5.0, 7.0]])
        >>> keras_bp.ops.layer_normalization(x, epsilon=1e-5).numpy().round(4)
        array([[-1.3416, -0.4472,  0.4472,  1.3416]], dtype=float32)

    References:
        Ba et al., 2016, "Layer normalization", equations 3 and 4.
    """
    x = check_floating("x", x)
    if not x.shape.rank:
        raise ValueError(f"`x` must have a known rank, 1 or more. Received: shape={x.shape}")
    axes = axis if isinstance(axis, list | tuple) else [axis]
    axes = sorted(check_axis("axis", a, x.shape) for a in axes)
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"`axis` must name at least one axis, each once. Received: axis={axis!r}")
    check_number("epsilon", epsilon, 0.0)
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    shape, rank = tf.shape(x), x.shape.rank
    broadcast = [shape[a] if a in axes else 1 for a in range(rank)]
    batch, over = tf.cast(x, dtype), axes
    # (examples, features) wherever the normalized axes are the last ones: a matrix sums fastest.
    if axes == list(range(axes[0], rank)):
        features = x.shape[axes[0] :].num_elements()
        features = tf.reduce_prod(shape[axes[0] :]) if features is None else features
        batch, broadcast, over = tf.reshape(batch, [-1, features]), [1, features], [1]
    gamma = _per_feature("gamma", gamma, x.shape, axes, broadcast, dtype)
    beta = _per_feature("beta", beta, x.shape, axes, broadcast, dtype)
    examples = [a for a in range(batch.shape.rank) if a not in over]
    y = normalize_over(over, batch, gamma, beta, epsilon, examples)
    y = tf.cast(tf.reshape(y, shape), x.dtype)
    y.set_shape(x.shape)
    return y


def normalize_over(axes, x, gamma, beta, epsilon, examples):
    """Apply the equations above; `gamma` and `beta` are None, or of length 1 along `examples`."""
    options = {"axes": tuple(axes), "scaled": gamma is not None}

    @tf.custom_gradient
    def normalize(x, *weights):
        y, mean, inverse = _forward(x, *weights, epsilon=epsilon, **options)

        def backward(dy):
            dx, dgamma, dbeta = _backward(
                dy,
                x,
                *weights[: gamma is not None],
                mean,
                inverse,
                examples=tuple(examples),
                **options,
            )
            return [dx, *[dgamma] * (gamma is not None), *[dbeta] * (beta is not None)]

        return y, backward

    return normalize(x, *(weight for weight in (gamma, beta) if weight is not None))


@clustered
def _forward(x, *weights, axes, scaled, epsilon, in_xla):
    mean = _mean(x, axes, in_xla)
    variance = _mean(tf.math.squared_difference(x, mean), axes, in_xla)
    inverse = tf.math.rsqrt(variance + epsilon)
    y = (x - mean) * inverse
    if scaled:
        y *= weights[0]
    if len(weights) > scaled:
        y += weights[-1]
    return y, mean, inverse


@functools.partial(clustered, backward=True)
def _backward(dy, x, *rest, axes, scaled, examples, in_xla):
    *gamma, mean, inverse = rest
    x_hat = (x - mean) * inverse
    g = dy * gamma[0] if scaled else dy
    dx = (g - _mean(g, axes, in_xla) - x_hat * _mean(g * x_hat, axes, in_xla)) * inverse
    if examples == (0,) and axes == (1,):
        dgamma, dbeta = (row_sum(t, in_xla)[tf.newaxis] for t in (dy * x_hat, dy))
    else:
        dgamma, dbeta = (tf.reduce_sum(t, examples, keepdims=True) for t in (dy * x_hat, dy))
    return dx, dgamma, dbeta


def _mean(t, axes, in_xla):
    if t.shape.rank != 2 or axes != (1,):
        return tf.reduce_mean(t, axes, keepdims=True)
    return column_sum(t, in_xla) / tf.cast(tf.shape(t)[1], t.dtype)


def _per_feature(name, weight, shape, axes, broadcast, dtype):
    if weight is None:
        return None
    weight = tf.cast(weight, dtype)
    features = tf.TensorShape([shape[a] for a in axes]).num_elements()
    if features is not None and weight.shape.num_elements() not in (None, features):
        raise ValueError(
            f"`{name}` must have {features} entries, one per normalized feature. "
            f"Received: shape={weight.shape} for x of shape {shape} and axes {axes}"
        )
    return tf.reshape(weight, broadcast)
