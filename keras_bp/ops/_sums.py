"""Sums over the examples, where the normalization layers spend their time."""

import tensorflow as tf

from keras_bp._keras import compiled_by_xla

_MOST_PARTS = 64


def row_sum(rows, columns, dtype):
    """Return a function that sums a matrix over its rows: (rows, columns) -> (columns,).

    On a CPU without XLA products with vectors of ones are faster than `tf.reduce_sum`. There are
    two, over parts of the rows and over the parts' rows: oneDNN's product adds one row after
    another, and rounds thousands of rows in one go worse than `tf.reduce_sum` does. (An odd number
    of rows is one part: a remainder of its own would cost small batches more than it is worth.) XLA
    fuses a plain sum into its neighbours, and GPUs may round the factors of a product to ten bits.
    """
    if compiled_by_xla() or tf.config.get_visible_devices("GPU"):
        return lambda x: tf.reduce_sum(x, axis=0)
    # The power of two in the number of rows, so that no row is left over; 1 for no row at all.
    parts = tf.maximum(tf.minimum(tf.bitwise.bitwise_and(rows, -rows), _MOST_PARTS), 1)
    rest = rows // parts
    over_parts, over_rest = tf.ones([1, parts], dtype), tf.ones([1, rest], dtype)
    folded, unfolded = tf.stack([parts, -1]), tf.stack([rest, columns])

    def sum_rows(x):
        x = tf.reshape(tf.matmul(over_parts, tf.reshape(x, folded)), unfolded)
        return tf.reshape(tf.matmul(over_rest, x), [columns])

    return sum_rows
