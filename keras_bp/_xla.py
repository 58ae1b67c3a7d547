"""Compilation by XLA of a few operations in a function that is not compiled as a whole."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bp._keras import compiled_by_xla

_LEAST = 2**16
"""From so many entries on the passes over them that XLA saves outweigh the call of its code."""


def as_cluster(function: Callable[[bool], Any], like: tf.Tensor) -> Any:
    """Return what a function returns, its operations compiled by XLA all together.

    On a CPU a graph runs one operation after another, each of which reads and writes whole arrays;
    XLA makes a few loops of them. TensorFlow compiles a cluster anew for each new shape, and goes
    back to single operations where a cluster meets many: after ten compilations with fewer than ten
    runs each. The operations stay what they are in the graph: they have the same derivatives, are
    vectorized, saved and loaded, also where there is no XLA.

    Few entries, eager operations, a function that XLA compiles anyway and GPUs are left alone.

    Args:
        function: function of one argument, whether XLA compiles it, in which it can choose between
            two forms; it makes operations of one device and returns tensors.
        like: tensor, as large as those that the function computes with.
    """
    in_xla = compiled_by_xla()
    if tf.executing_eagerly() or in_xla or tf.config.get_visible_devices("GPU"):
        return function(in_xla)

    def compiled():
        with tf.xla.experimental.jit_scope():
            return function(True)

    return tf.cond(tf.size(like) >= _LEAST, compiled, lambda: function(False))
