"""The affine map of a dense layer, with its activation fused into the backward equations."""

import tensorflow as tf

from keras_bp._arguments import check_choice, check_floating
from keras_bp._types import Array
from keras_bp.ops.activations import ACTIVATIONS


def dense(
    x: Array, kernel: Array, bias: Array | None = None, activation: str | None = None
) -> tf.Tensor:
    """Affine map and activation, with one backward pass for both.

    Forward, with m the examples (all axes but the last), i the inputs and j the units:

        z_mj = sum_i x_mi kernel_ij + bias_j,    a = g(z)

    Backward, from `da = dL/da` (exact; at the kink of relu its derivative is taken as 0):

        dz = da * g'(z), written in terms of a
        dkernel_ij = sum_m x_mi dz_mj
        dbias_j    = sum_m dz_mj
        dx_mi      = sum_j dz_mj kernel_ij

    A factor 1/m belongs to the loss, which averages over the examples. Kept for the backward pass
    are `x`, `kernel` and `a`, never `z`.

    Args:
        x: floating-point tensor of shape `(..., inputs)`, rank 2 or more.
        kernel: tensor of shape `(inputs, units)`, of `x`'s dtype.
        bias: tensor of shape `(units,)`, of `x`'s dtype, or `None` for none.
        activation: `None` or `"linear"`, `"relu"`, `"sigmoid"`, `"tanh"`, `"softmax"` (over the
            units). Apply any other activation to the result with `activation=None`.

    Returns:
        Tensor of shape `(..., units)`, of `x`'s dtype.

    Raises:
        TypeError: if an argument is not floating point, or the dtypes differ.
        ValueError: if the shapes do not fit, or `activation` is not one of the names above.

    Example:
        >>> x = tf.constant([[1.0, 0.5, -1.0, 2.0]])
        >>> kernel = tf.constant([[0.2], [-0.1], [0.4], [0.1]])
        >>> keras_bp.ops.dense(x, kernel, tf.constant([0.1]), activation="relu").numpy().round(3)
        array([[0.05]], dtype=float32)
    """
    x = check_floating("x", x)
    kernel = check_floating("kernel", kernel, x.dtype)
    if bias is not None:
        bias = check_floating("bias", bias, x.dtype)
    _check(x, kernel, bias, activation)
    value, gradient = ACTIVATIONS.get(activation or "linear", (None, None))
    rank = x.shape.rank

    @tf.custom_gradient
    def affine_and_activation(x, kernel, *bias):
        rows = x if rank == 2 else tf.reshape(x, [-1, kernel.shape[0]])
        a = tf.matmul(rows, kernel)
        if bias:
            a = tf.nn.bias_add(a, bias[0])
        if value is not None:
            a = value(a)
        result = a if rank == 2 else _like(x, a, kernel.shape[1])

        def backward(da):
            da = da if rank == 2 else tf.reshape(da, [-1, kernel.shape[1]])
            dz = da if gradient is None else gradient(a, da)
            dx = tf.matmul(dz, kernel, transpose_b=True)
            dx = dx if rank == 2 else _like(x, dx, kernel.shape[0])
            dkernel = tf.matmul(rows, dz, transpose_a=True)
            return (dx, dkernel, tf.raw_ops.BiasAddGrad(out_backprop=dz)) if bias else (dx, dkernel)

        return result, backward

    return affine_and_activation(x, kernel, *([] if bias is None else [bias]))


def _like(x, rows, features):
    """Reshape `rows`, of shape (m, features), to the leading axes of `x`."""
    result = tf.reshape(rows, tf.concat([tf.shape(x)[:-1], [features]], axis=0))
    result.set_shape(x.shape[:-1] + [features])
    return result


def _check(x, kernel, bias, activation):
    if activation is not None:
        check_choice("activation", activation, ("linear", *ACTIVATIONS))
    if x.shape.rank is None or x.shape.rank < 2:
        raise ValueError(f"`x` must have a known rank of 2 or more. Received: shape={x.shape}")
    if not kernel.shape.is_fully_defined() or kernel.shape.rank != 2:
        raise ValueError(
            f"`kernel` must have shape (inputs, units). Received: shape={kernel.shape}"
        )
    if not x.shape[-1:].is_compatible_with(kernel.shape[:1]):
        raise ValueError(
            "`x` must have a last axis as long as the first of `kernel`. "
            f"Received: x of shape {x.shape}, kernel of shape {kernel.shape}"
        )
    if bias is not None and not bias.shape.is_compatible_with(kernel.shape[1:]):
        raise ValueError(
            f"`bias` must have shape {tuple(kernel.shape[1:])}, one entry per unit. "
            f"Received: shape={bias.shape}"
        )
