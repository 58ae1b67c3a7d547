"""Lion: steps of one size, along the sign of a momentum."""

import functools
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp._xla import clustered
from keras_bp.optimizers._variables import move
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Lion(Optimizer):
    """Lion: every entry moves by the learning rate, in the direction of the momentum's sign.

    Drop-in for `keras.optimizers.Lion`: the same arguments, defaults, slot and rule.

        w -= a sign(b1 m + (1 - b1) g)
        m = b2 m + (1 - b2) g

    with the learning rate a and the gradient g. The direction weighs the newest gradient more than
    the average that is kept. The slot is one array, half of Adam's. A step is larger than Adam's
    at the same rate: the authors take a third to a tenth of it, and a weight decay that is larger
    by as much.

    A sparse gradient counts as the dense one it represents: every row moves, as the rule says.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in (0, 1], b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.99.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Lion(0.125).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().tolist()
        [0.875, 2.125]

    References:
        Chen et al., 2023, "Symbolic discovery of optimization algorithms", program 1.
    """

    slot_names: tuple[str, ...] = ("momentum",)
    argument_names: tuple[str, ...] = ("beta_1", "beta_2")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, low_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        options = {"rate": coefficients[0], "beta_1": self.beta_1, "beta_2": self.beta_2}
        move(_moved, gradient, [variable, *slots], **options)


@functools.partial(clustered, backward=True)
def _moved(g, w, mean, *, rate, beta_1, beta_2, in_xla):
    """Return the next values of the variable and the average."""
    apart = mean - g
    direction = tf.sign(mean - apart * (1 - beta_1))
    return w - direction * rate, mean - apart * (1 - beta_2)
