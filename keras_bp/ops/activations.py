"""Activations with the derivative written in terms of the activation's own value.

With `a = g(z)` and `da = dL/da`, each derivative needs only `a`: the backward pass need not keep
the pre-activation `z`, so `dense` keeps one tensor fewer.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_bp._arguments import check_floating
from keras_bp._types import Array


def relu_gradient(a, da):
    """`dz = da * [a > 0]`: 0 at `z = 0`, as in Keras."""
    return tf.raw_ops.ReluGrad(gradients=da, features=a)


def sigmoid_gradient(a, da):
    """`dz = da * a (1 - a)`, at most a quarter of `da`."""
    return tf.raw_ops.SigmoidGrad(y=a, dy=da)


def tanh_gradient(a, da):
    """`dz = da * (1 - a^2)`."""
    return tf.raw_ops.TanhGrad(y=a, dy=da)


def softmax_gradient(a, da):
    """`dz_i = a_i (da_i - sum_j da_j a_j)`, the sums over the last axis."""
    return (da - tf.reduce_sum(da * a, axis=-1, keepdims=True)) * a


# name: (value of z, gradient of (a, da))
ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (tf.nn.relu, relu_gradient),
    "sigmoid": (tf.nn.sigmoid, sigmoid_gradient),
    "tanh": (tf.nn.tanh, tanh_gradient),
    "softmax": (tf.nn.softmax, softmax_gradient),
}


def _activate(name, z):
    value, gradient = ACTIVATIONS[name]

    @tf.custom_gradient
    def activation(z):
        a = value(z)
        return a, lambda da: gradient(a, da)

    return activation(check_floating("z", z))


def relu(z: Array) -> tf.Tensor:
    """Rectified linear unit, `a = max(z, 0)`.

    Backward: `dz = da * [z > 0]`, exact except at the kink `z = 0`, where it is 0.

    Args:
        z: floating-point tensor of any shape.

    Returns:
        Tensor of `z`'s shape and dtype.

    Raises:
        TypeError: if `z` is not floating point.

    Example:
        >>> keras_bp.ops.relu(tf.constant([-1.0, 0.0, 2.0])).numpy()
        array([0., 0., 2.], dtype=float32)
    """
    return _activate("relu", z)


def sigmoid(z: Array) -> tf.Tensor:
    """Logistic sigmoid, `a = 1 / (1 + exp(-z))`.

    Backward (exact): `dz = da * a (1 - a)`.

    Args:
        z: floating-point tensor of any shape.

    Returns:
        Tensor of `z`'s shape and dtype, in [0, 1].

    Raises:
        TypeError: if `z` is not floating point.

    Example:
        >>> keras_bp.ops.sigmoid(tf.constant([-1e4, 0.0, 1e4])).numpy()
        array([0. , 0.5, 1. ], dtype=float32)
    """
    return _activate("sigmoid", z)


def tanh(z: Array) -> tf.Tensor:
    """Hyperbolic tangent.

    Forward: `a = tanh(z)`. Backward (exact): `dz = da * (1 - a^2)`.

    Args:
        z: floating-point tensor of any shape.

    Returns:
        Tensor of `z`'s shape and dtype, in [-1, 1].

    Raises:
        TypeError: if `z` is not floating point.

    Example:
        >>> keras_bp.ops.tanh(tf.constant([-1e4, 0.0, 1e4])).numpy()
        array([-1.,  0.,  1.], dtype=float32)
    """
    return _activate("tanh", z)


def softmax(z: Array) -> tf.Tensor:
    """Softmax over the last axis, `a_i = exp(z_i) / sum_j exp(z_j)`.

    Backward (exact): `dz_i = a_i (da_i - sum_j da_j a_j)`.

    Args:
        z: floating-point tensor of shape `(..., classes)`, rank 1 or more.

    Returns:
        Tensor of `z`'s shape and dtype; its last axis sums to 1.

    Raises:
        TypeError: if `z` is not floating point.
        ValueError: if `z` is a scalar.

    Example:
        >>> keras_bp.ops.softmax(tf.constant([1e4, 1e4])).numpy()
        array([0.5, 0.5], dtype=float32)
    """
    z = check_floating("z", z)
    if z.shape.rank == 0:
        raise ValueError(f"`z` must have an axis of classes, rank 1 or more. Received: {z}")
    return _activate("softmax", z)
