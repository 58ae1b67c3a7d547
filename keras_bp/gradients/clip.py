"""Clip gradients: each entry, each tensor's norm, or the norm of all together."""

import tensorflow as tf

from keras_bp._arguments import check_number
from keras_bp.gradients.deduplicate import deduplicate
from keras_bp.gradients.global_norm import global_norm


def clip(gradients, *, clipvalue=None, clipnorm=None, global_clipnorm=None):
    """Clip a list of gradients by at most one of three bounds.

        clipvalue        g <- min(max(g, -c), c), entry by entry
        clipnorm         g <- g c / max(||g||, c), each gradient by its own norm
        global_clipnorm  g <- g c / max(||all g||, c), all by their common norm

    The last two keep directions, of each gradient or of all together. The rows of a sparse
    gradient are summed per id first, so that the bound holds for the gradient it stands for.

    Args:
        gradients: list of tensors of any shape and floating dtype, `tf.IndexedSlices` or None,
            which stays None.
        clipvalue: float > 0, or None.
        clipnorm: float > 0, or None.
        global_clipnorm: float > 0, or None.

    Returns:
        A list of the same length, dtypes and forms; the list's own items where no bound is given.
        A norm that is not finite gives NaN throughout, so that the fault is not hidden.

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
    for name, bound in given.items():
        check_number(name, bound, 0.0, low_open=True)
    if not given:
        return list(gradients)
    gradients = [deduplicate(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    if clipvalue is not None:
        return _with_values(gradients, lambda g: tf.clip_by_value(g, -clipvalue, clipvalue))
    if clipnorm is not None:
        return _with_values(gradients, lambda g: g * _share(global_norm([g]), clipnorm, g.dtype))
    # Of the values: compiled by XLA, tf.unique takes the padding of ids that it made itself for
    # ids, so that a gradient cannot be deduplicated twice.
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    norm = global_norm(values)
    return _with_values(gradients, lambda g: g * _share(norm, global_clipnorm, g.dtype))


def _share(norm, bound, dtype):
    """Return what a gradient of this norm is multiplied by, NaN where the norm is not finite."""
    bound = tf.constant(bound, norm.dtype)
    return tf.cast(bound / tf.maximum(norm, bound) + (norm - norm), dtype)


def _with_values(gradients, function):
    """Apply a function to the entries of each gradient, dense or sparse."""

    def apply(gradient):
        if gradient is None:
            return None
        if isinstance(gradient, tf.IndexedSlices):
            values = function(gradient.values)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return function(tf.convert_to_tensor(gradient))

    return [apply(gradient) for gradient in gradients]
