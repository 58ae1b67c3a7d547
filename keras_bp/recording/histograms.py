"""Histograms: a sample is taken inside a compiled step, and counted outside."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._types import Array

BUCKETS = 30
SAMPLE = 2**12
"""The number of entries that stand for a larger gradient or output."""
NO_SAMPLE = np.zeros(3 + SAMPLE, np.float32)
"""The result of `sample_entries` for no entries."""
_BLOCK = 2**16  # entries whose intermediate arrays stay in a cache
_READ = 2**20  # entries of a variable that are read at once


def sample_entries(values: tf.Tensor, zeros: Any = 0) -> tf.Tensor:
    """Take up to 4,096 entries of a tensor, evenly spaced, to be counted outside of the step.

    To count inside would take some 30 operations per tensor, which a 60-layer network takes longer
    to trace than all the rest, and XLA to compile. (`tf.summary.histogram` makes an array of 30
    float64 for each entry, 6 GB for an embedding of 25 million, and fails on a NaN.)

    Args:
        values: tensor of any shape and floating dtype.
        zeros: scalar number or tensor, the number of further entries that are 0.

    Returns:
        A float32 tensor of shape (3 + 4096,): the number of entries, the number of those taken,
        `zeros`, and the entries taken, followed by NaN.
    """
    flat = tf.reshape(values, [-1])
    size = tf.size(flat)
    # Odd, to be no multiple of the usual numbers of channels.
    stride = tf.bitwise.bitwise_or((size + SAMPLE - 1) // SAMPLE, 1)
    taken = tf.cast(flat[::stride], tf.float32)
    number = tf.size(taken)
    taken = tf.pad(taken, [[0, SAMPLE - number]], constant_values=np.nan)
    taken.set_shape([SAMPLE])
    head = tf.stack([tf.cast(entry, tf.float32) for entry in (size, number, zeros)])
    return tf.concat([head, taken], axis=0)


def sample_gradient(gradient: Any, shape: tuple[int, ...]) -> tf.Tensor:
    """Sample a gradient: a tensor, a `tf.IndexedSlices`, or None for no entries.

    The rows that a sparse one leaves out count as zeros, and are not made.

    Args:
        gradient: the gradient.
        shape: its variable's shape.
    """
    if gradient is None:
        return tf.constant(NO_SAMPLE)
    if not isinstance(gradient, tf.IndexedSlices):
        return sample_entries(gradient)
    ids, places = tf.unique(gradient.indices)
    # As many rows as look-ups: XLA knows their number. NaN is not counted.
    lookups = tf.size(places)
    sums = tf.math.unsorted_segment_sum(gradient.values, places, lookups)
    used = tf.reshape(tf.range(lookups) < tf.size(ids), [-1] + [1] * (len(shape) - 1))
    width = np.prod(shape[1:], dtype=np.int64)
    zeros = (shape[0] - tf.size(ids, tf.int64)) * width
    return sample_entries(tf.where(used, sums, np.nan), zeros)


def count_sample(sample: np.ndarray) -> np.ndarray:
    """Count like `count_values` the entries that a sample stands for."""
    size, number, zeros = map(float, sample[:3])
    entries = sample[3 : 3 + int(number)]
    return _count_blocks(lambda: _blocks(entries), size / max(number, 1), zeros)


def count_values(values: Array) -> np.ndarray:
    """Count the finite entries of an array in 30 buckets of equal width.

    Args:
        values: array of any shape and numeric dtype.

    Returns:
        A float64 array of shape (32,): the smallest and the largest finite entry, 0 if there is
        none, and the counts.
    """
    values = np.asarray(values).ravel()
    return _count_blocks(lambda: _blocks(values))


def count_variable(variable: Any) -> np.ndarray:
    """Count like `count_values` the entries of a Keras variable, without a copy of it."""
    kept = None if is_large(variable) else list(row_blocks(variable))
    return _count_blocks(
        lambda: (b for part in kept or row_blocks(variable) for b in _blocks(np.ravel(part)))
    )


def row_blocks(variable: Any) -> Iterator[tf.Tensor]:
    """Read the rows of a Keras or TensorFlow variable block by block, in order.

    As soon as rows of a variable have been updated, TensorFlow copies all of it for each reader.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if not is_large(variable):
        yield tf.convert_to_tensor(value)
        return
    rows = block_rows(variable)
    for start in range(0, variable.shape[0], rows):
        yield tf.gather(value, tf.range(start, min(start + rows, variable.shape[0])))


def is_large(variable: Any) -> bool:
    """Tell whether a variable is read in several blocks."""
    return bool(np.prod(variable.shape) > _READ)


def block_rows(variable: Any) -> int:
    """Return how many rows of a large variable are read at once."""
    return max(1, _READ // int(np.prod(variable.shape[1:])))


def _blocks(values):
    return (values[start : start + _BLOCK] for start in range(0, values.size, _BLOCK))


def _count_blocks(
    blocks: Callable[[], Iterable[np.ndarray]], weight: float = 1.0, zeros: float = 0.0
) -> np.ndarray:
    """Count what `blocks`, which is called twice, goes through, each as `weight`; and zeros."""

    def finite_blocks():
        for block in blocks():
            block = block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)
            finite = np.isfinite(block)
            block = block if finite.all() else block[finite]
            if block.size:
                yield block

    edges = [(block.min(), block.max()) for block in finite_blocks()]
    edges += [(np.float32(0), np.float32(0))] * (zeros > 0)
    if not edges:
        return np.zeros(2 + BUCKETS)
    low, high = min(low for low, _ in edges), max(high for _, high in edges)
    width = high / 2 - low / 2

    def count(block):
        # Halves, as the width itself may overflow. A single value belongs to the last bucket, as
        # in TensorBoard, and the largest one too.
        if not width > 0:
            return np.bincount([BUCKETS - 1], [block.size], BUCKETS)
        share = (block / 2 - low / 2) / width
        bucket = np.minimum((share * BUCKETS).astype(np.intp), BUCKETS - 1)
        return np.bincount(bucket, minlength=BUCKETS)

    counts = np.zeros(BUCKETS)
    for block in finite_blocks():
        counts += weight * count(block)
    if zeros > 0:
        counts += zeros * count(np.zeros(1, np.float32))
    return np.array([low, high, *counts], np.float64)


def rows(counted: Array) -> np.ndarray:
    """Return the result of `count_values` as rows (left edge, right edge, count)."""
    low, high, *counts = np.asarray(counted)
    edges = np.linspace(low, high, BUCKETS + 1)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
