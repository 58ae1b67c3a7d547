"""Combiners that learn a weight per task from the tasks' losses."""

import abc

import keras
import tensorflow as tf

from keras_bp._arguments import check_floating, check_number
from keras_bp._keras import serializable
from keras_bp._types import Array
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.weighting import checked, equal_weights

# Bounds of a log-variance, and so of a weight: 5e8 and 2e-9.
LARGEST = 20.0


class LossWeighting(Combiner):
    """A combiner whose weights depend on the tasks' losses.

    A subclass overrides `_weights(gramian, present, losses)`, with the losses as a float64 tensor
    of shape (T,), and, if it learns variables, `_new_variables(tasks)`. A `MultiTaskModel` and
    `gradients` hand it the losses; elsewhere they must be given.

    Args:
        **arguments: the weighting's constructor's arguments, for `get_config`.

    Raises:
        ValueError: when called without losses.
    """

    def build(self, tasks: int) -> None:
        """Create the weighting's variables for a number of tasks, unless they exist.

        A `MultiTaskModel` calls this in its constructor, otherwise the first step does. Under
        `tf.distribute`, a custom loop must call it in the strategy's scope.
        """
        if not self.variables:
            with tf.init_scope():
                self.variables = self._new_variables(tasks)
        if self.variables and self.variables[0].shape != (tasks,):
            raise ValueError(
                f"{type(self).__name__} has been used with {self.variables[0].shape[0]} tasks, and "
                f"must be given as many. Received: {tasks} tasks"
            )

    def weights(
        self, gramian: Array, present: Array | None = None, losses: Array | None = None
    ) -> tf.Tensor:
        """Return the weights of the tasks, in float64; learned weights take a step.

        Args:
            gramian: as in `Combiner.weights`.
            present: as in `Combiner.weights`.
            losses: floating-point tensor of shape (T,). A task whose loss is not finite is left
                out.

        Returns:
            A tensor of shape (T,) with a weight of 0 for each task that is left out.
        """
        gramian, present = checked(gramian, present)
        losses = self._checked_losses(losses, gramian.shape[0])
        present &= tf.math.is_finite(losses)
        losses = tf.where(present, losses, 0.0)
        self.build(gramian.shape[0])
        return tf.where(present, self._weights(gramian, present, losses), 0.0)

    def _checked_losses(self, losses, count):
        if losses is None:
            raise ValueError(
                f"`losses` must be given to {type(self).__name__}, whose weights depend on them. "
                "Received: losses=None"
            )
        losses = tf.cast(check_floating("losses", losses), tf.float64)
        if losses.shape != (count,):
            raise ValueError(
                f"`losses` must have the shape ({count},), with a loss for each task. "
                f"Received: losses of shape {losses.shape}"
            )
        return losses

    def _new_variables(self, tasks):
        """Return a list of variables, the first of shape (tasks,)."""
        return []

    @abc.abstractmethod
    def _weights(self, gramian, present, losses):
        """Return the weights of shape (T,), from the losses of shape (T,) too."""


def task_variable(tasks, value, name):
    """Return a variable of shape (tasks,), float32, in which all replicas hold the same."""
    options = {"dtype": "float32", "trainable": False, "aggregation": "only_first_replica"}
    return keras.Variable([value] * tasks, name=name, **options)


