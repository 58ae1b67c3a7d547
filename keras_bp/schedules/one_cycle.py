"""A learning rate that rises once and falls once."""

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_rate
from keras_bp.schedules._base import Schedule, half_cosine


@serializable
class OneCycle(Schedule):
    """Rises to the peak and falls far below its start, each along half a cosine.

    This is the form of the one-cycle policy that fastai made common: two phases, both cosines,
    where Smith's has straight lines and a third phase at the end. The last rate stays.

        w       = share T,    start = peak / d,    end = peak / D
        rate(t) = start + (peak - start)/2 (1 - cos(pi t / w))              for t < w
        rate(t) = end + (peak - end)/2 (1 + cos(pi (t - w) / (T - w)))      for w <= t < T

    Args:
        peak_learning_rate: Number of 0 or more.
        total_steps: Integer of 1 or more, T, in update steps.
        warmup_share: Number in (0, 1), the share of the steps in which the rate rises. The top may
            fall between two steps. Defaults to 0.25.
        start_divisor: Number of 1 or more, d: the first rate is the peak over it. Defaults to 25.
        final_divisor: Number of 1 or more, D: the last rate is the peak over it. Defaults to 1e5.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

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
        peak_learning_rate,
        total_steps,
        warmup_share=0.25,
        start_divisor=25.0,
        final_divisor=1e5,
    ):
        super().__init__(
            peak_learning_rate=check_rate("peak_learning_rate", peak_learning_rate),
            total_steps=check_integer("total_steps", total_steps, 1),
            warmup_share=check_number(
                "warmup_share", warmup_share, 0.0, 1.0, low_open=True, high_open=True
            ),
            start_divisor=check_number("start_divisor", start_divisor, 1.0),
            final_divisor=check_number("final_divisor", final_divisor, 1.0),
        )

    def _rate(self, steps):
        peak, total = self.peak_learning_rate, self.total_steps
        # Both phases reach the peak at w, so that here it does not matter on which side of a
        # rounded w a step falls.
        rise = tf.minimum(steps.number() / (self.warmup_share * total), 1.0)
        left = tf.minimum(steps.share_left(total) / (1.0 - self.warmup_share), 1.0)
        rising = half_cosine(peak / self.start_divisor, peak, rise)
        falling = half_cosine(peak / self.final_divisor, peak, left)
        return tf.where(rise < 1.0, rising, falling)
