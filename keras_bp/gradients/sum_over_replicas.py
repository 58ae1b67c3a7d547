"""Sum gradients over the replicas of a distribution strategy."""

import tensorflow as tf


def sum_over_replicas(gradients):
    """Sum each gradient over the replicas, so that every replica holds the global one.

        g_i = sum over the replicas r of g_i[r]

    Keras divides the loss by the number of replicas, so that this sum is the gradient of the mean
    over the global batch. Whatever looks at the whole gradient (a norm, a clipping, a check for
    NaN) is right only after it. With one replica, or outside `strategy.run`, there is nothing to
    sum.

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or None.

    Returns:
        A list of the same length: dense gradients summed, the rows of sparse ones put behind one
        another (`deduplicate` sums them), None left as it is.

    Raises:
        ValueError: if it is called in a strategy's scope outside of its replicas.

    Example:
    >>> [total, none] = keras_bp.gradients.sum_over_replicas([tf.constant([1.0, 2.0]), None])
    >>> total.numpy().tolist(), none
    ([1.0, 2.0], None)
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Gradients are summed over the replicas inside `strategy.run`. "
            "Received: a call in the strategy's scope, outside of its replicas"
        )
    present = [gradient for gradient in gradients if gradient is not None]
    if context.num_replicas_in_sync > 1 and present:
        present = context.all_reduce(tf.distribute.ReduceOp.SUM, present)
    sums = iter(present)
    return [None if gradient is None else next(sums) for gradient in gradients]
