"""Functions over gradients, dense or sparse: map, sums, norms, clipping.

A gradient is a tensor, a `tf.IndexedSlices` (the rows of a table that were looked up), or None
where the loss does not depend on the variable. Everything in the package that treats these three
alike uses `map_values`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp._keras import compiled_by_xla, one_operation

__all__ = [
    "all_finite",
    "as_gradient",
    "clip",
    "deduplicate",
    "global_norm",
    "map_values",
    "squared_norm",
    "squared_norms",
    "sum_over_replicas",
    "unscale",
    "values_of",
]

_MOST_ROWS = 4096  # whose sum in float32 is accurate to 1e-6

Gradient = Any
"""A tensor, a `tf.IndexedSlices`, or None."""


def values_of(gradient: Gradient) -> Any:
    """Return a gradient's entries: those of its rows if it is sparse."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def as_gradient(gradient: Any) -> Gradient:
    """Return a gradient as it is, and what else was given for one (a nested list) as a tensor."""
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(gradient)


def map_values(function: Callable[..., Any], gradient: Gradient) -> Gradient:
    """Apply a function to the entries of a gradient, dense or sparse.

    Args:
        function: function of a tensor that returns one of the same shape.
        gradient: a tensor, a `tf.IndexedSlices` or None, which stays None.

    Returns:
        A gradient of the same form, with the same indices where it is sparse.

    Example:
    >>> twice = tf.IndexedSlices(values=tf.ones((2, 1)), indices=tf.constant([1, 1]))
    >>> keras_bp.gradients.map_values(lambda values: 3 * values, twice).values.numpy().tolist()
    [[3.0], [3.0]]
    """
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = function(gradient.values)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return function(tf.convert_to_tensor(gradient))


def unscale(gradient: Gradient, factor: Any) -> Gradient:
    """Divide a gradient by the factor that the loss was multiplied by.

    A gradient in float16 or bfloat16 is divided in float32, to round nothing to 0, and comes back
    in float32.

    Args:
        gradient: a tensor, a `tf.IndexedSlices` or None, which stays None.
        factor: scalar number or tensor. If it is known to be 1, the gradient is returned as it is.

    Returns:
        A gradient of the same form.

    Example:
    >>> keras_bp.gradients.unscale(tf.constant([2.0, 4.0]), 2.0).numpy().tolist()
    [1.0, 2.0]
    """
    if tf.get_static_value(factor) == 1:
        return gradient

    def divide(values: tf.Tensor) -> tf.Tensor:
        values = tf.cast(values, tf.float32) if values.dtype.size < 4 else values
        # A number takes the gradient's dtype; `tf.cast` would round it to float32 first.
        return values / (tf.cast(factor, values.dtype) if tf.is_tensor(factor) else factor)

    return map_values(divide, gradient)


