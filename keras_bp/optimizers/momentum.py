"""Momentum as a moving average of gradients."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Momentum(Optimizer):
    """Momentum as an exponential moving average of the gradients.

        v = b v + (1 - b) g;  w -= a v

    The average has the size of a gradient, so that the learning rate a means the same at every b.
    `SGD(momentum=b)` accumulates instead: at a constant rate its steps are these with a / (1 - b)
    in the place of a.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.01.
        beta: number in [0, 1), b, the average's decay. Defaults to 0.9.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Momentum(0.5).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().round(3)
        array([0.95, 2.05], dtype=float32)

    References:
        Polyak, 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    slot_names = ("velocity",)

    def __init__(self, learning_rate=0.01, beta=0.9, weight_decay=None, **kwargs):
        check_number("beta", beta, 0.0, 1.0, high_open=True)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta = float(beta)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        # The kernel computes v = b v + grad; w -= lr v in one pass.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slots[0].handle,
            lr=rate,
            grad=gradient * (1 - self.beta),
            momentum=tf.constant(self.beta, variable.dtype),
        )

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return {**super().get_config(), "beta": self.beta}
