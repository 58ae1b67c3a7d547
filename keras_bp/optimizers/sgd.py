"""Gradient descent, with or without momentum: SGD, Momentum and Nesterov."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class SGD(Optimizer):
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum.

    Drop-in for `keras.optimizers.SGD`: the same arguments, defaults and rule.

        without momentum   w -= a g
        momentum b         v = b v - a g;  w += v
        and nesterov       v = b v - a g;  w += b v - a g

    with the learning rate a and the gradient g. Here the velocity accumulates: the steps grow to
    1 / (1 - b) times those without momentum. `Momentum` is the form that averages.

    Without momentum and decay, a sparse gradient touches its own rows only. With either every row
    moves in every update, as the rule says. `lazy_update` is for large embeddings: it leaves the
    rows that are in no batch as they are, their velocity and their decay too, so that a step costs
    what its rows cost. It is another algorithm: a rare row goes on, when it is met again, with the
    velocity of its last visit at full size.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.01.
        momentum: number in [0, 1], b. Defaults to 0.
        nesterov: whether to use Nesterov's form. Defaults to `False`.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`.
        lazy_update: whether a sparse gradient updates only its own rows. Defaults to `False`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.SGD(0.5).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().tolist()
        [0.5, 2.5]

    References:
        Sutskever et al., 2013, "On the importance of initialization and momentum in deep
        learning", equations 1 to 4.
    """

    argument_names: tuple[str, ...] = ("momentum", "nesterov", "lazy_update")

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        *,
        lazy_update: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = check_number("momentum", momentum, 0.0, 1.0)
        self.nesterov = check_flag("nesterov", nesterov)
        self.lazy_update = check_flag("lazy_update", lazy_update)
        self.slot_names = ("momentum",) if momentum else ()

    def _by_rows(self, variable):
        return self.lazy_update or not (self.momentum or self._decay_of(variable))

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        if isinstance(gradient, tf.IndexedSlices):
            ids, step = gradient.indices, rate * gradient.values
            if self.momentum:
                velocity = self.momentum * tf.gather(slots[0], ids) - step
                slots[0].scatter_update(tf.IndexedSlices(velocity, ids))
                step = step - self.momentum * velocity if self.nesterov else -velocity
            variable.scatter_sub(tf.IndexedSlices(step, ids))
        elif self.momentum:
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=slots[0].handle,
                lr=rate,
                grad=gradient,
                momentum=tf.constant(self.momentum, variable.dtype),
                use_nesterov=self.nesterov,
            )
        else:
            descend(variable, rate, gradient)


@serializable
class Momentum(Optimizer):
    """Momentum as an exponential moving average of the gradients.

        v = b v + (1 - b) g;  w -= a v

    The average has the size of a gradient, so that the learning rate a means the same at every b.
    `SGD(momentum=b)` accumulates instead: at a constant rate its steps are these with a / (1 - b)
    in place of a.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.01.
        beta: number in [0, 1), b, the average's decay. Defaults to 0.9.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Momentum(0.5).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().round(3)
        array([0.95, 2.05], dtype=float32)

    References:
        Polyak, 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    slot_names: tuple[str, ...] = ("velocity",)
    argument_names: tuple[str, ...] = ("beta",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta: float = 0.9,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta = check_number("beta", beta, 0.0, 1.0, high_open=True)

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


@serializable
class Nesterov(Optimizer):
    """Nesterov's accelerated gradient, on the look-ahead weights.

    The rule takes the gradient ahead of the weights, at phi = theta - b v:

        v' = b v + a grad(phi);  theta' = theta - v'

    The variables that are trained are phi itself, so that the gradient that a tape computes is
    the one which the rule needs. With theta = phi + b v the two lines become

        v' = b v + a g;  phi' = phi - a g - b v'

    The iterates are those of the rule, however the learning rate changes from step to step. As v
    goes to 0, phi and theta meet. It is the rule of `SGD(momentum=b, nesterov=True)`, with the
    sign of v turned.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.01.
        beta: number in [0, 1), b, the velocity's decay. Defaults to 0.9.
        weight_decay: number >= 0, or `None` for none: `phi -= a * weight_decay * phi`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Nesterov(0.5).apply([tf.constant([1.0, -1.0])], [w])
        >>> w.numpy().round(3)
        array([0.05, 2.95], dtype=float32)

    References:
        Sutskever et al., 2013, "On the importance of initialization and momentum in deep
        learning", equations 3 and 4.
    """

    slot_names: tuple[str, ...] = ("velocity",)
    argument_names: tuple[str, ...] = ("beta",)

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta: float = 0.9,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta = check_number("beta", beta, 0.0, 1.0, high_open=True)

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