def all_finite(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Tell whether every entry of every gradient is finite, as a scalar bool tensor.

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or None.

    Example:
    >>> bool(keras_bp.gradients.all_finite([tf.constant([1.0, float("nan")]), None]))
    False
    """
    present = [values_of(gradient) for gradient in gradients if gradient is not None]
    # Stacked here: TensorFlow's reductions convert a list twice.
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(v)) for v in present] or [True]))


def deduplicate(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sum the rows of a sparse gradient per id, so that every id occurs once.

    The gradient of an embedding has one row per look-up. An id that was looked up three times
    occurs three times, and its gradient is the sum of the three rows:

        values'[u] = sum of values[k] over all k with indices[k] = u

    Whatever squares the values (a norm, Adam's second moment) is correct only after that sum.

    Args:
        gradient: `tf.IndexedSlices` with `values` of shape (n, ...) and integer `indices` of
            shape (n,); n may be 0.

    Returns:
        A `tf.IndexedSlices` of the same dtype and dense shape, with `values` of shape (u, ...)
        and `indices` of shape (u,), the u different ids in the order in which they first appear.
        It represents the same dense tensor. This works inside `tf.function`, and under XLA too, but
        there only once, since the compiled `tf.unique` takes the padding of its own result for ids.

    Raises:
        TypeError: if `gradient` is not a `tf.IndexedSlices`.

    Example:
    >>> slices = tf.IndexedSlices(
    ...     values=tf.constant([[1.0], [2.0], [4.0]]), indices=tf.constant([7, 3, 7])
    ... )
    >>> unique = keras_bp.gradients.deduplicate(slices)
    >>> unique.indices.numpy().tolist(), unique.values.numpy().tolist()
    ([7, 3], [[5.0], [2.0]])
    """
    if not isinstance(gradient, tf.IndexedSlices):
        raise TypeError(
            "`gradient` must be a tf.IndexedSlices, the gradient of a look-up in a "
            f"table. Received: gradient={gradient!r} (of type {type(gradient).__name__})"
        )
    ids, segments = tf.unique(gradient.indices)
    sums = tf.math.unsorted_segment_sum(gradient.values, segments, tf.size(ids))
    return tf.IndexedSlices(sums, ids, gradient.dense_shape)


def squared_norm(gradient: Gradient) -> tf.Tensor:
    """Squared L2 norm of one gradient: the sum of the squares of its entries.

    A sparse gradient counts as the dense tensor it represents: rows of the same id are summed
    first, then squared.

    Args:
        gradient: a tensor of any shape and floating dtype, a `tf.IndexedSlices`, or None (the
            loss does not depend on the variable), which counts as zeros.

    Returns:
        A scalar float64 tensor, see `squared_norms`.

    Example:
    >>> float(keras_bp.gradients.squared_norm(tf.constant([3.0, 4.0])))
    25.0
    >>> twice = tf.IndexedSlices(values=tf.constant([[1.0], [1.0]]), indices=tf.constant([0, 0]))
    >>> float(keras_bp.gradients.squared_norm(twice))
    4.0
    """
    return squared_norms([gradient])[0]


def squared_norms(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Squared L2 norm of each of a list of gradients, see `squared_norm`.

    Squares are summed in float64 wherever float32 might not hold them: those of gradients of up to
    float32 neither overflow nor vanish, those of float64 overflow at an entry of about 1e154.

    Args:
        gradients: list of n tensors of any shape and floating dtype, `tf.IndexedSlices` or None.

    Returns:
        A float64 tensor of shape (n,).

    Example:
    >>> gradients = [tf.constant([3.0, 4.0]), None, tf.constant(1e20)]
    >>> [f"{square:.4g}" for square in keras_bp.gradients.squared_norms(gradients)]
    ['25', '0', '1e+40']
    """
    kept = [_deduplicated_values(g) for g in gradients if g is not None]
    if not kept:
        return tf.zeros((len(gradients),), tf.float64)
    squares = _sums_of_squares(kept)
    if len(kept) == len(gradients):
        return squares
    each = iter(tf.unstack(squares, len(kept)))
    return tf.stack([tf.zeros((), tf.float64) if g is None else next(each) for g in gradients])


def _sums_of_squares(values):
    def sums(dtype):
        # l2_loss is half the sum of squares in one kernel that holds no squared copy.
        halves = [tf.nn.l2_loss(tf.cast(v, dtype(v))) for v in values]
        if len({half.dtype for half in halves}) > 1:
            halves = [tf.cast(half, tf.float64) for half in halves]
        return 2.0 * tf.cast(tf.stack(halves), tf.float64)

    def in_float64():
        return sums(lambda v: tf.float64)

    # With a tf.cond XLA rounds other operations of the step differently: training would not be the
    # same with and without a monitor.
    if compiled_by_xla():
        return tf.stack([_sum_of_squares_in_xla(v) for v in values])
    # Outside, float64 takes three times as long.
    squares = sums(lambda v: tf.float64 if v.dtype == tf.float64 else tf.float32)
    sure = tf.math.is_finite(squares) & (squares > 1e-30)
    return one_operation(tf.cond(tf.reduce_all(sure), lambda: squares, in_float64))


def _sum_of_squares_in_xla(values):
    # XLA sums columns eight at a time, and a row one by one, in float64 at half the pace. Beside
    # the largest of its column an entry neither overflows nor, if it counts, vanishes.
    rows = np.prod(values.shape[:-1]) if values.shape.is_fully_defined() else np.inf
    if values.dtype == tf.float64 or not 1 < rows <= _MOST_ROWS:
        return tf.reduce_sum(tf.square(tf.cast(values, tf.float64)))
    values, axes = tf.cast(values, tf.float32), list(range(values.shape.rank - 1))
    largest = tf.reduce_max(tf.abs(values), axes)
    largest = tf.where(tf.math.is_finite(largest) & (largest > 0), largest, 1.0)
    squares = tf.reduce_sum(tf.square(values / largest), axes)
    return tf.reduce_sum(tf.cast(squares, tf.float64) * tf.square(tf.cast(largest, tf.float64)))


def _deduplicated_values(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        # In float64, as the sum of an id's rows may be larger than any of them.
        wide = map_values(lambda values: tf.cast(values, tf.float64), gradient)
        return deduplicate(wide).values
    return tf.convert_to_tensor(gradient)


def global_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """L2 norm of a list of gradients, taken as one long vector.

        ||g|| = sqrt(sum over the gradients of ||g_i||^2)

    It is the true norm: in a sparse gradient the rows of the same id are summed before they are
    squared. `tf.linalg.global_norm` squares them one by one, so that an id looked up twice with
    the row [1, 1] gives 2.0 where the gradient [2, 2] has the norm 2.83.

    Args:
        gradients: list or tuple whose items are tensors of any shape and floating dtype,
            `tf.IndexedSlices`, or None, which counts as zeros.

    Returns:
        A scalar tensor, 0.0 for an empty list: float64 if any gradient is float64, else float32,
        in which a norm over 3.4e38 is infinite. See `squared_norms` for the range of float64.

    Raises:
        TypeError: if `gradients` is not a list or tuple.

    Example:
    >>> float(keras_bp.gradients.global_norm([tf.constant([[3.0]]), None, tf.constant([4.0])]))
    5.0
    >>> twice = tf.IndexedSlices(values=tf.ones((2, 2)), indices=tf.constant([1, 1]))
    >>> round(float(keras_bp.gradients.global_norm([twice])), 2)
    2.83

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks
        (2013), Algorithm 1: the norm by which gradients are clipped together.
    """
    if not isinstance(gradients, list | tuple):
        raise TypeError(
            "`gradients` must be a list or tuple of gradients. "
            f"Received: gradients={gradients!r} (of type {type(gradients).__name__})"
        )
    wide = any(gradient is not None and gradient.dtype == tf.float64 for gradient in gradients)
    return tf.cast(_norm_of_all(gradients), tf.float64 if wide else tf.float32)


def _norm_of_all(gradients):
    return tf.sqrt(tf.reduce_sum(squared_norms(gradients)))


def clip(
    gradients: Sequence[Gradient],
    *,
    clipvalue: float | None = None,
    clipnorm: float | None = None,
    global_clipnorm: float | None = None,
) -> list[Gradient]:
    """Clip a list of gradients by at most one of three bounds.

        clipvalue        g <- min(max(g, -c), c), entry by entry
        clipnorm         g <- g c / max(||g||, c), each gradient by its own norm
        global_clipnorm  g <- g c / max(||all g||, c), all by their common norm

    The last two keep directions, of each gradient or of all together. The rows of a sparse
    gradient are summed per id first, so that the bound holds for the gradient it represents.

    Args:
        gradients: list of tensors of any shape and floating dtype, `tf.IndexedSlices` or None,
            which stays None.
        clipvalue: float > 0, or None.
        clipnorm: float > 0, or None.
        global_clipnorm: float > 0, or None.

    Returns:
        A list of the same length, dtypes and forms; the list's own items where no bound is given.
        If an entry is not finite, or one of float64 is over about 1e154, all entries that are
        divided by that norm become NaN, so that the fault is not hidden.

    Raises:
        TypeError: if a bound is not a number.
        ValueError: if more than one bound is given, or one is not above 0.

    Example:
    >>> [g] = keras_bp.gradients.clip([tf.constant([3.0, 4.0])], global_clipnorm=1.0)
    >>> [round(float(entry), 2) for entry in g]
    [0.6, 0.8]

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks
        (2013), Algorithm 1.
    """
    bounds = {"clipvalue": clipvalue, "clipnorm": clipnorm, "global_clipnorm": global_clipnorm}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if len(given) > 1:
        raise ValueError(
            "At most one of `clipvalue`, `clipnorm` and `global_clipnorm` can be set. "
            f"Received: {', '.join(f'{name}={bound!r}' for name, bound in given.items())}"
        )
    if not given:
        return list(gradients)
    [bound] = (check_number(name, bound, 0.0, low_open=True) for name, bound in given.items())
    gradients = [deduplicate(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    if clipvalue is not None:
        return [
            map_values(lambda values: tf.clip_by_value(values, -bound, bound), gradient)
            for gradient in gradients
        ]
    # Of the values: under XLA, tf.unique takes the padding that it made itself for ids, so a
    # gradient cannot be deduplicated twice.
    values = [values_of(gradient) for gradient in gradients]
    norm = _norm_of_all(values) if clipnorm is None else tf.sqrt(squared_norms(values))
    # NaN where a norm is not finite.
    excess = tf.maximum(norm / bound, 1) + (norm - norm)
    excesses = [excess] * len(values) if clipnorm is None else tf.unstack(excess, len(values))
    return [
        map_values(lambda g, e=e: _divide(g, e), g)
        for g, e in zip(gradients, excesses, strict=True)
    ]


def _divide(values, divisor):
    # Not times the inverse: that of 1e38 is no normal number in float32, and counts as 0.
    wide = tf.cast(values, tf.float32) if values.dtype.size < 4 else values
    # The excess of 3e38 over 0.1 is more than float32 holds, so a power of two is taken out of it.
    scale = tf.where(divisor > 2.0**64, tf.constant(2.0**-64, tf.float64), 1.0)
    quotient = wide / tf.cast(divisor * scale, wide.dtype) * tf.cast(scale, wide.dtype)
    return tf.cast(quotient, values.dtype)


def sum_over_replicas(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Sum each gradient over the replicas, so that every replica holds the global one.

        g_i = sum over the replicas r of g_i[r]

    Keras divides the loss by the number of replicas, so that this sum is the gradient of the mean
    over the global batch. Whatever depends on the whole gradient (a norm, clipping, a check for
    NaN) is correct only after it. With one replica, or outside `strategy.run`, there is nothing to
    sum.

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or None, of any dtypes.

    Returns:
        A list of the same length: dense gradients summed, the rows of sparse ones
        concatenated (`deduplicate` sums them), None left as it is.

    Raises:
        ValueError: if it is called in a strategy's scope outside of its replicas.

    Example:
    >>> [total, missing] = keras_bp.gradients.sum_over_replicas([tf.constant([1.0, 2.0]), None])
    >>> total.numpy().tolist(), missing
    ([1.0, 2.0], None)
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Gradients are summed over the replicas inside `strategy.run`. "
            "Received: a call in the strategy's scope, outside of its replicas"
        )
    sums = list(gradients)
    if context.num_replicas_in_sync > 1:
        # Of one dtype at a time: TensorFlow concatenates what it is given together.
        for dtype in dict.fromkeys(g.dtype for g in gradients if g is not None):
            same = [i for i, g in enumerate(gradients) if g is not None and g.dtype == dtype]
            parts = [gradients[i] for i in same]
            totals = context.all_reduce(tf.distribute.ReduceOp.SUM, parts)
            for i, total in zip(same, totals, strict=True):
                sums[i] = total
    return sums
