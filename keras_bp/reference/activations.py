"""Activation functions and their derivatives, finite and accurate for any float64 input.

Every function takes the pre-activations `Z`, of any shape unless it says otherwise, and returns
a float64 array of the same shape.
"""

import numpy as np

from keras_bp._types import Array


def linear(Z: Array) -> np.ndarray:
    """Identity: g(z) = z.

    Example:
        >>> from keras_bp.reference import linear
        >>> linear([-1.0, 2.0]).tolist()
        [-1.0, 2.0]
    """
    return np.array(Z, dtype=np.float64)


def linear_derivative(Z: Array) -> np.ndarray:
    """Derivative of the identity: g'(z) = 1.

    Example:
        >>> from keras_bp.reference import linear_derivative
        >>> linear_derivative([-1.0, 2.0]).tolist()
        [1.0, 1.0]
    """
    return np.ones_like(Z, dtype=np.float64)


def relu(Z: Array) -> np.ndarray:
    """Rectified linear unit: g(z) = max(z, 0).

    Example:
        >>> from keras_bp.reference import relu
        >>> relu([-1.0, 0.0, 2.0]).tolist()
        [0.0, 0.0, 2.0]
    """
    return np.maximum(np.asarray(Z, dtype=np.float64), 0.0)


def relu_derivative(Z: Array) -> np.ndarray:
    """Derivative of ReLU: g'(z) = 1 where z > 0, else 0; at the kink z = 0 it is set to 0.

    Example:
        >>> from keras_bp.reference import relu_derivative
        >>> relu_derivative([-1.0, 0.0, 2.0]).tolist()
        [0.0, 0.0, 1.0]
    """
    return (np.asarray(Z) > 0.0).astype(np.float64)


def sigmoid(Z: Array) -> np.ndarray:
    """Logistic function: g(z) = 1 / (1 + exp(-z)).

    Only exp(-|z|) is taken, which cannot overflow; a very negative z keeps its small value
    instead of becoming 0.

    Example:
        >>> from keras_bp.reference import sigmoid
        >>> sigmoid([-1000.0, 0.0, 1000.0]).tolist()
        [0.0, 0.5, 1.0]
    """
    Z = np.asarray(Z, dtype=np.float64)
    small = np.exp(-np.abs(Z))
    return np.where(Z >= 0.0, 1.0, small) / (1.0 + small)


def sigmoid_derivative(Z: Array) -> np.ndarray:
    """Derivative of the sigmoid: g'(z) = s (1 - s), at most 0.25, at z = 0.

    It is computed as exp(-|z|) / (1 + exp(-|z|))^2, the same number without the cancellation
    that 1 - s suffers where s is near 1.

    Example:
        >>> from keras_bp.reference import sigmoid_derivative
        >>> sigmoid_derivative([-1000.0, 0.0, 1000.0]).tolist()
        [0.0, 0.25, 0.0]
    """
    small = np.exp(-np.abs(np.asarray(Z, dtype=np.float64)))
    return small / (1.0 + small) ** 2


def tanh(Z: Array) -> np.ndarray:
    """Hyperbolic tangent: g(z) = tanh z.

    Example:
        >>> from keras_bp.reference import tanh
        >>> tanh([-1000.0, 0.0, 1000.0]).tolist()
        [-1.0, 0.0, 1.0]
    """
    return np.tanh(np.asarray(Z, dtype=np.float64))


def tanh_derivative(Z: Array) -> np.ndarray:
    """Derivative of tanh: g'(z) = 1 - tanh^2 z.

    It is computed through tanh z = 2 sigmoid(2z) - 1, so that no digits cancel where tanh
    is near 1.

    Example:
        >>> from keras_bp.reference import tanh_derivative
        >>> tanh_derivative([-1000.0, 0.0, 1000.0]).tolist()
        [0.0, 1.0, 0.0]
    """
    return 4.0 * sigmoid_derivative(2.0 * np.asarray(Z, dtype=np.float64))


def softmax(Z: Array) -> np.ndarray:
    """Softmax over the rows of each column: a_i = exp(z_i) / sum_j exp(z_j).

    Args:
        Z: array of shape (classes, m).

    Returns:
        A float64 array of shape (classes, m) whose columns sum to 1.

    Example:
        >>> from keras_bp.reference import softmax
        >>> softmax([[0.0, 1000.0], [0.0, -1000.0]]).tolist()
        [[0.5, 1.0], [0.5, 0.0]]
    """
    Z = np.asarray(Z, dtype=np.float64)
    exponentials = np.exp(Z - Z.max(axis=0, keepdims=True))
    return exponentials / exponentials.sum(axis=0, keepdims=True)


def softmax_backward(dA: Array, Z: Array) -> np.ndarray:
    """Gradient through softmax, whose outputs each depend on every input of their column.

    dz_i = a_i (da_i - sum_j da_j a_j)

    Args:
        dA: array of shape (classes, m), the gradient with respect to softmax's output.
        Z: array of shape (classes, m), softmax's input.

    Returns:
        A float64 array of shape (classes, m), the gradient with respect to `Z`.

    Example:
        >>> from keras_bp.reference import softmax_backward
        >>> softmax_backward([[1.0], [0.0]], [[0.0], [0.0]]).tolist()
        [[0.25], [-0.25]]
    """
    A = softmax(Z)
    dA = np.asarray(dA, dtype=np.float64)
    return A * (dA - np.sum(dA * A, axis=0, keepdims=True))


ELEMENTWISE = {
    "linear": (linear, linear_derivative),
    "relu": (relu, relu_derivative),
    "sigmoid": (sigmoid, sigmoid_derivative),
    "tanh": (tanh, tanh_derivative),
}
"""Name -> (g, g'), the activations for which dZ = dA * g'(Z) holds."""
