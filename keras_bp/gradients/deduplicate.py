"""Sum the rows of a sparse gradient that belong to the same id."""

import tensorflow as tf


def deduplicate(gradient):
    """Sum the rows of a sparse gradient per id, so that every id stands in it once.

    The gradient of an embedding lists one row for each look-up. An id that was looked up three
    times stands in it three times, and its gradient is the sum of the three rows:

        values'[u] = sum of values[k] over all k with indices[k] = u

    Whatever squares the values (a norm, Adam's second moment) is right only after that sum.

    Args:
        gradient: `tf.IndexedSlices` with `values` of shape (n, ...) and integer `indices` of
            shape (n,); n may be 0.

    Returns:
        A `tf.IndexedSlices` of the same dtype and dense shape, with `values` of shape (u, ...)
        and `indices` of shape (u,), the u different ids in the order in which they first appear.
        The dense tensor it stands for is the same. It works inside `tf.function`, compiled by XLA
        too; there only once, since TensorFlow's compiled `tf.unique` takes the padding of its own
        result for ids.

    Raises:
        TypeError: if `gradient` is not a `tf.IndexedSlices`.

    Example:
    >>> slices = tf.IndexedSlices(
    ...     values=tf.constant([[1.0], [2.0], [4.0]]), indices=tf.constant([7, 3, 7])
    ... )
    >>> unique = keras_bp.gradients.deduplicate(slices)
    >>> unique.indices.numpy().tolist(), unique.values.numpy().tolist()
    ([7, 3], [[5.0], [2.0]])
    """
    if not isinstance(gradient, tf.IndexedSlices):
        raise TypeError(
            "Argument `gradient` must be a tf.IndexedSlices, the gradient of a look-up in a "
            f"table. Received: gradient={gradient!r} (of type {type(gradient).__name__})"
        )
    ids, segments = tf.unique(gradient.indices)
    sums = tf.math.unsorted_segment_sum(gradient.values, segments, tf.size(ids))
    return tf.IndexedSlices(sums, ids, gradient.dense_shape)
