"""The base of the callbacks that watch the update steps of a `fit`."""

import inspect
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import as_call
from keras_bp._keras import is_built
from keras_bp._paths import layer_paths, variable_paths
from keras_bp._types import Path, Sink
from keras_bp.recording.curvature_meter import CurvatureMeter
from keras_bp.recording.event_file import EventFile, run_directory
from keras_bp.recording.recorder import StepRecorder
from keras_bp.recording.settings import model_id, settings_of, write_settings
from keras_bp.recording.sinks import Sinks
from keras_bp.recording.train_function import RecordingTrainFunction
from keras_bp.recording.update_meter import UpdateMeter


class Callback(keras.callbacks.Callback):
    """Base of the package's callbacks: shows its arguments, and can be copied and pickled.

    A copy has the arguments and the results, also one made in a `fit`, and lets go of the model, of
    open files and of what watches the step: a tuner's next trial trains another model.
    """

    def _worker(self) -> int | None:
        """Return this process's number among several workers, `None` if there is only one."""
        # There is no model in a custom loop.
        strategy: Any = getattr(self.model, "distribute_strategy", None)
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        return strategy.cluster_resolver.task_id if several else None

    def set_model(self, model: keras.Model | None = None) -> None:
        """Keras's hook: take the model that `fit` is about to train."""
        if model is None:  # called on the class, with the model as `self`
            raise TypeError(
                "`callbacks` must hold callbacks, such as `GradientMonitor()`, not their classes. "
                "Received: a class of keras_bp.callbacks"
            )
        super().set_model(model)

    def _check_optimizer(self):
        """Raise if the model has no optimizer."""
        optimizer = getattr(self.model, "optimizer", None)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                f"{type(self).__name__} needs a model that is compiled with an optimizer. "
                f"Received: model {self.model.name!r} with optimizer {optimizer!r}"
            )

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        return as_call(type(self), {n: vars(self)[n] for n in names if n in vars(self)})

    def __getstate__(self) -> dict:
        copied = object.__new__(type(self))
        copied.__dict__.update(vars(self))
        copied._forget()
        return copied.__dict__

    def _forget(self) -> None:
        """Set what belongs to a `fit` to what it is before one; a subclass adds its own."""
        keras.callbacks.Callback.set_model(self, None)
        self.set_params(None)


