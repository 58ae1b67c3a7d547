"""Training that resumes where it was killed."""

import base64
import inspect
import io
import json
import os
import random
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_path
from keras_bp._keras import all_optimizers, global_seed_state, initial_epoch, set_initial_epoch
from keras_bp._types import Path
from keras_bp.recording import Callback

# Errors of TensorFlow's reader and of JSON on truncated or altered files.
_UNREADABLE = (tf.errors.OpError, OSError, ValueError, LookupError)
_INDEX = re.compile(r"epoch-(\d+)\.index$")
_UNKNOWN = object()


class ResumableTraining(Callback):
    """Saves the whole state of a `fit` after each epoch, and resumes from there when run again.

    A process that is killed at any moment, and started again with the same script, ends with the
    weights of an uninterrupted training, bit for bit: the interrupted epoch is trained again. The
    checkpoint holds the model's weights and seed generators (of Dropout, for instance), the
    optimizer's variables, the epoch, the history, the global random states of Keras, NumPy and
    Python, and what `callbacks` count.

    A checkpoint is complete or absent: it is written under another name and renamed. The newest two
    are kept; one that cannot be read is skipped with a warning. `epochs` of `fit` is the total:
    with a checkpoint of epoch 3, `fit(epochs=5)` trains two more, and none when run again. The
    callback leaves nothing on the model afterwards.

    Put it last in the list of callbacks, so that it saves what the others do at the end of an
    epoch.

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
            `EarlyStopping` and `ReduceLROnPlateau`: attributes that are numbers, strings, arrays,
            or lists, tuples and dictionaries of these. Place this callback after them. Defaults to
            none.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `backup_dir` is empty; and by `fit`, before the first epoch, if the directory
            cannot be written to, if the model is not built or compiled, if the checkpoint belongs
            to another model, or if no checkpoint can be read.

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
        self, backup_dir: Path, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> None:
        super().__init__()
        self.backup_dir = check_path("backup_dir", backup_dir)
        known = isinstance(callbacks, list | tuple)
        if not known or not all(isinstance(c, keras.callbacks.Callback) for c in callbacks):
            raise TypeError(
                f"`callbacks` must be a list of callbacks. Received: callbacks={callbacks!r}"
            )
        self._others = list(callbacks)
        self._state: Any = None
        self._checkpoints: Any = None
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

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
        if not self.model.built or getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                "ResumableTraining needs a model that is built (give it an Input, or call it on a "
                f"batch) and compiled with an optimizer. Received: model {self.model.name!r}"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._inspect_model()
        self._history, self._epochs = {}, []
        self._before = initial_epoch(self.model)
        newest = self._checkpoints.newest(self._names)
        if newest is not None:
            values, metadata = newest
            self._state.restore_variables(values)
            self._state.restore_python_side(metadata["python_side"])
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
            self._inspect_model()
        variables = {key: _own_tensor(v) for key, v in self._state.variables.items()}
        metadata = {
            "epoch": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "signature": self._state.signature(),
            "history": self._history,
            "python_side": self._state.python_side(),
        }
        self._checkpoints.save(epoch + 1, variables, metadata)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: leave the model as it was."""
        self._hand_over()
        self._state = self._checkpoints = self._optimizer = None

    def _inspect_model(self):
        self._optimizer = self.model.optimizer
        self._state = _TrainingState(self.model, self._others)
        self._checkpoints = _Checkpoints(self.backup_dir)

    def _hand_over(self):
        """Add the earlier epochs to Keras's history, and restore the first epoch."""
        set_initial_epoch(self.model, self._before)
        if self._epochs:
            self.model.history.epoch = self._epochs + self.model.history.epoch
            copies = {name: list(values) for name, values in self._history.items()}
            self.model.history.history = copies
        self._epochs = []

    def _names(self, metadata):
        """Return the names of the variables; refuse a checkpoint of another training."""
        saved, own = metadata["signature"], self._state.signature()
        if saved != own:
            pairs = enumerate(zip(saved + [None], own + [None], strict=False))
            number, (theirs, ours) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
            raise _Refused(
                f"`backup_dir` must hold checkpoints of the same model and optimizer. Received: "
                f"backup_dir={self.backup_dir!r} with {len(saved)} classes and variables where "
                f"this training has {len(own)}; number {number} is {theirs!r} there and {ours!r} "
                "here"
            )
        return self._state.variables


