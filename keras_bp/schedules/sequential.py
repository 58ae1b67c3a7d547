"""Several schedules, one after another."""

import tensorflow as tf

from keras_bp._arguments import check_integer
from keras_bp._keras import serializable
from keras_bp.schedules import _wrapped
from keras_bp.schedules._arguments import check_schedule
from keras_bp.schedules._base import Schedule


@serializable
class Sequential(Schedule):
    """Follows one schedule after another, each counted from its own start.

    The step of a boundary is the first of the schedule after it. Nothing joins the rates: there
    is a jump where a schedule does not end at the next one's first rate. The last one has no end.

        rate(t) = s_i(t - b_i) for b_i <= t < b_(i+1),    b_0 = 0

    Args:
        schedules: List of one or more `keras.optimizers.schedules.LearningRateSchedule`s, or
            numbers for constant rates. Keras's own compute in float32.
        boundaries: List of increasing integers of 1 or more, in update steps: where each schedule
            but the first begins.

    Raises:
        TypeError: If one of `schedules` is no schedule, or one of `boundaries` not an integer.
        ValueError: If there is no schedule, or the boundaries do not increase or are not one
            fewer than the schedules.

    Example:
        >>> decay = keras_bp.schedules.LinearDecay(0.5, total_steps=10)
        >>> schedule = keras_bp.schedules.Sequential([1.0, decay], boundaries=[100])
        >>> schedule([0, 99, 100, 105, 110]).numpy()
        array([1.  , 1.  , 0.5 , 0.25, 0.  ], dtype=float32)
    """

    def __init__(self, schedules, boundaries):
        for name, value in (("schedules", schedules), ("boundaries", boundaries)):
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"`{name}` must be a list or a tuple. Received: {name}={value!r}")
        if not schedules:
            raise ValueError(
                f"`schedules` must have one schedule or more. Received: schedules={schedules!r}"
            )
        schedules = [check_schedule(f"schedules[{i}]", s) for i, s in enumerate(schedules)]
        if len(boundaries) != len(schedules) - 1:
            raise ValueError(
                "`boundaries` must be one fewer than the schedules, of which there are "
                f"{len(schedules)}. Received: boundaries={boundaries!r}"
            )
        steps = [check_integer(f"boundaries[{i}]", b, 1) for i, b in enumerate(boundaries)]
        if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"`boundaries` must increase. Received: boundaries={boundaries!r}")
        super().__init__(schedules=schedules, boundaries=steps)

    def _rate(self, steps):
        rate = _wrapped.rate_of(self.schedules[0], steps)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            following = _wrapped.rate_of(schedule, steps.since(boundary))
            rate = tf.where(steps.before(boundary), rate, following)
        return rate

    def get_config(self):
        """Return the constructor's arguments, the schedules in serialized form."""
        return {
            "schedules": [_wrapped.serialize(schedule) for schedule in self.schedules],
            "boundaries": list(self.boundaries),
        }

    @classmethod
    def from_config(cls, config):
        """Create the schedule from `get_config`'s dictionary."""
        schedules = [_wrapped.deserialize(schedule) for schedule in config["schedules"]]
        return cls(**(config | {"schedules": schedules}))

    def __repr__(self):
        schedules = ", ".join(map(_wrapped.describe, self.schedules))
        return f"{type(self).__name__}(schedules=[{schedules}], boundaries={self.boundaries!r})"
