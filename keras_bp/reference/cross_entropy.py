"""Cross-entropies, computed from the pre-activations of the output layer.

Taking Z[L] instead of A[L] keeps them exact and finite where the output is saturated: a
probability that rounds to 0 or 1 has lost what its logarithm needs.
"""

import numpy as np

from keras_bp.reference._checks import check_labels, check_matrix


def binary_cross_entropy(Z, Y):
    """Binary cross-entropy of sigmoid outputs: the sum over the units, averaged over examples.

    J = (1/m) sum of -(y log p + (1 - y) log(1 - p)), with p = sigmoid(z), written with
    -log p = log(1 + exp(-z)) and -log(1 - p) = log(1 + exp(z)).

    Args:
        Z: array of shape (units, m), the pre-activations of the sigmoid.
        Y: array of shape (units, m), labels or probabilities in [0, 1].

    Returns:
        A float.

    Raises:
        ValueError: if a shape is wrong or a label lies outside [0, 1].

    Example:
        >>> from keras_bp.reference import binary_cross_entropy
        >>> round(binary_cross_entropy([[0.0, 10000.0]], [[1.0, 0.0]]), 4)
        5000.3466
    """
    Z = check_matrix("Z", Z, (None, None))
    Y = check_labels(Y, Z.shape, distribution=False)
    losses = Y * np.logaddexp(0.0, -Z) + (1.0 - Y) * np.logaddexp(0.0, Z)
    return float(losses.sum() / Z.shape[1])


def categorical_cross_entropy(Z, Y):
    """Categorical cross-entropy of softmax outputs, averaged over examples.

    J = -(1/m) sum over examples and classes of y log p, with p = softmax(z).

    Args:
        Z: array of shape (classes, m), the pre-activations of the softmax.
        Y: array of shape (classes, m), one-hot labels or probabilities; columns sum to 1.

    Returns:
        A float.

    Raises:
        ValueError: if a shape is wrong, a label lies outside [0, 1], or a column of `Y` does
            not sum to 1.

    Example:
        >>> from keras_bp.reference import categorical_cross_entropy
        >>> round(categorical_cross_entropy([[0.0], [0.0]], [[1.0], [0.0]]), 4)
        0.6931
    """
    Z = check_matrix("Z", Z, (None, None))
    Y = check_labels(Y, Z.shape, distribution=True)
    top = Z.argmax(axis=0, keepdims=True)
    shifted = Z - np.take_along_axis(Z, top, axis=0)
    others = np.exp(shifted)
    # The largest class contributes exactly 1 to the sum of exponentials. Leaving that 1 to log1p
    # keeps what the other classes add when it is far below the spacing of floats near 1.
    np.put_along_axis(others, top, 0.0, axis=0)
    log_probabilities = shifted - np.log1p(others.sum(axis=0, keepdims=True))
    return float(-np.sum(Y * log_probabilities) / Z.shape[1])
