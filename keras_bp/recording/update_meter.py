"""How far an update moves the weights, measured between two calls of the step."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._keras import traced
from keras_bp.gradients import squared_norms
from keras_bp.recording.histograms import block_rows, is_large


class UpdateMeter:
    """Measures the norms of an update and of the weights, outside the step.

    Inside, each step would hold and read a second copy of all weights. Outside, only a measured
    step pays for one. Of large variables a block of rows is held beside it at a time. From the
    second time on, `start` and `stop` are one traced function each, of all variables.

    Args:
        variables: list of Keras variables.

    Attributes:
        running: whether an update is being measured.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables = list(variables)
        self._before: Any = None
        large = [is_large(v) for v in variables]
        self._small = [i for i, is_one in enumerate(large) if not is_one]
        self._large = [i for i, is_one in enumerate(large) if is_one]
        # Eagerly once, in a training's first step: tracing takes as long as many measurements.
        self._read, self._measure = self._values, self._squares

    def measures(self, variables: Sequence[keras.Variable]) -> bool:
        """Tell whether these are its variables, in their order."""
        return list(map(id, self._variables)) == list(map(id, variables))

    @property
    def running(self) -> bool:
        """Whether an update is being measured."""
        return self._before is not None

    def start(self) -> None:
        """Measure the coming update."""
        self._before = self._read()

    def cancel(self) -> None:
        """Measure nothing."""
        self._before = None

    def stop(self) -> np.ndarray:
        """Return squared norms, (3, variables): of the update, of the weights before and after."""
        before, self._before = self._before, None
        squares = self._measure(before).numpy()
        if self._measure == self._squares:
            self._read = traced(self._values)
            self._measure = traced(self._squares)
        return squares

    def _values(self):
        """Return the values of the small variables as one tensor, and of each of the large ones."""
        flat = tf.concat([tf.reshape(self._wide(i), [-1]) for i in self._small] or [[0.0]], axis=0)
        return [flat, *(tf.convert_to_tensor(self._variables[i].value) for i in self._large)]

    def _wide(self, number):
        some_double = any(v.dtype == "float64" for v in self._variables)
        value = tf.convert_to_tensor(self._variables[number].value)
        return tf.cast(value, tf.float64 if some_double else tf.float32)

    def _squares(self, values):
        columns: dict[int, tf.Tensor] = {}
        if self._small:
            sizes = [int(np.prod(self._variables[i].shape)) for i in self._small]
            before = tf.split(values[0], sizes)
            after = [tf.reshape(self._wide(i), [-1]) for i in self._small]
            updates = [a - b for a, b in zip(after, before, strict=True)]
            squares = tf.reshape(squared_norms([*updates, *before, *after]), [3, -1])
            columns |= zip(self._small, tf.unstack(squares, axis=1), strict=True)
        for number, value in zip(self._large, values[1:], strict=True):
            columns[number] = self._squares_of_blocks(number, value)
        return tf.stack([columns[number] for number in sorted(columns)], axis=1)

    def _squares_of_blocks(self, number, before):
        variable = self._variables[number]
        rows = block_rows(variable)

        def add(total, start):
            block = tf.range(start, tf.minimum(start + rows, variable.shape[0]))
            after, then = (
                tf.cast(tf.gather(t, block), tf.float64 if t.dtype == tf.float64 else tf.float32)
                for t in (tf.convert_to_tensor(variable.value), before)
            )
            return total + squared_norms([after - then, then, after])

        starts = tf.range(0, variable.shape[0], rows)
        zeros = tf.zeros(3, tf.float64)
        return tf.foldl(add, starts, zeros, parallel_iterations=1)
