"""A learning rate that falls along half a cosine again and again."""

import math

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_minimum, check_rate
from keras_bp.schedules._base import Schedule, half_cosine

# A restart that lies this share of the steps ahead is there: float64 puts the start of a period
# within some 1e-14 of it, and no step lies that near a restart without being meant.
_ROUNDING = 1e-12


@serializable
class CosineRestarts(Schedule):
    """Falls along half a cosine, starts anew at the top, and so on (SGDR).

    Each period is `period_factor` times as long as the one before, and its peak `peak_factor` times
    as far above the minimum. The step at which a period ends is the first of the next: it has the
    peak's rate.

        rate(t) = m + (a0 - m) g^i / 2 (1 + cos(pi T_cur / T_i))
        T_i     = T_0 f^i,    T_cur = t - T_0 (f^i - 1) / (f - 1)

    The period i is the whole part of a logarithm, which rounding can put one too low at a restart
    (it does in `keras.optimizers.schedules.CosineDecayRestarts`, which works in float32). Here the
    logarithm is only a first guess, which a comparison with the next period's start corrects.

    Args:
        initial_learning_rate: Number of 0 or more, a0: the first peak.
        first_period_steps: Integer of 1 or more, T_0, in update steps.
        period_factor: Number in [1, 1e6], f (`T_mult` in the paper). With a fraction, restarts may
            fall between two steps; the later one is then the first of the new period. Defaults
            to 1.
        peak_factor: Number in (0, 1], g. Defaults to 1.
        minimum: Number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.CosineRestarts(1.0, 10, period_factor=2, peak_factor=0.5)
        >>> schedule([0, 5, 10, 20, 30]).numpy()
        array([1.  , 0.5 , 0.5 , 0.25, 0.25], dtype=float32)

    References:
        Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent with warm restarts",
        equation 5.
    """

    def __init__(
        self,
        initial_learning_rate,
        first_period_steps,
        period_factor=1.0,
        peak_factor=1.0,
        minimum=0.0,
    ):
        top = check_rate("initial_learning_rate", initial_learning_rate)
        super().__init__(
            initial_learning_rate=top,
            first_period_steps=check_integer("first_period_steps", first_period_steps, 1),
            period_factor=check_number("period_factor", period_factor, 1.0, 1e6),
            peak_factor=check_number("peak_factor", peak_factor, 0.0, 1.0, low_open=True),
            minimum=check_minimum("minimum", minimum, top),
        )

    def _rate(self, steps):
        if self.period_factor == 1.0:
            restarts, inside = steps.periods(self.first_period_steps)
            restarts = tf.cast(restarts, tf.float64)
            share_left = inside.share_left(self.first_period_steps)
        else:
            restarts, share_left = self._growing_periods(steps.number())
        fallen = tf.pow(tf.constant(self.peak_factor, tf.float64), restarts)
        peak = self.minimum + (self.initial_learning_rate - self.minimum) * fallen
        return half_cosine(self.minimum, peak, share_left)

    def _growing_periods(self, step):
        """Return how many restarts there were, and the share of this period still to come."""
        first, growth = self.first_period_steps, self.period_factor - 1.0
        # log1p and expm1 keep the digits of a factor close to 1.
        log_factor = math.log1p(growth)

        def start(period):
            return first * (tf.math.expm1(period * log_factor) / growth)

        step_and_rounding = step * (1.0 + _ROUNDING)
        period = tf.floor(tf.math.log1p(growth * step / first) / log_factor)
        period += tf.cast(start(period + 1.0) <= step_and_rounding, tf.float64)
        end = start(period + 1.0)
        share_left = (end - step) / (end - start(period))
        return period, tf.clip_by_value(share_left, 0.0, 1.0)
