"""Gradients read beside the optimizer, which is not to notice."""

import tensorflow as tf

from keras_bp.gradients import squared_norm


def own_product(tensor):
    """Return the tensor, computed anew where it is a product, so that it gains no reader.

    TensorFlow's graph optimizer reorders a product of products, a * b * rate, where nobody else
    reads a * b, and XLA fuses likewise. Another reader would thus change how the optimizer's step
    is rounded: for Keras's BatchNormalization, whose gamma has such a gradient, under SGD. The
    product in float64 is not merged with the one that the optimizer reads.
    """
    if tf.executing_eagerly() or not isinstance(tensor, tf.Tensor) or tensor.op.type != "Mul":
        return tensor
    a, b = (tf.cast(own_product(factor), tf.float64) for factor in tensor.op.inputs)
    return a * b


def unscaled(gradient, factor):
    """Divide a gradient, dense or sparse, by the factor of a loss scale, in full precision."""
    if gradient is None or tf.get_static_value(factor) == 1:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        values = unscaled(gradient.values, factor)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    gradient = tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient
    return gradient / tf.cast(factor, gradient.dtype)


def squared_norms(gradients):
    """Return the squared norms of a list of gradients in one float64 tensor."""
    squares = [squared_norm(gradient) for gradient in gradients]
    if len({square.dtype for square in squares}) > 1:
        squares = [tf.cast(square, tf.float64) for square in squares]
    return tf.cast(tf.stack(squares), tf.float64)
