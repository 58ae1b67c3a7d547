"""Gradient descent whose rate is the distance made over the gradients seen."""

import tensorflow as tf

from keras_bp import gradients as gradient_tools
from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.optimizers._descend import descend
from keras_bp.optimizers._replicas import local
from keras_bp.optimizers._self_tuning import SelfTuning


@serializable
class DoG(SelfTuning):
    """DoG, distance over gradients: gradient descent at a rate that needs no tuning.

    With the gradient g, where training began w0, and norms over all variables together, in each
    update:

        g = g + lambda w
        r = max(r, ||w - w0||), from r_epsilon (1 + ||w0||);  G = G + ||g||^2, from 0
        w -= a r / sqrt(G + epsilon) g

    The first steps are tiny, whatever the loss; r grows with each of them until the weights are as
    far away as they have to go, and G makes the rate fall from then on. a is `learning_rate`, a
    factor that is left at 1. The rate of the last update, a r / sqrt(G + epsilon), is
    `adapted_rate`.

    The rate falls slowly, so that the authors evaluate an average of the weights and find it
    crucial. Theirs weighs late weights more, with the number of updates; `use_ema=True` keeps an
    exponential one, see `keras_bp.optimizers.Optimizer`.

    As in the authors' package, decay is a part of the gradient and counts in G. Without decay a
    sparse gradient touches its own rows only; w - w0 is read as a whole. The optimizer keeps w0:
    one number for each weight.

    Args:
        learning_rate: number >= 0, a schedule or a callable: a. Defaults to 1.
        r_epsilon: number > 0, how far the first step may go, as a share of 1 + ||w0||. Defaults to
            1e-6; the authors take 1e-4 with batch normalization.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        init_eta: number > 0, the rate until the weights have moved, in the place of what
            `r_epsilon` makes of it, or `None`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range.

    Example:
        >>> w = tf.Variable([3.0, 4.0])
        >>> optimizer = keras_bp.optimizers.DoG(r_epsilon=0.1)
        >>> optimizer.apply([tf.constant([0.0, 7.0])], [w])
        >>> w.numpy().round(4)  # moved by 0.1 (1 + 5), along the gradient
        array([3. , 3.4], dtype=float32)

    References:
        Ivgi, Hinder and Carmon, 2023, "DoG is SGD's best friend: a parameter-free dynamic step
        size schedule", algorithm 1, in the form of the authors' package dog-optimizer 1.0.3.
    """

    slot_names = ("initial",)

    def __init__(
        self,
        learning_rate=1.0,
        r_epsilon=1e-6,
        epsilon=1e-8,
        weight_decay=None,
        *,
        init_eta=None,
        **kwargs,
    ):
        if init_eta is not None:
            init_eta = check_number("init_eta", init_eta, 0.0, low_open=True)
        check_number("r_epsilon", r_epsilon, 0.0, low_open=True)
        check_number("epsilon", epsilon, 0.0, low_open=True)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.r_epsilon = float(r_epsilon)
        self.epsilon = float(epsilon)
        self.init_eta = init_eta

    def build(self, variables):
        """Create the slots, the distance and the sum of squares."""
        if self.built:
            return
        super().build(variables)
        self._distance = self._add_scalar("distance")
        self._squares = self._add_scalar("squares")

    def _by_rows(self, variable):
        return not self.weight_decay

    def _begin(self, targets):
        if self.init_eta is None:
            norm = gradient_tools.global_norm([tf.convert_to_tensor(t) for t in targets])
            local(self._distance).assign(self.r_epsilon * (1 + tf.cast(norm, tf.float64)))

    def _measure(self, variable, gradient, slots, scales, decay):
        [initial] = slots
        if isinstance(gradient, tf.IndexedSlices):  # in which every id stands once
            gradient = gradient.values
        gradient = _with_decay(gradient, variable, decay)
        squared_norm = gradient_tools.squared_norm
        return squared_norm(gradient), squared_norm(variable - initial)

    def _tune(self, sums, learning_rate, step):
        squares, distance = local(self._squares), local(self._distance)
        squares.assign_add(sums[0])
        distance.assign(tf.maximum(distance, tf.sqrt(sums[1])))
        rate = distance / tf.sqrt(squares + self.epsilon)
        if self.init_eta is not None:
            rate = tf.where(distance > 0, rate, self.init_eta)
        return learning_rate * rate

    def _coefficients(self, learning_rate, step, dtype):
        return (tf.convert_to_tensor(local(self._adapted_rate)),)

    def _rule(self, variable, gradient, slots, coefficients, decay):
        [rate] = coefficients
        if isinstance(gradient, tf.IndexedSlices):
            variable.scatter_sub(tf.IndexedSlices(rate * gradient.values, gradient.indices))
            return
        if decay is not None:
            decay = tf.constant(self.weight_decay, variable.dtype)
        descend(variable, rate, _with_decay(gradient, variable, decay))

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return {
            **super().get_config(),
            "r_epsilon": self.r_epsilon,
            "epsilon": self.epsilon,
            "init_eta": self.init_eta,
        }


def _with_decay(gradient, variable, decay):
    return gradient if decay is None else gradient + decay * variable
