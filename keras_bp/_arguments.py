"""Checks of numbers that several parts of the package share."""

import math
import numbers


def check_number(name, value, low=-math.inf, high=math.inf, *, low_open=False, high_open=False):
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
    left = "(" if low_open or low == -math.inf else "["
    right = ")" if high_open or high == math.inf else "]"
    expected = f"`{name}` must be a finite number in {left}{low:g}, {high:g}{right}."
    # NumPy's bool is no subclass of Python's, and no Real either.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{expected} Received: {name}={value!r}")
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (math.isfinite(value) and above and below):
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return float(value)


def check_integer(name, value, low, below=None):
    """Return `value` as an int once it is known to be a whole number in [low, below).

    Args:
        name: string. The argument's name, for the message.
        value: what the caller passed.
        low: int. The smallest value allowed.
        below: int. What the value must stay under, or `None` for no bound.

    Returns:
        An int.

    Raises:
        TypeError: if `value` is not an integer (a bool is not one here).
        ValueError: if it is out of bounds.
    """
    bound = "" if below is None else f" and under {below}"
    expected = f"`{name}` must be an integer of {low} or more{bound}."
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{expected} Received: {name}={value!r}")
    if value < low or (below is not None and value >= below):
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return int(value)
