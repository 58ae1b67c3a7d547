"""Nesterov's accelerated gradient."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Nesterov(Optimizer):
    """Nesterov's accelerated gradient, on the look-ahead weights.

    The rule takes the gradient ahead of the weights, at phi = theta - b v:

        v' = b v + a grad(phi);  theta' = theta - v'

    The variables that are trained are phi itself, so that the gradient that a tape computes is
    the one which the rule needs. With theta = phi + b v the two lines become

        v' = b v + a g;  phi' = phi - a g - b v'

    The iterates are those of the rule, whatever the learning rate does from step to step. As v
    goes to 0, phi and theta meet. It is the rule of `SGD(momentum=b, nesterov=True)`, with the
    sign of v turned.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.01.
        beta: number in [0, 1), b, the velocity's decay. Defaults to 0.9.
        weight_decay: number >= 0, or `None` for none: `phi -= a * weight_decay * phi`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Nesterov(0.5).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().round(3)
        array([0.05, 2.95], dtype=float32)

    References:
        Sutskever et al., 2013, "On the importance of initialization and momentum in deep
        learning", equations 3 and 4.
    """

    slot_names = ("velocity",)

    def __init__(self, learning_rate=0.01, beta=0.9, weight_decay=None, **kwargs):
        check_number("beta", beta, 0.0, 1.0, high_open=True)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta = float(beta)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        # The kernel computes u = b u - a g; phi += b u - a g: its slot is -v.
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=slots[0].handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.beta, variable.dtype),
            use_nesterov=True,
        )

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return {**super().get_config(), "beta": self.beta}
