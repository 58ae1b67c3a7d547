"""Adam and AdamW: steps along the gradient's mean, scaled by its root mean square."""

from typing import Any

import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend, mean_square
from keras_bp.optimizers.optimizer import Optimizer

# Up to so many elements plain operations are faster than the kernel, which spreads every array over
# all threads, even a bias of ten.
_SMALL = 2**15


@serializable
class Adam(Optimizer):
    """Adam: two moving averages, of the gradient and of its square, corrected for their start.

    Drop-in for `keras.optimizers.Adam`: the same arguments, defaults, slots and rule. Its step
    in update t = 1, 2, ... with the learning rate a:

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        c = sqrt(1 - b2^t)
        w -= a c / (1 - b1^t) * m / (sqrt(v) + eps)             epsilon_hat=True, Keras's rule
        w -= a c / (1 - b1^t) * m / (sqrt(v) + eps c)           epsilon_hat=False, the textbook's

    The second is a mh / (sqrt(vh) + eps), with the corrected averages mh = m / (1 - b1^t) and
    vh = v / (1 - b2^t). In the first, epsilon is 1 / c times as large: 32 times in update 1.

    On larger arrays one fused kernel reads and writes each once. The corrections are computed in
    float64 from the betas as the variable's dtype holds them, since 1 - 0.999 keeps four digits in
    float32.

    A sparse gradient counts as the dense one it represents: every row moves, as the rule says.
    `LazyAdam` and `DeferredAdam` touch the gradient's rows only.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        beta_1: number in [0, 1), b1. Defaults to 0.9.
        beta_2: number in [0, 1), b2. Defaults to 0.999.
        epsilon: number > 0. Defaults to 1e-7.
        amsgrad: whether v under the root is the largest v so far. Defaults to `False`.
        weight_decay: number >= 0, or `None` for none: `w -= a * weight_decay * w`, beside the rule.
        epsilon_hat: whether epsilon is added to the root of the uncorrected average. Defaults
            to `True`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> keras_bp.optimizers.Adam(0.1).apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.9, 2.1], dtype=float32)

    References:
        Kingma and Ba, 2015, "Adam: a method for stochastic optimization", algorithm 1, and the
        form with epsilon hat just before section 2.1. Reddi, Kale and Kumar, 2018, "On the
        convergence of Adam and beyond", algorithm 2.
    """

    argument_names: tuple[str, ...] = ("beta_1", "beta_2", "epsilon", "amsgrad", "epsilon_hat")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        *,
        epsilon_hat: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = check_number("beta_1", beta_1, 0.0, 1.0, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0.0, 1.0, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0.0, low_open=True)
        self.amsgrad = check_flag("amsgrad", amsgrad)
        self.epsilon_hat = check_flag("epsilon_hat", epsilon_hat)
        self.slot_names = ("momentum", "velocity") + ("velocity_hat",) * self.amsgrad

    def _betas(self, dtype):
        return [as_held(beta, dtype) for beta in (self.beta_1, self.beta_2)]

    def _coefficients(self, learning_rate, step, dtype):
        """Return the step's size, epsilon and the betas, in the order of the kernel."""
        beta_1, beta_2 = self._betas(dtype)
        root = tf.sqrt(1 - beta_2**step)
        size = learning_rate * root / (1 - beta_1**step)
        epsilon = tf.constant(self.epsilon, tf.float64)
        return size, epsilon if self.epsilon_hat else epsilon * root, beta_1, beta_2

    def _rule(self, variable, gradient, slots, coefficients, decay):
        mean, square = slots[:2]
        if not self.amsgrad:
            adam_step(variable, gradient, mean, square, *coefficients)
            return
        size, epsilon, beta_1, beta_2 = coefficients
        largest = slots[2]
        descend(mean, 1 - beta_1, mean - gradient)
        square.assign(mean_square(square, beta_2, gradient))
        largest.assign(tf.maximum(largest, square))
        descend(variable, size, mean / (tf.sqrt(largest) + epsilon))


@serializable
class AdamW(Adam):
    """Adam with decay that does not pass through the averages.

    Drop-in for `keras.optimizers.AdamW`: the same arguments, defaults, slots and rule.

        w -= a lambda w, then Adam's step

    so that every weight shrinks by the same share, however large its gradients are. Biases and
    normalization weights are usually left out: `exclude_from_decay="bias_and_normalization"`.
    Keras's `exclude_from_weight_decay` is forgotten when a model is saved and loaded; here the
    exclusion is an argument, and a part of the file.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001.
        weight_decay: number >= 0, lambda. Defaults to 0.004.
        beta_1, beta_2, epsilon, amsgrad, epsilon_hat: as in `Adam`.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range, or `weight_decay` is None.

    Example:
        >>> w = tf.Variable([1.0, 2.0])
        >>> optimizer = keras_bp.optimizers.AdamW(0.1, weight_decay=0.1)
        >>> optimizer.apply([tf.constant([0.5, -3.0])], [w])
        >>> w.numpy().round(4)
        array([0.89, 2.08], dtype=float32)

    References:
        Loshchilov and Hutter, 2019, "Decoupled weight decay regularization", algorithm 2.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        epsilon_hat: bool = True,
        **kwargs: Any,
    ) -> None:
        if weight_decay is None:
            raise ValueError(
                "`weight_decay` must be a finite number in [0, inf). Received: weight_decay=None"
            )
        kwargs.update(weight_decay=weight_decay, epsilon_hat=epsilon_hat)
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **kwargs)


def adam_step(variable, gradient, mean, square, size, epsilon, beta_1, beta_2):
    """Move the two averages, and the variable along their quotient.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= size m / (sqrt(v) + eps)

    Args:
        variable: `tf.Variable`, w.
        gradient: tensor of its shape and dtype, g.
        mean: `tf.Variable`, m.
        square: `tf.Variable`, v.
        size: scalar tensor of its dtype, like the ones below.
        epsilon: scalar tensor, eps.
        beta_1: scalar tensor, b1.
        beta_2: scalar tensor, b2.
    """
    if variable.shape.num_elements() > _SMALL:
        # Where a square overflows the kernel makes its average NaN. Plain operations, which keep
        # it infinite, take three times as long.
        # With powers of 0 the kernel's own correction is 1: `size` includes it.
        zero = tf.zeros((), variable.dtype)
        handles = {"var": variable.handle, "m": mean.handle, "v": square.handle}
        scalars = {"lr": size, "beta1": beta_1, "beta2": beta_2, "epsilon": epsilon}
        tf.raw_ops.ResourceApplyAdam(
            **handles, **scalars, beta1_power=zero, beta2_power=zero, grad=gradient
        )
        return
    descend(mean, 1 - beta_1, mean - gradient)
    square.assign(mean_square(square, beta_2, gradient))
    descend(variable, size, mean / (tf.sqrt(square) + epsilon))


def as_held(beta, dtype):
    """Return a beta as a float64 tensor of the value that `dtype` holds for it."""
    return tf.constant(float(tf.as_dtype(dtype).as_numpy_dtype(beta)), tf.float64)
