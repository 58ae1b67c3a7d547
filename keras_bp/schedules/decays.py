"""Learning rates that only fall."""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import serializable
from keras_bp.schedules.schedule import Schedule, between, half_cosine


@serializable
class StepDecay(Schedule):
    """Multiplies the rate by a factor after every `decay_steps` updates.

    The rate is constant in between: steps 0 to k - 1 have the first rate, step k the next. The
    periods are counted in integer arithmetic, so that no fall comes a step early or late.

        rate(t) = a0 f^floor(t / k)

    Args:
        initial_learning_rate: number of 0 or more, a0.
        decay_steps: integer of 1 or more, k: the update steps from one fall to the next.
        factor: number in (0, 1], f. Defaults to 0.5.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.StepDecay(1.0, decay_steps=10)
        >>> schedule([0, 9, 10, 20]).numpy()
        array([1.  , 1.  , 0.5 , 0.25], dtype=float32)

    References:
        He et al., 2016, "Deep residual learning for image recognition", section 3.4, where the
        rate falls to a tenth at each plateau.
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int, factor: float = 0.5) -> None:
        super().__init__(
            initial_learning_rate=check_number("initial_learning_rate", initial_learning_rate, 0.0),
            decay_steps=check_integer("decay_steps", decay_steps, 1),
            factor=check_number("factor", factor, 0.0, 1.0, low_open=True),
        )

    def _rate(self, steps):
        falls, _ = steps.periods(self.decay_steps)
        return self.initial_learning_rate * tf.pow(
            tf.constant(self.factor, tf.float64), tf.cast(falls, tf.float64)
        )


@serializable
class ExponentialDecay(Schedule):
    """Lets the rate fall by the same share in every step.

    In `decay_steps` updates it falls by the factor `decay_rate`, and evenly in between. By default
    the factor is 1/e, so that `decay_steps` is the time constant 1/k of a0 exp(-k t); for any
    other k, pass `decay_steps=1, decay_rate=math.exp(-k)`.

        rate(t) = a0 r^(t / n) = a0 exp(-k t),    k = -ln(r) / n

    `keras.optimizers.schedules.ExponentialDecay` takes the same arguments in the same order, and
    computes in float32; its `staircase=True` is `StepDecay` here.

    Args:
        initial_learning_rate: number of 0 or more, a0.
        decay_steps: integer of 1 or more, n: the update steps in which the rate falls by the
            factor.
        decay_rate: number in (0, 1], r. Defaults to 1/e.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.ExponentialDecay(1.0, 10, decay_rate=0.5)
        >>> schedule([0, 10, 20, 30]).numpy()
        array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)

    References:
        Senior et al., 2013, "An empirical study of learning rates in deep neural networks for
        speech recognition".
    """

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float = 1.0 / math.e
    ) -> None:
        super().__init__(
            initial_learning_rate=check_number("initial_learning_rate", initial_learning_rate, 0.0),
            decay_steps=check_integer("decay_steps", decay_steps, 1),
            decay_rate=check_number("decay_rate", decay_rate, 0.0, 1.0, low_open=True),
        )

    def _rate(self, steps):
        decay_rate = tf.constant(self.decay_rate, tf.float64)
        return self.initial_learning_rate * tf.pow(decay_rate, steps.number() / self.decay_steps)


class _Falling(Schedule):
    """Falls to the minimum along a curve, which a subclass names, and stays there."""

    _curve: Callable[..., tf.Tensor]

    def __init__(
        self, initial_learning_rate: float, total_steps: int, minimum_learning_rate: float = 0.0
    ) -> None:
        top = check_number("initial_learning_rate", initial_learning_rate, 0.0)
        super().__init__(
            initial_learning_rate=top,
            total_steps=check_integer("total_steps", total_steps, 1),
            minimum_learning_rate=check_number(
                "minimum_learning_rate", minimum_learning_rate, 0.0, top
            ),
        )

    def _rate(self, steps):
        left = steps.share_left(self.total_steps)
        return self._curve(self.minimum_learning_rate, self.initial_learning_rate, left)


@serializable
class LinearDecay(_Falling):
    """Falls in a straight line and stays at the minimum.

        rate(t) = a0 - (a0 - m) t / T for t < T,    m from T on

    It is `keras.optimizers.schedules.PolynomialDecay` with the power 1.

    Args:
        initial_learning_rate: number of 0 or more, a0.
        total_steps: integer of 1 or more, T, in update steps.
        minimum_learning_rate: number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.LinearDecay(
        ...     1.0, total_steps=100, minimum_learning_rate=0.2
        ... )
        >>> schedule([0, 50, 100, 1000]).numpy()
        array([1. , 0.6, 0.2, 0.2], dtype=float32)

    References:
        Goodfellow, Bengio and Courville, 2016, "Deep learning", equation 8.14.
        Defazio et al., 2023, "When, why and how much? Adaptive learning rate scheduling by
        refinement", which finds the straight line down to 0 the one to try first.
    """

    _curve = staticmethod(between)


@serializable
class CosineAnnealing(_Falling):
    """Falls along half a cosine, slowly at first and at last, and stays at the minimum.

        rate(t) = m + (a0 - m)/2 (1 + cos(pi t / T)) for t < T,    m from T on

    `keras.optimizers.schedules.CosineDecay` gives the minimum as a share `alpha` of the first rate.

    Args:
        initial_learning_rate: number of 0 or more, a0.
        total_steps: integer of 1 or more, T, in update steps.
        minimum_learning_rate: number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.CosineAnnealing(
        ...     1.0, total_steps=100, minimum_learning_rate=0.1
        ... )
        >>> schedule([0, 50, 100, 1000]).numpy()
        array([1.  , 0.55, 0.1 , 0.1 ], dtype=float32)

    References:
        Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent with warm restarts",
        equation 5, without the restarts.
    """

    _curve = staticmethod(half_cosine)
