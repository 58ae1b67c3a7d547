"""Checks of arguments that several files of the reference share."""

import numbers

import numpy as np


def check_number(name, value, low=-np.inf, high=np.inf, *, low_open=False, high_open=False):
    """Return `value` as a float once it is known to be finite and within its bounds.

    Args:
        name: string. The argument's name, for the message.
        value: what the caller passed.
        low: float. The lower bound. Defaults to none.
        high: float. The upper bound. Defaults to none.
        low_open: bool. Whether `low` itself is refused. Defaults to `False`.
        high_open: bool. Whether `high` itself is refused. Defaults to `False`.

    Returns:
        A float.

    Raises:
        TypeError: if `value` is not a real number (a bool is not one here).
        ValueError: if it is NaN, infinite or out of bounds.
    """
    left = "(" if low_open or low == -np.inf else "["
    right = ")" if high_open or high == np.inf else "]"
    expected = f"`{name}` must be a finite number in {left}{low:g}, {high:g}{right}."
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{expected} Received: {name}={value!r} ({type(value).__name__})")
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (np.isfinite(value) and above and below):
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return float(value)


def check_integer(name, value, low):
    """Return `value` as an int once it is known to be a whole number of at least `low`.

    Args:
        name: string. The argument's name, for the message.
        value: what the caller passed.
        low: int. The smallest value allowed.

    Returns:
        An int.

    Raises:
        TypeError: if `value` is not an integer (a bool is not one here).
        ValueError: if it is below `low`.
    """
    expected = f"`{name}` must be an integer of at least {low}."
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{expected} Received: {name}={value!r} ({type(value).__name__})")
    if value < low:
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return int(value)


def check_matrix(name, value, shape):
    """Return `value` as a float64 matrix of the given shape.

    Args:
        name: string. The argument's name, for the message.
        value: array-like.
        shape: pair of ints; `None` stands for any size of at least 1.

    Returns:
        A float64 array, `value` itself where it is one already.

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
            f"`{name}` must have the shape ({wanted}): features down, one column an example. "
            f"Received: {name}.shape={matrix.shape}"
        )
    return matrix


def check_labels(Y, shape, *, distribution):
    """Return the labels as a float64 matrix once the closed form A - Y holds for them.

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
                "Each column of `Y` must sum to 1 (one-hot labels or probabilities). "
                f"Received: column sums between {sums.min()} and {sums.max()}"
            )
    return Y
