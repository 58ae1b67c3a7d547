"""What all schedules share: reading the step, casting the rate, the configuration, the repr."""

import math

import keras
import tensorflow as tf

from keras_bp.schedules._steps import Steps


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that depends on the step, computed in float64.

    A subclass hands its checked arguments, by name and in order, to this constructor and defines
    `_rate`.

    Args:
        **arguments: The constructor's arguments; each becomes an attribute and part of the
            configuration.
    """

    def __init__(self, **arguments):
        self._names = tuple(arguments)
        for name, value in arguments.items():
            setattr(self, name, value)

    def __call__(self, step):
        """Return the rate at `step`, a scalar or an array, in `keras.config.floatx()`."""
        return tf.cast(self._rate(Steps.of(step)), keras.config.floatx())

    def _rate(self, steps):
        """Return the rates for a `Steps` in float64, in its shape."""
        raise NotImplementedError

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return {name: getattr(self, name) for name in self._names}

    def __repr__(self):
        arguments = (f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({', '.join(arguments)})"


def between(low, high, share):
    """Go in a straight line from `low` (share 0) to `high` (share 1), exact at both ends."""
    return low * (1.0 - share) + high * share


def half_cosine(low, high, share):
    """Go along half a cosine from `low` (share 0) to `high` (share 1), flat at both ends.

    The weight (1 - cos(pi share)) / 2 is written as a squared sine: near share 0 the cosine is
    1 but for its last digits, and the difference would have none of its own.
    """
    return between(low, high, tf.sin(0.5 * math.pi * share) ** 2)
