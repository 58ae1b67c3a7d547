"""Histograms, counted inside a compiled step or outside."""

import numpy as np
import tensorflow as tf

from keras_bp._keras import compiled_by_xla
from keras_bp._types import Array

BUCKETS = 30
_BLOCK = 2**16  # entries whose intermediate arrays stay in a cache
EMPTY = np.zeros(2 + BUCKETS)
"""The result of `count_buckets` for no entries."""


def count_buckets(values: tf.Tensor) -> tf.Tensor:
    """Count the finite entries of a tensor in 30 buckets of equal width.

    Counted in the step, a histogram leaves the device as 32 numbers. `tf.summary.histogram` makes
    an array of 30 float64 for each entry instead (6 GB for an embedding of 25 million), and fails
    on a NaN.

    Args:
        values: tensor of any shape and numeric dtype.

    Returns:
        A float64 tensor of shape (32,): the smallest and the largest finite entry, 0 if there is
        none, and the counts.
    """
    values = tf.reshape(tf.cast(values, _wide(values.dtype)), [-1])
    finite = tf.math.is_finite(values)
    any_finite = tf.reduce_any(finite)
    low = tf.reduce_min(tf.where(finite, values, values.dtype.max))
    high = tf.reduce_max(tf.where(finite, values, values.dtype.min))
    low, high = (tf.where(any_finite, edge, 0) for edge in (low, high))
    # Halves, as the width itself may overflow the dtype; 0 where it underflows.
    width = high / 2 - low / 2
    share = (values / 2 - low / 2) / tf.where(width > 0, width, 1)
    # The largest entry belongs to the last bucket, and a single value, as in TensorBoard, too.
    bucket = tf.cast(tf.where(finite, share, 0) * BUCKETS, tf.int32)
    bucket = tf.where(width > 0, tf.minimum(bucket, BUCKETS - 1), BUCKETS - 1)
    # Entries that are not finite go to an extra bucket, which is dropped.
    bucket = tf.where(finite, bucket, BUCKETS)
    counts = _count(bucket)[:BUCKETS]
    edges = tf.cast(tf.stack([low, high]), tf.float64)
    return tf.concat([edges, tf.cast(counts, tf.float64)], axis=0)


def _count(bucket):
    # Each is some ten times as fast as the other in its case.
    if compiled_by_xla():
        return tf.math.unsorted_segment_sum(tf.ones_like(bucket), bucket, BUCKETS + 1)
    return tf.math.bincount(bucket, minlength=BUCKETS + 1, maxlength=BUCKETS + 1)


def count_values(values: Array) -> np.ndarray:
    """Count like `count_buckets`, outside of a step: for small arrays ten times as fast.

    Args:
        values: array of any shape and numeric dtype.

    Returns:
        A float64 array of shape (32,).
    """
    values = np.asarray(values).ravel()
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    finite = np.isfinite(values)
    values = values if finite.all() else values[finite]
    if not values.size:
        return EMPTY
    low, high = values.min(), values.max()
    width = high / 2 - low / 2
    if not width > 0:
        return np.array([low, high, *[0] * (BUCKETS - 1), values.size], np.float64)
    counts = np.zeros(BUCKETS, np.intp)
    for start in range(0, values.size, _BLOCK):
        share = (values[start : start + _BLOCK] / 2 - low / 2) / width
        bucket = np.minimum((share * BUCKETS).astype(np.intp), BUCKETS - 1)
        counts += np.bincount(bucket, minlength=BUCKETS)
    return np.array([low, high, *counts], np.float64)


def rows(counted: Array) -> np.ndarray:
    """Return the result of `count_buckets` as rows (left edge, right edge, count)."""
    low, high, *counts = np.asarray(counted)
    edges = np.linspace(low, high, BUCKETS + 1)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def _wide(dtype):
    return dtype if dtype in (tf.float32, tf.float64) else tf.float32