class RecordingCallback(Callback):
    """Sees every update step of a plain `fit`; a subclass uses what was recorded.

    Keras hands a callback no gradients. While the train function runs, this callback listens to
    the optimizer's `scale_loss` and `apply`, through which every optimizer of Keras receives the
    loss and the gradients; no `train_step` is overridden and no model subclassed. The records
    are kept on the device and read from time to time.

    A subclass overrides `_begin`, `_take` and `_end`, and `_new_recorder` where it records more.
    Once updates were taken it may use

        self._last_step     the number of the last update step taken, 1 for the optimizer's first
        self._recorder      the `StepRecorder`
        self._layers        the paths of the layers that hold trainable variables, in order
        self._norms(squares)
        self._file          the `EventFile`, if there is a `log_dir`

    Args:
        log_dir: string or `os.PathLike`, where `run_directory` finds the event file's directory,
            or None for no file.
    """

    sinks: Sequence[Sink] = ()
    """Where a subclass's scalars go besides its event file."""
    _seconds = 1.0
    """How long the updates of several calls may wait to be read."""

    def __init__(self, log_dir: Path | None = None) -> None:
        super().__init__()
        self.log_dir: Any = log_dir
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._function: Any = None
        self._recorder: Any = None
        self._meter: Any = None
        # Measures nothing, unless a subclass sets another.
        self._curvature = CurvatureMeter(**getattr(vars(self).get("_curvature"), "every", {}))
        self._file: Any = None
        self._run_directory: str | None = None
        self._settings: str | None = None
        self._sinks: Sinks | None = None
        self._last_step = 0
        self._recording = self._sampling = self._custom_loop = False
        self._describes = self._described = False

    @property
    def run_dir(self) -> Path | None:
        """The directory of the event file: `log_dir`, or, once `fit` has begun, `run-2`, ... in it.

        A training that begins anew where `log_dir` holds an earlier run gets one of its own.
        """
        return self._run_directory or self.log_dir

    # What a subclass overrides.

    def _new_recorder(self):
        """Return the `StepRecorder` of a train function that is about to be traced."""
        return StepRecorder(self.model)

    def _begin(self):
        """Prepare for the first step, or raise an error."""

    def _take(self, updates):
        """Use the `Updates` made up to `self._last_step`."""
        raise NotImplementedError(f"{type(self).__name__} must override `_take`.")

    def _end(self):
        """Finish, also after an exception."""

    def _change_model(self):
        """Prepare for a model that is not the last `fit`'s: it has a run of its own."""
        self._forget()

    # Keras's hooks.

    def set_model(self, model: keras.Model | None = None) -> None:
        """Keras's hook: take the model that `fit` is about to train."""
        if model is not None:
            # A fit that an exception ended never called on_train_end.
            self._stop()
            RecordingTrainFunction.remove_from(model)
            if self.model is not None and self.model is not model:
                self._change_model()
        Callback.set_model(self, model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: begin."""
        self._check_optimizer()
        if is_built(self.model) and not self.model.trainable_variables:
            raise ValueError(
                f"{type(self).__name__} needs a model with trainable weights. "
                f"Received: model {self.model.name!r}, which has none"
            )
        self._begin()
        self._recording = False

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: record the coming steps."""
        self._start_if_needed()
        if not self._custom_loop:
            self._curvature.start(self._is_due)
        self._open()
        self._function.arm(self._sampling)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: take the updates, if enough are waiting."""
        self._calls += 1
        full = (self._calls + 1) * self.model.steps_per_execution > self._recorder.places
        late = time.monotonic() - self._taken_at >= self._seconds
        self._see_call()
        if full or late or self._measures() or self._curvature.running:
            self._take_updates()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: take the updates."""
        self._open()  # a fit inside this one has closed it
        self._take_updates()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave model and optimizer as they were."""
        if self._recording and not (self._recorder.sees_update or self._custom_loop):
            warnings.warn(
                f"{type(self).__name__} saw no update: the train step of model "
                f"{self.model.name!r} does not call `apply` of `model.optimizer`",
                RuntimeWarning,
                stacklevel=2,
            )
        self._stop()

    def flush(self) -> None:
        """Take the updates made so far, and flush the event file."""
        if self._recording and self._function.in_place():
            self._take_updates()
        if self._file is not None:
            self._file.flush()

    def _see_call(self):
        """Let what is being measured see the call; measure nothing if a step was taken back.

        The weights before it may be others then, and it has no batch.
        """
        if self._function.kept:
            self._curvature.see_call()
            return
        self._curvature.cancel()
        if self._meter is not None:
            self._meter.cancel()

    def _start_meter(self):
        """Measure the coming update, unless one is being measured."""
        # As they were traced: a layer may have been frozen since.
        variables = self._recorder.variables or self.model.trainable_variables
        if self._meter is None or not self._meter.measures(variables):
            self._meter = UpdateMeter(variables)
        if not self._meter.running:
            self._meter.start()

    def _stop_meter(self):
        """Return what `UpdateMeter.stop` does; None if it was not started with these variables."""
        if not self._measures():
            return None
        # Before the first batch has built a layer there was nothing to measure.
        if not self._meter.measures(self._recorder.variables):
            self._meter = None
            return None
        return self._meter.stop()

    def _is_due(self, step):
        """Tell whether the next call makes this update step, or comes after it."""
        steps = self.model.steps_per_execution
        if self._last_step + (self._calls + 1) * steps < step:
            return False
        if self._calls:  # not every call made an update: there are micro-steps and skipped steps
            self._take_updates()
        return self._last_step + steps >= step

    def _measures(self):
        """Tell whether an update is being measured."""
        return self._meter is not None and self._meter.running

    def _start_if_needed(self):
        """Record from the next step on, with what an earlier `fit` has traced if it fits."""
        # Not in on_train_begin, after which another callback may restore the optimizer's state; and
        # again if one has remade the train function, perhaps with another optimizer.
        if self._recording and self._function.in_place():
            return
        if self._recording:
            self._take_updates()
        if self._function is not None and self._function.put_back(self.model):
            self._recorder.restart()
        else:
            self._function = RecordingTrainFunction.of(self.model)
            self._recorder = self._new_recorder()
            self._function.add(self._recorder)
            self._curvature.watch(self._function, self.model)
            self._layers = None
        self._last_step = max(self._last_step, self._recorder.updates_before)
        self._calls, self._taken_at, self._recording = 0, time.monotonic(), True

    def _stop(self):
        """Take what is left and release the model."""
        if self._function is not None and self._function.in_place():
            self._take_updates()
            RecordingTrainFunction.remove_from(self.model)
        self._recording = self._described = False
        if self._meter is not None:
            self._meter.cancel()
        self._curvature.cancel()
        self._end()
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self):
        """Open the event file, if there is to be one and it is not open."""
        if self.log_dir is None or self._file is not None:
            return
        starts, model = False, model_id(self.model)
        if self._worker():  # the run is all workers', and the first one writes it
            self._file = EventFile(self.log_dir, writes=False)
            return
        if self._run_directory is None:
            # All callbacks of a `fit` share it.
            shared = {} if self._function is None else self._function.run_directories
            log_dir = os.fspath(self.log_dir)
            starts = log_dir not in shared
            if starts:
                shared[log_dir] = run_directory(log_dir, self._last_step, model)
                if shared[log_dir] != log_dir:
                    print(f"{log_dir} holds an earlier run: this one goes to {shared[log_dir]}")
            self._run_directory, self._describes = shared[log_dir], starts
        if self._sinks is None and self.sinks:
            self._sinks = Sinks(self.sinks)
        if self._sinks is not None:
            self._sinks.open(self._last_step)
        self._file = EventFile(
            self._run_directory, self._last_step, starts, model, sinks=self._sinks
        )

    def _describe(self):
        """Write what the run is made with, once a `fit`, if that has changed."""
        if self._describes and not self._described:
            settings = settings_of(self.model, self.params or {})
            self._settings = write_settings(self._file, settings, self._last_step, self._settings)
        self._described = True

    def _take_updates(self):
        """Hand the updates made since the last time to `_take`."""
        updates = self._recorder.new_updates()
        self._calls, self._taken_at = 0, time.monotonic()
        if updates is None:
            return 0
        if self._layers is None:
            self._name_layers()
        self._open()
        self._describe()
        self._last_step += len(updates.losses)
        self._curvature.stop(self._last_step, len(updates.losses), updates.rates[-1, 0])
        self._take(updates)
        return len(updates.losses)

    def _name_layers(self):
        """Find the layers, and for each variable the number of its layer among them."""
        paths = variable_paths(self.model)
        layers = [paths[id(variable)][0] for variable in self._recorder.variables]
        self._layers = list(dict.fromkeys(layers))
        self._layer_of_variable = np.array([self._layers.index(layer) for layer in layers])

    def _norms(self, squares):
        """Return the norm of each layer and of all: (n, variables) -> (n, layers + 1)."""
        layers = np.zeros((len(squares), len(self._layers)))
        np.add.at(layers, (slice(None), self._layer_of_variable), squares)
        return np.sqrt(np.column_stack([layers, squares.sum(axis=1)]))


class LayerSelection:
    """The layers that a user chose, by path; a path includes the layers inside it.

    Args:
        paths: list of strings, or None for all layers.
    """

    def __init__(self, paths: Sequence[str] | None) -> None:
        if paths is not None:
            known = isinstance(paths, list | tuple) and all(isinstance(p, str) for p in paths)
            if not known:
                raise TypeError(
                    f"`layers` must be a list of strings or None. Received: layers={paths!r}"
                )
            if not paths:
                raise ValueError(
                    f"`layers` must name a layer, or be None. Received: layers={paths!r}"
                )
        self._paths = None if paths is None else tuple(paths)

    def __contains__(self, path: str) -> bool:
        return self._paths is None or any(_within(path, chosen) for chosen in self._paths)

    def check(self, model: keras.Model) -> None:
        """Raise an error unless every path names layers of a built model."""
        paths = {layer for layer, _ in variable_paths(model).values()}
        paths |= set(layer_paths(model).values())
        for chosen in self._paths or ():
            if not any(_within(path, chosen) for path in paths):
                raise ValueError(
                    f"`layers` must name layers of the model, by path: {sorted(paths)}. "
                    f"Received: layers={chosen!r}"
                )


def _within(path, chosen):
    return path == chosen or path.startswith(f"{chosen}/")
