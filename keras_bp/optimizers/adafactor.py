"""Adafactor: steps scaled by squared gradients of which rows and columns are kept."""

from typing import Any

import keras
import tensorflow as tf

from keras_bp._arguments import check_flag, check_number
from keras_bp._keras import serializable
from keras_bp._paths import path_of
from keras_bp._types import LearningRate
from keras_bp.optimizers._variables import descend
from keras_bp.optimizers.optimizer import Optimizer


@serializable
class Adafactor(Optimizer):
    """Adafactor: relative steps, scaled by a factored average of squares, for large models.

    The arguments and defaults of `keras.optimizers.Adafactor`. Its step in update t = 1, 2, ...
    with the gradient G, and b = 1 - t^beta_2_decay:

        v = b v + (1 - b) (G^2 + eps1)                    of a vector
        r = b r + (1 - b) (mean of G^2 over columns + eps1)
        c = b c + (1 - b) (mean of G^2 over rows + eps1)
        v = r c / (mean of r)                             of a matrix
        u = G / sqrt(v);  u = u / max(1, RMS(u) / clip_threshold)
        w -= rho max(eps2, RMS(w)) u

    so that a step is a share rho of the weights' size. It is the learning rate, or with
    `relative_step` the smaller one of it and 1 / sqrt(t). Of three axes or more, the last two are
    factored, for each index of the others.

    Of a matrix it keeps r and c, one number per row and column. Keras's keeps v besides, as large
    as the matrix, though it follows from r and c: its saved state is not loaded here. In Keras
    `relative_step=False` has no effect.

    A sparse gradient counts as the dense one it represents: the averages of every row decay.

    Args:
        learning_rate: number >= 0, a schedule or a callable. Defaults to 0.001; the paper's rate is
            0.01.
        beta_2_decay: number < 0, the power of t in b. Defaults to -0.8.
        epsilon_1: number > 0, eps1. Defaults to 1e-30.
        epsilon_2: number > 0, eps2, the least size of weights that counts. Defaults to 1e-3.
        clip_threshold: number > 0, the largest root mean square of u. Defaults to 1.
        relative_step: whether rho is at most 1 / sqrt(t). Defaults to `True`.
        weight_decay: number >= 0, or `None` for none: `w -= learning_rate * weight_decay * w`,
            beside the rule.
        **kwargs: arguments of every optimizer, see `keras_bp.optimizers.Optimizer`.

    Example:
        >>> w = tf.Variable([[3.0, -4.0], [4.0, 3.0]])
        >>> keras_bp.optimizers.Adafactor(0.1).apply([tf.fill((2, 2), 5.0)], [w])
        >>> w.numpy().round(3)  # by 0.1 of the root mean square, which is 3.536
        array([[ 2.646, -4.354],
               [ 3.646,  2.646]], dtype=float32)

    References:
        Shazeer and Stern, 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
        algorithms 4 to 6.
    """

    argument_names: tuple[str, ...] = (
        "beta_2_decay",
        "epsilon_1",
        "epsilon_2",
        "clip_threshold",
        "relative_step",
    )

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_2_decay = check_number("beta_2_decay", beta_2_decay, high=0.0, high_open=True)
        self.epsilon_1 = check_number("epsilon_1", epsilon_1, 0.0, low_open=True)
        self.epsilon_2 = check_number("epsilon_2", epsilon_2, 0.0, low_open=True)
        self.clip_threshold = check_number("clip_threshold", clip_threshold, 0.0, low_open=True)
        self.relative_step = check_flag("relative_step", relative_step)

    def _create_slots(self, variable):
        shape = tuple(variable.shape)
        if len(shape) < 2:
            return [self.add_variable_from_reference(variable, "velocity")]
        shapes = {"row_velocity": shape[:-1], "column_velocity": shape[:-2] + shape[-1:]}
        path = path_of(variable).replace("/", "_")
        dtype = keras.backend.standardize_dtype(variable.dtype)
        return [
            self.add_variable(size, dtype=dtype, name=f"{path}_{name}")
            for name, size in shapes.items()
        ]

    def _coefficients(self, learning_rate, step, dtype):
        if self.relative_step:
            learning_rate = tf.minimum(learning_rate, tf.math.rsqrt(step))
        return learning_rate, 1 - step**self.beta_2_decay

    def _rule(self, variable, gradient, slots, coefficients, decay):
        rate, keep = coefficients
        direction = gradient * self._scale(tf.square(gradient), slots, keep)
        excess = tf.maximum(_rms(direction) / self.clip_threshold, 1)
        size = tf.maximum(_rms(tf.convert_to_tensor(variable)), self.epsilon_2)
        descend(variable, rate * size / excess, direction)

    def _scale(self, squares, slots, keep):
        """Move the averages; return 1 / sqrt(v)."""
        if len(slots) == 1:
            slots[0].assign(slots[0] * keep + (squares + self.epsilon_1) * (1 - keep))
            return tf.math.rsqrt(slots[0])
        for slot, axis in zip(slots, (-1, -2), strict=True):
            mean = tf.reduce_mean(squares, axis) + self.epsilon_1
            slot.assign(slot * keep + mean * (1 - keep))
        rows, columns = slots
        mean = tf.reduce_mean(rows, -1, keepdims=True)
        # Where a square has overflowed, the steps are 0 and not NaN.
        rows = tf.where(tf.math.is_inf(mean), mean, rows / mean)
        return tf.math.rsqrt(rows)[..., None] * tf.math.rsqrt(columns)[..., None, :]


def _rms(tensor):
    return tf.sqrt(tf.nn.l2_loss(tensor) * (2 / max(tensor.shape.num_elements(), 1)))
