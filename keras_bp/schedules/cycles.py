"""Learning rates that rise and fall: again and again, or once."""

import math

import tensorflow as tf

from keras_bp._arguments import check_choice, check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules.schedule import Schedule, between, half_cosine

_MODES = ("triangular", "triangular2", "exp_range")
# A restart at most this share of the steps ahead counts as reached: float64 puts the start of a
# period within some 1e-14 of it, and no other step lies that near.
_ROUNDING = 1e-12


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
        minimum_learning_rate: number in [0, peak_learning_rate], lo: the rate at steps 0, 2s,
            4s and so on.
        peak_learning_rate: number of 0 or more, hi: the rate at step s.
        half_cycle_steps: integer of 1 or more, s, in update steps. The paper advises 2 to 10
            epochs' worth.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`. Defaults to `"triangular"`.
        gamma: number in (0, 1], the height's factor per step in `"exp_range"`; the other modes do
            not use it. Defaults to 0.99994.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range, or the mode unknown.

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
        minimum_learning_rate: float,
        peak_learning_rate: float,
        half_cycle_steps: int,
        mode: str = "triangular",
        gamma: float = 0.99994,
    ) -> None:
        high = check_number("peak_learning_rate", peak_learning_rate, 0.0)
        super().__init__(
            minimum_learning_rate=check_number(
                "minimum_learning_rate", minimum_learning_rate, 0.0, high
            ),
            peak_learning_rate=high,
            half_cycle_steps=check_integer("half_cycle_steps", half_cycle_steps, 1),
            mode=check_choice("mode", mode, _MODES),
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
        return between(self.minimum_learning_rate, self.peak_learning_rate, share)


@serializable
class CosineRestarts(Schedule):
    """Falls along half a cosine, restarts at the top, and so on (SGDR).

    Each period is `period_factor` times as long as the one before, and its peak `peak_factor` times
    as far above the minimum. The step at which a period ends is the first of the next: it has the
    peak's rate.

        rate(t) = m + (a0 - m) g^i / 2 (1 + cos(pi T_cur / T_i))
        T_i     = T_0 f^i,    T_cur = t - T_0 (f^i - 1) / (f - 1)

    The period i is the whole part of a logarithm, which rounding can put one too low at a restart
    (it does in `keras.optimizers.schedules.CosineDecayRestarts`, which works in float32). Here the
    logarithm is a first guess, corrected by a comparison with the next period's start.

    Args:
        initial_learning_rate: number of 0 or more, a0: the first peak.
        first_period_steps: integer of 1 or more, T_0, in update steps.
        period_factor: number in [1, 1e6], f (`T_mult` in the paper). With a fraction, restarts may
            fall between two steps; the later one is then the first of the new period. Defaults
            to 1.
        peak_factor: number in (0, 1], g. Defaults to 1.
        minimum_learning_rate: number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

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
        initial_learning_rate: float,
        first_period_steps: int,
        period_factor: float = 1.0,
        peak_factor: float = 1.0,
        minimum_learning_rate: float = 0.0,
    ) -> None:
        top = check_number("initial_learning_rate", initial_learning_rate, 0.0)
        super().__init__(
            initial_learning_rate=top,
            first_period_steps=check_integer("first_period_steps", first_period_steps, 1),
            period_factor=check_number("period_factor", period_factor, 1.0, 1e6),
            peak_factor=check_number("peak_factor", peak_factor, 0.0, 1.0, low_open=True),
            minimum_learning_rate=check_number(
                "minimum_learning_rate", minimum_learning_rate, 0.0, top
            ),
        )

    def _rate(self, steps):
        if self.period_factor == 1.0:
            restarts, inside = steps.periods(self.first_period_steps)
            restarts = tf.cast(restarts, tf.float64)
            share_left = inside.share_left(self.first_period_steps)
        else:
            restarts, share_left = self._growing_periods(steps.number())
        fallen = tf.pow(tf.constant(self.peak_factor, tf.float64), restarts)
        floor = self.minimum_learning_rate
        peak = floor + (self.initial_learning_rate - floor) * fallen
        return half_cosine(floor, peak, share_left)

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


@serializable
class OneCycle(Schedule):
    """Rises to the peak and falls far below its start, each along half a cosine.

    This is the form of the one-cycle policy that fastai made common: two phases, both cosines,
    where Smith's has straight lines and a third phase at the end. The last rate stays.

        w       = share T,    start = peak / d,    end = peak / D
        rate(t) = start + (peak - start)/2 (1 - cos(pi t / w))              for t < w
        rate(t) = end + (peak - end)/2 (1 + cos(pi (t - w) / (T - w)))      for w <= t < T

    Args:
        peak_learning_rate: number of 0 or more.
        total_steps: integer of 1 or more, T, in update steps.
        warmup_share: number in (0, 1), the share of the steps in which the rate rises. The top may
            fall between two steps. Defaults to 0.25.
        start_divisor: number of 1 or more, d: the first rate is the peak over it. Defaults to 25.
        final_divisor: number of 1 or more, D: the last rate is the peak over it. Defaults to 1e5.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.OneCycle(1.0, total_steps=100)
        >>> [f"{rate:.5f}" for rate in schedule([0, 25, 100, 1000])]
        ['0.04000', '1.00000', '0.00001', '0.00001']

    References:
        Smith and Topin, 2019, "Super-convergence: very fast training of neural networks using
        large learning rates", section 3. Howard and Gugger, 2020, "fastai: a layered API for deep
        learning", which has the two cosines.
    """

    def __init__(
        self,
        peak_learning_rate: float,
        total_steps: int,
        warmup_share: float = 0.25,
        start_divisor: float = 25.0,
        final_divisor: float = 1e5,
    ) -> None:
        super().__init__(
            peak_learning_rate=check_number("peak_learning_rate", peak_learning_rate, 0.0),
            total_steps=check_integer("total_steps", total_steps, 1),
            warmup_share=check_number(
                "warmup_share", warmup_share, 0.0, 1.0, low_open=True, high_open=True
            ),
            start_divisor=check_number("start_divisor", start_divisor, 1.0),
            final_divisor=check_number("final_divisor", final_divisor, 1.0),
        )

    def _rate(self, steps):
        peak, total = self.peak_learning_rate, self.total_steps
        # Both phases reach the peak at w, so it does not matter on which side of a rounded w a step
        # falls.
        rise = tf.minimum(steps.number() / (self.warmup_share * total), 1.0)
        left = tf.minimum(steps.share_left(total) / (1.0 - self.warmup_share), 1.0)
        rising = half_cosine(peak / self.start_divisor, peak, rise)
        falling = half_cosine(peak / self.final_divisor, peak, left)
        return tf.where(rise < 1.0, rising, falling)
