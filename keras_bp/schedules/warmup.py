"""A linear rise before any schedule."""

import tensorflow as tf

from keras_bp._arguments import check_integer
from keras_bp._keras import serializable
from keras_bp.schedules import _wrapped
from keras_bp.schedules._arguments import check_rate, check_schedule
from keras_bp.schedules._base import Schedule, between
from keras_bp.schedules._steps import Steps


@serializable
class Warmup(Schedule):
    """Rises in a straight line to a schedule's first rate, then follows the schedule.

    The schedule starts at its own step 0 when the rise ends, so that the rate has no jump and
    the schedule lasts as long as without the rise. The first update is made at the rate at which
    the rise begins: with the default of 0 it moves no weight, though it does move an optimizer's
    moments.

        rate(t) = b + (s(0) - b) t / w for t < w,    s(t - w) from w on

    Args:
        schedule: Any `keras.optimizers.schedules.LearningRateSchedule`, or a number for a
            constant rate, s. Keras's own compute in float32.
        warmup_steps: Integer of 1 or more, w, in update steps.
        initial_learning_rate: Number of 0 or more, b: the rate at step 0. Defaults to 0.

    Raises:
        TypeError: If `schedule` is no schedule, or another argument not a number of its kind.
        ValueError: If a number is out of its range.

    Example:
        >>> decay = keras_bp.schedules.StepDecay(1.0, decay_steps=10)
        >>> schedule = keras_bp.schedules.Warmup(decay, warmup_steps=4)
        >>> schedule([0, 1, 4, 13, 14]).numpy()
        array([0.  , 0.25, 1.  , 1.  , 0.5 ], dtype=float32)

    References:
        Goyal et al., 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour",
        section 2.2.
    """

    def __init__(self, schedule, warmup_steps, initial_learning_rate=0.0):
        super().__init__(
            schedule=check_schedule("schedule", schedule),
            warmup_steps=check_integer("warmup_steps", warmup_steps, 1),
            initial_learning_rate=check_rate("initial_learning_rate", initial_learning_rate),
        )

    def _rate(self, steps):
        first = _wrapped.rate_of(self.schedule, Steps.zero())
        share = steps.share_made(self.warmup_steps)
        rising = between(self.initial_learning_rate, first, share)
        following = _wrapped.rate_of(self.schedule, steps.since(self.warmup_steps))
        return tf.where(steps.before(self.warmup_steps), rising, following)

    def get_config(self):
        """Return the constructor's arguments, the schedule in serialized form."""
        return super().get_config() | {"schedule": _wrapped.serialize(self.schedule)}

    @classmethod
    def from_config(cls, config):
        """Create the schedule from `get_config`'s dictionary."""
        return cls(**(config | {"schedule": _wrapped.deserialize(config["schedule"])}))

    def __repr__(self):
        return (
            f"{type(self).__name__}(schedule={_wrapped.describe(self.schedule)}, "
            f"warmup_steps={self.warmup_steps!r}, "
            f"initial_learning_rate={self.initial_learning_rate!r})"
        )
