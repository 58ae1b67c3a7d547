"""Makes a training's steps one by one, judges each, and takes back those that went wrong."""

import contextlib
import itertools
import math
import sys
import typing

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers import LossScaleOptimizer

from keras_bp._keras import all_optimizers, leaf_optimizers, rate_variables, traced
from keras_bp._trial import scaled_learning_rate
from keras_bp.callbacks._training_variables import TrainingVariables
from keras_bp.callbacks.rescue._levels import Levels, is_above
from keras_bp.gradients import squared_norms, sum_over_replicas, unscale
from keras_bp.optimizers import Optimizer
from keras_bp.recording import Recorder, clips, own_product

_NOTHING = object()
# A copy to go back to is made every so many good steps, and used once it is so many old.
_EVERY, _AGE = 50, 10
# Losses that tell a level; spikes in a row that are one; steps in a row that loss scaling skips.
_RECENT, _MOST_SPIKES, _MOST_SKIPPED = 10, 3, 20
# Before it is known what is usual: the losses that tell a little, and a spike as a multiple; the
# batches that are kept to be tried again, and the examples that tell, or all of those batches.
_FEW, _FAR, _KEPT, _TELLING = 3, 30.0, 5, 32
_MOST_LOWERED = 6  # times in one rescue


class Step(typing.NamedTuple):
    """A step as it is judged: a micro-step where gradients accumulate."""

    data: typing.Any
    """The batch, on its device."""
    loss: float
    """The batch's own loss, NaN if the train step does not show it."""
    norm: float
    """The norm of all its gradients, before clipping."""
    share: float = 1.0
    """The number of its examples over that of the largest batch."""
    error: Exception | None = None
    """What it has raised, if it has."""


class Fault(typing.NamedTuple):
    """What went wrong in a step."""

    kind: str
    """`"not_finite"`, `"spike"`, `"diverged"`, `"loss_scale"` or `"error"`."""
    of_weights: bool
    """Whether the batch before shows it too, so that this one is not the cause."""
    step: Step
    number: int
    """Its update step."""
    place: int
    """How many batches of the call came before it."""
    usual: float
    """The median loss of the steps before."""


class Copy(typing.NamedTuple):
    """The state of a training that it may go back to, on the host."""

    state: list
    """The values of its variables, None for rates."""
    steps: int
    """The number of good steps before it."""
    level: float
    """The median loss of the last ten of them."""


