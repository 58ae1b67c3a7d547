"""Steps scaled by a running root mean square of the gradients."""

import functools
from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp._xla import clustered
from keras_bp.optimizers._variables import mean_square, move
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class RMSprop(Optimizer):
    """RMSprop: each entry's step is scaled by the root of its squared gradients' average.

    Drop-in for `keras.optimizers.RMSprop`: the same arguments, defaults and rule.

        s = rho s + (1 - rho) g^2
        w -= a g / sqrt(s + eps)          epsilon_in_sqrt=True, Keras's rule
        w -= a g / (sqrt(s) + eps)        epsilon_in_sqrt=False, the textbook's

    With `centered`, the squared average of g is taken from s under the root; with `momentum` b,
    the step p = b p + (the step above) is taken instead.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        rho: number in [0, 1), the decay of the squares' average. Defaults to 0.9.
        momentum: number in [0, 1], b. Defaults to 0.
        epsilon: number > 0. Defaults to 1e-7.
        centered: whether to divide by the variance instead of the mean square. Defaults to `False`.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`.
        epsilon_in_sqrt: whether epsilon is added under the root. Defaults to `True`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.RMSprop(0.1).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().round(3)
        array([0.684, 2.316], dtype=float32)

    References:
        Tieleman and Hinton, 2012, "Neural networks for machine learning", lecture 6.5. Graves,
        2013, "Generating sequences with recurrent neural networks", equations 38 to 45, for the
        centered form.
    """

    argument_names: tuple[str, ...] = ("rho", "momentum", "epsilon", "centered", "epsilon_in_sqrt")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        *,
        epsilon_in_sqrt: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.rho = check_number("rho", rho, 0.0, 1.0, high_open=True)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.centered = check_flag("centered", centered)
        self.epsilon_in_sqrt = check_flag("epsilon_in_sqrt", epsilon_in_sqrt)
        optional = ("momentum",) * bool(momentum) + ("average_gradient",) * self.centered
        self.slot_names = ("velocity", *optional)

    def _by_rows(self, variable):
        # Momentum moves the other rows, too, which a limit has to see.
        limited = self.momentum and (self.cautious or self.update_clip)
        return not limited and self._decay_of(variable) is None

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        if isinstance(gradient, tf.IndexedSlices):
            self._sparse_rule(variable, gradient.indices, gradient.values, slots, rate)
            return
        options = {"momentum": self.momentum, "centered": self.centered}
        options |= {"epsilon": self.epsilon, "in_sqrt": self.epsilon_in_sqrt}
        move(_moved, gradient, [variable, *slots], rate=rate, rho=self.rho, **options)

    def _sparse_rule(self, variable, ids, g, slots, rate):
        """Update as with a gradient of 0 in all other rows, where the averages only decay."""
        slots = dict(zip(self.slot_names, slots, strict=True))

        def average(slot, keep, rows):
            slot.assign(slot * keep)
            slot.scatter_add(tf.IndexedSlices(rows, ids))

        averages = [(slots["velocity"], tf.square(g)), (slots.get("average_gradient"), g)]
        for slot, rows in averages[: 1 + self.centered]:
            average(slot, self.rho, rows * (1 - self.rho))
        of_rows = (s if s is None else tf.gather(s, ids) for s, _ in averages)
        direction = _direction(g, *of_rows, self.epsilon, self.epsilon_in_sqrt)
        if self.momentum:
            average(slots["momentum"], self.momentum, direction * rate)
            variable.assign_sub(slots["momentum"])
        else:
            variable.scatter_sub(tf.IndexedSlices(direction * rate, ids))


@functools.partial(clustered, backward=True)
def _moved(g, w, square, *others, rate, rho, momentum, centered, epsilon, in_sqrt, in_xla):
    """Return the next values of the variable and its slots, in the order of the arguments."""
    square = mean_square(square, rho, g)
    mean = others[-1] if centered else None
    if centered:
        mean -= (mean - g) * (1 - rho)
    step = _direction(g, square, mean, epsilon, in_sqrt) * rate
    if momentum:
        step += others[0] * momentum
    return w - step, square, *[step] * bool(momentum), *[mean] * centered


def _direction(g, square, mean, epsilon, in_sqrt):
    # The variance is 0 where the gradient is constant, and rounding may bring it below.
    root = square if mean is None else tf.maximum(square - tf.square(mean), 0)
    return g * tf.math.rsqrt(root + epsilon) if in_sqrt else g / (tf.sqrt(root) + epsilon)