class _TrainingState:
    """All that the next epoch of a training depends on, for one checkpoint.

    The model's weights and seed generators (metrics are reset in each epoch), the optimizer's
    variables, Keras's global seed generator, the states of Python's and NumPy's global random
    generators, and those attributes of callbacks that are numbers, strings, arrays, or lists,
    tuples and dictionaries of these.

    Args:
        model: a built and compiled `keras.Model` whose optimizer is built.
        callbacks: list of callbacks.
    """

    def __init__(self, model, callbacks):
        self._callbacks = callbacks
        self._classes = [f"callback {type(callback).__name__}" for callback in callbacks]
        optimizers = all_optimizers(model.optimizer)
        self._classes += [f"optimizer {type(optimizer).__name__}" for optimizer in optimizers]
        self._classes += [f"layer {type(layer).__name__}" for layer in model.layers]
        variables = {
            "model": model.variables,
            "optimizer": model.optimizer.variables,
            "seed": [global_seed_state()],
        }
        self.variables = {}
        seen = set()
        for kind, members in variables.items():
            for member in members:
                if id(member) not in seen:
                    seen.add(id(member))
                    self.variables[f"{kind}_{len(self.variables)}"] = member

    def signature(self):
        """Return what identifies a training: classes and variables, as strings.

        Keras numbers automatic names within a process (`dense_1`), so only the last word of a name
        counts: kernel, bias, momentum.
        """
        words = (v.path.replace("/", "_").rpartition("_")[2] for v in self.variables.values())
        return self._classes + [
            f"{key.partition('_')[0]} {word} {tuple(v.shape)} {v.dtype}"
            for (key, v), word in zip(self.variables.items(), words, strict=True)
        ]

    def python_side(self):
        """Return the state outside of variables, as JSON can hold it."""
        version, state, gauss = random.getstate()
        kind, keys, *rest = np.random.get_state()
        return {
            "python": [version, list(state), gauss],
            "numpy": [kind, keys.tolist(), *rest],
            "callbacks": [_attributes(callback) for callback in self._callbacks],
        }

    def restore_variables(self, values):
        """Assign arrays to the variables of these names."""
        for key, variable in self.variables.items():
            variable.assign(values[key])

    def restore_python_side(self, python_side):
        """Restore the state outside of variables."""
        version, state, gauss = python_side["python"]
        random.setstate((version, tuple(state), gauss))
        kind, keys, *rest = python_side["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
        for callback, attributes in zip(self._callbacks, python_side["callbacks"], strict=True):
            for name, value in attributes.items():
                setattr(callback, name, _decoded(value))


def _own_tensor(variable):
    """Return the `tf.Variable` of a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _attributes(callback):
    """Return a callback's state: its plain attributes other than arguments.

    Keras's callbacks flip the sign of `min_delta`, an argument, each time they begin.
    """
    given = {*inspect.signature(type(callback).__init__).parameters}
    given |= {*vars(keras.callbacks.Callback())}  # the model, and what `fit` was called with
    encoded = {n: _encoded(value) for n, value in vars(callback).items() if n not in given}
    return {name: value for name, value in encoded.items() if value is not _UNKNOWN}


def _encoded(value):
    """Return a value as JSON can hold it, or `_UNKNOWN`.

    Plain values stay as they are; all others become a dictionary with the name of their type.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        if value.dtype.isbuiltin == 2:  # such as bfloat16: a file does not keep the name
            return {value.dtype.name: _as_text(value.astype(np.float32))}
        return {"array": _as_text(value)}
    if type(value) in (list, tuple):
        parts = [_encoded(part) for part in value]
        known = all(part is not _UNKNOWN for part in parts)
        return {type(value).__name__: parts} if known else _UNKNOWN
    if type(value) is dict and all(type(key) is str for key in value):
        parts = {key: _encoded(part) for key, part in value.items()}
        known = all(part is not _UNKNOWN for part in parts.values())
        return {"dict": parts} if known else _UNKNOWN
    return _UNKNOWN


def _decoded(value):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _decoded(part) for key, part in content.items()}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(part) for part in content)
    array = np.load(io.BytesIO(base64.b64decode(content)), allow_pickle=False)[()]
    return array if kind == "array" else array.astype(tf.as_dtype(kind).as_numpy_dtype)