class Guard(Recorder):
    """Makes each step of a `fit` by itself, and keeps it only if nothing went wrong.

    Before a step all variables are read, which costs no copy until the step writes them; after it,
    its loss and the norm of its gradients. A step with a fault is taken back: all variables are
    what they were, those of the other recorders too. Whether its batch is the cause, or the weights
    are, because the rate is too high, is told by the last good batch: that is tried again. A new
    level is no fault: losses that rise because the rate does, or with other data.

    Args:
        model: a compiled `keras.Model`, built, as its optimizer and its metrics are.
        function: the `RecordingTrainFunction`.
        threshold: number, see `Levels`, or None for no spikes.
        rescue: function of a `Fault`, called with the training at the beginning of its step. It
            may call `go_back` or `go_to_best`; otherwise the batch is skipped.

    Attributes:
        active: whether it guards the steps, from `guard` on.
        good: the number of good steps since the last fault.
    """

    active, _first_factor = False, 1.0

    def __init__(self, model, function, threshold, rescue):
        super().__init__(model)
        self._function, self._rescue = function, rescue
        self._looks_for_spikes = threshold is not None
        self._losses, self._norms = (Levels(threshold or math.inf) for _ in range(2))
        self._examples = self._skipped = 0
        self._variables: list = []
        self.begin_epoch()
        self.restart()
        # What a `RecordingCallback` asks of its recorder: nothing is to be read later.
        self.places = sys.maxsize

    def new_updates(self):
        """Return None: all was read."""

    def restart(self):
        """Resume after unguarded steps, which may have made other weights."""
        self.updates_before = self.number()
        self._copies, self._first_steps, self._last, self._start = [], [], None, None
        self._first = math.inf
        self._good_steps = self.good = self._spikes = 0
        self._check_at = _RECENT
        self._new_level()

    def begin_epoch(self):
        """Begin an epoch, whose metrics hold nothing yet."""
        self._outputs, self._recorded = {}, None

    def number(self):
        """Return the number of update steps made."""
        optimizers = leaf_optimizers(self._model.optimizer)
        return max((int(o.iterations.numpy()) for o in optimizers if o.built), default=0)

    def rest(self):
        """Let the steps of another `fit` be as if there were no guard."""
        self.guard(1.0, active=False)

    def guard(self, rate_factor, active=True):
        """Guard the coming steps, with a factor on the learning rate."""
        self.active, self._first_factor = active, rate_factor
        for part in self._local(self._rate_factor) if self.created else ():
            part.assign(rate_factor)

    # In the traced step

    def prepare(self):
        """Create what the step writes and reads."""
        if not self.created:
            self._row = self._variable(np.zeros(2))
            self._rate_factor = self._variable(np.float32(self._first_factor))

    def watching(self):
        """Return the context in which the optimizer's rate is multiplied by the factor."""
        return scaled_learning_rate(self._model.optimizer, self._rate_factor)

    def see_update(self, gradients, variables):
        """Record loss and norm, and let the optimizer go on."""
        loss, factor = self._take_loss()
        own = [
            unscale(own_product(gradient), factor)
            for gradient, variable in zip(gradients, variables, strict=True)
            if not getattr(variable, "overwrite_with_gradient", False)
        ]
        squares = squared_norms(sum_over_replicas(own))
        self._row.assign(tf.stack([loss, tf.reduce_sum(squares)]))
        return contextlib.nullcontext()

    # Around it

    def run(self, function, iterator):
        """Make the steps of a call one by one."""
        if not self.active:
            return function(iterator)
        outputs = _NOTHING
        for place, data in enumerate(itertools.islice(iterator, self._model.steps_per_execution)):
            outputs = self._guarded(function, data, place)
            if self._model.stop_training:
                break
        if outputs is _NOTHING:
            raise StopIteration
        return outputs

    def _guarded(self, function, data, place):
        """Make a step, and take it back if it has a fault."""
        self._before, self._made_by = self._snapshot(), function
        if not self._copies or self._good_steps >= self._copies[-1].steps + _EVERY:
            self._keep_copy()
        outputs, step = self._make(data)
        kind = self._suspected(step)
        if kind is not None:
            after = None if step.error is not None else self._snapshot()
            of_weights = self._is_of_weights(kind, step)
            self._assign(self._before)
            if of_weights is not None:
                number = self.number() + 1
                self._rescue(Fault(kind, of_weights, step, number, place, self._losses.level()))
                self.good = self._skipped = 0
                self._function.kept = False
                return self._outputs
            self._assign(after)
        self._accept(step)
        self._outputs = outputs
        return outputs

    def _make(self, data):
        """Make a step, and return its outputs and the `Step`."""
        examples = self._count(data)
        self._examples = max(examples, self._examples)
        share = examples / self._examples if examples else 1.0
        try:
            outputs = self._made_by([data])
        except tf.errors.InvalidArgumentError as error:
            if self._last is None:  # no batch was ever well
                raise
            return None, Step(data, math.nan, math.nan, share, error)
        loss, square = self._read(self._row)
        return outputs, Step(data, float(loss), float(np.sqrt(square)), share)

    def _count(self, data):
        """Return the number of examples in a batch, on all replicas."""
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        first = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
        parts = self._model.distribute_strategy.experimental_local_results(first)
        return sum(int(part.shape[0] or 0) for part in parts)

    def _suspected(self, step):
        """Return the kind of fault that a step seems to have, or None."""
        if step.error is not None:
            return "error"
        if self.sees_loss and not math.isfinite(step.loss):
            return "not_finite"
        if not math.isfinite(step.norm):
            return self._suspected_scale() if self._skips() else "not_finite"
        if not self._looks_for_spikes:
            return None
        if any(levels.is_spike(value) for levels, value in self._measured(step)):
            return "spike"
        if not self._losses.known and is_above(step.loss * step.share, self._first):
            return "spike"
        if self._good_steps >= self._check_at:
            self._check_at = self._good_steps + _RECENT
            if is_above(self._losses.level(_RECENT), self._start):
                return "diverged"
        return None

    def _measured(self, step):
        """List the levels, each with a step's value: of a small batch as a share of a large one."""
        pairs = [(self._losses, step.loss)] if self.sees_loss else []
        # What is clipped does no harm.
        if not any(map(clips, leaf_optimizers(self._model.optimizer))):
            pairs.append((self._norms, step.norm))
        return [(levels, value * step.share) for levels, value in pairs]

    def _skips(self):
        """Tell whether the optimizer skips steps whose gradients are not finite by itself."""
        return any(
            isinstance(o, LossScaleOptimizer)
            or (isinstance(o, Optimizer) and o.loss_scale_factor is not None)
            for o in all_optimizers(self._model.optimizer)
        )

    def _suspected_scale(self):
        """Return whether a loss scale falls without end, as the kind of fault."""
        scale = getattr(self._model.optimizer, "dynamic_scale", 1.0)
        falls = self._skipped >= _MOST_SKIPPED and float(scale) <= 1.0
        return "loss_scale" if falls else None

    def _is_of_weights(self, kind, step):
        """Tell whether the weights, not the batch, cause a fault; None if there is no fault."""
        if kind == "loss_scale":
            return True
        if self._last is None:
            return False
        last = self._last
        if kind == "diverged":
            best = min(self._copies, key=lambda copy: copy.level)
            if is_above(last.loss, self._tried(best.state).loss):
                return True
            self._check_at = self._good_steps + _EVERY
            return None
        again = self._tried(self._before)
        if self.sees_loss and not math.isfinite(again.loss):
            return True
        if kind == "spike" and not self._losses.known:
            steps = [step, *self._first_steps]
            if len(steps) <= _KEPT and len(steps) * self._examples < _TELLING:
                return None
            if self._have_risen(steps):
                return True
            return False if self._is_far(step) else None
        if kind != "spike":
            if not math.isfinite(again.norm) and not self._skips():
                return True
            # Dropout and small batches let a loss vary.
            return is_above(again.loss, max(last.loss, self._losses.highest()))
        measured = (again.loss, last.loss, step.loss), (again.norm, last.norm, step.norm)
        if any(new > (old + high) / 2 for new, old, high in measured):
            # With the rate, if no more than was gained is lost.
            return True if is_above(again.loss, self._start) else self._new_level()
        self._spikes += 1
        return self._new_level() if self._spikes >= _MOST_SPIKES else False

    def _have_risen(self, steps):
        """Tell whether the losses of some steps' batches were all far lower in the beginning.

        One batch alone may tell of dropout, or of the statistics of a few examples.
        """
        first = self._copies[0].state
        tried = ((self._tried(self._before, s), self._tried(first, s)) for s in steps)
        return all(is_above(now.loss, then.loss) for now, then in tried)

    def _is_far(self, step):
        """Tell whether a loss is a spike for certain, though it is not known what is usual."""
        highest = self._losses.highest()
        return self._good_steps >= _FEW and is_above(step.loss * step.share, highest, _FAR)

    def _new_level(self, *steps):
        self._losses.forget(*steps)
        self._norms.forget(*steps)

    def _tried(self, state, step=None):
        """Try a step's batch, the last good one by default, from a state; return the `Step`."""
        return self._tries(state, 1, step)[0]

    def _tries(self, state, times, step=None):
        """Make so many steps of a batch from a state of the variables; return the `Step`s."""
        self._assign(state)
        return [self._make((step or self._last).data)[1] for _ in range(times)]

    def _accept(self, step):
        """Count a step, unless loss scaling has skipped it."""
        if not math.isfinite(step.norm):
            self._skipped += 1
            return
        for levels, value in self._measured(step):
            levels.add(value)
        if self._start is None:
            self._first = step.loss
            self._copies[0] = self._copies[0]._replace(level=step.loss)
        if self._good_steps < _RECENT:
            self._start = max(step.loss, -math.inf if self._start is None else self._start)
        self._last, self._skipped = step, 0
        self._first_steps = [] if self._losses.known else [step, *self._first_steps][:_KEPT]
        self._good_steps += 1
        self.good += 1
        if self.good >= _MOST_SPIKES:
            self._spikes = 0

    # Back

    def undo(self):
        """Go back to the beginning of the step."""
        self._assign(self._before)

    def go_back(self, rate_factor, factor):
        """Go back to a copy at which the last good batch's loss is low, with a lower rate.

        Args:
            rate_factor: number, the factor on the learning rate so far.
            factor: number by which it is multiplied, again as long as the loss of that batch
                doubles in five steps on it.

        Returns:
            The factor on the learning rate.
        """
        for _ in range(_MOST_LOWERED):
            rate_factor *= factor
            self.guard(rate_factor)
            if self._last is None:
                self._return_to(self._copies[0])
                return rate_factor
            found = self._newest_good_copy()
            losses = [step.loss for step in self._tries(found.state, 5)]
            usual = np.fmax(losses[0], self._losses.level())
            if math.isfinite(sum(losses)) and not is_above(max(losses), usual, 2.0):
                break
        self._last = self._last._replace(loss=losses[0])
        self._return_to(found)
        return rate_factor

    def _newest_good_copy(self):
        """Return the newest copy at which the last good batch's second step is about the best."""
        old = [c for c in self._copies if c.steps + _AGE <= self._good_steps]
        tried = [(c, self._tries(c.state, 2)[-1].loss) for c in old or self._copies[:1]]
        lowest = min((loss for _, loss in tried if math.isfinite(loss)), default=math.nan)
        good = [c for c, loss in tried if math.isfinite(loss) and not is_above(loss, lowest)]
        return good[-1] if good else tried[0][0]

    def go_to_best(self):
        """Go back to the copy with the lowest loss."""
        self._return_to(min(self._copies, key=lambda copy: copy.level))

    def _return_to(self, copy):
        self._assign(self._before)  # metrics and recorders stay
        self._assign(copy.state)
        self._new_level(self._good_steps - copy.steps)
        self._good_steps, self._check_at = copy.steps, copy.steps + _RECENT
        # What came after the first copy does not tell where the loss began.
        self._start = self._start if copy.steps else None
        self._copies = [c for c in self._copies if c.steps <= copy.steps]

    def _keep_copy(self):
        """Keep the state on the host, beside the one before and the best."""
        with tf.device("CPU:0"):
            state = [
                None if number in self._rates else tf.identity(value)
                for number, value in enumerate(self._before[: self._lasting])
            ]
        level = self._losses.level(_RECENT)
        copy = Copy(state, self._good_steps, math.inf if math.isnan(level) else level)
        best = min([*self._copies, copy], key=lambda copy: copy.level)
        kept = [*self._copies[-1:], copy]
        self._copies = kept if any(best is c for c in kept) else [best, *kept]

    # The variables

    def _snapshot(self):
        """Return the values of all variables, which later steps leave alone."""
        others = [v for v in self._function.created if v is not self._rate_factor]
        if self._recorded != [*map(id, others)]:
            self._recorded = [*map(id, others)]
            self._find_variables(others)
        return self._reader()

    def _find_variables(self, others):
        training = TrainingVariables(self._model)
        found = [*training.parts(metrics=True).values()]
        found += [(part,) for variable in others for part in self._local(variable)]
        known = [id(part) for parts in self._variables for part in parts]
        if known == [id(part) for parts in found for part in parts]:
            return
        self._variables, self._copies = found, []
        self._lasting = len(training.parts(metrics=False))
        # Others set the rate: of an earlier state it would be what it was then.
        optimizers = leaf_optimizers(self._model.optimizer)
        rates = {id(v.value) for o in optimizers for v in rate_variables(o)}
        values = [v.value if isinstance(v, keras.Variable) else v for v in training.named.values()]
        local = [self._local(value)[0] for value in values if id(value) in rates]
        self._rates = {i for i, parts in enumerate(found) if any(parts[0] is r for r in local)}
        first = [parts[0] for parts in found]
        self._reader = traced(lambda: [v.read_value() for v in first])

    def _assign(self, state):
        """Assign values to the variables, to the first of them if there are less, but for None."""
        for parts, value in zip(self._variables, state, strict=False):
            for part in parts if value is not None else ():
                part.assign(value)

    def _local(self, variable):
        return self._model.distribute_strategy.experimental_local_results(variable)
