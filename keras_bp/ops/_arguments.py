"""Checks of arguments that several ops share."""

import numbers

import tensorflow as tf


def floating(x, name, dtype=None):
    """Return `x` as a floating-point tensor (of `dtype`), or raise an error that names it."""
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(f"`{name}` must be a floating-point tensor. Received: dtype={x.dtype.name}")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(
            f"`{name}` must have the dtype of the other arguments, {dtype.name}. "
            f"Received: dtype={x.dtype.name}"
        )
    return x


def nonnegative(value, name):
    """Raise unless `value` is a number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number of 0 or more. Received: {name}={value!r}")
    if not value >= 0:
        raise ValueError(f"`{name}` must be a number of 0 or more. Received: {name}={value!r}")


def axis_of(x, axis, name="x"):
    """Return `axis` counted from the front, or raise where `x` has no such axis."""
    rank = x.shape.rank
    if not rank:
        raise ValueError(f"`{name}` must have a known rank, 1 or more. Received: shape={x.shape}")
    valid = isinstance(axis, numbers.Integral) and not isinstance(axis, bool)
    if not valid or not -rank <= axis < rank:
        raise ValueError(
            f"`axis` must be an integer in [-{rank}, {rank}), the rank of `{name}`. "
            f"Received: axis={axis!r} for {name} of shape {x.shape}"
        )
    return int(axis) % rank


def channel_axis(x, axis):
    """Return `axis` counted from the front, or raise where `x` has no such known channels."""
    axis = axis_of(x, axis)
    if x.shape[axis] is None:
        raise ValueError(
            "`axis` must be an axis of known length, as there is a weight for each channel. "
            f"Received: axis={axis} for x of shape {x.shape}"
        )
    return axis


def per_channel(weight, name, channels, dtype, default):
    """Return a weight of shape (channels,) in `dtype`; `None` stands for `default(shape)`."""
    if weight is None:
        return default([channels], dtype)
    weight = tf.convert_to_tensor(weight)
    if not weight.shape.is_compatible_with([channels]):
        raise ValueError(
            f"`{name}` must have shape ({channels},), a number a channel. "
            f"Received: shape={weight.shape}"
        )
    return tf.cast(weight, dtype)
