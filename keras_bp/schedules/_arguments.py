"""Checks of the arguments that the schedules share; each returns the plain Python number.

A NumPy number becomes a Python one, since a `.keras` file holds JSON.
"""

import keras

from keras_bp._arguments import check_number


def check_rate(name, value):
    """Return a learning rate as a float: finite and not negative."""
    return check_number(name, value, 0.0)


def check_minimum(name, value, top):
    """Return a schedule's lowest rate as a float: it does not exceed the highest."""
    return check_number(name, value, 0.0, top)


def check_schedule(name, value):
    """Return a schedule as it is, and a constant rate as a float."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    try:
        return check_rate(name, value)
    except TypeError as error:
        raise TypeError(
            f"`{name}` must be a `keras.optimizers.schedules.LearningRateSchedule` or a number for "
            f"a constant rate. Received: {name}={value!r}"
        ) from error
