"""The textbook formula of every op in plain TensorFlow operations, left to autodiff.

Nothing here is decorated, fused or stabilized, and no kernel is used whose gradient TensorFlow
itself approximates: what autodiff makes of these lines is the truth that the ops are held to.
"""

import tensorflow as tf


def relu(z):
    return tf.where(z > 0, z, tf.zeros_like(z))


def sigmoid(z):
    return 1 / (1 + tf.exp(-z))


def tanh(z):
    return (tf.exp(z) - tf.exp(-z)) / (tf.exp(z) + tf.exp(-z))


def softmax(z, axis=-1):
    return tf.exp(z) / tf.reduce_sum(tf.exp(z), axis, keepdims=True)


ACTIVATIONS = {"relu": relu, "sigmoid": sigmoid, "tanh": tanh, "softmax": softmax}


def dense(x, kernel, bias=None, activation=None):
    z = tf.tensordot(x, kernel, 1)
    if bias is not None:
        z += bias
    return ACTIVATIONS.get(activation, tf.identity)(z)


def _along(weight, x, axes, default):
    """Give `weight`, a number for each entry of the `axes` of `x`, the rank of `x`."""
    if weight is None:
        return tf.constant(default, x.dtype)
    return tf.reshape(weight, [n if a in axes else 1 for a, n in enumerate(x.shape)])


def _normalize(x, gamma, beta, over, weighted, epsilon, counted=None):
    """Normalize over the axes `over`; gamma and beta run along the axes `weighted`."""
    w = tf.ones_like(x) if counted is None else counted
    n = tf.reduce_sum(w, over, keepdims=True)
    mean = tf.reduce_sum(w * x, over, keepdims=True) / n
    variance = tf.reduce_sum(w * (x - mean) ** 2, over, keepdims=True) / n
    x_hat = (x - mean) / tf.sqrt(variance + epsilon)
    return _along(gamma, x, weighted, 1.0) * x_hat + _along(beta, x, weighted, 0.0)


def batch_normalization(x, gamma=None, beta=None, axis=-1, epsilon=1e-3, mask=None):
    axis %= x.shape.rank
    others = [a for a in range(x.shape.rank) if a != axis]
    if mask is not None:
        mask = tf.ones_like(x) * tf.cast(mask, x.dtype)[..., tf.newaxis]
    return _normalize(x, gamma, beta, others, [axis], epsilon, mask)


def layer_normalization(x, gamma=None, beta=None, axis=-1, epsilon=1e-3):
    axes = [a % x.shape.rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    return _normalize(x, gamma, beta, axes, axes, epsilon)


def group_normalization(x, groups, gamma=None, beta=None, axis=-1, epsilon=1e-3):
    axis %= x.shape.rank
    y = []
    for members in tf.split(x, groups, axis):
        y.append(_normalize(members, None, None, list(range(1, x.shape.rank)), [], epsilon))
    y = tf.concat(y, axis)
    return _along(gamma, x, [axis], 1.0) * y + _along(beta, x, [axis], 0.0)


def dropout(x, rate, seed, noise_shape=None):
    """The mask is drawn as `keras.random.dropout` draws it: kept where uniform >= rate."""
    shape = x.shape if noise_shape is None else noise_shape
    shape = [n if s is None else s for n, s in zip(x.shape, shape, strict=True)]
    kept = tf.cast(tf.random.stateless_uniform(shape, seed, dtype=x.dtype) >= rate, x.dtype)
    return x * kept / (1 - rate) if rate < 1 else x * 0


def binary_crossentropy(target, output, from_logits=False):
    p = sigmoid(output) if from_logits else output
    return -target * tf.math.log(p) - (1 - target) * tf.math.log(1 - p)


def categorical_crossentropy(target, output, from_logits=False, axis=-1):
    p = tf.exp(output) if from_logits else output
    p /= tf.reduce_sum(p, axis, keepdims=True)
    return -tf.reduce_sum(target * tf.math.log(p), axis)


def sparse_categorical_crossentropy(target, output, from_logits=False):
    classes = output.shape[-1]
    return categorical_crossentropy(
        tf.one_hot(target, classes, dtype=output.dtype), output, from_logits
    )
