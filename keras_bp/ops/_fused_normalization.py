"""TensorFlow's kernels for the two passes of batch normalization, on matrices.

They compute the equations of `keras_bp.ops.batch_normalization` in fewer passes over memory than
elementary operations. Arguments of shape (rows, channels) and (channels,), float32.
"""

import tensorflow as tf


def fused_forward(x, gamma, beta, epsilon):
    """Return the outputs, the mean, the biased variance, and what `fused_backward` wants."""
    none = tf.zeros([0], x.dtype)
    y, mean, variance, *saved = tf.raw_ops.FusedBatchNormV3(
        x=_image(x), scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon
    )
    rows = tf.cast(tf.shape(x)[0], x.dtype)
    # The kernel returns the unbiased estimate.
    return tf.reshape(y, tf.shape(x)), mean, variance * (rows - 1) / rows, tuple(saved)


def fused_backward(dy, x, gamma, saved, epsilon):
    """Return the gradients of `x`, `gamma` and `beta`.

    What the forward kernel has saved differs between devices: only its partner may read it.
    """
    dx, dgamma, dbeta, _, _ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=_image(dy),
        x=_image(x),
        scale=gamma,
        reserve_space_1=saved[0],
        reserve_space_2=saved[1],
        reserve_space_3=saved[2],
        epsilon=epsilon,
    )
    return tf.reshape(dx, tf.shape(x)), dgamma, dbeta


def nothing_saved():
    """Stand in for what `fused_forward` saves, in the other branch of a condition."""
    return tuple(tf.zeros([0]) for _ in range(3))


def _image(x):
    return tf.reshape(x, [1, -1, 1, x.shape[1]])
