"""Finds faults of a training while it runs."""

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from keras_bp._arguments import check_path
from keras_bp._types import Path
from keras_bp.callbacks.health._check import Check, Finding, Findings, Update
from keras_bp.callbacks.health._forward_order import ForwardOrder
from keras_bp.callbacks.health._watch import HealthWatch, select_checks
from keras_bp.callbacks.health.outputs import PoorInitialization
from keras_bp.recording import (
    STATISTICS,
    CurvatureMeter,
    RecordingCallback,
    StepRecorder,
    is_moved,
)
from keras_bp_runs.events import FINDING
from keras_bp_runs.run import as_json

_MEASURED_FIRST, _MEASURED_EVERY, _MOST_SKIPPED = 10, 10, 20


class TrainingHealth(RecordingCallback):
    """Watches a plain `model.fit` and reports what goes wrong, where, and what to try.

    It sees every update step's gradients, updates, outputs and loss as `GradientMonitor` does, and
    the weights are the same, bit for bit, with and without it. It applies ten checks:

    - `"not_finite"`: NaN or infinity, and the layer in which it began, forward or backward;
    - `"exploding"`: a layer's gradient is 70 times the last layer's, or 100 times what it was;
    - `"vanishing"`: the first layer's gradient is below 1e-4 and a 1000th of the last one's, or
      a layer's mean |g| is below 1e-7, in 10 updates;
    - `"dead_units"`: over half of a layer's ReLU units are 0 for the whole batch, in 50 updates;
    - `"saturation"`: over half of a hidden layer's sigmoid or tanh outputs are at a bound, in 10
      updates;
    - `"update_ratio"`: an update is 10 times the weights, or, in 10 updates, 1e-8 of them;
    - `"unchanged_weights"`: a layer's weights have not moved, in 3 updates;
    - `"poor_initialization"`: in one of the first 10 steps a layer changes the variance of its
      input 10 times, or all its units are the same;
    - `"loss_not_falling"`: by less than 0.1 % in 10 epochs, though little was learned;
    - `"overfitting"`: the validation loss rises, 10 % above the training loss, in 5 epochs.

    Two more take passes of their own, every 50 update steps, and are applied where `checks` names
    them:

    - `"batch_size"`: the batch is 10 times below or above the gradient noise scale, in 3
      measurements: how many steps another batch size would save;
    - `"edge_of_stability"`: the learning rate is at the one from which on an update raises the loss
      of its own batch, or above, in 3 measurements.

    Updates and epochs are consecutive. Without a number of updates, one is enough: the first may
    end the training, or be the only one to show the fault. The checks' classes are in
    `keras_bp.callbacks.health_checks` (`"dead_units"` is `DeadUnits`): their arguments are the
    thresholds, and their docstrings say which healthy trainings look similar and are not reported.
    A check makes at most one finding per layer. A fault may have several findings: dead units, for
    instance, stop the gradients of the layers before them. The first is nearest to the cause.

    `fit` prints the report as it ends, unless it was called with `verbose=0`. A second `fit` of
    the same model adds to the findings of the first; with another model, or a new optimizer, the
    callback starts over.

    Args:
        checks: list of checks, by name as above, or as objects with other thresholds:
            `["not_finite", health_checks.Exploding(ratio=1000)]`. Defaults to `None`: the ten.
        action: what to do with a new `Finding`: `"warn"` gives a Python warning, `"stop"` stops
            training as `EarlyStopping` does, and a function is called with it.
            Defaults to `"warn"`.
        log_dir: string or `os.PathLike`, the directory of a TensorBoard event file to which each
            finding and the report are written, for the page Text; it is made if it does not exist,
            and may be that of a `GradientMonitor`, which says where a second run goes.
            Defaults to `None`: no file.

    Attributes:
        findings: list of `keras_bp.callbacks.health_checks.Finding`, in order, which a notebook
            shows as a table.
        report: string, all findings in words.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if the name of a check is unknown, a check is given twice, `checks` is empty, or
            `action` is another string; and by `fit`, before the first update, if no event file
            can be created in `log_dir`, if the model has no optimizer, if it is built and has no
            trainable weights, or if the optimizers inside a composite accumulate the gradients of
            different numbers of steps.

    Paths of layers, update steps, what counts as one, and where the callback works are
    `GradientMonitor`'s. Updates and weights are measured in the first 10 updates of a `fit` and in
    every tenth after, for which a copy of the weights is made; with `steps_per_execution` the
    update is that of a whole call, over its steps. Updates are judged as they are read, then and as
    an epoch ends: a finding names its step, but `action` comes up to 9 updates later. Steps that
    loss scaling skips are neither updates nor faults, unless all of the last 20 steps were skipped
    when an epoch ends.

    Example:
        >>> layers = [keras.layers.Dense(16, "sigmoid", name=f"d{i}") for i in range(8)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> health = keras_bp.callbacks.TrainingHealth(["vanishing"], action="stop")
        >>> x = np.random.default_rng(0).normal(size=(80, 4))
        >>> _ = model.fit(x, x[:, :1], batch_size=8, verbose=0, callbacks=[health])
        >>> [(finding.check, finding.layer, finding.step) for finding in health.findings]
        [('vanishing', 'd0', 10)]

    References:
        Rauschmayr et al., 2021, "Amazon SageMaker Debugger: a system for real-time insights into
        machine learning model training"; Zhang et al., 2021, "AUTOTRAINER: an automatic DNN
        training problem detection and repair system", for thresholds.
    """

    def __init__(
        self,
        checks: Sequence[str | Check] | None = None,
        action: str | Callable[[Finding], object] = "warn",
        log_dir: Path | None = None,
    ) -> None:
        if action not in ("warn", "stop") and not callable(action):
            kind = ValueError if isinstance(action, str) else TypeError
            raise kind(
                "`action` must be 'warn', 'stop' or a function of the finding. "
                f"Received: action={action!r}"
            )
        if log_dir is not None:
            check_path("log_dir", log_dir)
        super().__init__(log_dir)
        self.checks = select_checks(checks)
        self.action = action
        every = {check.name: getattr(check, "every", None) for check in self.checks}
        self._curvature = CurvatureMeter(
            noise=every.get("batch_size"), sharpness=every.get("edge_of_stability")
        )
        self._watch = HealthWatch(self.checks)

    # Workers stop in the same step, so the clock decides nothing.
    _seconds = math.inf

    def _forget(self) -> None:
        super()._forget()
        self._order = None
        self._optimizer = None

    @property
    def findings(self) -> list[Finding]:
        """What was found, a list of `Finding`."""
        return Findings(self._watch.findings)

    @property
    def report(self) -> str:
        """What was found, in words."""
        findings, updates = self._watch.findings, self._watch.course.updates
        number = {0: "nothing found", 1: "1 finding"}.get(
            len(findings), f"{len(findings)} findings"
        )
        lines = [f"TrainingHealth: {number} in {updates} update steps"]
        return "\n".join([*lines, *(f"- {finding}" for finding in findings)])

    # Keras's hooks, and those of RecordingCallback.

    def _begin(self):
        if self.model.optimizer is not self._optimizer:
            self._watch = HealthWatch(self.checks)
        self._optimizer = self.model.optimizer
        self._order = None
        self._measured = self._measure_due = 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: record the coming steps, and measure the update if it is due."""
        self._start_if_needed()
        if self._is_due(self._measure_due):
            self._start_meter()
        super().on_train_batch_begin(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: judge the epoch."""
        super().on_epoch_end(epoch, logs)
        if self._recorder.steps_without_update >= _MOST_SKIPPED:
            self._judge_skipped((logs or {}).get("loss", math.nan))
        if logs and "loss" in logs:
            self._act(self._watch.see_epoch(logs, self._last_step))

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: report."""
        super().on_train_end(logs)
        if (self.params or {}).get("verbose"):
            print(self.report)

    def _end(self):
        if self._file is not None:
            self._file.write_text("training_health/report", self.report, self._last_step)

    def _new_recorder(self):
        details = [c.steps for c in self.checks if isinstance(c, PoorInitialization)]
        return StepRecorder(self.model, outputs=True, details=max(details, default=0))

    def _take(self, updates):
        measured = self._stop_meter()
        if measured is not None:
            measured = self._norms(measured[:2])[:, :-1]
            measured[0] /= len(updates.losses)
            self._measured += 1
            every = 1 if self._measured < _MEASURED_FIRST else _MEASURED_EVERY
            self._measure_due = self._last_step + every
        self._judge(updates, measured)

    def _judge(self, updates, measured=None):
        """Apply the checks to each update, and act on their findings."""
        if self._order is None or self._order[0] is not self._recorder:
            about = self.model, self._recorder, self._layers, self._layer_of_variable
            self._order = self._recorder, ForwardOrder(*about)
        self._act(self._watch.see_updates(self._as_seen(updates, measured)))

    def _as_seen(self, updates, measured):
        """Return the updates as the checks see them."""
        order, squares = self._order[1], updates.squares
        norms = self._norms(squares)
        total, norms = norms[:, -1], norms[:, order.order]
        outputs = np.moveaxis(updates.outputs[:, order.output_order], -1, 0)
        moves = ratios = weights = None
        with np.errstate(all="ignore"):
            if measured is not None:
                moves, before = measured[:, order.order]
                if any(0.0 in getattr(o, "rate_factors", ()) for o in self._recorder.optimizers):
                    # What is frozen by a factor of 0 stands still on purpose.
                    moves = np.where(self._frozen()[order.order], np.nan, moves)
                ratios = np.where(before > 0, moves / before, np.nan)
                weights = before / np.sqrt(order.sizes)
            clipped = np.minimum(np.sqrt(updates.applied) / total, 1.0)
        return Update(
            step=np.arange(-len(total), 0) + self._last_step + 1,
            loss=updates.losses,
            sees_loss=self._recorder.sees_loss,
            clipped=np.where((total > 0) & (total < math.inf), clipped, 1.0),
            order=order,
            norms=norms,
            means=np.where(order.tables, np.nan, norms / np.sqrt(order.sizes)),
            moves=moves,
            ratios=ratios,
            weights=weights,
            curvature=self._curvature.measured,
            statistics=dict(zip(STATISTICS, outputs, strict=True)),
        )

    def _frozen(self):
        """Tell of each layer whether its optimizers have frozen all its variables."""
        frozen = np.ones(len(self._layers), bool)
        for variable, layer in zip(self._recorder.variables, self._layer_of_variable, strict=True):
            frozen[layer] &= not is_moved(self._recorder.optimizers, variable)
        return frozen

    def _judge_skipped(self, loss):
        """Judge the last step, if loss scaling has skipped it and all steps before."""
        if self._layers is None:
            self._name_layers()
        skipped = self._recorder.last_without_update
        if not np.isfinite(skipped.squares).all():
            self._last_step += 1
            self._judge(skipped._replace(losses=np.array([loss])))
            self._last_step -= 1

    def _act(self, findings):
        for finding in findings:
            if self._file is not None:
                layer = "model" if finding.layer is None else finding.layer
                place = f"{finding.check}/{layer}"
                self._file.write_text(f"training_health/{place}", str(finding), finding.step)
                about = {k: as_json(v) for k, v in dataclasses.asdict(finding).items()}
                self._file.write_json(f"{FINDING}/{place}", json.dumps(about), finding.step)
                self._file.flush()
            if self.action == "warn":
                warnings.warn(str(finding), stacklevel=2)
            elif self.action == "stop":
                self.model.stop_training = True
            else:
                self.action(finding)
