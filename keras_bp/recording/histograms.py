"""Histograms, counted inside a compiled step or outside."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bp._keras import compiled_by_xla
from keras_bp._types import Array
from keras_bp.gradients import deduplicate

BUCKETS = 30
_BLOCK = 2**16  # entries whose intermediate arrays stay in a cache
_READ = 2**20  # entries of a variable that are read at once
EMPTY = np.zeros(2 + BUCKETS)
"""The result of `count_buckets` for no entries."""


def count_buckets(values: tf.Tensor, zeros: Any = None) -> tf.Tensor:
    """Count the finite entries of a tensor in 30 buckets of equal width.

    Counted in the step, a histogram leaves the device as 32 numbers. `tf.summary.histogram` makes
    an array of 30 float64 for each entry instead (6 GB for an embedding of 25 million), and fails
    on a NaN.

    Args:
        values: tensor of any shape and numeric dtype.
        zeros: scalar integer tensor, the number of further entries that are 0; or None.

    Returns:
        A float64 tensor of shape (32,): the smallest and the largest finite entry, 0 if there is
        none, and the counts.
    """
    values = tf.reshape(tf.cast(values, _wide(values.dtype)), [-1])
    if zeros is not None:
        # One entry stands for them all; a NaN is not counted.
        one = tf.where(zeros > 0, tf.zeros((), values.dtype), np.nan)
        values = tf.concat([[one], values], axis=0)
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
    counts = tf.cast(_count(bucket), tf.float64)
    if zeros is not None:
        others = tf.cast(tf.maximum(zeros - 1, 0), tf.float64)
        counts += others * tf.one_hot(bucket[0], BUCKETS + 1, dtype=tf.float64)
    edges = tf.cast(tf.stack([low, high]), tf.float64)
    return tf.concat([edges, counts[:BUCKETS]], axis=0)


def count_gradient(gradient: Any, shape: tuple[int, ...]) -> tf.Tensor:
    """Count like `count_buckets` the entries of a gradient.

    The rows that a sparse one leaves out count as zeros, and are not made.

    Args:
        gradient: a tensor, a `tf.IndexedSlices` or None.
        shape: its variable's shape.
    """
    if gradient is None:
        return tf.constant(EMPTY)
    if not isinstance(gradient, tf.IndexedSlices):
        return count_buckets(gradient)
    values = deduplicate(gradient).values
    return count_buckets(values, np.prod(shape, dtype=np.int64) - tf.size(values, tf.int64))


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
    return _count_blocks(lambda: _blocks(values))


def count_variable(variable: Any) -> np.ndarray:
    """Count like `count_values` the entries of a Keras variable, without a copy of it."""
    kept = None if _is_large(variable) else list(row_blocks(variable))
    return _count_blocks(
        lambda: (b for part in kept or row_blocks(variable) for b in _blocks(np.ravel(part)))
    )


def row_blocks(variable: Any) -> Iterator[tf.Tensor]:
    """Read a variable's rows block by block, in order.

    As soon as rows of a variable have been updated, TensorFlow copies all of it for each reader.
    """
    value = getattr(variable, "value", variable)
    if not _is_large(variable):
        yield tf.convert_to_tensor(value)
        return
    rows = max(1, _READ // int(np.prod(variable.shape[1:])))
    for start in range(0, variable.shape[0], rows):
        yield tf.gather(value, tf.range(start, min(start + rows, variable.shape[0])))


def _is_large(variable):
    return np.prod(variable.shape) > _READ


def _blocks(values):
    return (values[start : start + _BLOCK] for start in range(0, values.size, _BLOCK))


def _count_blocks(blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Count what `blocks`, which is called twice, goes through."""

    def finite_blocks():
        for block in blocks():
            block = block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)
            finite = np.isfinite(block)
            block = block if finite.all() else block[finite]
            if block.size:
                yield block

    edges = [(block.min(), block.max()) for block in finite_blocks()]
    if not edges:
        return EMPTY
    low, high = min(low for low, _ in edges), max(high for _, high in edges)
    width = high / 2 - low / 2
    counts = np.zeros(BUCKETS, np.intp)
    for block in finite_blocks():
        if width > 0:
            share = (block / 2 - low / 2) / width
            bucket = np.minimum((share * BUCKETS).astype(np.intp), BUCKETS - 1)
            counts += np.bincount(bucket, minlength=BUCKETS)
        else:
            counts[-1] += block.size
    return np.array([low, high, *counts], np.float64)


def rows(counted: Array) -> np.ndarray:
    """Return the result of `count_buckets` as rows (left edge, right edge, count)."""
    low, high, *counts = np.asarray(counted)
    edges = np.linspace(low, high, BUCKETS + 1)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def _wide(dtype):
    return dtype if dtype in (tf.float32, tf.float64) else tf.float32
