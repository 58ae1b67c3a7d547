"""A warm-up before a schedule, and several schedules in sequence."""

from collections.abc import Sequence
from typing import Any, Self

import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from keras_bp._arguments import check_integer, check_number, check_schedule
from keras_bp._keras import serializable
from keras_bp.schedules.schedule import (
    Schedule,
    Steps,
    between,
    describe,
    deserialize,
    half_cosine,
    rate_of,
    serialize,
)


@serializable
class Warmup(Schedule):
    """Rises in a straight line to a schedule's first rate, then follows the schedule.

    The schedule starts at its own step 0 when the rise ends, so that the rate has no jump and
    the schedule lasts as long as without the rise. The first update is made at the rate at which
    the rise begins: with the default of 0 it moves no weight, though it does move an optimizer's
    moments.

        rate(t) = b + (s(0) - b) t / w for t < w,    s(t - w) from w on

    Args:
        schedule: any `keras.optimizers.schedules.LearningRateSchedule`, or a number for a
            constant rate, s. Keras's own compute in float32.
        warmup_steps: integer of 1 or more, w, in update steps.
        initial_learning_rate: number of 0 or more, b: the rate at step 0. Defaults to 0.

    Raises:
        TypeError: if `schedule` is not a schedule, or another argument not a number of its kind.
        ValueError: if a number is out of its range.

    Example:
        >>> decay = keras_bp.schedules.StepDecay(1.0, decay_steps=10)
        >>> schedule = keras_bp.schedules.Warmup(decay, warmup_steps=4)
        >>> schedule([0, 1, 4, 13, 14]).numpy()
        array([0.  , 0.25, 1.  , 1.  , 0.5 ], dtype=float32)

    References:
        Goyal et al., 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour",
        section 2.2.
    """

    def __init__(
        self,
        schedule: float | LearningRateSchedule,
        warmup_steps: int,
        initial_learning_rate: float = 0.0,
    ) -> None:
        super().__init__(
            schedule=check_schedule("schedule", schedule),
            warmup_steps=check_integer("warmup_steps", warmup_steps, 1),
            initial_learning_rate=check_number("initial_learning_rate", initial_learning_rate, 0.0),
        )

    def _rate(self, steps):
        first = rate_of(self.schedule, Steps.zero())
        share = steps.share_made(self.warmup_steps)
        rising = between(self.initial_learning_rate, first, share)
        following = rate_of(self.schedule, steps.since(self.warmup_steps))
        return tf.where(steps.before(self.warmup_steps), rising, following)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the schedule in serialized form."""
        return super().get_config() | {"schedule": serialize(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create the schedule from `get_config`'s dictionary."""
        return cls(**(config | {"schedule": deserialize(config["schedule"])}))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(schedule={describe(self.schedule)}, "
            f"warmup_steps={self.warmup_steps!r}, "
            f"initial_learning_rate={self.initial_learning_rate!r})"
        )


@serializable
class WarmupCosine(Schedule):
    """Rises in a straight line from 0 to the peak, then falls along half a cosine.

    The rise is part of the total, unlike in `Warmup`, which puts it before a schedule.

        rate(t) = peak t / w                                                for t < w
        rate(t) = m + (peak - m)/2 (1 + cos(pi (t - w) / (T - w)))          for w <= t < T
        rate(t) = m                                                         from T on

    Args:
        peak_learning_rate: number of 0 or more, the rate at step w.
        total_steps: integer of 2 or more, T, in update steps.
        warmup_steps: integer in [1, total_steps), w, in update steps.
        minimum_learning_rate: number in [0, peak_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.WarmupCosine(1.0, total_steps=110, warmup_steps=10)
        >>> schedule([0, 5, 10, 60, 110]).numpy()
        array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)

    References:
        Goyal et al., 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour",
        section 2.2, for the rise. Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent
        with warm restarts", equation 5, for the cosine.
    """

    def __init__(
        self,
        peak_learning_rate: float,
        total_steps: int,
        warmup_steps: int,
        minimum_learning_rate: float = 0.0,
    ) -> None:
        peak = check_number("peak_learning_rate", peak_learning_rate, 0.0)
        total = check_integer("total_steps", total_steps, low=2)
        super().__init__(
            peak_learning_rate=peak,
            total_steps=total,
            warmup_steps=check_integer("warmup_steps", warmup_steps, 1, below=total),
            minimum_learning_rate=check_number(
                "minimum_learning_rate", minimum_learning_rate, 0.0, peak
            ),
        )

    def _rate(self, steps):
        peak, warmup = self.peak_learning_rate, self.warmup_steps
        rising = between(0.0, peak, steps.share_made(warmup))
        left = steps.since(warmup).share_left(self.total_steps - warmup)
        falling = half_cosine(self.minimum_learning_rate, peak, left)
        return tf.where(steps.before(warmup), rising, falling)


@serializable
class Sequential(Schedule):
    """Follows one schedule after another, each counted from its own start.

    A boundary is the first step of the schedule after it. The rates are not joined: there is a jump
    where a schedule does not end at the next one's first rate. The last one has no end.

        rate(t) = s_i(t - b_i) for b_i <= t < b_(i+1),    b_0 = 0

    Args:
        schedules: list of one or more `keras.optimizers.schedules.LearningRateSchedule`s, or
            numbers for constant rates. Keras's own compute in float32.
        boundaries: list of increasing integers of 1 or more, in update steps: where each schedule
            but the first begins.

    Raises:
        TypeError: if one of `schedules` is not a schedule, or one of `boundaries` not an integer.
        ValueError: if there is no schedule, or the boundaries do not increase or are not one
            fewer than the schedules.

    Example:
        >>> decay = keras_bp.schedules.LinearDecay(0.5, total_steps=10)
        >>> schedule = keras_bp.schedules.Sequential([1.0, decay], boundaries=[100])
        >>> schedule([0, 99, 100, 105, 110]).numpy()
        array([1.  , 1.  , 0.5 , 0.25, 0.  ], dtype=float32)
    """

    def __init__(
        self, schedules: Sequence[float | LearningRateSchedule], boundaries: Sequence[int]
    ) -> None:
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
        rate = rate_of(self.schedules[0], steps)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            following = rate_of(schedule, steps.since(boundary))
            rate = tf.where(steps.before(boundary), rate, following)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the schedules in serialized form."""
        return {
            "schedules": [serialize(schedule) for schedule in self.schedules],
            "boundaries": list(self.boundaries),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create the schedule from `get_config`'s dictionary."""
        schedules = [deserialize(schedule) for schedule in config["schedules"]]
        return cls(**(config | {"schedules": schedules}))

    def __repr__(self) -> str:
        schedules = ", ".join(map(describe, self.schedules))
        return f"{type(self).__name__}(schedules=[{schedules}], boundaries={self.boundaries!r})"
