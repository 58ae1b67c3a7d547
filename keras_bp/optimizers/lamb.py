"""Adam's direction, rescaled so that each layer moves by a share of its norm."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend, mean_square
from keras_bp.optimizers.adam import as_held
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Lamb(Optimizer):
    """LAMB: Adam's direction and the decay, rescaled by a trust ratio for each variable.

    The arguments and the slots of `keras.optimizers.Lamb`, and the rule of the paper:

        mh = m / (1 - b1^t);  vh = v / (1 - b2^t)
        u = mh / (sqrt(vh) + eps) + lambda w
        w -= a (||w|| / ||u||) u

    The ratio is 1 where either norm is 0. Keras's takes the decay out of u and applies it beside
    the ratio, which makes it another rule wherever there is a decay. A variable that is excluded
    from the decay keeps its ratio, as in the paper.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7.
        weight_decay: number >= 0, lambda, or `None` for none.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([3.0, 4.0])
        >>> keras_bp.optimizers.Lamb(0.1).apply([tf.constant([1.0, 1.0])], [w])
        >>> w.numpy().round(4)  # moved by 0.1 of the norm 5, along (1, 1)
        array([2.6464, 3.6464], dtype=float32)

    References:
        You et al., 2020, "Large batch optimization for deep learning: training BERT in 76
        minutes", algorithm 2.
    """

    slot_names: tuple[str, ...] = ("momentum", "velocity")
    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon")
    decays_in_rule = True

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
        root = tf.sqrt(1 - beta_2**step)
        return learning_rate, root / (1 - beta_1**step), self.epsilon * root, beta_1, beta_2

    def _rule(self, variable, gradient, slots, coefficients, decay):
        rate, size, epsilon, beta_1, beta_2 = coefficients
        mean, square = slots
        descend(mean, 1 - beta_1, mean - gradient)
        square.assign(mean_square(square, beta_2, gradient))
        # size m / (sqrt(v) + eps c) is mh / (sqrt(vh) + eps).
        direction = mean / (tf.sqrt(square) + epsilon) * size
        if decay is not None:
            direction += variable * tf.constant(decay, variable.dtype)
        weight_norm, norm = _norm(tf.convert_to_tensor(variable)), _norm(direction)
        usable = (weight_norm > 0) & (norm > 0)
        ratio = tf.where(usable, weight_norm / tf.where(usable, norm, 1), 1)
        descend(variable, rate * ratio, direction)


def _norm(tensor):
    return tf.sqrt(2 * tf.nn.l2_loss(tensor))
