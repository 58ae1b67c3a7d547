"""The norm of all gradients of a step together."""

import tensorflow as tf

from keras_bp.gradients.squared_norm import squared_norm


def global_norm(gradients):
    """L2 norm of a list of gradients, taken as one long vector.

        ||g|| = sqrt(sum over the gradients of ||g_i||^2)

    It is the true norm: in a sparse gradient the rows of the same id are summed before they are
    squared. `tf.linalg.global_norm` squares them one by one, so that an id looked up twice with
    the row [1, 1] gives 2.0 where the gradient [2, 2] has the norm 2.83.

    Args:
        gradients: list or tuple whose items are tensors of any shape and floating dtype,
            `tf.IndexedSlices`, or None, which counts as zeros.

    Returns:
        A scalar tensor, 0.0 for an empty list: float64 if any gradient is float64, else float32.
        See `squared_norm` for the range of float32.

    Raises:
        TypeError: if `gradients` is not a list or tuple.

    Example:
    >>> float(keras_bp.gradients.global_norm([tf.constant([[3.0]]), None, tf.constant([4.0])]))
    5.0
    >>> twice = tf.IndexedSlices(values=tf.ones((2, 2)), indices=tf.constant([1, 1]))
    >>> round(float(keras_bp.gradients.global_norm([twice])), 2)
    2.83

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks
        (2013), Algorithm 1: the norm by which gradients are clipped together.
    """
    if not isinstance(gradients, list | tuple):
        raise TypeError(
            "Argument `gradients` must be a list or tuple of gradients. "
            f"Received: gradients={gradients!r} (of type {type(gradients).__name__})"
        )
    squares = [squared_norm(gradient) for gradient in gradients]
    widest = tf.float64 if any(s.dtype == tf.float64 for s in squares) else tf.float32
    return tf.sqrt(tf.add_n([tf.zeros((), widest)] + [tf.cast(s, widest) for s in squares]))
