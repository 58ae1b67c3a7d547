"""A linear rise and half a cosine down: the usual schedule of large models."""

import tensorflow as tf

from keras_bp._arguments import check_integer
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_minimum, check_rate
from keras_bp.schedules._base import Schedule, between, half_cosine


@serializable
class WarmupCosine(Schedule):
    """Rises in a straight line from 0 to the peak, then falls along half a cosine.

    The rise is part of the total, unlike in `Warmup`, which puts it before a schedule.

        rate(t) = peak t / w                                                for t < w
        rate(t) = m + (peak - m)/2 (1 + cos(pi (t - w) / (T - w)))          for w <= t < T
        rate(t) = m                                                         from T on

    Args:
        peak_learning_rate: Number of 0 or more, the rate at step w.
        total_steps: Integer of 2 or more, T, in update steps.
        warmup_steps: Integer in [1, total_steps), w, in update steps.
        minimum: Number in [0, peak_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.WarmupCosine(1.0, total_steps=110, warmup_steps=10)
        >>> schedule([0, 5, 10, 60, 110]).numpy()
        array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)

    References:
        Goyal et al., 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour",
        section 2.2, for the rise. Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent
        with warm restarts", equation 5, for the cosine.
    """

    def __init__(self, peak_learning_rate, total_steps, warmup_steps, minimum=0.0):
        peak = check_rate("peak_learning_rate", peak_learning_rate)
        total = check_integer("total_steps", total_steps, low=2)
        super().__init__(
            peak_learning_rate=peak,
            total_steps=total,
            warmup_steps=check_integer("warmup_steps", warmup_steps, 1, below=total),
            minimum=check_minimum("minimum", minimum, peak),
        )

    def _rate(self, steps):
        peak, warmup = self.peak_learning_rate, self.warmup_steps
        rising = between(0.0, peak, steps.share_made(warmup))
        left = steps.since(warmup).share_left(self.total_steps - warmup)
        falling = half_cosine(self.minimum, peak, left)
        return tf.where(steps.before(warmup), rising, falling)
