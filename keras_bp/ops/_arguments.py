"""Checks of arguments that several ops share."""

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


def channel_axis(x, axis):
    """Return `axis` counted from the front, or raise where `x` has no such known channels."""
    rank = x.shape.rank
    if rank is None or rank < 2:
        raise ValueError(f"`x` must have a known rank of 2 or more. Received: shape={x.shape}")
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        raise ValueError(
            f"`axis` must be an integer in [-{rank}, {rank}), the rank of `x`. "
            f"Received: axis={axis!r} for x of shape {x.shape}"
        )
    if x.shape[axis] is None:
        raise ValueError(
            f"Axis {axis} of `x`, which holds the channels, must have a known length. "
            f"Received: x of shape {x.shape}"
        )
    return axis % rank


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
