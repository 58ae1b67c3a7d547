"""A learning-rate schedule found in the first few steps of a training."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_integer, check_number
from keras_bp._keras import is_built, leaf_optimizers
from keras_bp._trial import lent_learning_rate
from keras_bp.gradients import sum_over_replicas, unscale
from keras_bp.recording import Callback, Recorder, RecordingTrainFunction
from keras_bp.schedules import Sequential
from keras_bp.tuning import discovery

_LEAST_PROBE = 12


class DiscoveredSchedule(Callback):
    """Probes the loss in the first steps of a `fit`, and sets the schedule of all the others.

    The first steps, some 5 % of all, are a probe: one at the rate 0, four at a tiny one, then a
    sweep of rising rates, to the rate at which the loss diverges at most. They give features
    without units (see `keras_bp.tuning.discovery.features`), from which a small model, trained on
    some 400 cheap tasks, predicts peak rate, warm-up share and decay. Then

    1. weights and optimizer are restored to their state after the first call of the train function,
       which moved no weight (the sweep's weights are a worse start than the first ones); metrics
       are reset, so that the first epoch's are those of the steps after the probe;
    2. the optimizer gets the schedule, over `total_steps` less the steps of the probe, in place of
       its rate or schedule; the train function is traced again.

    So `total_steps` counts all steps that are computed. The data are not rewound: batches and
    random numbers continue.

    If the probe is not usable, there is a safe fallback, with a `RuntimeWarning` and a
    `fallback_reason`: a warm-up of a tenth of the steps and a cosine. Its peak is `fallback`, such
    as `lambda model: find_learning_rate(model, x, y).suggest()`. By default it is a tenth of the
    rate that led to the lowest loss of the probe's sweep (the range test's rule `"minimum"`), where
    the features lie far outside of those that the model was trained on; and the optimizer's own
    rate where there are too few steps for a probe, where the first losses are not finite or not
    seen, no step lowers the loss or the sweep ends at once, and where updates do not follow the
    rate, as with `DoG` and `Prodigy`, or follow the size of the weights, as with `Lamb`.

    It works with every optimizer that reads its rate from Keras's `learning_rate`, in plain `fit`,
    with and without `jit_compile`, under a loss scale and on replicas; a `GradientTape` loop calls
    no callback. With `steps_per_execution` of k the probe plans k steps at a time: the one at rate
    0 becomes k, the four tiny ones at least 2k, and the sweep can stop only at such a multiple; a
    probe then has at least 3k + 12 steps. Each step still has its own rate, in the probe and
    afterwards.

    During the probe other callbacks see the sweep. `EarlyStopping` and `TerminateOnNaN` may react
    to the deliberate rise of the loss and end the training; and where an epoch ends within the
    probe, its metrics, its validation and what `ModelCheckpoint` saves belong to weights that are
    restored later. In a `fit` of more than 20 epochs a default probe covers whole epochs: give
    `probe_steps`, or let such a callback start later (`start_from_epoch`).

    Limits: it was trained on small networks, 256 to 720 steps, without batch normalization. With
    batch normalization, which it detects by weights that are orthogonal to their gradients, it
    trusts the sweep less where batches differ much (`reference_rate`): that rule was made on one
    convolutional network on CIFAR-10; on three others it changed nothing when it was made.

    A schedule is discovered once for a model's optimizer: a second `fit` with the same callback
    continues with it. A `.keras` file that is saved after the probe holds the schedule in its
    optimizer, and needs no callback to continue. After a restart from variables alone
    (`load_weights`, `ResumableTraining`) the optimizer lacks the schedule: set `callback.schedule`
    yourself, whose `get_config` keeps it. If an exception ends the `fit` in the probe, the
    optimizer keeps its own rate, and the weights stay as the probe left them.

    Args:
        total_steps: integer of 1 or more, the update steps of the whole training, probe included;
            `None`, the default, for those of this `fit`, from its `initial_epoch`.
        probe_steps: integer of 12 or more and less than the total, the most steps the probe may
            take. Defaults to `None`, a twentieth of the total, but at least 20.
        fallback: number above 0, or a function of the model that returns one; see above. Defaults
            to `None`.
        verbose: 1 to print a line at the discovery, 0 for none. Defaults to 1.

    Attributes:
        schedule: the schedule of the steps after the probe, counted from 0; `None` before.
        discovery: the `keras_bp.tuning.discovery.Discovery` with peak, warm-up share, decay,
            expected regret and features; `None` before.
        fallback_reason: string, why the fallback was taken; `None` if it was not.
        probe: the `keras_bp.tuning.discovery.Probe`, with rates and measurements.
        steps_probed: integer, the steps that the probe took.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; by `fit`, if the model has no optimizer, if the
            optimizer accumulates gradients, if `total_steps` is `None` and the length of the data
            is unknown, or if `probe_steps` is not below the total.

    Example:
        >>> x = np.linspace(-1.0, 1.0, 256)[:, None]
        >>> model = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> discovered = keras_bp.callbacks.DiscoveredSchedule(verbose=0)
        >>> _ = model.fit(x, x**2, epochs=15, verbose=0, callbacks=[discovered])
        >>> discovered.steps_probed <= 20, discovered.fallback_reason
        (True, None)

    References:
        The sweep: Smith, 2017, "Cyclical learning rates for training neural networks". Linear
        decay and warm-up chosen from a run: Defazio et al., 2023, "When, why and how much?".
    """

    def __init__(
        self,
        total_steps: int | None = None,
        probe_steps: int | None = None,
        *,
        fallback: float | Callable[[keras.Model], float] | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        if total_steps is not None:
            total_steps = check_integer("total_steps", total_steps, 1)
        if probe_steps is not None:
            probe_steps = check_integer("probe_steps", probe_steps, _LEAST_PROBE)
        if fallback is not None and not callable(fallback):
            fallback = _checked(fallback)
        self.total_steps = total_steps
        self.probe_steps = probe_steps
        self.fallback = fallback
        self.verbose = check_integer("verbose", verbose, 0)
        self.schedule: Any = None
        self.discovery: Any = None
        self.probe: Any = None
        self.steps_probed = 0
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._function: Any = None
        self._optimizer: Any = None
        self._start: Any = None
        self._recorder: Any = None
        self._total: Any = None

    @property
    def fallback_reason(self) -> str | None:
        """Why the safe schedule was taken; None if it was not."""
        return None if self.discovery is None else self.discovery.fallback_reason

    # Keras's hooks.

    def set_model(self, model: keras.Model | None = None) -> None:
        """Keras's hook: take the model that `fit` is about to train."""
        if model is not None:
            # A fit that an exception ended never called on_train_end.
            self._recorder = None
            RecordingTrainFunction.remove_from(model)
        Callback.set_model(self, model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: check model and optimizer."""
        self._check_optimizer()
        optimizer = self.model.optimizer
        if self._optimizer is optimizer:
            return
        cycles = [leaf.gradient_accumulation_steps or 1 for leaf in leaf_optimizers(optimizer)]
        if max(cycles, default=1) > 1:
            raise ValueError(
                "DiscoveredSchedule needs an optimizer that updates the weights in every step. "
                f"Received: gradient_accumulation_steps={max(cycles)}"
            )
        self.schedule = self.discovery = self.probe = self._start = self._total = None
        self.steps_probed = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: count the steps, now that the number of the first epoch is known."""
        if self._optimizer is self.model.optimizer or self._total is not None:
            return
        self._total = self.total_steps or self._steps_of_fit(epoch)
        self._planned = self.probe_steps or max(self._total // 20, 20)
        together = self.model.steps_per_execution
        if together > 1:
            self._planned = max(self._planned, 3 * together + 12)
        if self.probe_steps and self._planned >= self._total:
            least = f", and is {self._planned} at least with steps_per_execution={together}"
            raise ValueError(
                f"`probe_steps` must be less than the total of {self._total} steps"
                f"{least if self._planned > self.probe_steps else ''}. "
                f"Received: probe_steps={self.probe_steps}"
            )

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: plan the coming steps of the probe."""
        if self._optimizer is self.model.optimizer:
            return
        if self._recorder is None and not self._enter():
            return
        if not self._function.in_place():
            self._listen()  # another callback has remade the train function
        rates = self.probe.plan(self.model.steps_per_execution)
        self._recorder.plan(rates)
        self._function.arm()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: see the steps just made, and set the schedule if they were the last."""
        if self._recorder is None:
            return
        rows = self._recorder.rows()
        self.probe.parameters = self._recorder.parameters
        # The last call of an epoch may make fewer steps than the others.
        self.steps_probed += len(rows) or self.model.steps_per_execution
        for rate, row in zip(self._recorder.planned, rows, strict=False):
            if self.probe.done:  # the rest of a call in which the loss has diverged
                break
            # A loss scale that is too large makes gradients infinite; the step is skipped then.
            if not (np.isfinite(row[0]) and not np.isfinite(row[1])):
                self.probe.see(rate, row)
        if self._start is None:
            self._start = [(v, v.numpy()) for v in self._variables()]
        if self.probe.done or self.steps_probed >= self._planned:
            self._decide()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: decide now, if the probe has not ended."""
        if self._recorder is not None:
            self._decide()

    def _steps_of_fit(self, first_epoch):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if steps is None:
            raise ValueError(
                "`total_steps` must be given where the length of the data is unknown. "
                "Received: total_steps=None"
            )
        return steps * (epochs - first_epoch)

    def _enter(self):
        """Begin the probe; tell whether there is one."""
        if self.probe_steps is None and 4 * self._planned > self._total:
            reason = f"{self._total} steps are too few for a probe of {self._planned}"
            self._settle(discovery.Discovery.safe(None, reason))
            return False
        self._recorder = _ProbeRecorder(self.model)
        self.probe = discovery.Probe(self._planned)
        self._listen()
        return True

    def _listen(self):
        self._function = RecordingTrainFunction.of(self.model)
        self._function.add(self._recorder, guest=True)

    def _variables(self):
        holders = [self.model.optimizer, *leaf_optimizers(self.model.optimizer)]
        variables = self.model.weights + [v for holder in holders for v in holder.variables]
        return {id(variable): variable for variable in variables}.values()

    def _decide(self):
        """End the probe, restore weights and optimizer, and set the schedule."""
        RecordingTrainFunction.remove_from(self.model)
        recorder, self._recorder = self._recorder, None
        for variable, value in self._start or ():
            variable.assign(value)
        self._start = None
        if not (recorder.sees_update and recorder.sees_loss):
            unseen = "scale_loss" if recorder.sees_update else "apply"
            found = discovery.Discovery.safe(None, f"the train step calls no `{unseen}`")
        else:
            found = discovery.discover(self.probe, self._total)
        self._settle(found)

    def _settle(self, found):
        """Let the optimizer train with the schedule that was found."""
        model, optimizer = self.model, self.model.optimizer
        if found.fallback_reason is not None:
            found = found.at(self._fallback_rate(found.peak_learning_rate))
            warnings.warn(
                f"DiscoveredSchedule takes its safe schedule, a warm-up and a cosine from "
                f"{found.peak_learning_rate:.3g}: {found.fallback_reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        self.discovery = found
        self.schedule = found.schedule(max(self._total - self.steps_probed, 1))
        start = max(int(leaf.iterations.numpy()) for leaf in leaf_optimizers(optimizer))
        schedule = Sequential([0.0, self.schedule], [start]) if start else self.schedule
        for leaf in leaf_optimizers(optimizer):
            leaf.learning_rate = schedule
        self._optimizer = optimizer
        # The train function was traced with the old rate.
        model.make_train_function(force=True)
        model.reset_metrics()
        if self.verbose:
            print(f"DiscoveredSchedule, after {self.steps_probed} steps of probe: {found}")

    def _fallback_rate(self, suggested):
        if callable(self.fallback):
            return _checked(self.fallback(self.model))
        if self.fallback is not None:
            return self.fallback
        if suggested is not None:
            return suggested
        first = leaf_optimizers(self.model.optimizer)[0]
        return float(tf.convert_to_tensor(first.learning_rate))


class _ProbeRecorder(Recorder):
    """Sets the rate of each step of one call of the train function, and records what it does.

    Step number k of a call, from 0, is made at `rates[k]`, and row k holds what
    `keras_bp.tuning.discovery.SEEN` lists, in float64. The gradient and the update of the previous
    step are kept, two copies of the trainable weights. Only while the call runs does the optimizer
    read its rate from a variable of the recorder.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        parameters: the number of trainable weights, None before the first step.
        planned: the rates of the last call's steps.
    """

    def __init__(self, model):
        super().__init__(model)
        self.parameters = None
        with model.distribute_strategy.scope():
            options = {"trainable": False, "aggregation": "only_first_replica"}
            self._rate = keras.Variable(
                0.0, dtype="float32", name="probed_learning_rate", **options
            )
        self._places = model.steps_per_execution
        self._rates = self._variable(np.zeros(self._places))
        self._kept = None

    def plan(self, rates):
        """Set the rates of the steps of the next call."""
        self.planned = rates
        self._rates.assign(rates)
        if self._kept is not None:
            self._made.assign(0)

    def rows(self):
        """Return the measurements of the last call's steps, (steps, numbers)."""
        if self._kept is None:  # a train step that calls no `apply`
            return np.zeros((0, len(discovery.SEEN)))
        return self._read(self._rows)[: int(self._read(self._made))]

    @contextlib.contextmanager
    def watching(self):
        """Let the optimizer read the probe's rate inside the `with` block."""
        # If possible not within the step, where replicas cannot create variables.
        if self._kept is None and is_built(self._model):
            self._create(self._model.trainable_variables)
        with lent_learning_rate(self._model.optimizer, self._rate):
            yield

    @contextlib.contextmanager
    def see_update(self, gradients, variables):
        """Record the step whose gradients are applied inside the `with` block."""
        loss, factor = self._take_loss()
        pairs = [
            (unscale(gradient, factor), variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            # The "gradient" of such a variable (a float8 scale) is its next value.
            if gradient is not None and not getattr(variable, "overwrite_with_gradient", False)
        ]
        variables = [variable for _, variable in pairs]
        gradients = sum_over_replicas([gradient for gradient, _ in pairs])
        gradients = [tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in gradients]
        if self._kept is None:
            self._create(variables)
        before, moved = zip(*(self._kept[id(variable)] for variable in variables), strict=True)
        weights = [_value(variable) for variable in variables]
        pairs = (gradients, gradients), (gradients, before), (gradients, moved), (weights, weights)
        row = [loss, *(_product(a, b) for a, b in pairs)]
        self._rate.assign(tf.cast(self._rates[self._made], self._rate.dtype))
        yield
        update = [_value(v) - w for v, w in zip(variables, weights, strict=True)]
        row += [_product(update, update), _product(gradients, update)]
        # A loss scale that is too large makes gradients infinite, and skips the step.
        is_finite = tf.math.is_finite(row[1])
        row.append(self._invariant_share(gradients, weights, is_finite))
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
        self._rows = self._variable(np.zeros((self._places, len(discovery.SEEN))))
        self._made = self._variable(0)
        self._invariant = self._variable(np.ones(len(variables)))

    def _invariant_share(self, gradients, weights, is_finite):
        """Return the share of the gradient's square in variables orthogonal to it so far."""
        squares, sizes, along = (
            tf.stack([_product([a], [b]) for a, b in zip(*pair, strict=True)])
            for pair in ((gradients, gradients), (weights, weights), (gradients, weights))
        )
        entries = np.array([np.prod(weight.shape) for weight in weights])
        least = discovery.ORTHOGONAL**2 / entries
        is_orthogonal = (sizes > 0.0) & (along**2 <= least * squares * sizes)
        is_seen = tf.cast(is_orthogonal, self._invariant.dtype)
        self._invariant.assign(tf.where(is_finite, self._invariant * is_seen, self._invariant))
        share = tf.cast(self._invariant, tf.float64) * squares
        return tf.math.divide_no_nan(tf.reduce_sum(share), tf.reduce_sum(squares))


def _checked(value):
    try:
        return check_number("fallback", value, 0.0, low_open=True)
    except TypeError as error:
        raise TypeError(
            "`fallback` must be a number above 0 or a function of the model that returns one. "
            f"Received: fallback={value!r}"
        ) from error


def _value(variable):
    return tf.cast(keras.ops.convert_to_tensor(variable), tf.float32)


def _product(a, b):
    """Return the scalar product of two lists of tensors, in float64."""
    parts = [tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)]
    return tf.add_n([tf.cast(part, tf.float64) for part in parts])
