"""The arguments of `check_gradients`, made uniform or refused."""

import numbers

import keras
import numpy as np
import tensorflow as tf


def as_tensors(name, data):
    """Turn arrays in a structure into tensors: floating ones into finite float64, others as is.

    Raises:
        TypeError: If a leaf is not an array or a tensor.
        ValueError: If a leaf is empty, or holds NaN or infinity.
    """
    return keras.tree.map_structure(lambda leaf: _as_tensor(name, leaf, data), data)


def _as_tensor(name, leaf, data):
    is_number = isinstance(leaf, numbers.Number) and leaf is data
    if not (is_number or tf.is_tensor(leaf) or hasattr(leaf, "__array__")):
        raise TypeError(
            f"{name} must be an array or a tensor, or a list, tuple or dict of them. Received: an "
            f"element {leaf!r} of type {type(leaf).__name__}"
        )
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(f"{name} must be dense. Received: a {type(leaf).__name__}")
    tensor = tf.convert_to_tensor(leaf)
    if tensor.dtype.is_complex:
        raise TypeError(f"{name} must be real. Received: an array of dtype {tensor.dtype.name}")
    if not tensor.dtype.is_floating:
        return tensor
    tensor = tf.cast(tensor, tf.float64)
    if not tf.reduce_all(tf.math.is_finite(tensor)):
        raise ValueError(
            f"{name} must be finite. Received: NaN or infinity in an array of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor


def require_one_batch(inputs):
    """Raise a ValueError unless all inputs of a model have the same number of examples."""
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(inputs) if leaf.shape.rank]
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"inputs must all have the same number of examples. Received: shapes {shapes}"
        )


def as_losses(loss, targets):
    """Turn a loss, or a structure of losses, into callables; `None` stays.

    Raises:
        TypeError: If one is not a string or a callable.
        ValueError: If a string names no loss, or one of `loss` and `targets` is missing.
    """
    if (loss is None) != (targets is None):
        given, missing = ("targets", "loss") if loss is None else ("loss", "targets")
        raise ValueError(
            f"loss and targets must be given together. Received: {given} without {missing}"
        )
    return None if loss is None else keras.tree.map_structure(_as_loss, loss)


def _as_loss(loss):
    if isinstance(loss, str):
        try:
            return keras.losses.get(loss)
        except ValueError as error:
            raise ValueError(
                f"loss must name a loss of keras.losses. Received: loss={loss!r}"
            ) from error
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(
            "loss must be a keras.Loss (an instance, not the class), a name or a function of "
            f"(targets, outputs). Received: loss={loss!r} of type {type(loss).__name__}"
        )
    return loss


def require_numbers(epsilon, max_entries, seed):
    """Raise a TypeError or ValueError unless these are a step, a count or None, and a seed."""
    if not isinstance(epsilon, numbers.Real) or isinstance(epsilon, bool):
        raise TypeError(f"epsilon must be a float. Received: epsilon={epsilon!r}")
    if not (epsilon > 0.0 and np.isfinite(epsilon)):
        raise ValueError(f"epsilon must be positive and finite. Received: epsilon={epsilon!r}")
    for name, value, least in (("max_entries", max_entries, 1), ("seed", seed, 0)):
        if name == "max_entries" and value is None:
            continue
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer. Received: {name}={value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}. Received: {name}={value!r}")
