"""The shortest convex combination of the tasks' gradients."""

import tensorflow as tf

from keras_bp._keras import serializable
from keras_bp.multitask._least_squares import nearest_to_origin
from keras_bp.multitask.combiner import Combiner


@serializable
class MGDA(Combiner):
    """Takes the point of the gradients' convex hull that is nearest to the origin.

        d = J^T a,    a = argmin a^T M a,    a_i >= 0,  sum of a = 1,  M = J J^T

    A step along -d lowers every task's loss, by the same amount to first order for the tasks with
    a weight: g_i . d >= ||d||^2 for all i. Where d = 0 no direction lowers all (the point is
    Pareto stationary), as in opposite gradients, or where one task's gradient is 0. The shortest
    gradient decides the step's length.

    The minimum is exact to rounding, where the Frank-Wolfe iterations of other implementations
    come near it only.

    Example:
        >>> combine = keras_bp.multitask.MGDA()
        >>> combine(tf.constant([[1.0, 0.0], [-1.0, 1.0]])).numpy().round(6).tolist()
        [0.20000000298023224, 0.4000000059604645]

    References:
        Desideri, 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective
        optimization".
        Sener and Koltun, 2018, "Multi-task learning as multi-objective optimization", equation 3.
    """

    def _weights(self, gramian, present):
        return nearest_to_origin(gramian, tf.cast(present, gramian.dtype))
