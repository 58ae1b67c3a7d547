"""A learning rate that falls in a straight line."""

from keras_bp._arguments import check_integer
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_minimum, check_rate
from keras_bp.schedules._base import Schedule, between


@serializable
class LinearDecay(Schedule):
    """Falls in a straight line and stays at the minimum.

        rate(t) = a0 - (a0 - m) t / T for t < T,    m from T on

    It is `keras.optimizers.schedules.PolynomialDecay` with the power 1.

    Args:
        initial_learning_rate: Number of 0 or more, a0.
        total_steps: Integer of 1 or more, T, in update steps.
        minimum: Number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.LinearDecay(1.0, total_steps=100, minimum=0.2)
        >>> schedule([0, 50, 100, 1000]).numpy()
        array([1. , 0.6, 0.2, 0.2], dtype=float32)

    References:
        Goodfellow, Bengio and Courville, 2016, "Deep learning", equation 8.14.
        Defazio et al., 2023, "When, why and how much? Adaptive learning rate scheduling by
        refinement", which finds the straight line down to 0 the one to try first.
    """

    def __init__(self, initial_learning_rate, total_steps, minimum=0.0):
        top = check_rate("initial_learning_rate", initial_learning_rate)
        super().__init__(
            initial_learning_rate=top,
            total_steps=check_integer("total_steps", total_steps, 1),
            minimum=check_minimum("minimum", minimum, top),
        )

    def _rate(self, steps):
        left = steps.share_left(self.total_steps)
        return between(self.minimum, self.initial_learning_rate, left)
