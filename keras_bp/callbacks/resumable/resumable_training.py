"""Training that resumes where it was killed."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_choice, check_path
from keras_bp._keras import fit_arguments, initial_epoch, is_built, set_initial_epoch
from keras_bp._types import Path
from keras_bp.callbacks.resumable._checkpoints import Checkpoints
from keras_bp.callbacks.resumable._state import TrainingState
from keras_bp.callbacks.swap_ema_weights import SwapEMAWeights
from keras_bp.recording import Callback


class ResumableTraining(Callback):
    """Saves the whole state of a `fit` after each epoch, and resumes from there when run again.

    A process that is killed at any moment, and started again with the same script, ends with the
    weights of an uninterrupted training, bit for bit: the interrupted epoch is trained again. The
    checkpoint holds the model's weights and seed generators (of Dropout, for instance), the
    optimizer's variables, the epoch, the history, the global random states of Keras, NumPy and
    Python, and what `callbacks` count.

    A checkpoint is complete or absent: it is written under another name, flushed to the disk and
    renamed before an older one is removed. The newest two are kept; one that cannot be read is
    skipped with a warning. `epochs` of `fit` is the total: with a checkpoint of epoch 3,
    `fit(epochs=5)` trains two more, and none when run again. The callback leaves nothing on the
    model afterwards.

    A directory belongs to one training. It is locked while a `fit` runs (on Linux and macOS; the
    lock of a dead process is void). After an error or an interrupt, which Keras tells no callback,
    it stays locked for other processes until this one ends or completes a `fit` there.

    A checkpoint of another model, optimizer, loss or data is refused. Classes and settings are
    compared as `get_config` tells them, the number of batches, and shapes, types and 256 rows of
    arrays, or the element types of a `tf.data.Dataset`; not functions, but by name, nor a constant
    learning rate, which callbacks change: the checkpoint's is used. A checkpoint of somebody else
    can alter the training and the history, but gives callbacks no string that could be a path,
    other than keys of dictionaries.

    Put it last in the list of callbacks, so that it saves what the others do at the end of an
    epoch, but before a `SwapEMAWeights(swap_on_epoch=True)`, which then replaces the weights.

    The order of the data must be the same in both processes. With arrays, set the seed
    (`keras.utils.set_random_seed`): Keras then shuffles each epoch in the same way. A
    `tf.data.Dataset` that shuffles by itself starts over with the order of epoch 0; give it as a
    function of the epoch instead:

        resumable = keras_bp.callbacks.ResumableTraining("run1")
        batches = resumable.by_epoch(lambda epoch: data.shuffle(1000, seed=epoch).batch(32))
        model.fit(batches, epochs=20, callbacks=[resumable])

    After an `OptimizerSwitch` the checkpoints hold the new optimizer, and a script that compiles
    the old one is refused. Do not use `steps_per_epoch`: Keras's epochs then begin where the last
    one ended in the data, and no checkpoint knows where. The stateful random operations of
    TensorFlow (`tf.random.uniform`) keep their state in kernels that cannot be read: use
    `keras.random` with a `SeedGenerator`.

    Args:
        backup_dir: string or `os.PathLike`, the directory of the checkpoints, one per training; it
            is made if it does not exist.
        callbacks: list of other callbacks of the same `fit` whose counts are saved too, such as
            `EarlyStopping` and `ReduceLROnPlateau`: attributes other than arguments that are
            numbers, arrays of numbers, "min", "max" or "auto" (no other strings, which could name
            a file), or lists, tuples and dictionaries of these, and were so, `None` or absent when
            `fit` began. Place this callback after them. Defaults to none.
        save_failure: what to do when a checkpoint cannot be written, on a full disk for instance.
            `"warn"` gives a warning and trains on, `"raise"` ends `fit` with an `OSError`. The
            earlier checkpoints stay whole, and each epoch tries again. Defaults to `"warn"`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `backup_dir` is empty or `save_failure` is unknown; and by `fit`, before the
            first epoch, if the directory cannot be written to or another process trains there, if
            the model is not built or compiled, if a `SwapEMAWeights(swap_on_epoch=True)` comes
            first or is Keras's own, if there are several workers, if the checkpoint belongs to
            another training or was not written by this version of the callback, or if none can be
            read.
        RuntimeError: by `fit`, if a later `fit` of the same process has taken the directory.

    Example:
    ```python
    resumable = keras_bp.callbacks.ResumableTraining("checkpoints/run1")
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
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._state: Any = None
        self._checkpoints: Any = None
        self._optimizer: Any = None

    def __deepcopy__(self, memo: dict) -> "ResumableTraining":
        copied = memo[id(self)] = copy.copy(self)
        for name, value in vars(copied).items():
            if name != "_epoch":  # which datasets read
                setattr(copied, name, copy.deepcopy(value, memo))
        return copied

    def by_epoch(self, function: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
        """Return a dataset that differs from epoch to epoch.

        Args:
            function: function of the epoch, a scalar int64 tensor from 0, that returns a
                `tf.data.Dataset`, with the same number of batches in each epoch.

        Raises:
            TypeError: if it returns something else.
        """
        first = function(tf.zeros((), tf.int64))
        if not isinstance(first, tf.data.Dataset):
            raise TypeError(f"`function` must return a tf.data.Dataset. Received: {first!r}")

        def of_this_epoch(_):
            graph = tf.compat.v1.get_default_graph()
            # With a global seed of 0 TensorFlow compares a dataset's seed with 0, in Python.
            graph.seed = graph.seed or None
            return function(self._epoch.read_value())

        each = tf.data.Dataset.range(1).flat_map(of_this_epoch)
        # The length is that of any epoch; without one, `fit` warns that the data ran out.
        length = first.cardinality()
        known = int(length) >= 0
        return each.apply(tf.data.experimental.assert_cardinality(length)) if known else each

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's hook: load the newest checkpoint, if there is one."""
        if not is_built(self.model) or getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                "ResumableTraining needs a model that is built (give it, or each layer that a "
                "`train_step` calls, an Input, or call it on a batch) and compiled with an "
                f"optimizer. Received: model {self.model.name!r}"
            )
        if self._worker() is not None:
            raise ValueError(
                "ResumableTraining needs a `fit` of one process: over several workers save with "
                "tf.train.Checkpoint in a custom loop, as examples/multi_worker.py does. "
                f"Received: worker {self._worker()} of several"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._check_swaps()
        self._checkpoints = Checkpoints(self.backup_dir)
        try:
            self._resume()
        except BaseException:
            self._checkpoints.close()
            raise

    def _check_swaps(self):
        """Refuse a callback that puts the averages into the model before they are saved."""
        listed = getattr(fit_arguments(self.model).get("callbacks"), "callbacks", [])
        for place, other in enumerate(listed):
            swaps = isinstance(other, keras.callbacks.SwapEMAWeights) and other.swap_on_epoch
            if swaps and not (isinstance(other, SwapEMAWeights) and self in listed[:place]):
                raise ValueError(
                    "`callbacks` of `fit` must hold SwapEMAWeights(swap_on_epoch=True) after "
                    "ResumableTraining, which saves the weights, and the one of keras_bp, since "
                    "Keras's does not put back the same bits. Received: "
                    f"{[type(callback).__name__ for callback in listed]}, with {other!r}"
                )

    def _resume(self):
        self._optimizer = self.model.optimizer
        self._state = TrainingState(self.model, self.callbacks, self.params)
        self._history, self._epochs = {}, []
        self._before = initial_epoch(self.model)
        newest = self._checkpoints.newest(self._state.check, self._state.variables)
        if newest is not None:
            values, metadata = newest
            self._state.restore(values, metadata)
            self._history, self._epochs = metadata["history"], list(range(metadata["epoch"]))
            # `fit` reads it right after this hook. A stopped training (EarlyStopping) has no epoch
            # left.
            epochs = self.params["epochs"]
            set_initial_epoch(self.model, epochs if metadata["stopped"] else metadata["epoch"])

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: note the epoch."""
        self._epoch.assign(epoch)
        self._hand_over()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: save."""
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(np.asarray(value).tolist())
        if self.model.optimizer is not self._optimizer:  # OptimizerSwitch
            self._optimizer = self.model.optimizer
            self._state.look_at(self.model)
        stopped = bool(self.model.stop_training)
        metadata = self._state.metadata(epoch + 1, stopped, self._history)
        try:
            self._checkpoints.save(epoch + 1, self._state.variables, metadata)
        except (tf.errors.OpError, OSError) as error:
            message = (
                f"The checkpoint of epoch {epoch + 1} cannot be written to {self.backup_dir!r}; "
                f"the ones before it stay. {error}"
            )
            if self.save_failure == "raise":
                raise OSError(message) from error
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave the model as it was."""
        self._hand_over()
        self._checkpoints.close()
        self._state = self._checkpoints = self._optimizer = None

    def _hand_over(self):
        """Add the earlier epochs to Keras's history, and restore the first epoch."""
        set_initial_epoch(self.model, self._before)
        if self._epochs:
            self.model.history.epoch = self._epochs + self.model.history.epoch
            copies = {name: list(values) for name, values in self._history.items()}
            self.model.history.history = copies
        self._epochs = []
