"""What several tasks' gradients of one variable make: their Gramian, and their weighted sum."""

import tensorflow as tf


def gramian(gradients, scale):
    """Return the products of one variable's gradients with each other.

        M_ij = g_i . g_j / scale^2

    Args:
        gradients: list of n tensors of one shape, `tf.IndexedSlices` or both. The rows of a sparse
            one are summed per id first.
        scale: float64 scalar.

    Returns:
        A float64 tensor of shape (n, n).
    """
    if all(isinstance(g, tf.IndexedSlices) for g in gradients):
        rows = _rows_per_id(gradients)
    else:
        rows = [tf.cast(tf.convert_to_tensor(g), tf.float64) for g in gradients]
    flat = tf.stack([tf.reshape(row, [-1]) for row in rows]) / scale
    return tf.matmul(flat, flat, transpose_b=True)


def _rows_per_id(gradients):
    """Return a dense tensor for each gradient: its rows summed per id, ids in one order for all."""
    ids = _joined_ids(gradients)
    # As many segments as there are rows, some of them empty: the ids' own number is unknown to
    # XLA, which pads them.
    segments = tf.unique(ids).idx
    parts = tf.split(segments, [tf.size(g.indices) for g in gradients], num=len(gradients))
    return [
        tf.math.unsorted_segment_sum(tf.cast(g.values, tf.float64), part, tf.size(ids))
        for g, part in zip(gradients, parts, strict=True)
    ]


def _joined_ids(gradients):
    """Return the ids behind one another; tasks may look up with ids of different dtypes."""
    same = len({g.indices.dtype for g in gradients}) == 1
    return tf.concat([g.indices if same else tf.cast(g.indices, tf.int64) for g in gradients], 0)


def weighted_sum(weights, gradients):
    """Return the sum of one variable's gradients, each with its weight, in their dtype.

    In float32 for gradients in float16 or bfloat16. Finite gradients give no NaN: where a term
    would overflow, the sum is formed on a smaller scale, so that it is infinite at most.

    Args:
        weights: float64 tensor of shape (n,).
        gradients: list of n tensors or `tf.IndexedSlices`, or a tensor of shape (n, ...).

    Returns:
        A tensor; a `tf.IndexedSlices` where all gradients are, with the rows behind one another.
    """
    count = weights.shape[0]
    # A power of two, so that no digit is lost.
    bound = tf.maximum(count * tf.reduce_max(tf.abs(weights)), 1.0)
    scale = 2.0 ** tf.math.ceil(tf.math.log(bound) / tf.math.log(tf.constant(2.0, bound.dtype)))
    shares = weights / scale

    def weighted(tensor, number):
        wide = tensor.dtype if tensor.dtype.size > 4 else tf.float32
        return tf.cast(tensor, wide) * tf.cast(shares[number], wide)

    def rescaled(total, dtype):
        # 0 times a scale that is infinite in float32 is no NaN.
        return tf.cast(tf.math.multiply_no_nan(tf.cast(scale, total.dtype), total), dtype)

    if isinstance(gradients, list) and all(isinstance(g, tf.IndexedSlices) for g in gradients):
        values = [weighted(g.values, number) for number, g in enumerate(gradients)]
        return tf.IndexedSlices(
            rescaled(tf.concat(values, axis=0), gradients[0].dtype),
            _joined_ids(gradients),
            gradients[0].dense_shape,
        )
    dense = [tf.convert_to_tensor(gradients[number]) for number in range(count)]
    total = tf.add_n([weighted(tensor, number) for number, tensor in enumerate(dense)])
    return rescaled(total, dense[0].dtype)
