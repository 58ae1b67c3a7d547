"""The step that all rules are made of."""

import tensorflow as tf


def descend(variable, rate, direction):
    """Subtract `rate * direction` from a `tf.Variable`, without a tensor for the product.

    A moving average is such a step too: `a = b a + (1 - b) g` is `a -= (1 - b) (a - g)`.

    Args:
        variable: `tf.Variable`.
        rate: scalar tensor of its dtype.
        direction: tensor of its shape and dtype.
    """
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=direction)
