"""A learning rate that can always be set, also on top of a schedule."""

import typing
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras
from keras_bp._arguments import check_rate
from keras_bp._types import LearningRate


class SettableLearningRate(keras.optimizers.Optimizer):
    """Keras's optimizer with a learning rate that can always be set.

    Keras refuses to set the rate of an optimizer that has a schedule, so that ReduceLROnPlateau
    and LearningRateScheduler fail beside one. Here a schedule has a factor, a variable that is
    saved with the optimizer:

        rate(t) = factor * schedule(t)

    Setting a number sets the factor such that the rate at this step is that number: the schedule
    keeps its shape from then on. Without a schedule there is no factor.

    A schedule, or a callable, takes the place of whatever there was. A step that was traced before
    holds the earlier rate, so each `tf.function` in which the rate was read, as `fit`'s is, is then
    traced anew at its next call. What is out of reach, a concrete function or a trace around
    another `tf.function` that had been traced before, fails: its rate is gone.

    Args:
        learning_rate: number >= 0, a schedule, or a callable without arguments that returns the
            rate.
        **kwargs: arguments of `keras.optimizers.Optimizer`.
    """

    _learning_rate: typing.Any

    def __init__(self, learning_rate: LearningRate, **kwargs: typing.Any) -> None:
        super().__init__(check_rate("learning_rate", learning_rate), **kwargs)
        self._learning_rate_factor = None
        self._traced_in: weakref.WeakSet = weakref.WeakSet()
        if callable(learning_rate):
            self._learning_rate_factor = self._new_factor()

    def _new_factor(self):
        with keras.name_scope(self.name, caller=self):
            # Not through add_variable: a factor is not a slot, but kept as the rate would be.
            options = {"dtype": keras.config.floatx(), "aggregation": "only_first_replica"}
            return keras.Variable(1.0, name="learning_rate_factor", trainable=False, **options)

    @property
    def learning_rate(self) -> typing.Any:
        """The rate of the next update: a variable, or the schedule's value times its factor."""
        if not tf.executing_eagerly():
            self._traced_in.update(_keras.called_functions())
        if isinstance(self._learning_rate, keras.Variable):
            return self._learning_rate
        rate = self._scheduled()
        if self._learning_rate_factor is not None:
            rate *= tf.convert_to_tensor(self._learning_rate_factor)
        return rate

    @learning_rate.setter
    def learning_rate(self, value: typing.Any) -> None:
        if callable(value) and not isinstance(value, type):
            self._set_schedule(value)
            return
        if hasattr(value, "numpy"):
            value = value.numpy()
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if not tf.is_tensor(value):  # a symbolic one has no value yet
            value = check_rate("learning_rate", value)
        if isinstance(self._learning_rate, keras.Variable):
            self._learning_rate.assign(value)
        else:
            self._set_factor(float(value))

    def _set_schedule(self, schedule):
        if self._learning_rate_factor is None:
            self._learning_rate_factor = self._learning_rate  # files keep their order
        with self._distribution_strategy.scope():
            _keras.replace_value(self._learning_rate_factor, self._new_factor())
        self._learning_rate = schedule
        self._drop_traces()

    def _drop_traces(self):
        """Let all steps of this optimizer be traced anew, since Python decides otherwise now."""
        for function in self._traced_in:
            _keras.drop_traces(function)
        self._traced_in.clear()

    def _set_factor(self, rate):
        scheduled = float(self._scheduled())
        if scheduled > 0.0:
            self._learning_rate_factor.assign(rate / scheduled)
        elif rate != 0.0:
            # A callback that sets the rate it has read leaves a warm-up that begins at 0 as it is.
            raise ValueError(
                "`learning_rate` cannot be set where the schedule's own rate is 0, since no "
                f"factor leads from 0 to another rate. Received: learning_rate={rate} at step "
                f"{int(self.iterations.numpy())} of {self._learning_rate!r}"
            )

    def _scheduled(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = self._learning_rate(self.iterations)
        else:
            rate = self._learning_rate()
        return tf.cast(tf.convert_to_tensor(rate), keras.config.floatx())
