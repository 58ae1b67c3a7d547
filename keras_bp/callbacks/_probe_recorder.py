"""What a probe sees of each step, computed inside of the train function."""

import contextlib
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_bp._trial import replaced_attributes
from keras_bp.callbacks._gradients import unscaled
from keras_bp.callbacks._optimizer_rules import rules_of
from keras_bp.gradients import sum_over_replicas


class ProbeRecorder:
    """Sets the rate of each step of one call of the train function, and records what it does.

    A recorder of `RecordingTrainFunction`. The step number k of a call, from 0, is made at
    `rates[k]`, and row k holds what `keras_bp.tuning.discovery.SEEN` lists, in float64. The
    gradient and the update of the step before are kept, two copies of the trainable weights. The
    optimizer reads its rate from a variable of the recorder while the call runs, and only then.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        sampling: set by `RecordingTrainFunction`; of no use here.
        parameters: the number of trainable weights, None before the first step.
        planned: the rates of the last call's steps.
        unseen: the optimizer's method that the traced train step did not call, `"apply"` or
            `"scale_loss"`; None where it called both.
    """

    def __init__(self, model):
        self.sampling = False
        self.parameters = None
        self.unseen = "apply"
        self._model = model
        with model.distribute_strategy.scope():
            self._rate = keras.Variable(
                0.0,
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name="probed_learning_rate",
            )
        self._places = model.steps_per_execution
        self._rates = self._variable(np.zeros(self._places))
        self._kept = None
        # The replicas of a MirroredStrategy are traced in a thread each.
        self._replica = threading.local()

    def _variable(self, value):
        # Each replica writes a copy of its own, all with the same values.
        with tf.init_scope(), self._model.distribute_strategy.scope():
            return tf.Variable(
                value,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def plan(self, rates):
        """Set the rates of the steps of the next call."""
        self.planned = rates
        self._rates.assign(rates)
        if self._kept is not None:
            self._made.assign(0)

    def rows(self):
        """Return what was seen of the steps of the last call, (steps, numbers)."""
        if self._kept is None:  # a train step that calls no `apply`
            return np.zeros((0, 7))
        read = self._model.distribute_strategy.experimental_local_results
        return read(self._rows)[0].numpy()[: int(read(self._made)[0].numpy())]

    # What RecordingTrainFunction calls.

    @contextlib.contextmanager
    def watching(self):
        """Let the optimizer read the probe's rate inside the `with` block."""
        # Not within the step, where replicas cannot create variables, if it can be helped.
        if self._kept is None and self._model.built:
            self._create(self._model.trainable_variables)
        with contextlib.ExitStack() as stack:
            for rule in rules_of(self._model.optimizer):
                # Past the setter, which Keras refuses over a schedule.
                stack.enter_context(replaced_attributes(rule, _learning_rate=self._rate))
            yield

    def see_loss(self, loss, scale_loss):
        """Take the loss that the step is about to scale, and the factor of the scaling."""
        self._replica.loss = loss
        # Asking the optimizer for 1 scaled is right for every kind of loss scaling.
        self._replica.factor = tf.cast(scale_loss(tf.ones((), tf.float32)), tf.float64)

    @contextlib.contextmanager
    def see_update(self, gradients, variables):
        """Record the step whose gradients are applied inside the `with` block."""
        seen = vars(self._replica)
        self.unseen = None if "loss" in seen else "scale_loss"
        loss = sum_over_replicas([tf.cast(seen.pop("loss", np.nan), tf.float64)])[0]
        factor = seen.pop("factor", tf.ones((), tf.float64))
        pairs = [
            (unscaled(gradient, factor), variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            # The "gradient" of the other kind (a float8 scale) is its next value.
            if gradient is not None and not getattr(variable, "overwrite_with_gradient", False)
        ]
        variables = [variable for _, variable in pairs]
        gradients = sum_over_replicas([gradient for gradient, _ in pairs])
        gradients = [tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in gradients]
        if self._kept is None:
            self._create(variables)
        before, moved = zip(*(self._kept[id(variable)] for variable in variables), strict=True)
        weights = [_value(variable) for variable in variables]
        row = [
            loss,
            _product(gradients, gradients),
            _product(gradients, before),
            _product(gradients, moved),
            _product(weights, weights),
        ]
        self._rate.assign(tf.cast(self._rates[self._made], self._rate.dtype))
        yield
        update = [_value(v) - w for v, w in zip(variables, weights, strict=True)]
        row += [_product(update, update), _product(gradients, update)]
        # A loss scale that is too large makes gradients infinite, and skips the step.
        is_finite = tf.math.is_finite(row[1])
        for kept, values in ((before, gradients), (moved, update)):
            for variable, value in zip(kept, values, strict=True):
                variable.assign(tf.where(is_finite, value, variable))
        place = [[self._made + 0]]
        self._rows.assign(tf.tensor_scatter_nd_update(self._rows, place, [tf.stack(row)]))
        self._made.assign_add(1)

    def _create(self, variables):
        self.parameters = int(sum(np.prod(variable.shape) for variable in variables))
        zeros = [np.zeros(variable.shape, "float32") for variable in variables]
        self._kept = {
            id(variable): (self._variable(zero), self._variable(zero))
            for variable, zero in zip(variables, zeros, strict=True)
        }
        self._rows = self._variable(np.zeros((self._places, 7)))
        self._made = self._variable(0)


def _value(variable):
    return tf.cast(keras.ops.convert_to_tensor(variable), tf.float32)


def _product(a, b):
    """Return the scalar product of two lists of tensors, in float64."""
    parts = [tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)]
    return tf.add_n([tf.cast(part, tf.float64) for part in parts])
