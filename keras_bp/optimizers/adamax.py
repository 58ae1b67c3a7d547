"""Adamax: Adam with the largest of the gradients in place of their root mean square."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers.adam import as_held
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Adamax(Optimizer):
    """Adamax: Adam whose steps are scaled by the largest gradient, decayed, not by the mean square.

    Drop-in for `keras.optimizers.Adamax`: the same arguments, defaults, slots and rule. Its step
    in update t = 1, 2, ... with the learning rate a and the gradient g:

        m = b1 m + (1 - b1) g
        u = max(b2 u, |g|)
        w -= a / (1 - b1^t) m / (u + eps)

    u needs no correction for its start, and holds no squares, which could overflow or vanish.

    A sparse gradient counts as the dense one it represents: every row moves, as the rule says.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7; the paper has none.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Adamax(0.1).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.9, 2.1], dtype=float32)

    References:
        Kingma and Ba, 2015, "Adam: a method for stochastic optimization", algorithm 2.
    """

    slot_names: tuple[str, ...] = ("momentum", "norm")
    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)

    def _coefficients(self, learning_rate, step, dtype):
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.beta_1, self.beta_2))
        size = learning_rate / (1 - beta_1**step)
        return size, beta_1, beta_2, tf.constant(self.epsilon, tf.float64)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        size, beta_1, beta_2, epsilon = coefficients
        tf.raw_ops.ResourceApplyAdaMax(
            var=variable.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=tf.zeros((), variable.dtype),  # `size` includes the correction
            lr=size,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )
