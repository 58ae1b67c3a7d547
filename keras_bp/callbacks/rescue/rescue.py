"""Takes back the steps of a training that go wrong, keeps their batches, and goes on."""

import contextlib
import dataclasses
import json
import math
import os
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_bp import _keras
from keras_bp._arguments import check_integer, check_number, check_path, check_verbose
from keras_bp._types import Path
from keras_bp.callbacks.rescue._files import write_fault
from keras_bp.callbacks.rescue._guard import Fault, Guard
from keras_bp.callbacks.rescue.replay import explain
from keras_bp.recording import RecordingCallback
from keras_bp_runs.events import FINDING
from keras_bp_runs.run import as_json

# Faults with less good steps between them are in a row; so many are kept on disk.
_APART, _MOST_FILES = 20, 20

_KINDS = {
    "not_finite": "loss or gradient is NaN or infinite",
    "spike": "loss or gradient is far above the usual",
    "diverged": "the loss has risen far above where it began",
    "loss_scale": "the loss scale falls without end",
    "error": "the step raised an error",
}
_CURES = {
    "skipped": "Look at the batch: keras_bp.replay shows the layer and the example.",
    "lowered": "Lower the learning rate, warm it up, or clip (global_clipnorm=1.0).",
    "stopped": "Look at the batches and the first layer at which NaN begins: keras_bp.replay.",
}


@dataclasses.dataclass(frozen=True)
class RescuedStep:
    """A step that `Rescue` has taken back.

    `str(rescued)` says all of it in a line.

    Attributes:
        step: integer, the number of the update step, 1 for the optimizer's first.
        epoch: integer, counted from 0 as Keras does.
        batch: integer, the batch in the epoch, counted from 0.
        fault: string: `"not_finite"`, `"spike"`, `"diverged"`, `"loss_scale"` or `"error"`.
        loss: float, the batch's own loss.
        norm: float, the norm of its gradients, before clipping.
        usual_loss: float, the median loss of the steps before.
        action: string: `"skipped"`, the batch; `"lowered"`, the rate, from an earlier state; or
            `"stopped"`, the training, with the best weights.
        from_step: integer, the number of update steps made, from which the training goes on.
        rate_factor: float, the factor on the learning rate from there on.
        layer: string, the path of the layer at which NaN or infinity begins; None if there is no
            such layer, or if it is not known.
        description: string, where it begins, and in which example.
        path: string, the folder in which the batch is kept, or None.
    """

    step: int
    epoch: int
    batch: int
    fault: str
    loss: float
    norm: float
    usual_loss: float
    action: str
    from_step: int
    rate_factor: float
    layer: str | None
    description: str
    path: str | None

    def __str__(self) -> str:
        measured = f"loss {self.loss:.4g}, gradient norm {self.norm:.4g}"
        if not math.isnan(self.usual_loss):
            measured += f", usual loss {self.usual_loss:.4g}"
        done = {
            "skipped": "the batch is skipped",
            "lowered": f"back at step {self.from_step}, the learning rate is multiplied by "
            f"{self.rate_factor:g}",
            "stopped": f"training stops with the best weights, those of step {self.from_step}",
        }[self.action]
        kept = f" Kept in {self.path}." if self.path else ""
        return (
            f"Step {self.step} (epoch {self.epoch + 1}, batch {self.batch + 1}): "
            f"{_KINDS[self.fault]} ({measured}); {done}. {self.description}{kept}"
        )


