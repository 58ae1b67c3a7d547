"""Losses that are weighed for the tasks to learn at one pace."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import serializable
from keras_bp.multitask._loss_weighting import LossWeighting, task_variable
from keras_bp.multitask.mean import equal_weights


@serializable
class GradNorm(LossWeighting):
    """Weighs the tasks' losses so that those that lag behind have the longer gradients.

    With the weights w, 1 at first, and the losses L_i(0) of the first step,

        G_i = w_i ||g_i||,    r_i = (L_i / L_i(0)) / mean of L_j / L_j(0)

    the gradients are summed with the weights w_i, which then take a step down the slope of

        sum over i of |G_i / G - r_i^alpha|,    G = mean of the G_j

    in log w alone, with G and r_i held fast, and are scaled for their sum to stay as it was, T.
    The paper steps in w itself, down the sum without the G below the line. The logarithm keeps the
    weights above 0, and steps are a share of a weight, so that tasks may differ by any factor; with
    G below the line `learning_rate` does not depend on the losses' units.

    Without the losses' pace, with alpha = 0, all G_i become equal. Where micro-steps are
    accumulated, the weights move in each of them.

    The g_i are the gradients of all shared variables, where the paper takes those of the last
    shared layer, to save the cost of the others, which here are at hand. As every combiner it acts
    on shared variables: those of a single task get its own gradient, without the weight.

    It needs the losses, which must be above 0: in a `MultiTaskModel` and in `gradients` it has
    them; `combine(jacobian, losses)` and `combine_tasks(task_gradients, losses)` are given them.

    Args:
        alpha: Number of 0 or more: how strongly a task that lags behind is helped; 0 brings all
            gradients to one length. Defaults to 1.5.
        learning_rate: Number above 0, of the steps of log w. Defaults to 0.025.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If one is out of its range, or when called without losses.

    Example:
        >>> combine = keras_bp.multitask.GradNorm(alpha=0.0, learning_rate=1e-3)
        >>> jacobian, losses = tf.constant([[3.0, 0.0], [0.0, 1.0]]), tf.constant([1.0, 1.0])
        >>> for _ in range(1000):
        ...     gradient = combine(jacobian, losses)
        >>> gradient.numpy().round(1).tolist()
        [1.5, 1.5]

    References:
        Chen et al., 2018, "GradNorm: Gradient normalization for adaptive loss balancing in deep
        multitask networks", equations 1 and 2, and Algorithm 1.
    """

    def __init__(self, alpha=1.5, learning_rate=0.025):
        self.alpha = check_number("alpha", alpha, 0.0)
        self.learning_rate = check_number("learning_rate", learning_rate, 0.0, low_open=True)
        super().__init__(alpha=self.alpha, learning_rate=self.learning_rate)

    def _new_variables(self, tasks):
        # A first loss of 0 says that the task has had no step yet.
        return [
            task_variable(tasks, 1.0, "weights"),
            task_variable(tasks, 0.0, "first_losses"),
        ]

    def _weights_of_step(self):
        return tf.cast(self.variables[0], tf.float64)

    def _move(self, gramian, present, losses):
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
        # The weights of tasks that have no part in the step stay as they are.
        others = tf.reduce_sum(tf.where(~moves, old, 0.0))
        moved = tf.reduce_sum(tf.where(moves, new, 0.0))
        new *= (gramian.shape[0] - others) / tf.where(moved > 0.0, moved, 1.0)
        weights.assign(tf.cast(tf.where(moves, new, old), weights.dtype))
