"""Checks of the arguments that the schedules share; each returns the plain Python number."""

import math
import numbers

import keras
import numpy as np


def check_number(name, value, low, high=math.inf, *, low_open=False, high_open=False):
    """Return `value` as a float once it is finite and within its bounds.

    A NumPy number becomes a Python one here, since a `.keras` file holds JSON.
    """
    left = "(" if low_open else "["
    right = ")" if high_open or high == math.inf else "]"
    expected = f"`{name}` must be a finite number in {left}{low:g}, {high:g}{right}."
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{expected} Received: {name}={value!r}")
    number = float(value)
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if not (math.isfinite(number) and above and below):
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return number


def check_rate(name, value):
    """Return a learning rate as a float: finite and not negative."""
    return check_number(name, value, 0.0)


def check_minimum(name, value, top):
    """Return a schedule's lowest rate as a float: it does not exceed the highest."""
    return check_number(name, value, 0.0, top)


def check_integer(name, value, low=1, below=None):
    """Return `value` as an int once it is a whole number in [low, below)."""
    expected = f"`{name}` must be an integer of {low} or more"
    if below is not None:
        expected += f" and under {below}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{expected}. Received: {name}={value!r}")
    if value < low or (below is not None and value >= below):
        raise ValueError(f"{expected}. Received: {name}={value!r}")
    return int(value)


def check_schedule(name, value):
    """Return a schedule as it is, and a constant rate as a float."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a `keras.optimizers.schedules.LearningRateSchedule` or a number for "
            f"a constant rate. Received: {name}={value!r}"
        )
    return check_rate(name, value)
