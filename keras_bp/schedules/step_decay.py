"""A learning rate that falls by a factor every so many steps."""

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_rate
from keras_bp.schedules._base import Schedule


@serializable
class StepDecay(Schedule):
    """Multiplies the rate by a factor after every `decay_steps` updates.

    The rate is constant in between: steps 0 to k - 1 have the first rate, step k the next. The
    periods are counted in integer arithmetic, so that no fall comes a step early or late.

        rate(t) = a0 f^floor(t / k)

    Args:
        initial_learning_rate: Number of 0 or more, a0.
        decay_steps: Integer of 1 or more, k: the update steps from one fall to the next.
        factor: Number in (0, 1], f. Defaults to 0.5.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.StepDecay(1.0, decay_steps=10)
        >>> schedule([0, 9, 10, 20]).numpy()
        array([1.  , 1.  , 0.5 , 0.25], dtype=float32)

    References:
        He et al., 2016, "Deep residual learning for image recognition", section 3.4, where the
        rate falls to a tenth at each plateau.
    """

    def __init__(self, initial_learning_rate, decay_steps, factor=0.5):
        super().__init__(
            initial_learning_rate=check_rate("initial_learning_rate", initial_learning_rate),
            decay_steps=check_integer("decay_steps", decay_steps, 1),
            factor=check_number("factor", factor, 0.0, 1.0, low_open=True),
        )

    def _rate(self, steps):
        falls, _ = steps.periods(self.decay_steps)
        return self.initial_learning_rate * tf.pow(
            tf.constant(self.factor, tf.float64), tf.cast(falls, tf.float64)
        )
