"""The checks of arguments that several parts share, and the call that a `__repr__` writes of them.

A check takes the argument's name and the value that the caller passed, returns the value in the
form that is used, and raises a TypeError or ValueError in one form:

    `name` must be <what was expected>. Received: name=<what came>
"""

import inspect
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_INTEGER = 2**63 - 1


def _received(name, value):
    try:
        return f"Received: {name}={value!r}"
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"Received: {name} of type {type(value).__name__}, too long to be written"


def _is_a(kind, value):
    # NumPy's bool is no subclass of Python's, and no number; its time differences count as numbers.
    return isinstance(value, kind) and not isinstance(value, bool | np.timedelta64)


def as_call(cls: type, arguments: dict[str, Any], *, changed: bool = False) -> str:
    """Write the call of a constructor, for a `__repr__`.

    Args:
        cls: the class.
        arguments: dictionary, an argument's name -> its value.
        changed: bool, whether to write only what is an argument, of the class or of one that it
            derives from, and has another value than the default there; and not the name.
    """
    if changed:
        bases = [
            inspect.signature(vars(c)["__init__"]) for c in cls.__mro__ if "__init__" in vars(c)
        ]
        defaults = {name: p.default for base in bases for name, p in base.parameters.items()}
        arguments = {
            name: arguments[name]
            for name, default in defaults.items()
            if name in arguments and name != "name"
            if default is inspect.Parameter.empty or (arguments[name] or None) != (default or None)
        }
    written = (f"{name}={_written(value)}" for name, value in arguments.items())
    return f"{cls.__name__}({', '.join(written)})"


def _written(value):
    if not isinstance(value, keras.Variable):
        return repr(value)
    with tf.init_scope():  # where it has a value, also while a function is traced
        return f"{float(value.numpy()):.7g}"


