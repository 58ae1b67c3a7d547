"""A training that goes on where it was killed."""

import os

import keras
import numpy as np
import tensorflow as tf

from keras_bp.callbacks._checkpoints import Checkpoints, Refused
from keras_bp.callbacks._training_state import TrainingState, own_tensor


class ResumableTraining(keras.callbacks.Callback):
    """Saves all that a `fit` depends on after each epoch, and goes on from there when run again.

    A process that is killed at any moment, and started again with the same script, ends with the
    weights of a training that was not killed, bit for bit: the epoch that was cut off is made
    anew. Saved are the model's weights and seed generators (of Dropout, say), the optimizer's
    variables, the epoch, the history, Keras's, NumPy's and Python's global random
    states, and what `callbacks` count.

    A checkpoint is whole or not there: it is written aside and renamed. The newest two are kept;
    one that cannot be read is passed over with a warning. `epochs` of `fit` is the total: with a
    checkpoint of epoch 3, `fit(epochs=5)` trains two more, and run once more none. Nothing stays
    on the model afterwards.

    Put it last in the list of callbacks, so that it saves what the others do at an epoch's end.

    The order of the data must be the same in both processes. With arrays, set the seed
    (`keras.utils.set_random_seed`): Keras then shuffles each epoch alike. A `tf.data.Dataset`
    that shuffles by itself starts over with the order of epoch 0; give it as a function of the
    epoch instead:

        resumable = keras_bp.callbacks.ResumableTraining("run1")
        batches = resumable.by_epoch(lambda epoch: data.shuffle(1000, seed=epoch).batch(32))
        model.fit(batches, epochs=20, callbacks=[resumable])

    After an `OptimizerSwitch` the checkpoints are of the new optimizer: a script that compiles the
    old one is refused. With `steps_per_epoch` Keras's epochs begin where the last one ended in the
    data, which no checkpoint knows: do without it. The stateful random operations of TensorFlow
    (`tf.random.uniform`) keep their state in their kernels, where nobody can read it: use
    `keras.random` with a `SeedGenerator`.

    Args:
        directory: string or `os.PathLike`, where the checkpoints are; made if it does not exist.
            One for each training.
        callbacks: list of other callbacks of the same `fit` whose counts are saved too, such as
            `EarlyStopping` and `ReduceLROnPlateau`: attributes that are numbers, strings, arrays,
            or lists, tuples and dictionaries of these. Place this callback after them. Defaults to
            none.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `directory` is empty; and by `fit`, before the first epoch, if the directory
            cannot be written to, if the model is not built or compiled, if the checkpoint is of
            another model, or if no checkpoint can be read.

    Example:
    ```python
    resumable = keras_bp.callbacks.ResumableTraining("checkpoints/run1")
    model.fit(x, y, epochs=50, callbacks=[resumable])
    ```

    In a loop of one's own `tf.train.Checkpoint` does the same from the last step saved, if it is
    given the iterator and all variables (of Keras's objects it leaves out seeds and slots):

    ```python
    values = {f"v{i}": v.value for i, v in enumerate(model.variables + optimizer.variables)}
    checkpoint = tf.train.Checkpoint(data=iterator, done=done, **values)
    manager = tf.train.CheckpointManager(checkpoint, "checkpoints/run1", max_to_keep=2)
    manager.restore_or_initialize()
    ```
    """

    def __init__(self, directory, callbacks=()):
        super().__init__()
        if not isinstance(directory, str | os.PathLike):
            raise TypeError(f"`directory` must be a path. Received: {directory!r}")
        if not os.fspath(directory):
            raise ValueError(f"`directory` must name a directory. Received: {directory!r}")
        known = isinstance(callbacks, list | tuple)
        if not known or not all(isinstance(c, keras.callbacks.Callback) for c in callbacks):
            raise TypeError(f"`callbacks` must be a list of callbacks. Received: {callbacks!r}")
        self.directory = directory
        self._others = list(callbacks)
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def by_epoch(self, function):
        """Return a dataset that is another one in each epoch.

        Args:
            function: function of the epoch, a scalar int64 tensor from 0, that returns a
                `tf.data.Dataset`, of equally many batches in each epoch.

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

    def on_train_begin(self, logs=None):
        """Keras's hook: load the newest checkpoint, if there is one."""
        if not self.model.built or getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                "ResumableTraining needs a model that is built (give it an Input, or call it on a "
                f"batch) and compiled with an optimizer. Received: model {self.model.name!r}"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._look_at_the_model()
        self._history, self._epochs = {}, []
        self._before = self.model._initial_epoch
        newest = self._checkpoints.newest(self._names)
        if newest is not None:
            values, more = newest
            self._state.restore_variables(values)
            self._state.restore_python_side(more["python_side"])
            self._history, self._epochs = more["history"], list(range(more["epoch"]))
            # `fit` asks for it right after this hook; Keras has no public way. A training that
            # was stopped (EarlyStopping) has no epoch left.
            left = not more["stopped"]
            self.model._initial_epoch = more["epoch"] if left else self.params["epochs"]

    def on_epoch_begin(self, epoch, logs=None):
        """Keras's hook: note the epoch."""
        self._epoch.assign(epoch)
        self._hand_over()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: save."""
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(np.asarray(value).tolist())
        if self.model.optimizer is not self._optimizer:  # OptimizerSwitch
            self._look_at_the_model()
        variables = {key: own_tensor(v) for key, v in self._state.variables.items()}
        more = {
            "epoch": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "signature": self._state.signature(),
            "history": self._history,
            "python_side": self._state.python_side(),
        }
        self._checkpoints.save(epoch + 1, variables, more)

    def on_train_end(self, logs=None):
        """Keras's hook: leave the model as it was."""
        self._hand_over()
        self._state = self._checkpoints = self._optimizer = None

    def _look_at_the_model(self):
        self._optimizer = self.model.optimizer
        self._state = TrainingState(self.model, self._others)
        self._checkpoints = Checkpoints(self.directory)

    def _hand_over(self):
        """Give the history of the epochs before to Keras's, and the first epoch back."""
        self.model._initial_epoch = self._before
        if self._epochs:
            self.model.history.epoch = self._epochs + self.model.history.epoch
            copies = {name: list(values) for name, values in self._history.items()}
            self.model.history.history = copies
        self._epochs = []

    def _names(self, more):
        """Return the names of the variables, unless a checkpoint is of another training."""
        saved, own = more["signature"], self._state.signature()
        if saved != own:
            pairs = enumerate(zip(saved + [None], own + [None], strict=False))
            number, (theirs, ours) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
            raise Refused(
                f"`directory` must hold checkpoints of the same model and optimizer. Received: "
                f"{len(saved)} variables there, {len(own)} here; number {number} is {theirs!r} "
                f"there and {ours!r} here"
            )
        return self._state.variables
