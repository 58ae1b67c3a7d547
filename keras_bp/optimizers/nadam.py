"""Nadam: Adam with Nesterov's look-ahead in its average."""

import functools
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp._xla import clustered
from keras_bp.optimizers._variables import local, mean_square, move
from keras_bp.optimizers.adam import as_held
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Nadam(Optimizer):
    """Nadam: Adam along the momentum as the next update will have it.

    Drop-in for `keras.optimizers.Nadam`: the same arguments, defaults, slots and rule. Its step in
    update t = 1, 2, ... with the learning rate a and the gradient g:

        u(t) = b1 (1 - 0.96^(p t) / 2);  U(t) = u(1) u(2) ... u(t)
        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        d = u(t+1) / (1 - U(t+1)) m + (1 - u(t)) / (1 - U(t)) g
        w -= a d / (sqrt(v / (1 - b2^t)) + eps)

    u, the momentum of the look-ahead, rises from some b1 / 2 to b1. With p = 1, as Keras has it, it
    is there after a hundred updates; the paper's p is 0.004, and torch's, with which the rise takes
    some ten thousand. Keras's documentation calls epsilon that of Adam's epsilon hat: it is the
    textbook's, added to the root of the corrected average.

    A sparse gradient counts as the dense one it represents: every row moves, as the rule says.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        momentum_decay: number > 0, p. Defaults to 1.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Nadam(0.1).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.8937, 2.1063], dtype=float32)

    References:
        Dozat, 2016, "Incorporating Nesterov momentum into Adam", algorithm 2, and section 3.1 for
        the momentum's schedule.
    """

    slot_names: tuple[str, ...] = ("momentum", "velocity")
    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon", "momentum_decay")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        *,
        momentum_decay: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.momentum_decay = check_number("momentum_decay", momentum_decay, 0.0, low_open=True)

    def _create_shared(self):
        super()._create_shared()
        options = {"dtype": "float64", "name": "momentum_product"}
        self._momentum_product = self.add_variable((), "ones", **options)

    def _momentum(self, step):
        return self.beta_1 * (
            1 - 0.5 * tf.constant(0.96, tf.float64) ** (self.momentum_decay * step)
        )

    def _start(self, learning_rate, step):
        product = local(self._momentum_product)
        product.assign(product * self._momentum(step))

    def _coefficients(self, learning_rate, step, dtype):
        now, after, product = (
            self._momentum(step),
            self._momentum(step + 1),
            local(self._momentum_product),
        )
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.beta_1, self.beta_2))
        shares = after / (1 - product * after), (1 - now) / (1 - product)
        return learning_rate, *shares, 1 / tf.sqrt(1 - beta_2**step), beta_1, beta_2

    def _rule(self, variable, gradient, slots, coefficients, decay):
        options = {"coefficients": tuple(coefficients), "epsilon": self.epsilon}
        move(_moved, gradient, [variable, *slots], **options)


@functools.partial(clustered, backward=True)
def _moved(g, w, mean, square, *, coefficients, epsilon, in_xla):
    """Return the next values of the variable and the two averages."""
    rate, of_mean, of_gradient, correction, beta_1, beta_2 = coefficients
    mean -= (mean - g) * (1 - beta_1)
    square = mean_square(square, beta_2, g)
    direction = (mean * of_mean + g * of_gradient) / (tf.sqrt(square) * correction + epsilon)
    return w - direction * rate, mean, square
