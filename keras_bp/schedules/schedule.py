"""Common parts of the schedules: the base class, the step without rounding, and the curves.

A schedule that follows other schedules calls them by `rate_of`, and saves them by `serialize`.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import as_call, check_integer
from keras_bp._types import Array
from keras_bp._versions import require_matplotlib

# Exact in float64, and twice as much still fits in int64.
_LAST = 2.0**61


class Steps:
    """The number of updates made so far: a whole part in int64 and what exceeds it in float64.

    Boundaries and periods are whole numbers of steps, so every decision (before or after, which
    period) uses the whole part in integer arithmetic. A float division cannot decide it:
    `tf.function` turns a division by a constant into a multiplication by its reciprocal, which puts
    some multiples of the constant just below a whole number.

    Args:
        whole: int64 tensor, 0 or more.
        fraction: float64 tensor in [0, 1), or `None` if the steps came as integers.
    """

    def __init__(self, whole, fraction=None):
        self.whole = whole
        self.fraction = fraction

    @classmethod
    def of(cls, step):
        """Read a number, an array, a tensor or a variable; steps below 0 count as 0."""
        if not (isinstance(step, (tf.Variable, keras.Variable)) or tf.is_tensor(step)):
            # Through NumPy, because TensorFlow would turn a Python int into an int32.
            step = np.asarray(step)
            if step.dtype.kind not in "iuf":
                raise TypeError(_expected(step.tolist()))
        step = tf.convert_to_tensor(step)
        if step.dtype.is_integer:
            return cls(tf.maximum(tf.cast(step, tf.int64), 0))
        if not step.dtype.is_floating:
            raise TypeError(_expected(step))
        step = tf.clip_by_value(tf.cast(step, tf.float64), 0.0, _LAST)
        floor = tf.floor(step)
        return cls(tf.cast(floor, tf.int64), step - floor)

    @classmethod
    def zero(cls):
        """Return the very first step, a scalar."""
        return cls(tf.constant(0, tf.int64))

    def number(self):
        """Return the steps in float64."""
        number = tf.cast(self.whole, tf.float64)
        return number if self.fraction is None else number + self.fraction

    def before(self, end):
        """Tell whether fewer than `end` steps have been made."""
        return self.whole < end

    def since(self, start):
        """Return the steps made since `start`, 0 before it."""
        whole = tf.maximum(self.whole - start, 0)
        if self.fraction is None:
            return Steps(whole)
        return Steps(
            whole, tf.where(self.before(start), tf.zeros_like(self.fraction), self.fraction)
        )

    def share_made(self, length):
        """Return the share of `length` steps that has been made, from 0 up to 1, in float64."""
        return tf.minimum(self.number() / length, 1.0)

    def share_left(self, length):
        """Return the share of `length` steps that is left, from 1 down to 0, in float64."""
        # Subtracted as integers, so that the last steps of a long schedule keep all digits.
        left = tf.cast(length - self.whole, tf.float64)
        if self.fraction is not None:
            left -= self.fraction
        return tf.maximum(left, 0.0) / length

    def periods(self, length):
        """Return the number of full periods of `length` steps, int64, and the `Steps` since."""
        over = self.whole // length
        return over, Steps(self.whole - over * length, self.fraction)


def _expected(step):
    return (
        "`step` must be an integer or a floating-point number, or an array, tensor or variable of "
        f"them. Received: step={step!r}"
    )


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that depends on the step, computed in float64.

    A subclass passes its checked arguments, by name and in order, to this constructor and defines
    `_rate`.

    Args:
        **arguments: the constructor's arguments; each becomes an attribute and part of the
            configuration.
    """

    def __init__(self, **arguments: Any) -> None:
        self._names = tuple(arguments)
        for name, value in arguments.items():
            setattr(self, name, value)

    def __call__(self, step: Array) -> tf.Tensor:
        """Return the rate at `step`, a scalar or an array, in `keras.config.floatx()`."""
        return tf.cast(self._rate(Steps.of(step)), keras.config.floatx())

    def _rate(self, steps):
        """Return the rates for a `Steps` in float64, in its shape."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `from_config`."""
        return {name: getattr(self, name) for name in self._names}

    def __repr__(self) -> str:
        return as_call(type(self), {name: getattr(self, name) for name in self._names})

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Draw the rate over the first `steps` steps.

        `keras_bp.visualization.plot_schedules` compares several.

        Args:
            steps: integer of 1 or more. Defaults to 1000.
            ax: a Matplotlib `Axes` to draw into; a new figure's if `None`, the default.

        Returns:
            The `Axes`.

        Raises:
            ImportError: if Matplotlib is not installed.
        """
        made = np.arange(check_integer("steps", steps, 1))
        if ax is None:
            require_matplotlib(f"{type(self).__name__}.plot")
            from matplotlib import pyplot

            _, ax = pyplot.subplots(layout="constrained")
        ax.plot(made, self(made).numpy(), label=repr(self))
        ax.set(xlabel="step", ylabel="learning rate", title=repr(self))
        return ax


def between(low, high, share):
    """Go in a straight line from `low` (share 0) to `high` (share 1), exact at both ends."""
    return low * (1.0 - share) + high * share


def half_cosine(low, high, share):
    """Go along half a cosine from `low` (share 0) to `high` (share 1), flat at both ends.

    The weight (1 - cos(pi share)) / 2 is written as a squared sine: near share 0 the cosine is 1 up
    to its last digits, and the difference would cancel.
    """
    return between(low, high, tf.sin(0.5 * math.pi * share) ** 2)


def rate_of(schedule, steps):
    """Return a schedule's rates for a `Steps` in float64; a number is a constant rate."""
    if isinstance(schedule, Schedule):
        return schedule._rate(steps)
    if isinstance(schedule, float):
        return tf.fill(tf.shape(steps.whole), tf.constant(schedule, tf.float64))
    # Integer steps are passed on as integers, as by an optimizer; Keras's schedules turn them into
    # floatx. A float step is passed on as floatx.
    step = steps.whole
    if steps.fraction is not None:
        step = tf.cast(steps.number(), keras.config.floatx())

    def rate(step):
        return tf.cast(schedule(step), tf.float64)

    if step.shape.rank == 0:
        return rate(step)
    # Most compute a whole array at once. Keras's CosineDecay with a warm-up does not, nor one whose
    # rate does not depend on the step: those are called for each step. While a graph is traced
    # nothing fails yet (tf.cond evaluates its condition as it runs), so there all are.
    if tf.executing_eagerly():
        try:
            rates = rate(step)
            if rates.shape == step.shape:
                return rates
        except Exception:  # of any kind in a user's schedule; step by step, it comes again
            pass
    rates = tf.map_fn(rate, tf.reshape(step, [-1]), fn_output_signature=tf.float64)
    return tf.reshape(rates, tf.shape(step))


def serialize(schedule):
    """Return a schedule's serialized form; a number stays a number."""
    return keras.saving.serialize_keras_object(schedule)


def deserialize(config):
    """Return the schedule of a configuration."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def describe(schedule):
    """Write a schedule as its constructor call; Keras's own have no such repr."""
    if isinstance(schedule, (Schedule, float)):
        return repr(schedule)
    try:
        config = schedule.get_config()
    except NotImplementedError:  # a schedule that cannot be saved
        return repr(schedule)
    return as_call(type(schedule), config)
