"""Losses that are weighed by what noise each task is found to have."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.multitask._loss_weighting import LossWeighting, task_variable

# Bounds of a log-variance, and so of a weight: 5e8 and 2e-9.
LARGEST = 20.0


@serializable
class UncertaintyWeighting(LossWeighting):
    """Weighs each task's loss by the variance of its noise, which it learns.

    Of the loss with a log-variance s_i for each task, 0 at first,

        L = sum over i of exp(-s_i) L_i + s_i / 2

    the tasks' gradients get the weights a_i = exp(-s_i), and each s_i takes a step down its own
    slope, 1/2 - exp(-s_i) L_i, bounded to -1 and 1, after the weights were used. Of a loss that
    stays as it is, the weight ends at 1 / (2 L_i): large losses count less, whatever their units.
    The s_i stay within -20 and 20, as the weight of a loss of 0 would grow without end. Where
    micro-steps are accumulated, they move in each of them.

    This is the paper's form for a classification. For a regression it has exp(-s_i) / 2 before the
    loss, which begins at half the weight, and ends at the same.

    As every combiner it acts on shared variables: those of a single task get its own gradient,
    without the weight, which an optimizer such as Adam takes out again anyway.

    It needs the losses, which must not be negative: in a `MultiTaskModel` and in `gradients` it has
    them; `combine(jacobian, losses)` and `combine_tasks(task_gradients, losses)` are given them.

    Args:
        learning_rate: Number above 0, of the steps of s. Defaults to 0.025.

    Raises:
        TypeError: If `learning_rate` is not a number.
        ValueError: If it is not above 0 and finite, or when called without losses.

    Example:
        >>> combine = keras_bp.multitask.UncertaintyWeighting()
        >>> jacobian, losses = tf.constant([[1.0, 0.0], [-1.0, 1.0]]), tf.constant([2.0, 0.1])
        >>> for _ in range(1000):
        ...     gradient = combine(jacobian, losses)
        >>> gradient.numpy().round(3).tolist()
        [-4.75, 5.0]

    References:
        Kendall, Gal and Cipolla, 2018, "Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics", equation 10, with s = log sigma^2.
    """

    def __init__(self, learning_rate=0.025):
        self.learning_rate = check_number("learning_rate", learning_rate, 0.0, low_open=True)
        super().__init__(learning_rate=self.learning_rate)

    def _new_variables(self, tasks):
        return [task_variable(tasks, 0.0, "log_variances")]

    def _weights_of_step(self):
        return tf.exp(-tf.cast(self.variables[0], tf.float64))

    def _move(self, gramian, present, losses):
        [log_variances] = self.variables
        slope = 0.5 - tf.exp(-tf.cast(log_variances, losses.dtype)) * losses
        slope = tf.where(present, tf.clip_by_value(slope, -1.0, 1.0), 0.0)
        new = tf.cast(log_variances, slope.dtype) - self.learning_rate * slope
        new = tf.clip_by_value(new, -LARGEST, LARGEST)
        log_variances.assign(tf.cast(new, log_variances.dtype))
