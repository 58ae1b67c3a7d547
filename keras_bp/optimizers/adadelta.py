"""Adadelta: steps whose unit is that of the weights."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Adadelta(Optimizer):
    """Adadelta: the gradient times the root mean square of past steps over that of past gradients.

    Drop-in for `keras.optimizers.Adadelta`: the same arguments, defaults, slots and rule.

        s = rho s + (1 - rho) g^2
        d = sqrt(r + eps) / sqrt(s + eps) g
        r = rho r + (1 - rho) d^2
        w -= a d

    with the learning rate a and the gradient g. r averages the squares of d, the steps at a rate
    of 1: it starts at 0, so that the first steps have the size sqrt(eps), and grow from there. The
    paper's rule has a = 1; at the default rate training takes a thousand times as long.

    A sparse gradient counts as the dense one it represents: the averages of every row decay.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        rho: number in [0, 1), the decay of both averages. Defaults to 0.95.
        epsilon: number > 0. Defaults to 1e-7.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.Adadelta(1.0, epsilon=1e-4)
        >>> optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.9555, 2.0447], dtype=float32)

    References:
        Zeiler, 2012, "ADADELTA: an adaptive learning rate method", algorithm 1.
    """

    slot_names: tuple[str, ...] = ("accumulated_grad", "accumulated_delta_var")
    argument_names: tuple[str, ...] = ("rho", "epsilon")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.rho = check_number("rho", rho, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        squares, steps = slots
        tf.raw_ops.ResourceApplyAdadelta(
            var=variable.handle,
            accum=squares.handle,
            accum_update=steps.handle,
            lr=coefficients[0],
            rho=tf.constant(self.rho, variable.dtype),
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=gradient,
        )