class Rescue(RecordingCallback):
    """Takes back the steps of a `fit` that go wrong, keeps their batches on disk, and goes on.

    A step whose loss or gradient is NaN, infinite or far above the usual is taken back: weights,
    the optimizer's variables, seeds, batch statistics and metrics are, bit for bit, what they were
    before it. Then

    - the batch is skipped, if the batch before is as well as it was: this one is the cause;
    - otherwise the weights are, as where the learning rate is too high. The training goes back
      to a state of at least 10 steps before in which the loss was low, and the rate is multiplied
      by `factor`, whatever the rate is: a number, a schedule, or what another callback sets; again,
      if five steps on the batch before let its loss double.

    After more than `max_rescues` in a row, with less than 20 good steps between them, or if the
    rate is to be lowered once more than that, training stops with the best weights. A batch that
    comes again in each epoch is skipped each time and stops nothing.

    Each fault prints a line and leaves a folder in `directory`: `batch.npz` with x, y and the
    sample weights, `model.keras` with the state before the step, and `report.json`.
    `keras_bp.replay(folder)`, or `python -m keras_bp replay FOLDER`, runs it layer by layer and
    shows where NaN begins, or which example has the largest loss. At most 20 folders are written in
    a `fit`. If one cannot be, as on a full disk, there is one warning and training goes on.

    What is a fault:

    - `"not_finite"`: loss or gradient is NaN or infinite. An optimizer that
      scales the loss skips steps with such a gradient by itself, and they are no fault;
    - `"loss_scale"`: it has skipped 20 in a row, with a scale that has fallen to 1;
    - `"spike"`: the loss, or the norm of all gradients where the optimizer does not clip, is three
      times the largest of the last 100 steps (20 at least) and, as a logarithm, `spike` standard
      deviations above their median, of which what a tenth exceeds lies 1.28 above it. A smaller
      batch counts by its share. In a training's first steps it is 30 times the largest;
    - `"diverged"`: the median of the last 10 losses is three times the first loss, and the last
      batch had less than a third of it at an earlier state;
    - `"error"`: TensorFlow refuses the batch, with a label outside of the classes for instance.

    Noise that is heavy-tailed, a warm-up, and losses that rise because the rate does are no faults:
    a rise of the last batch's loss too is one only if it ends above the first loss. Nor are
    data of another kind: of losses far above the usual, one after another, the third is taken for
    the new usual.

    The training is the same, bit for bit, as long as nothing goes wrong. Each step waits for its
    loss to be read, and a copy of all variables is made on the device as it writes them; up to
    three more, made every 50 steps, lie on the host. Where gradients accumulate each micro-step is
    judged, and taken back, by itself; with `steps_per_execution` each step is, and other callbacks
    are called as often as before. `rate_factor` belongs to the callback: between the steps
    the optimizer's rate reads as it was set, another `fit` with this callback keeps the factor, and
    one without it has the rate that was too high: the last line that is printed says what to set.
    Give it to `ResumableTraining(callbacks=[rescue])` to have it saved. Several replicas are
    judged together; over several workers it is refused.

    Args:
        directory: string or `os.PathLike`, where the folders of the faults are made.
        spike: number above 0, in standard deviations, or None: only what is not finite is a fault,
            or an error. Defaults to 10.
        factor: number in (0, 1), by which the rate is multiplied where it is too high. Defaults
            to 0.1.
        max_rescues: integer of 0 or more. Defaults to 10.
        log_dir: string or `os.PathLike`, the directory of a TensorBoard event file that gets a
            text for each fault, as in `GradientMonitor`, or None. It is written at the step of the
            monitor, which counts on where the training goes back.
        verbose: integer, 1 to print a line for each fault, 0 for none. Defaults to 1.

    Attributes:
        rescues: list of `RescuedStep`, one for each fault.
        rate_factor: float, the factor on the learning rate.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if one is out of its range; by `fit`, if the model has no optimizer or no
            trainable weights, if its optimizer is not built and Keras cannot build it
            before the first step, if it trains over several workers, or if it has another
            `Rescue`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
        >>> y = x[:, :1] * 2.0
        >>> x[100] = np.nan
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> rescue = keras_bp.callbacks.Rescue("tb_logs/faults", verbose=0)
        >>> _ = model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[rescue])
        >>> [(rescued.step, rescued.fault, rescued.action) for rescued in rescue.rescues]
        [(4, 'not_finite', 'skipped')]
        >>> replay = keras_bp.replay(rescue.rescues[0].path)
        >>> replay.began_in, replay.began_at, replay.examples
        ('data', 'x', [4])

    References:
        Chowdhery et al., 2022, "PaLM: scaling language modeling with pathways", section 5.1, which
        goes back 100 steps and skips the batches around a spike.
    """

    def __init__(
        self,
        directory: Path,
        *,
        spike: float | None = 10.0,
        factor: float = 0.1,
        max_rescues: int = 10,
        log_dir: Path | None = None,
        verbose: int = 1,
    ) -> None:
        self.directory = check_path("directory", directory)
        if spike is not None:
            spike = check_number("spike", spike, 0.0, low_open=True)
        self.spike = spike
        self.factor = check_number("factor", factor, 0.0, 1.0, low_open=True, high_open=True)
        self.max_rescues = check_integer("max_rescues", max_rescues, 0)
        if log_dir is not None:
            check_path("log_dir", log_dir)
        self.verbose = check_verbose("verbose", verbose)
        self.rescues: list[RescuedStep] = []
        self.rate_factor = 1.0
        super().__init__(log_dir)

    def _forget(self) -> None:
        super()._forget()
        self._epoch = self._batch = self._in_a_row = self._lowered = self._files = 0
        self._writes = True
        # Update steps that going back has undone: other callbacks count on.
        self._undone = 0

    # Keras's hooks, and those of RecordingCallback.

    def _begin(self):
        if self._worker() is not None:
            raise ValueError(
                "Rescue needs a strategy of one process. "
                f"Received: {type(self.model.distribute_strategy).__name__} over several workers"
            )
        _build_for_fit(self.model)
        if not self.model.optimizer.built:
            raise ValueError(
                "Rescue needs a model that is built before the first step: give it an Input, or "
                f"call it on a batch. Received: model {self.model.name!r}"
            )
        self._in_a_row = self._lowered = self._files = 0
        self._writes = True

    def _new_recorder(self):
        return Guard(self.model, self._function, self.spike, self._on_fault)

    def _start_if_needed(self):
        super()._start_if_needed()
        guards = [r for r in self._function.recorders if isinstance(r, Guard) and r.active]
        if guards not in ([], [self._recorder]):
            raise ValueError("`callbacks` must hold at most one Rescue. Received: two of them")
        if not self._recorder.active:
            self._recorder.guard(self.rate_factor)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: note the epoch."""
        self._epoch = epoch
        if self._recorder is not None:
            self._recorder.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: guard the coming steps."""
        self._batch = batch
        super().on_train_batch_begin(batch, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave model and optimizer as they were, and tell of the rate."""
        super().on_train_end(logs)
        if self.verbose and self.rate_factor != 1.0:
            print(f"Rescue: {self._cure()}")

    def _cure(self):
        """Say what a training without the callback needs."""
        factor, leaves = self.rate_factor, _keras.leaf_optimizers(self.model.optimizer)
        rate = f"a schedule or rates of {factor:g} times as much"
        if len(leaves) == 1 and isinstance(leaves[0].learning_rate, keras.Variable):
            rate = f"`optimizer.learning_rate = {float(leaves[0].learning_rate) * factor:.4g}`"
        return (
            f"The factor {factor:g} on the learning rate ends with this callback: to train on "
            f"without it, set {rate}."
        )

    # A fault

    def _on_fault(self, fault: Fault):
        """Keep the batch of a step that went wrong, choose what to do, do it and tell."""
        guard, step = self._recorder, fault.step
        self._in_a_row = 1 if guard.good >= _APART else self._in_a_row + 1
        self._lowered += fault.of_weights
        layer, description = self._explanation(step)
        known: dict[str, Any] = {
            "step": fault.number,
            "epoch": self._epoch,
            "batch": self._batch + fault.place,
            "fault": fault.kind,
            "loss": step.loss,
            "norm": step.norm,
            "usual_loss": fault.usual,
        }
        path = self._write(step.data, {**known, "layer": layer, "description": description})
        action = "lowered" if fault.of_weights else "skipped"
        at = fault.number + self._undone
        if max(self._in_a_row, self._lowered) > self.max_rescues:
            action = "stopped"
            guard.go_to_best()
            self.model.stop_training = True
        elif fault.of_weights:
            self.rate_factor = guard.go_back(self.rate_factor, self.factor)
        rescued = RescuedStep(
            **known,
            action=action,
            from_step=guard.number(),
            rate_factor=self.rate_factor,
            layer=layer,
            description=description,
            path=path,
        )
        self.rescues.append(rescued)
        self._undone += fault.number - 1 - rescued.from_step
        self._tell(rescued, at)
        if action == "stopped" and step.error is not None:
            raise step.error

    def _explanation(self, step):
        """Return the layer at which NaN begins, or None, and what the batch does, in words."""
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            return None, ""
        try:
            batch = keras.utils.unpack_x_y_sample_weight(step.data)
            replay = explain(self.model, batch)
        except Exception as error:  # a model that only its own train step can call
            return None, f"The batch cannot be run layer by layer: {error}."
        finally:
            self._recorder.undo()
        if replay.began_in is None and not math.isfinite(step.loss + step.norm):
            return None, "Run layer by layer, the batch is finite."
        layer = replay.began_at if replay.began_in in ("forward", "backward") else None
        return layer, replay.description

    def _write(self, data, report):
        """Write the folder of a fault; return its path, None if it is not written."""
        if not self._writes or self._files >= _MOST_FILES:
            return None
        try:
            path = write_fault(self.directory, f"step-{report['step']}", self.model, data, report)
        except Exception as error:  # whatever fails, training goes on
            self._writes = False
            warnings.warn(
                f"The batch of step {report['step']} cannot be written to "
                f"{os.fspath(self.directory)!r}, and no later one is; training goes on. The "
                f"error: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        self._files += 1
        return path

    def _tell(self, rescued, at):
        if self._file is not None:
            advice = _CURES[rescued.action]
            if rescued.action == "lowered":
                advice += f" {self._cure()}"
            about = {
                "check": f"rescue_{rescued.fault}",
                "layer": rescued.layer,
                "step": at,
                "value": rescued.loss,
                "threshold": rescued.usual_loss,
                "description": str(rescued),
                "advice": advice,
            }
            self._file.write_text(f"rescue/{rescued.fault}", str(rescued), at)
            content = json.dumps({name: as_json(value) for name, value in about.items()})
            self._file.write_json(f"{FINDING}/rescue/{rescued.fault}", content, at)
            self._file.flush()
        if self.verbose:
            line = self.params.get("verbose") == 1  # Keras's progress bar stands in it
            print("\n" * line + f"Rescue: {rescued}")


def _build_for_fit(model):
    """Build model, optimizer and metrics, which the running `fit` would in its first step.

    Where Keras cannot call the model by itself, only the optimizer of one that is built.
    """
    iterator = _keras.epoch_iterator(model)
    # Where there is a strategy, Keras has done it already.
    if iterator is not None and model.distribute_strategy is tf.distribute.get_strategy():
        with contextlib.suppress(ValueError, TypeError, RuntimeError, NotImplementedError):
            _keras.build_metrics(model, iterator.data_adapter.get_tf_dataset().element_spec)
    if not model.optimizer.built and _keras.is_built(model):
        model.optimizer.build(model.trainable_variables)
