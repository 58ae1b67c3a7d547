"""A learning rate that falls along half a cosine."""

from keras_bp._arguments import check_integer
from keras_bp._keras import serializable
from keras_bp.schedules._arguments import check_minimum, check_rate
from keras_bp.schedules._base import Schedule, half_cosine


@serializable
class CosineAnnealing(Schedule):
    """Falls along half a cosine, slowly at first and at last, and stays at the minimum.

        rate(t) = m + (a0 - m)/2 (1 + cos(pi t / T)) for t < T,    m from T on

    `keras.optimizers.schedules.CosineDecay` gives the minimum as a share `alpha` of the first rate.

    Args:
        initial_learning_rate: Number of 0 or more, a0.
        total_steps: Integer of 1 or more, T, in update steps.
        minimum: Number in [0, initial_learning_rate], m. Defaults to 0.

    Raises:
        TypeError: If an argument is not a number of its kind.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = keras_bp.schedules.CosineAnnealing(1.0, total_steps=100, minimum=0.1)
        >>> schedule([0, 50, 100, 1000]).numpy()
        array([1.  , 0.55, 0.1 , 0.1 ], dtype=float32)

    References:
        Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent with warm restarts",
        equation 5, without the restarts.
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
        return half_cosine(self.minimum, self.initial_learning_rate, left)
