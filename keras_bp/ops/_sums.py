"""Sums that normalization layers spend their time in, each in the form that runs fastest."""

import tensorflow as tf

from keras_bp.ops._xla import compiled_by_xla


def sum_rows(x):
    """Sum a matrix over its rows: (rows, columns) -> (columns,).

    Without XLA a product with a vector of ones runs at memory speed and rounds less than
    `tf.reduce_sum`; XLA fuses a plain reduction into its neighbours, but not a product.
    """
    if compiled_by_xla():
        return tf.reduce_sum(x, axis=0)
    ones = tf.ones([1, tf.shape(x)[0]], x.dtype)
    return tf.reshape(tf.matmul(ones, x), [-1])


@tf.custom_gradient
def _squared_norm(x, axes):
    def backward(upstream):
        return 2 * x * upstream, None

    return tf.square(tf.raw_ops.EuclideanNorm(input=x, axis=axes, keep_dims=True)), backward


def sum_squared_deviations(x, mean, axes):
    """Sum `(x - mean)^2` over `axes`, kept with length 1; `mean` broadcasts to `x`.

    Without XLA one kernel sums the squares as it reads, where a square and a sum would write and
    read them again; it has no XLA form, and its own gradient is NaN where the sum is 0.
    """
    if compiled_by_xla():
        # With a difference that other operations share XLA fuses worse than with one of its own.
        return tf.reduce_sum(tf.math.squared_difference(x, mean), axis=axes, keepdims=True)
    return _squared_norm(x - mean, axes)
