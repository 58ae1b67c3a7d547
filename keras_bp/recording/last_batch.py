"""The data of the last step, kept on the device."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_bp.recording.recorder import Recorder


class LastBatch(Recorder):
    """Keeps the data of each recorded step until the next one, for what is computed beside it.

    The step hands its data out, beside its logs: nothing is copied, and what else is in the step
    stays the same. Only under a strategy of several replicas, whose outputs are reduced to one,
    each assigns its part to variables.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        shows_loss: whether the loss that the step minimizes is what `compute_loss` returned.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self.shows_loss = False
        self._structure: Any = None
        self._leaves: tuple = ()
        self._variables: list[Any] = []

    def see_data(self, data: Any) -> None:
        """Take the data of the step, as the model's `train_step` is about to get them."""
        self._structure = data
        self._replica.leaves = tuple(filter(tf.is_tensor, _flat(data)))
        if self._model.distribute_strategy.num_replicas_in_sync > 1:
            for number, leaf in enumerate(self._replica.leaves):
                if number == len(self._variables):
                    self._variables.append(
                        self._variable(_nothing(leaf.dtype), tf.TensorShape(None))
                    )
                self._variables[number].assign(leaf)

    def see_loss(self, loss: Any, scale_loss: Callable[[Any], Any]) -> None:
        """Take the loss that the step is about to scale."""
        self.shows_loss = loss is vars(self._replica).pop("computed", None)

    def see_update(
        self, gradients: list, variables: list
    ) -> contextlib.AbstractContextManager[None]:
        """Return an empty context."""
        return contextlib.nullcontext()

    def hand_out(self) -> tuple:
        """Return the tensors of the data."""
        leaves = vars(self._replica).pop("leaves")
        return () if self._variables else leaves

    def take(self, tensors: tuple) -> None:
        """Take the tensors of the last step's data."""
        self._leaves = tensors

    def read(self) -> Any:
        """Return the data of the last step; under a strategy, each replica's part."""
        if not self._variables:
            return self._packed(self._leaves)
        strategy = self._model.distribute_strategy
        each = zip(*map(strategy.experimental_local_results, self._variables), strict=True)
        parts = (self._packed([tf.identity(variable) for variable in own]) for own in each)
        return strategy.experimental_distribute_values_from_function(lambda _: next(parts))

    def _packed(self, leaves):
        given = iter(leaves)
        flat = [next(given) if tf.is_tensor(leaf) else leaf for leaf in _flat(self._structure)]
        return tf.nest.pack_sequence_as(self._structure, flat, expand_composites=True)


def _nothing(dtype):
    # Made where the variable is, outside of the trace.
    return lambda: tf.zeros([0], dtype)


def _flat(data):
    return tf.nest.flatten(data, expand_composites=True)
