"""Training that resumes where it was killed."""

import os
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_choice, check_integer, check_number, check_path
from keras_bp._keras import (
    fit_arguments,
    initial_epoch,
    is_built,
    set_initial_epoch,
    set_last_logs,
)
from keras_bp._types import Path
from keras_bp.callbacks.resumable._checkpoints import Checkpoints, Entries
from keras_bp.callbacks.resumable._data import DataPosition, set_random_states
from keras_bp.callbacks.resumable._interrupts import Interrupts
from keras_bp.callbacks.resumable._state import TrainingState
from keras_bp.callbacks.swap_ema_weights import SwapEMAWeights
from keras_bp.recording import Callback, RecordingCallback
from keras_bp.workers import gather

# Between two questions of several workers whether to save.
_AGREE_SECONDS = 1.0


def _where(epochs, batches):
    return f"batch {batches} of epoch {epochs + 1}" if batches else f"epoch {epochs}"


def _sum_over_workers(strategy):
    @tf.function
    def total(values):
        def add():
            return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(values))

        return strategy.experimental_local_results(strategy.run(add))[0]

    return total


class ResumableTraining(Callback):
    """Saves the whole state of a `fit`, and resumes from there when run again.

    A process that is killed at any moment, and started again with the same script, ends with the
    weights of an uninterrupted training, bit for bit. It saves after each epoch, and if asked to
    inside of one, every `save_freq` batches or `save_seconds` seconds; what came after the last
    checkpoint is trained again. On SIGTERM, which schedulers send ahead of a kill, and on Ctrl-C it
    finishes the batch, saves and ends the process, with status 143 or a KeyboardInterrupt; a second
    signal ends it at once.

    A checkpoint holds the model's weights and seed generators (of Dropout, for instance), the
    optimizer's variables, the metrics, the history, the place in the data, the global random states
    of Keras, NumPy and Python, and what `callbacks` count. Its variables are read at once and
    written in the background. It is complete or absent: it is written under another name, flushed
    to the disk and renamed before an older one is removed. The newest two are kept; one that cannot
    be read, by the checksum of each tensor, is skipped with a warning. `epochs` of `fit` is the
    total: with a checkpoint of epoch 3, `fit(epochs=5)` trains two more, and none when run again.
    The callback leaves nothing on the model afterwards.

    The data go on where they were, in the same order:

    - Arrays: the order of the interrupted epoch is saved.
    - A `tf.data.Dataset`: the position of its iterator is saved, with the buffer of a `shuffle`;
      give that a seed. A position that cannot be read, of a generator, of random operations in a
      `map`, over several replicas, or not within half a second, or that holds a `cache` in memory,
      is found again by taking batches and dropping them: then the data must come in the same order
      when the script runs again. Inside an epoch a `cache` in a file must be complete: TensorFlow
      loses what it has written of one when a position is read. Of two shuffled datasets that follow
      each other (`concatenate`), a resumed training does not know the order of the second.
    - A `keras.utils.PyDataset` goes on by index. Its hooks of the epochs before are called again; a
      batch must depend on its index and the epoch only. With `workers` batches are loaded again.
    - The validation's data begin anew in each epoch, in the order of that epoch.

    A directory belongs to one training. It is locked while a `fit` runs (on Linux and macOS; the
    lock of a dead process is void). After an error or an interrupt, which Keras tells no callback,
    it stays locked for other processes until this one ends or completes a `fit` there.

    A checkpoint of another model, optimizer, loss or data is refused. Classes and settings are
    compared as `get_config` tells them, the number of batches and of replicas, and shapes, types
    and 256 rows of arrays, or the element types of a `tf.data.Dataset`; not functions, but by name,
    nor a constant learning rate, which callbacks change: the checkpoint's is used. A checkpoint of
    somebody else can alter the training and the history, but gives callbacks no string that could
    be a path, other than keys of dictionaries.

    Put it last in the list of callbacks, so that it saves what the others do at the end of an
    epoch, but before a `SwapEMAWeights(swap_on_epoch=True)`, which then replaces the weights.

    Over several workers (`keras_bp.workers.multi_worker_strategy`) give it to all, with a directory
    that they share. The first one writes the weights, and each other one what is its own, to
    `worker-1` and so on; all resume from the newest checkpoint that all have.

    Set the seed (`keras.utils.set_random_seed`). After an `OptimizerSwitch` the checkpoints hold
    the new optimizer, and a script that compiles the old one is refused. The stateful random
    operations of TensorFlow (`tf.random.uniform`) keep their state in kernels that cannot be read:
    use `keras.random` with a `SeedGenerator`.

    Args:
        backup_dir: string or `os.PathLike`, the directory of the checkpoints, one per training; it
            is made if it does not exist.
        callbacks: list of other callbacks of the same `fit` whose counts are saved too, such as
            `EarlyStopping` and `ReduceLROnPlateau`: attributes other than arguments that are
            numbers, arrays of numbers, "min", "max" or "auto" (no other strings, which could name
            a file), or lists, tuples and dictionaries of these, and were so, `None` or absent when
            `fit` began. Place this callback after them. Defaults to none.
        save_failure: what to do when a checkpoint cannot be written, on a full disk for instance.
            `"warn"` gives a warning and trains on, `"raise"` ends `fit` with an `OSError`; at the
            next batch, as it is written in the background. The earlier checkpoints stay whole, and
            each later one tries again. Defaults to `"warn"`.
        save_freq: `"epoch"`, or int, 1 or more: save inside an epoch too, after this number of
            batches. Defaults to `"epoch"`.
        save_seconds: number above 0, or None: save inside an epoch too, after the first batch that
            ends so many seconds after the last checkpoint. Defaults to `None`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `backup_dir` is empty or another argument out of range; and by `fit`, before
            the first epoch, if the directory cannot be written to or another process trains there,
            if several workers do not share it, if the model is not built or compiled, if a
            `SwapEMAWeights(swap_on_epoch=True)` comes first or is Keras's own, if the checkpoint
            belongs to another training or was not written by this version of the callback, or if
            none can be read.
        RuntimeError: by `fit`, if a later `fit` of the same process has taken the directory.

    Example:
    ```python
    resumable = keras_bp.callbacks.ResumableTraining("checkpoints/run1", save_seconds=60)
    model.fit(x, y, epochs=50, callbacks=[resumable])
    ```

    In a custom loop `tf.train.Checkpoint` does the same from the last saved step, if it is given
    the iterator and all variables (it omits the seeds and slots of Keras's objects):

    ```python
    values = {f"v{i}": v.value for i, v in enumerate(model.variables + optimizer.variables)}
    checkpoint = tf.train.Checkpoint(data=iterator, done=done, **values)
    manager = tf.train.CheckpointManager(checkpoint, "checkpoints/run1", max_to_keep=2)
    manager.restore_or_initialize()
    ```
    """

    def __init__(
        self,
        backup_dir: Path,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        save_failure: str = "warn",
        save_freq: int | str = "epoch",
        save_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.backup_dir = check_path("backup_dir", backup_dir)
        known = isinstance(callbacks, list | tuple)
        if not known or not all(isinstance(c, keras.callbacks.Callback) for c in callbacks):
            raise TypeError(
                f"`callbacks` must be a list of callbacks. Received: callbacks={callbacks!r}"
            )
        self.save_failure = check_choice("save_failure", save_failure, ("warn", "raise"))
        self.callbacks = list(callbacks)
        if save_freq != "epoch":
            check_integer("save_freq", save_freq, 1)
        self.save_freq = save_freq
        if save_seconds is not None:
            check_number("save_seconds", save_seconds, 0.0, low_open=True)
        self.save_seconds = save_seconds
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._state: Any = None
        self._checkpoints: Any = None
        self._optimizer: Any = None
        self._data: Any = None
        self._interrupts: Any = None
        self._resumed: Any = None
        self._before_test: Any = None
        self._sum: Any = None
        self._validations = 0  # of an earlier process

    # Keras's hooks.

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: load the newest checkpoint, if there is one."""
        # A subclass counts as built after `build`, even if that has made no weights.
        built = is_built(self.model) and self.model.weights
        if not built or getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                "ResumableTraining needs a model that is built (give it, or each layer that a "
                "`train_step` calls, an Input, or call it on a batch) and compiled with an "
                f"optimizer. Received: model {self.model.name!r}"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._check_swaps()
        set_last_logs(self.model, None)  # of a `fit` that was interrupted
        self._data = DataPosition(self.model)
        if not self._data.known and (self.save_freq != "epoch" or self.save_seconds is not None):
            raise ValueError(
                "ResumableTraining saves inside an epoch in Keras's own `fit` only: leave "
                "`save_freq` and `save_seconds` out. Received: "
                f"save_freq={self.save_freq!r}, save_seconds={self.save_seconds!r}"
            )
        worker = self._worker()
        # Of several, each writes what is its own; one may be a checkpoint ahead of the others.
        own = os.path.join(self.backup_dir, f"worker-{worker}") if worker else self.backup_dir
        self._checkpoints = Checkpoints(own, keep=2 if worker is None else 3)
        try:
            self._check_shared()
            self._resume()
        except BaseException:
            self._checkpoints.close()
            raise
        self._saved_at = time.monotonic()
        self._sum = None if worker is None else _sum_over_workers(self.model.distribute_strategy)
        if self._interrupts is not None:  # of a `fit` that an error has ended
            self._interrupts.restore()
        self._interrupts = Interrupts(lambda: self in self._listed())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: note the epoch."""
        self._hand_over()
        self._ask_anew()
        self._epoch, self._batches = epoch, 0
        self._logs: dict = {}
        if self._resumed is not None:
            # Again, as `fit` has reset the metrics, and other callbacks have begun an epoch.
            arrays, metadata = self._resumed
            if metadata["place"][1]:
                self._state.restore(arrays, metadata["callbacks"])
                set_last_logs(self.model, metadata["logs"])
            self._resumed = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: save, if it is time, and end if the process was told to."""
        self._report(self._checkpoints.failure())
        before, self._batches, self._logs = self._batches, batch + 1, logs or {}
        if self.model.stop_training:  # the epoch ends
            return
        every = self.save_freq
        by_number = isinstance(every, int) and (batch + 1) // every > before // every
        by_time, interrupt = self._asked()
        if by_number or by_time or interrupt:
            self._save(self._snapshot())
        if interrupt:
            self._leave(interrupt)

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: keep the state, as the validation resets the metrics."""
        self._ask_anew()
        if self._data is not None and self._data.known:
            self._before_test = self._snapshot()
            self._data.pass_over_validations(self._validations)
            self._validations = 0

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: end if the process was told to."""
        if self._before_test is None:
            return
        interrupt = self._asked()[1]
        if interrupt:
            self._save(self._before_test)
            self._leave(interrupt)

    def on_test_end(self, logs: dict | None = None) -> None:
        """Keras's hook: note that batches take another time from here on."""
        self._ask_anew()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: save."""
        self._before_test = None
        set_last_logs(self.model, None)
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(np.asarray(value).tolist())
        self._data.end_epoch()
        self._epoch, self._batches, self._logs = epoch + 1, 0, {}
        self._report(self._checkpoints.failure())
        self._save(self._snapshot())
        self._ask_anew()
        interrupt = self._asked()[1]
        if interrupt:
            self._leave(interrupt)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave the model as it was."""
        self._hand_over()
        self._interrupts.restore()
        self._report(self._checkpoints.failure(wait=True))
        self._checkpoints.close()
        interrupts = self._interrupts
        self._state = self._checkpoints = self._optimizer = self._data = None
        self._interrupts = self._sum = None
        if interrupts.received:  # after the last epoch
            interrupts.obey(interrupts.received)

    def _listed(self):
        """List the callbacks of the `fit` that is running."""
        return getattr(fit_arguments(self.model).get("callbacks"), "callbacks", [])

    def _check_swaps(self):
        """Refuse a callback that puts the averages into the model before they are saved."""
        listed = self._listed()
        for place, other in enumerate(listed):
            swaps = isinstance(other, keras.callbacks.SwapEMAWeights) and other.swap_on_epoch
            if swaps and not (isinstance(other, SwapEMAWeights) and self in listed[:place]):
                raise ValueError(
                    "`callbacks` of `fit` must hold SwapEMAWeights(swap_on_epoch=True) after "
                    "ResumableTraining, which saves the weights, and the one of keras_bp, since "
                    "Keras's does not put back the same bits. Received: "
                    f"{[type(callback).__name__ for callback in listed]}, with {other!r}"
                )

    # The checkpoints

    def _resume(self):
        self._optimizer = self.model.optimizer
        self._state = TrainingState(self.model, self.callbacks, self.params)
        self._history, self._epochs = {}, []
        self._before = initial_epoch(self.model)
        self._validations = 0
        newest = self._checkpoints.newest(self._read, self._gather)
        if newest is None:
            return
        arrays, metadata, data_states = newest
        self._state.restore(arrays, metadata["callbacks"])
        set_random_states(metadata["data"]["now"])
        self._resumed = arrays, metadata
        done = metadata["place"][0]
        validated = (len(v) for name, v in metadata["history"].items() if name.startswith("val_"))
        self._validations = max(validated, default=0)
        first = fit_arguments(self.model).get("initial_epoch", 0)
        self._history, self._epochs = metadata["history"], list(range(first, done))
        self._data.go_to(done - first, metadata["data"], data_states)
        # `fit` reads it right after this hook. A stopped training (EarlyStopping) has no epoch
        # left.
        set_initial_epoch(self.model, self.params["epochs"] if metadata["stopped"] else done)

    def _read(self, place, entries):
        """Return a checkpoint's arrays by name, its metadata and the data iterators' states."""
        metadata = self._state.check(place, entries.metadata())
        inside = place[1] > 0
        if inside:
            self._data.build_metrics()
        # Of the first worker.
        shared = Entries(self.backup_dir, place) if self._worker() else entries
        arrays = {}
        for name, (part, *_) in self._state.variables.parts(inside).items():
            source = shared if name in self._state.variables.common else entries
            arrays[name] = source.array(name, part.dtype, part.shape)
        return arrays, metadata, entries.variants(("data", "fresh data"))

    def _snapshot(self):
        """Return what `Checkpoints.save` takes, as it is now."""
        if self.model.optimizer is not self._optimizer:  # OptimizerSwitch
            self._optimizer = self.model.optimizer
            self._state.look_at(self.model)
        place = self._epoch, self._batches
        tensors = self._state.variables.values(metrics=self._batches > 0)
        if self._worker():
            tensors = {n: t for n, t in tensors.items() if n not in self._state.variables.common}
        data, data_states = self._data.description()
        logs = {name: np.asarray(value).tolist() for name, value in self._logs.items()}
        stopped = bool(self.model.stop_training)
        tensors |= data_states
        return place, tensors, self._state.metadata(place, stopped, self._history, logs, data)

    def _save(self, snapshot):
        # What they know of the steps before: a resumed training does not make them again.
        for other in self._listed():
            if isinstance(other, RecordingCallback):
                other.flush()
        self._checkpoints.save(*snapshot)
        self._saved_at = time.monotonic()

    def _report(self, failure):
        if failure is None:
            return
        place, error = failure
        message = (
            f"The checkpoint of {_where(*place)} cannot be written to {self.backup_dir!r}; "
            f"the ones before it stay. {error}"
        )
        if self.save_failure == "raise":
            raise OSError(message) from error
        warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _hand_over(self):
        """Add the earlier epochs to Keras's history, and restore the first epoch."""
        set_initial_epoch(self.model, self._before)
        if self._epochs:
            self.model.history.epoch = self._epochs + self.model.history.epoch
            copies = {name: list(values) for name, values in self._history.items()}
            self.model.history.history = copies
        self._epochs = []

    # Interrupts, and what several workers do together

    def _asked(self):
        """Return whether to save after some seconds, and the number of a signal or None."""
        due = self.save_seconds is not None and (
            time.monotonic() - self._saved_at >= self.save_seconds
        )
        signalled = self._interrupts.received
        if self._sum is None:
            return due, signalled
        # All must save after the same batch. To ask takes a millisecond: not after each.
        self._calls += 1
        if self._calls < self._calls_to_ask:
            return False, None
        chief = self._worker() == 0
        numbers = (signal.SIGINT, signal.SIGTERM)
        passed = max(time.monotonic() - self._asked_at, 1e-3)
        said = [due and chief, *(signalled == number for number in numbers), passed]
        due, *signals, seconds = self._sum(tf.constant(said, tf.float32)).numpy()
        workers = self.model.distribute_strategy.num_replicas_in_sync
        # At most twice as many as last time, whose batches may not have been computed yet.
        number = min(2 * self._calls, int(self._calls * _AGREE_SECONDS * workers / seconds))
        self._calls, self._asked_at, self._calls_to_ask = 0, time.monotonic(), max(1, number)
        signalled = next((n for n, count in zip(numbers, signals, strict=True) if count), None)
        return bool(due), signalled

    def _ask_anew(self):
        """Ask after the next batch, before the time that one takes is known."""
        self._calls, self._asked_at, self._calls_to_ask = 0, time.monotonic(), 1

    def _leave(self, number):
        """End the process as the signal would have, once the checkpoint is written."""
        self._report(self._checkpoints.failure(wait=True))
        print(
            f"Saved after {_where(self._epoch, self._batches)} on {signal.Signals(number).name}, "
            f"in {os.fspath(self.backup_dir)!r}",
            file=sys.stderr,
            flush=True,
        )
        self._interrupts.obey(number)

    def _gather(self, facts):
        """Return what each worker says."""
        return [facts] if self._worker() is None else gather(self.model.distribute_strategy, facts)

    def _check_shared(self):
        """Raise an error on all workers unless they share the directory."""
        if self._worker() is None:
            return
        token = self._gather(f"shared-{uuid.uuid4().hex}")[0]  # the first worker's
        path = os.path.join(self.backup_dir, token)
        if self._worker() == 0:
            with tf.io.gfile.GFile(path, "w") as file:
                file.write("do all workers see this?")
        self._gather("it is there")
        found = self._gather(tf.io.gfile.exists(path))
        if self._worker() == 0:
            tf.io.gfile.remove(path)
        if not all(found):
            raise ValueError(
                "`backup_dir` must name a directory that all workers share. Received: "
                f"backup_dir={self.backup_dir!r}, whose files of worker 0 are not seen by worker "
                f"{found.index(False)}"
            )
