"""A learning rate that falls by the same share in every step."""

import math

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_rate
from keras_bp.schedules._base import Schedule


@serializable
class ExponentialDecay(Schedule):
    """Lets the rate fall by the same share in every step.

    In `decay_steps` updates it falls by the factor `decay_rate`, and evenly in between. By default
    the factor is 1/e, so that `decay_steps` is the time constant 1/k of a0 exp(-k t); a k whose
    inverse is not a whole number is had with `decay_steps=1, decay_rate=math.exp(-k)`.

        rate(t) = a0 r^(t / n) = a0 exp(-k t),    k = -ln(r) / n

    `keras.optimizers.schedules.ExponentialDecay` takes the same arguments in the same order, and
    computes in float32; its `staircase=True` is `StepDecay` here.

    Args:
        initial_learning_rate: Number of 0 or more, a0.
        decay_steps: Integer of 1 or more, n: the update steps in which the rate falls by the
            factor.
        decay_rate: Number in (0, 1], r. Defaults to 1/e.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.ExponentialDecay(1.0, 10, decay_rate=0.5)
        >>> schedule([0, 10, 20, 30]).numpy()
        array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)

    References:
        Senior et al., 2013, "An empirical study of learning rates in deep neural networks for
        speech recognition".
    """

    def __init__(self, initial_learning_rate, decay_steps, decay_rate=1.0 / math.e):
        super().__init__(
            initial_learning_rate=check_rate("initial_learning_rate", initial_learning_rate),
            decay_steps=check_integer("decay_steps", decay_steps, 1),
            decay_rate=check_number("decay_rate", decay_rate, 0.0, 1.0, low_open=True),
        )

    def _rate(self, steps):
        decay_rate = tf.constant(self.decay_rate, tf.float64)
        return self.initial_learning_rate * tf.pow(decay_rate, steps.number() / self.decay_steps)
