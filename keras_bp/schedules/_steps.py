"""The step that a schedule is asked for, whatever it comes as, counted without rounding."""

import keras
import numpy as np
import tensorflow as tf

# float64 holds it exactly, and twice it still fits in int64.
_LAST = 2.0**61


class Steps:
    """The number of updates made so far: a whole part in int64 and what exceeds it in float64.

    Boundaries and periods are whole numbers of steps, so every decision (before or after, the
    how-manieth period) is taken on the whole part in integer arithmetic. A float division may
    not decide it: `tf.function` turns a division by a constant into a multiplication by its
    reciprocal, which puts some multiples of the constant just below a whole number.

    Args:
        whole: int64 tensor, 0 or more.
        fraction: float64 tensor in [0, 1), or `None` where the steps came as integers.
    """

    def __init__(self, whole, fraction=None):
        self.whole = whole
        self.fraction = fraction

    @classmethod
    def of(cls, step):
        """Read a number, an array, a tensor or a variable; steps below 0 count as 0."""
        if not (isinstance(step, (tf.Variable, keras.Variable)) or tf.is_tensor(step)):
            # By way of NumPy, because TensorFlow would make an int32 of a Python int.
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
        """The first step of all, a scalar."""
        return cls(tf.constant(0, tf.int64))

    def number(self):
        """The steps in float64."""
        number = tf.cast(self.whole, tf.float64)
        return number if self.fraction is None else number + self.fraction

    def before(self, end):
        """Whether fewer than `end` steps have been made."""
        return self.whole < end

    def since(self, start):
        """The steps made since `start`; none before it."""
        whole = tf.maximum(self.whole - start, 0)
        if self.fraction is None:
            return Steps(whole)
        return Steps(
            whole, tf.where(self.before(start), tf.zeros_like(self.fraction), self.fraction)
        )

    def share_made(self, length):
        """The share of `length` steps that has been made, from 0 up to 1, in float64."""
        return tf.minimum(self.number() / length, 1.0)

    def share_left(self, length):
        """The share of `length` steps that is still to come, from 1 down to 0, in float64."""
        # Subtracted as integers, for the last steps of a long schedule to keep all their digits.
        left = tf.cast(length - self.whole, tf.float64)
        if self.fraction is not None:
            left -= self.fraction
        return tf.maximum(left, 0.0) / length

    def periods(self, length):
        """How many periods of `length` steps are over (int64), and the `Steps` into this one."""
        over = self.whole // length
        return over, Steps(self.whole - over * length, self.fraction)


def _expected(step):
    return (
        "`step` must be an integer or a floating-point number, or an array, tensor or variable of "
        f"them. Received: step={step!r}"
    )
