"""Compilation by XLA of a few operations in a function that is not compiled as a whole."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bp._keras import compiled_by_xla, has_tangents, tape_is_recording

_LONGEST_PRODUCT = 2**13
"""Up to so many columns a product with ones rounds about as well as a sum."""

_LEAST = 2**17
"""From so many entries on the passes over them that XLA saves outweigh the call of its code."""


def row_sum(t: tf.Tensor, in_xla: bool) -> tf.Tensor:
    """Sum a matrix over its rows: (rows, columns) -> (columns,).

    For XLA in two loops where the rows can be parted: the first one, which it fuses with what makes
    the entries, sums the parts onto each other, and the second one what is left, if that is more
    than 32 rows. A sum over more rows than that would write all entries first, and of 32 or fewer
    XLA would make one slow loop of both.
    """
    if not in_xla:
        return tf.reduce_sum(t, 0)
    rows = tf.shape(t)[0]
    parts = tf.where((rows % 4 == 0) & (rows > 128), 4, tf.where(rows % 2 == 0, 2, 1))
    parts = tf.where(rows > 64, parts, 1)
    rest = tf.reduce_sum(tf.reshape(t, tf.stack([parts, -1])), 0)
    return tf.reduce_sum(tf.reshape(rest, tf.stack([-1, tf.shape(t)[1]])), 0)


def column_sum(t: tf.Tensor, in_xla: bool) -> tf.Tensor:
    """Sum a matrix over its columns: (rows, columns) -> (rows, 1).

    For XLA on a CPU as a product with ones, since its own sums of neighbours add one number after
    another; not for very long rows, where the product rounds worse. Accelerators may round the
    factors of a product to ten bits.
    """
    columns = t.shape[1]
    on_cpu = all(device.device_type == "CPU" for device in tf.config.get_visible_devices())
    if not (in_xla and on_cpu) or columns is None or columns > _LONGEST_PRODUCT:
        return tf.reduce_sum(t, 1, keepdims=True)
    return tf.matmul(t, tf.ones([tf.shape(t)[1], 1], t.dtype))


def clustered(function: Callable, backward: bool = False) -> Callable:
    """Decorate a function of tensors, which XLA compiles by itself where that pays.

    On a CPU a graph runs one operation after another, each of which reads and writes whole arrays;
    XLA makes a few loops of them. TensorFlow compiles such a cluster anew for each new shape, and
    goes back to single operations where it meets many: after ten compilations with fewer than ten
    runs each. All calls with arguments of the same kind, as from the layers of a network, share one
    trace and one compilation.

    Few entries, inference, eager operations, a function that XLA compiles anyway and GPUs are left
    alone.

    Args:
        function: function `f(*tensors, in_xla, **options)` that returns tensors. The first tensor
            is as large as those it computes with; `in_xla` tells whether XLA compiles it, for a
            choice between two forms; options are hashable, or tensors that need no derivative.
        backward: whether it is called in the backward pass of a custom gradient, and not in the
            forward pass.

    Returns:
        The function, which takes `apart` in place of `in_xla`: `False` where it must not be
        compiled by itself, since it leaves the replica's context. Its derivatives are those of its
        operations.
    """

    @tf.function(autograph=False, jit_compile=True)
    def of_known_shapes(*tensors, **options):
        return function(*tensors, in_xla=True, **options)

    # Kept apart from the graph that calls it: so all calls share its compiled code.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def compiled(*tensors, **options):
        with tf.xla.experimental.jit_scope():
            return function(*tensors, in_xla=True, **options)

    @tf.function(autograph=False)
    def of_any_size(*tensors, **options):
        return tf.cond(
            tf.size(tensors[0], tf.int64) >= _LEAST,
            lambda: compiled(*tensors, **options),
            lambda: function(*tensors, in_xla=False, **options),
        )

    def by_size(*tensors, **options):
        size = tensors[0].shape.num_elements()
        if size is None or None in [d for t in tensors for d in t.shape]:
            return of_any_size(*tensors, **options)
        if size < _LEAST:
            return function(*tensors, in_xla=False, **options)
        return of_known_shapes(*tensors, **options)

    @functools.wraps(function)
    def call(*tensors: tf.Tensor, apart: bool = True, **options: Any) -> Any:
        in_xla = compiled_by_xla()
        alone = tf.executing_eagerly() or in_xla or tf.config.get_visible_devices("GPU")
        # A forward pass without a tape is inference, which other programs may have to convert. A
        # backward pass under one is to be derived again, which clusters would make difficult.
        if alone or not apart or backward == tape_is_recording() or has_tangents(tensors):
            return function(*tensors, in_xla=in_xla, **options)
        if backward:
            return by_size(*tensors, **options)

        # A tape that watched the call would let it return all that its derivative could need.
        @tf.custom_gradient
        def unwatched(*tensors):
            values = by_size(*(tf.stop_gradient(t) for t in tensors), **options)

            def derivative(*upstream):
                with tf.GradientTape() as tape:
                    tape.watch(tensors)
                    values = function(*tensors, in_xla=False, **options)
                return tape.gradient(values, tensors, upstream, tf.UnconnectedGradients.ZERO)

            return values, derivative

        return unwatched(*tensors)

    return call
