"""Adam whose rate descends a gradient of its own."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.optimizers._adam_step import adam_step
from keras_bp.optimizers._descend import descend
from keras_bp.optimizers._replicas import local
from keras_bp.optimizers._self_tuning import SelfTuning
from keras_bp.optimizers.adam import as_held


@serializable
class HypergradientAdam(SelfTuning):
    """Adam-HD: Adam whose learning rate descends the loss, too.

    The last update was w_t = w_(t-1) - a u_(t-1), so that the loss changes with its rate a by
    -g_t . u_(t-1), the hypergradient. The rate moves against it: it grows where this gradient still
    points along the last step, and falls where that step has gone too far. In update t, with the
    dot product over all variables together and h = `hypergradient_rate`:

        a = a + h g_t . u_(t-1), at least 0
        m = b1 m + (1 - b1) g_t;  v = b2 v + (1 - b2) g_t^2
        u_t = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
        w -= a (u_t + lambda w)

    a begins at `learning_rate`. To what a schedule says, or is set later, all moves so far are
    added; where it says 0, nothing moves. The rate of the last update is `adapted_rate`.

    A move is of the size of h times the sum of the gradients' sizes: h wants to be small, and the
    larger the model, the smaller. The authors take 1e-7 for a small network and 1e-8 for VGG;
    with 0 this is Adam. Clipped gradients make bounded moves. The decay is no part of u.

    u_(t-1) is found from m and v, so that the optimizer keeps no more than Adam. It counts a
    variable as if it had moved, where it had no gradient in update t-1.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        hypergradient_rate: number >= 0, h. Defaults to 1e-7.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-8.
        weight_decay: number >= 0, lambda, or `None` for none.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.HypergradientAdam(0.1, 0.01)
        >>> for _ in range(2):
        ...     optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> float(optimizer.adapted_rate.numpy().round(4))  # 0.1 + 0.01 (0.5 + 3)
        0.135

    References:
        Baydin, Cornish, Martinez Rubio, Schmidt and Wood, 2018, "Online learning rate adaptation
        with hypergradient descent", algorithm 6, with epsilon beside the root of the uncorrected
        average as in the authors' code.
    """

    slot_names = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate=0.001,
        hypergradient_rate=1e-7,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        weight_decay=None,
        **kwargs,
    ):
        check_number("hypergradient_rate", hypergradient_rate, 0.0)
        check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        check_number("epsilon", epsilon, 0.0, low_open=True)
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.hypergradient_rate = float(hypergradient_rate)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    def build(self, variables):
        """Create the slots, and the sum of the rate's moves."""
        if self.built:
            return
        super().build(variables)
        self._moves = self._add_scalar("moves")

    def _correction(self, step, dtype):
        beta_1, beta_2 = (as_held(beta, dtype) for beta in (self.beta_1, self.beta_2))
        return tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)

    def _scales(self, learning_rate, step, dtype):
        # In update 1 there is no last one, and m is 0.
        return tf.constant(self.epsilon, tf.float64), self._correction(
            tf.maximum(step - 1, 1), dtype
        )

    def _measure(self, variable, gradient, slots, scales, decay):
        mean, square = slots
        epsilon, correction = scales
        return (correction * tf.reduce_sum(gradient * mean / (tf.sqrt(square) + epsilon)),)

    def _tune(self, sums, learning_rate, step):
        moves = local(self._moves)
        moved = tf.maximum(moves + self.hypergradient_rate * sums[0], -learning_rate)
        moves.assign(tf.where(learning_rate > 0, moved, moves))
        return tf.where(learning_rate > 0, learning_rate + moved, 0)

    def _coefficients(self, learning_rate, step, dtype):
        rate = tf.convert_to_tensor(local(self._adapted_rate))
        betas = [as_held(beta, dtype) for beta in (self.beta_1, self.beta_2)]
        epsilon = tf.constant(self.epsilon, tf.float64)
        return rate * self._correction(step, dtype), epsilon, *betas, rate

    def _rule(self, variable, gradient, slots, coefficients, decay):
        *step, rate = coefficients
        if decay is not None:
            descend(variable, rate * self.weight_decay, tf.convert_to_tensor(variable))
        adam_step(variable, gradient, *slots, *step)

    def get_config(self):
        """Return the constructor's arguments, for `from_config`."""
        return {
            **super().get_config(),
            "hypergradient_rate": self.hypergradient_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
