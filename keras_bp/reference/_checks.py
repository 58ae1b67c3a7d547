"""Checks of matrices and labels that several files of the reference share."""

import numpy as np


def check_matrix(name, value, shape):
    """Return `value` as a float64 matrix of the given shape.

    Args:
        name: string. The argument's name, for the message.
        value: array-like.
        shape: pair of ints; `None` stands for any size of at least 1.

    Returns:
        A float64 array, `value` itself if it is one.

    Raises:
        ValueError: if the shape is another.
    """
    matrix = np.asarray(value, dtype=np.float64)
    fits = matrix.ndim == 2 and all(
        size >= 1 if wanted is None else size == wanted
        for size, wanted in zip(matrix.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("m >= 1" if size is None else str(size) for size in shape)
        raise ValueError(
            f"`{name}` must have the shape ({wanted}): features down, one column per example. "
            f"Received: {name}.shape={matrix.shape}"
        )
    return matrix


def check_labels(Y, shape, *, distribution):
    """Return the labels as a float64 matrix, if the closed form A - Y holds for them.

    Args:
        Y: array-like. The labels.
        shape: pair of ints. The shape of the network's output.
        distribution: bool. Whether each column must sum to 1, as softmax's do.

    Returns:
        A float64 array.

    Raises:
        ValueError: if the shape differs, an entry lies outside [0, 1], or a column of a
            distribution does not sum to 1.
    """
    Y = check_matrix("Y", Y, shape)
    if not (Y.min() >= 0.0 and Y.max() <= 1.0):
        raise ValueError(
            f"`Y` must lie in [0, 1]. Received: Y with minimum {Y.min()} and maximum {Y.max()}"
        )
    if distribution:
        sums = Y.sum(axis=0)
        # 1e-6 leaves room for smoothed labels that were made in float32.
        if np.abs(sums - 1.0).max() > 1e-6:
            raise ValueError(
                "`Y` must have columns that sum to 1 (one-hot labels or probabilities). "
                f"Received: column sums between {sums.min()} and {sums.max()}"
            )
    return Y
