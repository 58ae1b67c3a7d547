"""The weights of the tasks as a function of their gradients' Gram matrix."""

import abc
from collections.abc import Sequence
from typing import Any, Self

import tensorflow as tf

from keras_bp._arguments import check_floating
from keras_bp._types import Array


class Weighting(abc.ABC):
    """Turns the Gram matrix of T tasks' gradients into T weights.

    With J the T x P Jacobian, whose rows are the tasks' gradients,

        a = weights(M),    M = J J^T

    It does not know the gradients themselves or how the weights are used: a `Combiner` adds that. A
    subclass overrides `_weights(gramian, present)`.

    Args:
        **arguments: the weighting's constructor's arguments, for `get_config`.

    Attributes:
        variables: sequence of the variables that the weighting learns, empty for most.
    """

    variables: Sequence = ()

    def __init__(self, **arguments: Any) -> None:
        self._config = arguments

    def build(self, tasks: int) -> None:  # noqa: B027 (most have none)
        """Create the weighting's own variables, if it has any, for a number of tasks."""

    def weights(
        self, gramian: Array, present: Array | None = None, losses: Array | None = None
    ) -> tf.Tensor:
        """Return the weights of the tasks, in float64; learned weights take a step.

        Args:
            gramian: floating-point tensor M = J J^T of shape (T, T), positive semi-definite and
                finite.
            present: boolean tensor of shape (T,), False for tasks that are left out, or `None`
                if all take part.
            losses: floating-point tensor of shape (T,), for the weightings that need the losses.

        Returns:
            A tensor of shape (T,) with a weight of 0 for each task that is left out.
        """
        gramian, present = checked(gramian, present)
        return tf.where(present, self._weights(gramian, present), 0.0)

    @abc.abstractmethod
    def _weights(self, gramian, present):
        """Return the weights of shape (T,); see `Combiner`."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `from_config`."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create a weighting from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._config.items())
        return f"{type(self).__name__}({arguments})"


def checked(gramian, present):
    """Return a Gram matrix in float64, 0 for absent tasks, and which tasks are present."""
    gramian = tf.cast(check_floating("gramian", gramian), tf.float64)
    shape = gramian.shape
    if shape.rank != 2 or not shape.is_fully_defined() or shape[0] != shape[1] or not shape[0]:
        raise ValueError(
            "`gramian` must have the shape (T, T), with T the known number of tasks. "
            f"Received: gramian of shape {shape}"
        )
    present = tf.ones(shape[:1], tf.bool) if present is None else tf.convert_to_tensor(present)
    if present.dtype != tf.bool or present.shape != shape[:1]:
        raise ValueError(
            f"`present` must be a boolean tensor of shape {shape[:1]}, with one entry per "
            f"task. Received: present of shape {present.shape} and dtype {present.dtype.name}"
        )
    return of_present(gramian, present), present


def of_present(gramians, present):
    """Return Gram matrices with rows and columns of 0 for absent tasks."""
    return tf.where(present[..., :, None] & present[..., None, :], gramians, 0.0)


def equal_weights(present, dtype):
    """Return 1/n for each of the n tasks that are present, and 0 for the others.

    The tasks are along the last axis.
    """
    present = tf.cast(present, dtype)
    return present / tf.maximum(tf.reduce_sum(present, axis=-1, keepdims=True), 1.0)
