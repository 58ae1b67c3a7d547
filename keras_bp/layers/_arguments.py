"""Checks and conversions of arguments that several layers share."""

import numbers

import tensorflow as tf


def floating_inputs(inputs, dtype):
    """Return `inputs` as a floating-point tensor; integers and booleans become `dtype`.

    Keras casts floating-point inputs before `call`, but not integers.
    """
    inputs = tf.convert_to_tensor(inputs)
    return inputs if inputs.dtype.is_floating else tf.cast(inputs, dtype)


def check_number(value, name, minimum=0.0, maximum=None):
    """Raise unless `value` is a number in [minimum, maximum]."""
    expected = f"a number of {minimum:g} or more"
    if maximum is not None:
        expected = f"a number in [{minimum:g}, {maximum:g}]"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    if not value >= minimum or (maximum is not None and value > maximum):
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def check_positive_integer(value, name):
    """Raise unless `value` is an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")


def check_axis(axis):
    """Raise unless `axis` is an integer."""
    if isinstance(axis, bool) or not isinstance(axis, numbers.Integral):
        raise TypeError(f"`axis` must be an integer. Received: axis={axis!r}")


def check_known_axes(axes, input_shape):
    """Raise unless every one of `axes` lies in `input_shape` and has a known length there."""
    rank = len(input_shape)
    for axis in axes:
        if not -rank <= axis < rank:
            raise ValueError(
                f"`axis` must be in [-{rank}, {rank}), the rank of the input. "
                f"Received: axis={axis} for an input of shape {tuple(input_shape)}"
            )
        if input_shape[axis] is None:
            raise ValueError(
                "`axis` must be an axis of known length, as there is a weight for each index. "
                f"Received: axis={axis} for an input of shape {tuple(input_shape)}"
            )