def check_flag(name: str, value: Any) -> bool:
    """Check that `value` is `True` or `False`, or 1 or 0, and return it as a bool.

    Anything else is a TypeError: NaN and the string "False" count as true in Python.
    """
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise TypeError(f"`{name}` must be True or False. {_received(name, value)}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Check that `value` is one of some strings, and return it; anything else is a ValueError."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. {_received(name, value)}")
    return value


def check_table(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Check that `value`, or all that a list holds, is of this shape; return it as an array."""
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    try:
        table = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        table = np.empty((), object)
    if table.shape != shape or table.dtype.kind not in "fiuV":
        raise ValueError(
            f"`{name}` must be an array of numbers of shape {shape}. Received: {name} of type "
            f"{type(value).__name__}, shape {table.shape} and dtype {table.dtype.name}"
        )
    return table


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Check that `value` is within its bounds and finite in float32, and return it as a float.

    Args:
        name: string, the argument's name, for the message.
        value: what the caller passed.
        low: float, the lower bound. Defaults to none.
        high: float, the upper bound. Defaults to none.
        low_open: bool, whether `low` itself is refused. Defaults to `False`.
        high_open: bool, whether `high` itself is refused. Defaults to `False`.

    Returns:
        A float: a `.keras` file holds JSON, so a NumPy number becomes a Python one.

    Raises:
        TypeError: if `value` is not a real number (a bool is not one here).
        ValueError: if it is NaN, infinite, beyond float32 or out of bounds.
    """
    left = "(" if low_open or low == -math.inf else "["
    right = ")" if high_open or high == math.inf else "]"
    expected = f"`{name}` must be a finite number in {left}{low:g}, {high:g}{right}."
    if not _is_a(numbers.Real, value):
        raise TypeError(f"{expected} {_received(name, value)}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond float64
        number = math.inf
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if _LARGEST < abs(number) < math.inf:
        expected = f"{expected[:-1]}, and finite in float32."
    if not (abs(number) <= _LARGEST and above and below):
        raise ValueError(f"{expected} {_received(name, value)}")
    return number


def check_integer(name: str, value: Any, low: int | None = None, below: int | None = None) -> int:
    """Check that `value` is a whole number in [low, below) that int64 holds; return it as an int.

    Args:
        name: string, the argument's name, for the message.
        value: what the caller passed.
        low: int, the smallest value allowed, or `None` for no bound.
        below: int, what the value must stay under, or `None` for no bound.

    Raises:
        TypeError: if `value` is not an integer (a bool is not one here).
        ValueError: if it is out of bounds.
    """
    bounds = ["" if low is None else f" of {low} or more"]
    bounds += ["" if below is None else f" and under {below}"]
    expected = f"`{name}` must be an integer{''.join(bounds)}."
    if not _is_a(numbers.Integral, value):
        raise TypeError(f"{expected} {_received(name, value)}")
    number = int(value)
    low = -_LARGEST_INTEGER if low is None else low
    if not low <= number <= _LARGEST_INTEGER or (below is not None and number >= below):
        raise ValueError(f"{expected} {_received(name, value)}")
    return number


def check_positive_integer(name: str, value: Any) -> int:
    """Check that `value` is an int of 1 or more, and return it.

    Anything else is a ValueError, as in Keras's layers.
    """
    if not _is_a(int, value) or not 1 <= value <= _LARGEST_INTEGER:
        raise ValueError(f"`{name}` must be a positive integer. {_received(name, value)}")
    return value


def check_verbose(name: str, value: Any) -> int:
    """Check that `value` is 0, 1, 2 or "auto", as Keras's `verbose`, and return it; "auto" as 1."""
    return 1 if isinstance(value, str) and value == "auto" else check_integer(name, value, 0, 3)


def check_path(name: str, value: Any) -> str | os.PathLike:
    """Check that `value` is a path that is not empty, and return it."""
    expected = f"`{name}` must be a path that is not empty, a string or an os.PathLike."
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{expected} Received: {name}={value!r}")
    if not os.fspath(value):
        raise ValueError(f"{expected} Received: {name}={value!r}")
    return value


def check_suffix(name: str, value: str | os.PathLike, suffixes: Sequence[str]) -> None:
    """Check that a path ends with one of some suffixes, such as ".png"."""
    if os.path.splitext(os.fspath(value))[1].lower() not in suffixes:
        raise ValueError(
            f"`{name}` must name a file that ends with {' or '.join(suffixes)}. "
            f"Received: {name}={os.fspath(value)!r}"
        )


def check_mapping(name: str, value: Any) -> Mapping:
    """Check that `value` is a mapping that is not empty, and return it."""
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be a mapping by name. Received: {name}={value!r}")
    if not value:
        raise ValueError(f"`{name}` must have one entry or more. Received: {name}={value!r}")
    return value


def check_callable(name: str, value: Any) -> None:
    """Check that `value`, which is to make something, can be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a callable that makes one. Received: {value!r}")


def check_rate(name: str, value: Any) -> Any:
    """Return a schedule or callable as it is, and a constant learning rate as a float >= 0."""
    if callable(value) and not isinstance(value, type):
        return value
    forms = "a schedule or a function without arguments that returns the rate"
    return _constant_rate(name, value, f"a finite number in [0, inf), {forms}")


def check_schedule(name: str, value: Any) -> Any:
    """Return a schedule as it is, and a constant learning rate as a float of 0 or more."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    schedule = "a `keras.optimizers.schedules.LearningRateSchedule`"
    return _constant_rate(name, value, f"{schedule} or a number for a constant rate")


def _constant_rate(name, value, expected):
    try:
        return check_number(name, value, 0.0)
    except TypeError as error:
        raise TypeError(f"`{name}` must be {expected}. {_received(name, value)}") from error


def check_floating(name: str, value: Any, dtype: tf.DType | None = None) -> tf.Tensor:
    """Check that `value` is floating-point (of `dtype`, if given), and return it as a tensor."""
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_floating:
        raise TypeError(
            f"`{name}` must be a floating-point tensor. Received: dtype={value.dtype.name}"
        )
    if dtype is not None and value.dtype != dtype:
        raise TypeError(
            f"`{name}` must have the dtype of the other arguments, {dtype.name}. "
            f"Received: dtype={value.dtype.name}"
        )
    return value


def as_floating(inputs: Any, dtype: str) -> tf.Tensor:
    """Return a layer's inputs as a floating-point tensor; integers and booleans become `dtype`.

    Keras casts floating-point inputs before `call`, but not integers.
    """
    inputs = tf.convert_to_tensor(inputs)
    return inputs if inputs.dtype.is_floating else tf.cast(inputs, dtype)


def check_axis(
    name: str, axis: Any, shape: Sequence[int | None], of: str = "x", *, known: bool = False
) -> int:
    """Check that a shape has an axis, and return it counted from the front.

    Args:
        name: string, the argument's name, for the message.
        axis: what the caller passed, an integer in [-rank, rank).
        shape: sequence of ints or None, the shape that it is an axis of.
        of: string, the name of what has that shape, for the message.
        known: bool, whether the axis must have a known length. Defaults to `False`.

    Raises:
        TypeError: if `axis` is not an integer.
        ValueError: if there is no such axis, or its length must be known and is not.
    """
    rank = len(shape)
    expected = f"`{name}` must be an integer in [-{rank}, {rank}), the rank of `{of}`."
    received = f"{_received(name, axis)} for `{of}` of shape {tuple(shape)}"
    if not _is_a(numbers.Integral, axis):
        raise TypeError(f"{expected} {received}")
    index = int(axis)
    if not -rank <= index < rank:
        raise ValueError(f"{expected} {received}")
    if known and shape[index] is None:
        raise ValueError(
            f"`{name}` must be an axis of known length, as there is one weight per index. "
            f"{received}"
        )
    return index % rank
