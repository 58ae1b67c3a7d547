"""The squared norm of one gradient, dense or sparse."""

import tensorflow as tf

from keras_bp.gradients.deduplicate import deduplicate


def squared_norm(gradient):
    """Squared L2 norm of one gradient: the sum of the squares of its entries.

    A sparse gradient counts as the dense tensor it stands for: rows of the same id are summed
    first, then squared. A gradient in float16 or bfloat16 is squared in float32.

    Args:
        gradient: a tensor of any shape and floating dtype, a `tf.IndexedSlices`, or None (the
            loss does not depend on the variable), which counts as zeros.

    Returns:
        A scalar tensor, float64 for a float64 gradient and float32 for any other. In float32 the
        square of an entry under about 1e-19 in size vanishes, and a sum over 3e38 is inf.

    Example:
    >>> float(keras_bp.gradients.squared_norm(tf.constant([3.0, 4.0])))
    25.0
    >>> twice = tf.IndexedSlices(values=tf.constant([[1.0], [1.0]]), indices=tf.constant([0, 0]))
    >>> float(keras_bp.gradients.squared_norm(twice))
    4.0
    """
    if gradient is None:
        return tf.zeros((), tf.float32)
    if gradient.dtype != tf.float64:
        gradient = tf.cast(gradient, tf.float32)
    if isinstance(gradient, tf.IndexedSlices):
        gradient = deduplicate(gradient).values
    # l2_loss is half the sum of squares in one kernel that holds no squared copy of the gradient.
    return 2.0 * tf.nn.l2_loss(gradient)