def _as_text(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


class _Checkpoints:
    """Numbered checkpoints, complete or absent, of named variables and a dictionary.

    `tf.train.CheckpointManager` writes a checkpoint's files under other names and renames them, the
    index last: a process that is killed leaves the earlier checkpoints. Reading verifies a checksum
    of every tensor.

    Args:
        directory: string or `os.PathLike`; it is made if it does not exist.
        keep: the number of checkpoints that are kept.

    Raises:
        ValueError: if the directory cannot be written to.
    """

    def __init__(self, directory, keep=2):
        self._directory = os.fspath(directory)
        self._keep = keep
        self._manager = None
        try:
            tf.io.gfile.makedirs(self._directory)
            probe = os.path.join(self._directory, f".probe-{os.getpid()}")
            with tf.io.gfile.GFile(probe, "w") as file:
                file.write("may this be written?")
            tf.io.gfile.remove(probe)
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(
                "`backup_dir` must name a directory that can be written to. "
                f"Received: backup_dir={directory!r} ({error})"
            ) from error

    def save(self, number, variables, metadata):
        """Write a checkpoint: a dictionary name -> `tf.Variable`, and metadata for JSON."""
        if self._manager is None:
            self._metadata = tf.Variable("", dtype=tf.string, trainable=False)
            self._manager = self._new_manager(tf.train.Checkpoint(more=self._metadata, **variables))
        self._metadata.assign(json.dumps(metadata))
        self._manager.save(checkpoint_number=number)

    def newest(self, names):
        """Read the newest checkpoint that is complete.

        Args:
            names: function of the metadata that returns the names of the variables to read.

        Returns:
            Arrays by name, and the metadata; or None if there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none is readable.
        """
        # From the files: the list that TensorFlow keeps beside them may be lost.
        found = map(_INDEX.match, tf.io.gfile.listdir(self._directory))
        numbers = sorted((int(match[1]) for match in found if match), reverse=True)
        for number in numbers:
            path = os.path.join(self._directory, f"epoch-{number}")
            try:
                return _read(path, names)
            except _Refused:
                raise
            except _UNREADABLE as error:
                warnings.warn(
                    f"The checkpoint epoch-{number} cannot be read; trying an earlier one: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        if numbers:
            raise ValueError(
                "`backup_dir` must hold a readable checkpoint: remove it to start over. "
                f"Received: backup_dir={self._directory!r}, where none can be read"
            )
        return None

    def _new_manager(self, checkpoint):
        def create():
            return tf.train.CheckpointManager(
                checkpoint, self._directory, self._keep, checkpoint_name="epoch"
            )

        try:
            return create()
        except ValueError:  # the list is damaged; it is rewritten
            tf.io.gfile.remove(os.path.join(self._directory, "checkpoint"))
            return create()


class _Refused(ValueError):
    """A checkpoint is complete, but of another training."""


def _read(path, names):
    reader = tf.train.load_checkpoint(path)

    def tensor(name):
        return reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")

    metadata = json.loads(tensor("more"))
    return {name: tensor(name) for name in names(metadata)}, metadata
