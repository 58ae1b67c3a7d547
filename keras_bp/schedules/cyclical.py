"""A learning rate that goes up and down in straight lines."""

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_minimum, check_rate
from keras_bp.schedules._base import Schedule, between

_MODES = ("triangular", "triangular2", "exp_range")


@serializable
class Cyclical(Schedule):
    """Goes up and down in straight lines between two rates (Smith's cyclical learning rates).

    A cycle of 2s steps rises for the first s and falls for the others. Its height above the minimum
    stays (`"triangular"`), is halved after each cycle (`"triangular2"`) or falls with every step
    (`"exp_range"`).

        cycle   = floor(1 + t / 2s),    x = |t / s - 2 cycle + 1|
        rate(t) = lo + (hi - lo) max(0, 1 - x) h
        h       = 1,  2^(1 - cycle)  or  gamma^t

    Args:
        minimum_learning_rate: Number in [0, maximum_learning_rate], lo: the rate at steps 0, 2s,
            4s and so on.
        maximum_learning_rate: Number of 0 or more, hi: the rate at step s.
        half_cycle_steps: Integer of 1 or more, s, in update steps. The paper advises 2 to 10
            epochs' worth.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`. Defaults to `"triangular"`.
        gamma: Number in (0, 1], the height's factor per step in `"exp_range"`; the other modes do
            not use it. Defaults to 0.99994.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range, or the mode unknown.

    Example:
        >>> schedule = keras_bp.schedules.Cyclical(0.1, 1.1, 10, mode="triangular2")
        >>> schedule([0, 5, 10, 20, 30]).numpy()
        array([0.1, 0.6, 1.1, 0.1, 0.6], dtype=float32)

    References:
        Smith, 2017, "Cyclical learning rates for training neural networks", section 3.1; its
        `exp_range` lowers both bounds, this one the height alone, as most implementations do.
    """

    def __init__(
        self,
        minimum_learning_rate,
        maximum_learning_rate,
        half_cycle_steps,
        mode="triangular",
        gamma=0.99994,
    ):
        high = check_rate("maximum_learning_rate", maximum_learning_rate)
        if mode not in _MODES:
            raise ValueError(
                f"`mode` must be one of {', '.join(map(repr, _MODES))}. Received: mode={mode!r}"
            )
        super().__init__(
            minimum_learning_rate=check_minimum(
                "minimum_learning_rate", minimum_learning_rate, high
            ),
            maximum_learning_rate=high,
            half_cycle_steps=check_integer("half_cycle_steps", half_cycle_steps, 1),
            mode=mode,
            gamma=check_number("gamma", gamma, 0.0, 1.0, low_open=True),
        )

    def _rate(self, steps):
        half = self.half_cycle_steps
        cycles, inside = steps.periods(2 * half)
        step = inside.number()
        share = tf.minimum(step, 2.0 * half - step) / half
        if self.mode == "triangular2":
            share *= tf.pow(tf.constant(0.5, tf.float64), tf.cast(cycles, tf.float64))
        elif self.mode == "exp_range":
            share *= tf.pow(tf.constant(self.gamma, tf.float64), steps.number())
        return between(self.minimum_learning_rate, self.maximum_learning_rate, share)