@serializable
class GradNorm(LossWeighting):
    """Weighs the tasks' losses so that tasks that lag behind have longer gradients.

    With the weights w, 1 at first, and the losses L_i(0) of the first step,

        G_i = w_i ||g_i||,    r_i = (L_i / L_i(0)) / mean of L_j / L_j(0)

    the gradients are summed with the weights w_i, which then take a step down the slope of

        sum over i of |G_i / G - r_i^alpha|,    G = mean of the G_j

    in log w alone, with G and r_i held fixed, and are scaled so that their sum stays T. The paper
    steps in w itself, down the sum without the division by G. The logarithm keeps the weights above
    0, and steps are a share of a weight, so that tasks may differ by any factor; with the division
    by G `learning_rate` does not depend on the losses' units.

    With alpha = 0, without the losses' pace, all G_i become equal. With accumulation the weights
    move in each micro-step.

    The g_i are the gradients of all shared variables, which are available here; the paper takes
    those of the last shared layer, to save cost. Like every combiner it acts on shared variables:
    those of a single task get its own gradient, without the weight.

    It needs the losses, which must be above 0: in a `MultiTaskModel` and in `gradients` it has
    them; `combiner(jacobian, losses)` and `combine_tasks(task_gradients, losses)` are given them.

    Args:
        alpha: number of 0 or more: how strongly a task that lags behind is helped; 0 gives all
            gradients the same length. Defaults to 1.5.
        learning_rate: number above 0, for the steps of log w. Defaults to 0.025.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if one is out of its range, or when called without losses.

    Example:
        >>> combiner = keras_bp.multitask.GradNorm(alpha=0.0, learning_rate=0.01)
        >>> jacobian, losses = tf.constant([[3.0, 0.0], [0.0, 1.0]]), tf.constant([1.0, 1.0])
        >>> for _ in range(80):
        ...     gradient = combiner(jacobian, losses)
        >>> gradient.numpy().round(1).tolist()
        [1.5, 1.5]

    References:
        Chen et al., 2018, "GradNorm: Gradient normalization for adaptive loss balancing in deep
        multitask networks", equations 1 and 2, and Algorithm 1.
    """

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        self.alpha = check_number("alpha", alpha, 0.0)
        self.learning_rate = check_number("learning_rate", learning_rate, 0.0, low_open=True)
        super().__init__(alpha=self.alpha, learning_rate=self.learning_rate)

    def _new_variables(self, tasks):
        # A first loss of 0 means that the task has had no step yet.
        return [task_variable(tasks, 1.0, "weights"), task_variable(tasks, 0.0, "first_losses")]

    def _weights(self, gramian, present, losses):
        weights, first_losses = self.variables
        first = tf.cast(first_losses, losses.dtype)
        first = tf.where(present & (first <= 0.0), losses, first)
        first_losses.assign(tf.cast(first, first_losses.dtype))

        old = tf.cast(weights, losses.dtype)
        lengths = tf.sqrt(tf.linalg.diag_part(gramian))
        norms = old * lengths
        left = tf.where(first > 0.0, losses / tf.where(first > 0.0, first, 1.0), 1.0)
        equal = equal_weights(present, norms.dtype)
        mean_norm, mean_left = tf.tensordot(equal, norms, 1), tf.tensordot(equal, left, 1)
        moves = present & (mean_norm > 0.0) & (mean_left > 0.0)
        share = norms / tf.where(mean_norm > 0.0, mean_norm, 1.0)
        pace = tf.maximum(left / tf.where(mean_left > 0.0, mean_left, 1.0), 0.0)
        slope = tf.sign(share - pace**self.alpha) * share
        new = old * tf.exp(-self.learning_rate * slope)
        # The weights of tasks that take no part in the step stay as they are.
        others = tf.reduce_sum(tf.where(~moves, old, 0.0))
        moved = tf.reduce_sum(tf.where(moves, new, 0.0))
        new *= (gramian.shape[0] - others) / tf.where(moved > 0.0, moved, 1.0)
        weights.assign(tf.cast(tf.where(moves, new, old), weights.dtype))
        return old


@serializable
class UncertaintyWeighting(LossWeighting):
    """Weighs each task's loss by the variance of its noise, which it learns.

    From the loss with a log-variance s_i for each task, 0 at first,

        L = sum over i of exp(-s_i) L_i + s_i / 2

    the tasks' gradients get the weights a_i = exp(-s_i), and each s_i takes a step down its own
    slope, 1/2 - exp(-s_i) L_i, bounded to -1 and 1, after the weights were used. If a loss
    stays constant, its weight ends at 1 / (2 L_i): large losses count less, whatever their units.
    The s_i stay within -20 and 20, as the weight of a loss of 0 would grow without bound. With
    accumulation they move in each micro-step.

    This is the paper's form for classification. For regression it has exp(-s_i) / 2 before the
    loss, which begins at half the weight and ends at the same one.

    Like every combiner it acts on shared variables: those of a single task get its own gradient,
    without the weight, which an optimizer such as Adam cancels anyway.

    It needs the losses, which must not be negative: in a `MultiTaskModel` and in `gradients` it has
    them; `combiner(jacobian, losses)` and `combine_tasks(task_gradients, losses)` are given them.

    Args:
        learning_rate: number above 0, for the steps of s. Defaults to 0.025.

    Raises:
        TypeError: if `learning_rate` is not a number.
        ValueError: if it is not above 0 and finite, or when called without losses.

    Example:
        >>> combiner = keras_bp.multitask.UncertaintyWeighting(learning_rate=0.5)
        >>> jacobian, losses = tf.constant([[1.0, 0.0], [-1.0, 1.0]]), tf.constant([2.0, 0.1])
        >>> for _ in range(50):
        ...     gradient = combiner(jacobian, losses)
        >>> gradient.numpy().round(3).tolist()
        [-4.75, 5.0]

    References:
        Kendall, Gal and Cipolla, 2018, "Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics", equation 10, with s = log sigma^2.
    """

    _weights_from = "losses"

    def __init__(self, learning_rate: float = 0.025) -> None:
        self.learning_rate = check_number("learning_rate", learning_rate, 0.0, low_open=True)
        super().__init__(learning_rate=self.learning_rate)

    def _new_variables(self, tasks):
        return [task_variable(tasks, 0.0, "log_variances")]

    def _weights(self, gramian, present, losses):
        [log_variances] = self.variables
        old = tf.cast(log_variances, losses.dtype)
        weights = tf.exp(-old)
        slope = tf.where(present, tf.clip_by_value(0.5 - weights * losses, -1.0, 1.0), 0.0)
        new = old - self.learning_rate * slope
        new = tf.clip_by_value(new, -LARGEST, LARGEST)
        log_variances.assign(tf.cast(new, log_variances.dtype))
        return weights
