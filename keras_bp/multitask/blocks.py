"""A shared variable's gradients of all tasks as one block: its Gram matrix and weighted sum."""

import numpy as np
import tensorflow as tf

from keras_bp.gradients import values_of


def largest_entry(columns, shared, present):
    """Return the divisor of gradients before they are squared: the largest entry."""
    sizes = [tf.constant(0.0, tf.float64)]
    for column in (columns[place] for place in np.nonzero(shared)[0]):
        for task, gradient in enumerate(column):
            if gradient is not None:
                size = tf.reduce_max(tf.abs(tf.cast(values_of(gradient), tf.float64)))
                sizes.append(tf.where(present[task], size, 0.0))
    largest = tf.reduce_max(tf.stack(sizes))
    return tf.where(largest > 0.0, largest, 1.0)


def summed_in(dtype):
    """Return the dtype in which gradients of a dtype are summed: float32 unless it is wider."""
    return dtype if dtype.size > 4 else tf.float32


def block_of(column, owners):
    """Return a shared variable's gradients, or None where no two tasks share it.

    Args:
        column: list of T gradients of one shape, tensors, `tf.IndexedSlices` or None.
        owners: bool array of shape (T,), which tasks depend on the variable.

    Returns:
        A tensor with one gradient per row, in float32 or float64, for the n tasks that depend on
        the variable; a list of n `tf.IndexedSlices` where all are sparse.
    """
    gradients = [column[task] for task in np.nonzero(owners)[0]]
    if len(gradients) < 2:
        return None
    if all(isinstance(g, tf.IndexedSlices) for g in gradients):
        return gradients
    dense = [tf.convert_to_tensor(g) for g in gradients]
    return tf.stack([tf.cast(g, summed_in(g.dtype)) for g in dense])


def gramian_of(block, owners, scale):
    """Return the products of one variable's gradients with each other, over all tasks.

        M_ij = g_i . g_j / scale^2

    Args:
        block: what `block_of` returns. The rows of a sparse gradient are summed per id first.
        owners: bool array of shape (T,), which tasks depend on the variable.
        scale: float64 scalar.

    Returns:
        A float64 tensor of shape (T, T), not finite in the row and the column of a task whose
        gradient is not; None where no two tasks share the variable.
    """
    if block is None:
        return None
    rows = tf.stack(_rows_per_id(block)) if isinstance(block, list) else block
    flat = tf.cast(tf.reshape(rows, [owners.sum(), -1]), tf.float64) / scale
    products = tf.pad(tf.matmul(flat, flat, transpose_b=True), [[0, 1], [0, 1]])
    # Gathered, as NaN times 0 would be NaN: the last one for those that do not depend on it.
    place = np.where(owners, owners.cumsum() - 1, owners.sum())
    return tf.gather(tf.gather(products, place), place, axis=1)


def _rows_per_id(gradients):
    """Return a dense tensor for each gradient: its rows summed per id, ids in one order for all."""
    ids = _joined_ids(gradients)
    # As many segments as rows, some of them empty: XLA does not know the number of ids, and pads.
    segments = tf.unique(ids).idx
    parts = tf.split(segments, [tf.size(g.indices) for g in gradients], num=len(gradients))
    return [
        tf.math.unsorted_segment_sum(tf.cast(g.values, tf.float64), part, tf.size(ids))
        for g, part in zip(gradients, parts, strict=True)
    ]


def _joined_ids(gradients):
    """Return the ids concatenated; tasks may look up with ids of different dtypes."""
    same = len({g.indices.dtype for g in gradients}) == 1
    return tf.concat([g.indices if same else tf.cast(g.indices, tf.int64) for g in gradients], 0)


def weighted_sum(weights, block):
    """Return the weighted sum of a tensor's rows. One with a weight of 0 need not be finite.

    Finite gradients give no NaN: where a term would overflow, the sum is formed on a smaller
    scale, so that it is infinite at most.

    Args:
        weights: float64 tensor of shape (n,).
        block: tensor of shape (n, ...), in float32 or float64.
    """
    shares, scale = _shares(weights, block.dtype)
    # A matrix product may be of less precision on a GPU: TensorFloat-32.
    rows = zip(*(tf.unstack(x, weights.shape[0]) for x in (block, shares)), strict=True)
    return _rescaled(tf.add_n([tf.math.multiply_no_nan(*row) for row in rows]), scale)


def sparse_sum(weights, gradients):
    """Return what `weighted_sum` does, for a list of `tf.IndexedSlices`: rows concatenated.

    A gradient with a weight of 0 need not be finite.
    """
    dtype = gradients[0].dtype
    shares, scale = _shares(weights, summed_in(dtype))
    values = [
        tf.math.multiply_no_nan(tf.cast(g.values, shares.dtype), shares[number])
        for number, g in enumerate(gradients)
    ]
    total = tf.cast(_rescaled(tf.concat(values, axis=0), scale), dtype)
    return tf.IndexedSlices(total, _joined_ids(gradients), gradients[0].dense_shape)


def _shares(weights, dtype):
    """Return weights divided by a scale, with a sum of magnitudes of at most 1, and the scale."""
    # A power of two, so that no digit is lost.
    bound = tf.maximum(weights.shape[0] * tf.reduce_max(tf.abs(weights)), 1.0)
    scale = 2.0 ** tf.math.ceil(tf.math.log(bound) / tf.math.log(tf.constant(2.0, bound.dtype)))
    return tf.cast(weights / scale, dtype), tf.cast(scale, dtype)


def _rescaled(total, scale):
    # 0 times a scale that is infinite in float32 is no NaN.
    return tf.math.multiply_no_nan(scale, total)
