"""Adagrad: steps scaled by the root of all squared gradients so far."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Adagrad(Optimizer):
    """Adagrad: each entry's rate falls with the root of the squares that its gradient has summed.

    Drop-in for `keras.optimizers.Adagrad`: the same arguments, defaults, slot and rule.

        s = s + g^2
        w -= a g / sqrt(s + eps)          epsilon_in_sqrt=True, Keras's rule
        w -= a g / (sqrt(s) + eps)        epsilon_in_sqrt=False, as in the paper and in torch

    with the learning rate a and the gradient g. s starts at `initial_accumulator_value`. An entry
    whose gradient is often 0, as a rare feature's, keeps a large rate.

    A gradient of 0 changes nothing, and so a sparse gradient touches its own rows only, exactly as
    the dense one would. With weight decay every row decays in every update.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001; the paper's rate of
            1, or 0.01 to 0.1, is often better.
        initial_accumulator_value: number >= 0. Defaults to 0.1.
        epsilon: number > 0. Defaults to 1e-7.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        epsilon_in_sqrt: whether epsilon is added under the root. Defaults to `True`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.Adagrad(0.5, initial_accumulator_value=0.0)
        >>> for _ in range(2):
        ...     optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(3)  # steps of 0.5 and of 0.5 / sqrt(2)
        array([0.146, 2.854], dtype=float32)

    References:
        Duchi, Hazan and Singer, 2011, "Adaptive subgradient methods for online learning and
        stochastic optimization", figure 1 with the diagonal matrix.
    """

    argument_names: tuple[str, ...] = ("initial_accumulator_value", "epsilon", "epsilon_in_sqrt")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        *,
        epsilon_in_sqrt: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.initial_accumulator_value = check_number(
            "initial_accumulator_value", initial_accumulator_value, 0.0
        )
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.epsilon_in_sqrt = check_flag("epsilon_in_sqrt", epsilon_in_sqrt)

    def _create_slots(self, variable):
        start = keras.initializers.Constant(self.initial_accumulator_value)
        return [self.add_variable_from_reference(variable, "accumulator", start)]

    def _by_rows(self, variable):
        return not self.weight_decay

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate], [squares] = coefficients, slots
        if isinstance(gradient, tf.IndexedSlices):
            ids, g = gradient.indices, gradient.values
            squares.scatter_add(tf.IndexedSlices(tf.square(g), ids))
            step = self._direction(g, tf.gather(squares, ids)) * rate
            variable.scatter_sub(tf.IndexedSlices(step, ids))
        else:
            squares.assign_add(tf.square(gradient))
            descend(variable, rate, self._direction(gradient, squares))

    def _direction(self, g, squares):
        if self.epsilon_in_sqrt:
            return g * tf.math.rsqrt(squares + self.epsilon)
        return g / (tf.sqrt(squares) + self.epsilon)
