"""Recorders: operations in the traced train function that record each step on the device."""

import contextlib
import functools
import itertools
import threading
import typing
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp import _keras
from keras_bp.gradients import clip, squared_norms, sum_over_replicas, unscale
from keras_bp.optimizers import Optimizer
from keras_bp.recording.histograms import NO_SAMPLE, sample_gradient
from keras_bp.recording.outputs import STATISTICS, LayerOutputs, samples, statistics

_PLACES = 32
_BOUNDS = ("clipvalue", "clipnorm", "global_clipnorm")


class Recorder:
    """The base of all recorders: what a `RecordingTrainFunction` calls while a step is traced.

    A subclass overrides `see_update`, and `prepare`, `watching` or `in_replica` if more must be
    created or replaced, or `run` if it decides what becomes of a step.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        sampling: whether the step that is being traced also samples costly quantities, set by the
            `RecordingTrainFunction`.
        sees_loss: whether the train step handed its loss to `optimizer.scale_loss`, or computed it
            with `compute_loss`.
        sees_update: whether it handed gradients to `optimizer.apply`.
        created: the variables that the recorder has created for the step to write.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.created: list[tf.Variable] = []
        self.sampling = self.sees_loss = self.sees_update = False
        # The replicas of a MirroredStrategy are traced in a thread each.
        self._replica = threading.local()

    def prepare(self) -> None:
        """Create what can be created outside of the step, before each call of it."""

    def rest(self) -> None:
        """Leave the steps of another `fit` alone: the callback may not be among its own."""

    def watching(self) -> contextlib.AbstractContextManager:
        """Return the context in which the step is to be traced, which replicas share."""
        return contextlib.nullcontext()

    def in_replica(self) -> contextlib.AbstractContextManager:
        """Return the context in which a replica's part of the step is to be traced."""
        return contextlib.nullcontext()

    def see_data(self, data: Any) -> None:
        """Take the data of the step, as the model's `train_step` is about to get them."""

    def hand_out(self) -> tuple:
        """Return tensors of the step that `take` is to get after the call, at the step's end."""
        return ()

    def take(self, tensors: tuple) -> None:
        """Take what the call's last step has handed out; not under a strategy of replicas."""

    def run(self, function: Callable[[Any], Any], iterator: Any) -> Any:
        """Make the steps of a call, by a function of an iterator or a list of batches."""
        return function(iterator)

    def see_loss(self, loss: Any, scale_loss: Callable[[Any], Any]) -> None:
        """Take the loss that the step is about to scale, and the factor of the scaling."""
        self._replica.loss = loss
        # Letting the optimizer scale 1 is correct for every kind of loss scaling.
        self._replica.factor = tf.cast(scale_loss(tf.ones((), tf.float32)), tf.float64)

    def see_computed_loss(self, loss: Any) -> None:
        """Take what `compute_loss` returned: the loss, if the step scales none."""
        if tf.is_tensor(loss) and loss.shape.rank == 0:
            self._replica.computed = loss

    def see_update(
        self, gradients: list, variables: list
    ) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the optimizer applies the step's gradients."""
        raise NotImplementedError(f"{type(self).__name__} must override `see_update`.")

    def restart(self) -> None:
        """Resume after unrecorded steps."""

    def _factor(self):
        """Return the factor in the step's gradients, 1 if it scales no loss."""
        seen = vars(self._replica)
        return seen["factor"] if "factor" in seen else tf.ones((), tf.float64)

    def _take_loss(self):
        """Return the loss of the batch on all replicas, and the factor of its gradients."""
        factor, seen = self._factor(), vars(self._replica)
        loss, here = seen.pop("computed", None), None
        if not tf.executing_eagerly():
            here = tf.compat.v1.get_default_graph()
        if getattr(loss, "graph", None) is not here:  # but in a function that the step calls
            loss = None
        loss = seen.pop("loss", loss)
        self.sees_update, self.sees_loss = True, loss is not None
        loss = tf.cast(np.nan if loss is None else loss, tf.float64)
        seen.pop("factor", None)
        return sum_over_replicas([loss])[0], factor

    def _variable(self, value, shape=None):
        """Create a variable whose copies the replicas write, and read, by themselves."""
        # TensorFlow repeats a trace in which it sees variables made.
        with _keras.outside_of_traces(), self._model.distribute_strategy.scope():
            variable = tf.Variable(
                value,
                shape=shape,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        self.created.append(variable)
        return variable

    def _zeros(self, *shape):
        return self._variable(np.zeros(shape))

    def _read(self, variable):
        strategy = self._model.distribute_strategy
        return strategy.experimental_local_results(variable)[0].numpy()


class Updates(typing.NamedTuple):
    """What was recorded of n update steps, oldest first: float64 arrays."""

    losses: np.ndarray
    """(n,) the batch's own loss, penalties included."""
    rates: np.ndarray
    """(n, optimizers) learning rates."""
    applied: np.ndarray
    """(n,) squared norm of all gradients after clipping."""
    squares: np.ndarray
    """(n, variables) squared norms of the gradients as the optimizer receives them."""
    outputs: np.ndarray
    """(n, layers, statistics) of the layers' outputs, see `STATISTICS`."""
    measured: np.ndarray
    """(n, numbers) what a subclass of `StepRecorder` measures."""


class StepRecorder(Recorder):
    """Records update steps inside the traced (and perhaps XLA-compiled) train function.

    No summary can be written and no Python runs inside a compiled step, so each step fills one row
    of a variable, which `new_updates` reads later. A row holds

        number, update steps made before and after, micro-steps likewise if gradients accumulate,
        loss, a learning rate for each optimizer, a squared norm for each variable, the squared norm
        after clipping if there is clipping, `_measures`, the statistics of each layer's outputs

    in float64, so that the numbers, 1 for the recorder's first step, stay exact. All that follows
    from these is computed as they are read: every operation on a scalar takes the step as long as a
    squared norm. An update step is one in which the optimizer's `iterations` advance: not a
    micro-step that only accumulates, and not a step that loss scaling skips because a gradient is
    not finite. Rows form a ring of `places`.

    Args:
        model: a compiled `keras.Model`.
        outputs: whether to record the layers' outputs.
        sampled: whether to sample the last update's gradients and outputs for histograms.
        details: the number of the optimizer's first update steps in which variance and spread of
            outputs are measured, those of layers without weights and activation too; after these
            they may be NaN. None to measure neither of them, nor the share that is not finite.

    Attributes:
        variables: the trainable variables, in the order of `Updates.squares`,
        optimizers: the model's optimizer, or those inside a composite, in the order of
            `Updates.rates`, and
        layers: the layers, in the order of `Updates.outputs`; all None until they are known.
        updates_before: the number of update steps that the optimizer had made before.
        outputs: the `LayerOutputs`, or None.
        places: the number of steps after which a row is written over.
        steps_without_update: the number of steps read since the last update.
        last_without_update: the last step read that was not an update, as `Updates` of one, or
            None. Its loss is NaN if loss scaling has skipped the step.
        sampled_kinds: what sampled steps also measure of each layer, see `sampled_measures`.

    Raises:
        ValueError: if the optimizers inside a composite accumulate over different numbers of
            micro-steps; if they are not built yet, in the first step.
    """

    sampled_kinds: tuple[str, ...] = ()

    def __init__(
        self,
        model: keras.Model,
        outputs: bool = False,
        sampled: bool = False,
        details: int | None = None,
    ) -> None:
        super().__init__(model)
        self._sampled, self._details = sampled, details
        self._optimizer = model.optimizer
        self.outputs = LayerOutputs(model, details is not None) if outputs else None
        self.variables: Any = None
        self.optimizers: Any = None
        self.layers: Any = None
        self.updates_before = 0
        self.places = max(_PLACES, model.steps_per_execution)
        self.steps_without_update = 0
        self.last_without_update: Updates | None = None
        self._rows: Any = None
        self._rows_read = 0
        # Sums of the micro-batches' losses and `_measures` since the last update, and their number.
        self._waiting: Any = 0.0
        if self._optimizer.built:
            self._find()
            self.updates_before = int(self._counts()[0])

    def _find(self):
        """Find variables, optimizers and layers, once all of them exist."""
        self.optimizers = _keras.leaf_optimizers(self._optimizer)
        cycles = {o.gradient_accumulation_steps or 1 for o in self.optimizers}
        if len(cycles) > 1:
            raise ValueError(
                "Callbacks that record gradients need optimizers that accumulate over the same "
                "number of micro-steps, since there is no common update step otherwise. Received: "
                f"gradient_accumulation_steps={sorted(cycles)} in {self._optimizer.name!r}"
            )
        (self._cycle,) = cycles
        self.variables = list(self._model.trainable_variables)
        self.layers = [] if self.outputs is None else self.outputs.layers()
        self._clips = any(map(clips, self.optimizers))
        widths = 3 if self._cycle == 1 else 5, 1, len(self.optimizers), len(self.variables)
        widths += int(self._clips), self._measured, len(self.layers) * len(STATISTICS)
        self._ends = np.cumsum(widths)

    def _create_rows(self):
        """Create the variables that steps write to."""
        self._rows = self._zeros(self.places, int(self._ends[-1]))
        self._made = self._variable(np.int64(0))
        if self._sampled:
            sampled = len(self.variables) + len(self.layers)
            self._samples = self._variable(np.tile(NO_SAMPLE, (sampled, 1)))

    def _build_optimizer(self, variables):
        """Build the optimizer, under the names that its `apply` would give."""
        name, optimizer = self._optimizer.name, self._optimizer
        composite = hasattr(optimizer, "optimizers")
        scope = keras.name_scope(name, caller=optimizer)
        with contextlib.nullcontext() if composite else scope:
            optimizer.build(variables)
        optimizer.built = True

    def restart(self) -> None:
        """Resume after unrecorded steps."""
        if self._rows is not None:
            self.updates_before = int(self._counts()[0])
            # Rows, and losses of micro-batches that wait for an update, may be of another fit.
            self._rows_read, self._waiting = int(self._read(self._made)), 0.0
            self.steps_without_update = 0

    def prepare(self) -> None:
        """Create what can be created outside of the step."""
        # Not before: several workers create a variable together.
        if self.variables is not None and self._rows is None:
            self._create_rows()

    def watching(self) -> contextlib.AbstractContextManager:
        """Return the context in which the step is to be traced."""
        return contextlib.nullcontext() if self.outputs is None else self.outputs.watched()

    @contextlib.contextmanager
    def see_update(self, gradients: list, variables: list) -> Iterator[None]:
        """Record the step whose gradients are applied inside the `with` block."""
        if self.variables is None:
            if not self._optimizer.built:
                self._build_optimizer(list(variables))
            self._find()
            self._create_rows()
        outputs = [] if self.outputs is None else self.outputs.take(self.layers)
        loss, factor = self._take_loss()
        own, received = self._gradients(gradients, variables, factor)
        squares = squared_norms(received)
        rates = [tf.cast(o.learning_rate, tf.float64) for o in self.optimizers]
        measured = [squares]
        if self._clips:
            measured.append([self._applied(squares, own, received)])
        measured += self._measures(factor)
        before = self._counts()
        if outputs:
            in_detail = None if self._details is None else before[0] < self._details
            measured.append(tf.reshape(statistics(self.layers, outputs, in_detail), [-1]))
        sampled = self._sample(received, outputs) if self._sampled else None
        yield
        number = self._made + 1
        after = self._counts()
        # An optimizer that adapts its own rate has it by now.
        rates = [
            tf.cast(o.adapted_rate, tf.float64) if hasattr(o, "adapted_rate") else rate
            for o, rate in zip(self.optimizers, rates, strict=True)
        ]
        counts = [number, *itertools.chain(*zip(before, after, strict=True))]
        row = tf.concat([tf.cast(tf.stack(counts), tf.float64), [loss, *rates], *measured], 0)
        tf.raw_ops.ResourceScatterUpdate(
            resource=self._rows.handle, indices=number % self.places, updates=row
        )
        self._made.assign(number)
        if sampled is not None:
            self._samples.assign(tf.where(after[0] > before[0], sampled, self._samples))

    _measured = 0
    """The number of `_measures`."""

    def _measures(self, factor):
        """Return vectors of more that is to be summed over an update's micro-steps, in a list.

        Args:
            factor: the factor in the step's gradients.
        """
        return []

    def _gradients(self, gradients, variables, factor):
        """Return this replica's part of each variable's true gradient, and the whole gradient."""
        gradients = dict(zip(map(id, variables), gradients, strict=True))
        own = [
            # The "gradient" of such a variable (a float8 scale) is its next value.
            None if getattr(v, "overwrite_with_gradient", False) else gradients.get(id(v))
            for v in self.variables
        ]
        own = [unscale(own_product(gradient), factor) for gradient in own]
        if self._cycle == 1:
            return own, sum_over_replicas(own)
        # Needed only in the last micro-step, but with a tf.cond XLA would compile the
        # optimizer's own branches differently, with another rounding.
        # Keras's optimizers accumulate the replica's part, this package's the sum over replicas.
        own = self._mean_gradients(own, False)
        return own, self._mean_gradients(sum_over_replicas(own), True)

    def _applied(self, squares, own, received):
        """Return the squared norm of all gradients after clipping."""
        total, unclipped = tf.zeros((), squares.dtype), set(range(len(self.variables)))
        for optimizer in filter(clips, self.optimizers):
            its = [i for i, v in enumerate(self.variables) if is_moved([optimizer], v)]
            parts = [[gradients[i] for i in its] for gradients in (received, own)]
            total += _applied_square(optimizer, *parts)
            unclipped.difference_update(its)
        # Added up, not subtracted from the total: beside the square of 1e8 a clipped 1 vanishes.
        return total + tf.reduce_sum(tf.gather(squares, tf.constant(sorted(unclipped), tf.int32)))

    def _sample(self, received, outputs):
        """Return a sample of each gradient and each layer's outputs."""
        pairs = zip(received, self.variables, strict=True)
        gradients = [sample_gradient(gradient, v.shape) for gradient, v in pairs]
        return tf.stack(gradients + samples(outputs))

    def _mean_gradients(self, gradients, of_this_package):
        """Return the means over the micro-batches, as optimizers of one kind will form them."""
        means = []
        for gradient, variable in zip(gradients, self.variables, strict=True):
            owners = (o for o in self.optimizers if _keras.updates(o, variable))
            owner = None if gradient is None else next(owners)
            if owner is not None and isinstance(owner, Optimizer) == of_this_package:
                total = _keras.accumulator_of(owner, variable)
                own = tf.cast(tf.convert_to_tensor(gradient), total.dtype)
                gradient = (own + total) / self._cycle
            means.append(gradient)
        return means

    def _counts(self):
        """Return the number of update steps; of micro-steps, one that changes with each, too."""

        # An optimizer without variables never advances, so the largest count is used.
        def largest(counts):
            return functools.reduce(tf.maximum, [tf.cast(count, tf.int64) for count in counts])

        updates = largest(o.iterations for o in self.optimizers)
        if self._cycle == 1:
            return [updates]
        # Keras's optimizers count all micro-steps, this package's those since the last update.
        steps = (getattr(o, "_accumulated_steps", _keras.counter_of(o)) for o in self.optimizers)
        return [updates, largest(steps)]

    def new_updates(self) -> Updates | None:
        """Return what was recorded since the last call, as `Updates`, or None for no update."""
        if self._rows is None:
            return None
        rows = self._read(self._rows)
        rows = rows[rows[:, 0] > self._rows_read]
        rows = rows[np.argsort(rows[:, 0])]
        if not len(rows):
            return None
        self._rows_read = int(rows[-1, 0])
        updated = rows[:, 2] > rows[:, 1]
        if not updated.all():
            self.last_without_update = self._updates(rows[~updated][-1:])
        self.steps_without_update += len(rows)
        if updated.any():
            self.steps_without_update = int(np.argmax(updated[::-1]))
        if self._cycle > 1:
            self._sum_micro_steps(rows, updated)
        return self._updates(rows[updated]) if updated.any() else None

    def _sum_micro_steps(self, rows, updated):
        """Replace each row's loss by the mean since the last update, its `_measures` by the sum."""
        loss, (first, last) = self._ends[0], self._ends[4:6]
        # A micro-batch that loss scaling skipped is not part of the mean gradient.
        taken = updated | (rows[:, 4] != rows[:, 3])
        for row, is_updated, is_taken in zip(rows, updated, taken, strict=True):
            added = np.array([row[loss], *row[first:last], 1.0])
            self._waiting = self._waiting + (added if is_taken else np.zeros_like(added))
            with np.errstate(invalid="ignore"):
                row[loss] = self._waiting[0] / self._waiting[-1]
            row[first:last] = self._waiting[1:-1]
            if is_updated:
                self._waiting = 0.0

    def _updates(self, rows):
        _, losses, rates, squares, applied, measured, outputs = np.split(
            rows, self._ends[:-1], axis=1
        )
        applied = applied[:, 0] if self._clips else squares.sum(axis=1)
        outputs = outputs.reshape(len(rows), len(self.layers), len(STATISTICS))
        return Updates(losses[:, 0], rates, applied, squares, outputs, measured)

    def sampled_measures(self, layer_of_variable: np.ndarray, layers: int) -> list[np.ndarray]:
        """Return what the last sampled step measured, an array (layers,) for each sampled kind.

        It is empty if nothing was measured.

        Args:
            layer_of_variable: for each of `variables` the number of its layer.
            layers: the number of layers.
        """
        return []

    def samples(self) -> list[np.ndarray]:
        """Return the samples of the last update, if it was made with `sampled`.

        Returns:
            Two arrays, of shape (variables, 4099) and (layers, 4099), rows for `count_sample`.
        """
        return np.split(self._read(self._samples), [len(self.variables)])


def own_product(tensor: Any) -> Any:
    """Return a gradient to read without changing how the optimizer's step is rounded.

    TensorFlow's graph optimizer reorders a product of products, a * b * rate, if nothing else reads
    a * b, and XLA fuses likewise. Another reader would thus change how the optimizer's step is
    rounded: for Keras's BatchNormalization, whose gamma has such a gradient, under SGD. So the
    product is computed again, in float64, which is not merged with the one that the optimizer
    reads.
    """
    if tf.executing_eagerly() or not isinstance(tensor, tf.Tensor) or tensor.op.type != "Mul":
        return tensor
    a, b = (tf.cast(own_product(factor), tf.float64) for factor in tensor.op.inputs)
    return a * b


def clips(optimizer: keras.optimizers.Optimizer) -> bool:
    """Tell whether an optimizer clips gradients."""
    return any(getattr(optimizer, bound, None) is not None for bound in _BOUNDS)


def is_moved(optimizers: list, variable: keras.Variable) -> bool:
    """Tell whether one of some built optimizers updates a variable that it has not frozen.

    An optimizer of this package freezes a variable by a factor of 0 on its rate.
    """
    owners = [optimizer for optimizer in optimizers if _keras.updates(optimizer, variable)]
    return any(not (isinstance(o, Optimizer) and o.is_frozen(variable)) for o in owners)


def _applied_square(optimizer, received, own):
    """Return the squared norm of all gradients of one optimizer, after its clipping.

    Args:
        optimizer: an optimizer that clips.
        received: list of its gradients, complete and unscaled, or None.
        own: list of this replica's part of them.
    """
    if isinstance(optimizer, Optimizer):
        bounds = {bound: getattr(optimizer, bound) for bound in _BOUNDS}
        clipped = clip(received, **bounds)
    else:
        # Keras's optimizers clip the replica's part, before the sum over the replicas, and a sparse
        # gradient by the norm of its rows as they are: only their own code gives the result.
        own = [g for g in own if g is not None]
        if len({g.dtype for g in own}) > 1:  # `own_product` is float64; Keras multiplies all norms
            own = [tf.cast(g, tf.float64) for g in own]
        clipped = sum_over_replicas(_keras.clip_by_optimizer(optimizer, own))
    return tf.reduce_sum(squared_norms(clipped))
