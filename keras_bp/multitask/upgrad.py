"""The mean of the gradients, each projected until it conflicts with none."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask._least_squares import nonnegative_minimum
from keras_bp.multitask.combiner import Combiner
from keras_bp.multitask.mean import equal_weights


@serializable
class UPGrad(Combiner):
    """Projects each gradient onto the dual cone of all, and averages the projections.

    The dual cone {d: g_j . d >= 0 for all j} holds the directions that raise no task's loss when
    one steps against them. The projection of g_i / T is J^T v_i with

        v_i = argmin v^T M v,    v >= e_i / T;        d = J^T (sum over i of v_i)

    No conflict is left, whatever the number of tasks, and each gradient moves as little as that
    allows; without a conflict, d is the mean.

    Example:
        >>> combine = keras_bp.multitask.UPGrad()
        >>> combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().tolist()
        [0.25, 0.75]

    References:
        Quinton and Rey, 2024, "Jacobian descent for multi-objective optimization", equations 3
        and 6, and Proposition 1.
    """

    def _weights(self, gramian, present):
        return self._block_weights(gramian[None], present[None])[0]

    def _block_weights(self, gramians, present):
        tasks = gramians.shape[-1]
        least = tf.linalg.diag(equal_weights(present, gramians.dtype))
        # v = least + x with x >= 0.
        wanted = tf.reshape(-tf.matmul(least, gramians), (-1, tasks))
        more = nonnegative_minimum(tf.repeat(gramians, tasks, axis=0), wanted)
        return tf.reduce_sum(least + tf.reshape(more, (-1, tasks, tasks)), axis=1)
