"""Gradient norms, learning rate and loss of every update step in TensorBoard."""

import os

import keras
import numpy as np

from keras_bp.callbacks._event_file import EventFile
from keras_bp.callbacks._gradient_recorder import GradientRecorder
from keras_bp.callbacks._recording_train_function import RecordingTrainFunction
from keras_bp.callbacks._variable_paths import variable_paths


class GradientMonitor(keras.callbacks.Callback):
    """Writes what the gradients do in a plain `model.fit` to TensorBoard, at every update step.

    Keras hands a callback no gradients. While the train function runs, this callback listens to
    the optimizer's `scale_loss` and `apply`, through which every optimizer of Keras receives the
    loss and the gradients; no `train_step` is overridden and no model subclassed. The norms are
    computed inside the compiled step, read once a call, and written from Python. Training is not
    changed: the weights are the same, bit for bit, with and without the monitor.

    Tags, all scalars against the number of update steps made (1 after the first):

    - `gradient_norm/<layer path>`: L2 norm over the layer's trainable variables, in units of loss
      per unit of weight.
    - `gradient_norm/global`: L2 norm over all trainable variables.
    - `learning_rate`: the rate that this update used, also where a schedule sets it. A composite
      (`keras.optimizers.MultiOptimizer`) has one for each optimizer in it, `learning_rate/0`,
      `learning_rate/1`, ..., in the order of its `optimizers`.
    - `loss/batch`: the loss of this batch alone, penalties included. (`logs["loss"]` is the mean
      of the epoch so far.)

    and at each epoch's end a histogram, against the same number of update steps:

    - `weights/<variable path>`: the entries of each weight, trainable or not. Entries that are
      not finite are left out.

    Gradients are those of the true loss, as the optimizer receives them: before clipping, without
    the factor of a loss scale, and with the rows of a sparse gradient summed per id. A variable
    without a gradient counts as 0. Norms below about 1e-19 are written as 0, those above 1e19 as
    inf.

    Update steps count, not batches. With `gradient_accumulation_steps`, one point stands for the
    mean of the micro-batches' gradients and of their losses (those that an earlier `fit` left
    over count in the gradient, not in the loss). A step that loss scaling skips, since a gradient
    is not finite, is no update and writes nothing. The count goes on from the
    optimizer's `iterations` at the first step, or from the monitor's last step where that is
    further: so it continues over epochs, over a second `fit` and where a saved model is trained
    on, and never falls back.

    Paths are built from the layers' names, outermost first, the model's own name left out: `d1`,
    `block/conv` for the layer conv in a model block inside the model. The layer is the innermost
    one that holds the variable: `lstm/lstm_cell`, `bidirectional/forward_lstm/lstm_cell`,
    `attention/query`. A shared layer is written once, where it comes first. Variables that the
    model holds outside any layer are of the layer `(model)`. Names that Keras makes up count on
    in one process (dense, dense_1, ...): name the layers whose runs are to be compared.

    Args:
        log_dir: string or `os.PathLike`, the directory of the event file, which lies directly in
            it; made if it does not exist. Defaults to `"tb_logs"`. Give each run a directory of
            its own (`"tb_logs/run1"`): TensorBoard shows a directory as one run.

    Raises:
        TypeError: if `log_dir` is no path.
        ValueError: if `log_dir` is empty; and by `fit`, before the first update, if no event file
            can be created in `log_dir`, if the model has no optimizer, if it is built and has no
            trainable weights, or if the optimizers inside a composite accumulate the gradients of
            different numbers of steps.

    It works with `jit_compile` and `run_eagerly`, with `steps_per_execution` (each step is
    written), and under `tf.distribute.MirroredStrategy` (gradients and losses are summed over the
    replicas). A write that fails later, on a full disk, gives one RuntimeWarning, and the
    training goes on. Several monitors may watch one `fit`, each in a `log_dir` of its own. After
    the training, model and optimizer are as they were; a `fit` that an exception ends leaves the
    optimizer untouched too, and the next `fit` with the same monitor writes on. `train_on_batch`
    is not recorded. A custom `train_step` is monitored if it calls the `scale_loss` and `apply`
    (or `apply_gradients`) of `model.optimizer` once, as Keras's does.

    Example:
    ```python
    monitor = keras_bp.callbacks.GradientMonitor(log_dir="tb_logs/run1")
    model.fit(x, y, epochs=5, callbacks=[monitor])
    ```

    Then `tensorboard --logdir tb_logs` in a shell, and http://localhost:6006 in a browser: the
    Scalars and Histograms pages show the tags, one colour a run.
    """

    def __init__(self, log_dir="tb_logs"):
        super().__init__()
        if not isinstance(log_dir, str | os.PathLike):
            raise TypeError(
                "Argument `log_dir` must be a string or a path. "
                f"Received: log_dir={log_dir!r} (of type {type(log_dir).__name__})"
            )
        if not os.fspath(log_dir):
            raise ValueError(
                f"Argument `log_dir` must name a directory. Received: log_dir={log_dir!r}"
            )
        self.log_dir = log_dir
        self._file = None
        self._function = None
        self._recorder = None
        self._last_step = 0

    def set_model(self, model):
        """Keras's hook: take over the model that `fit` is about to train."""
        # A fit that an exception ended never called on_train_end.
        self._stop()
        RecordingTrainFunction.remove_from(model)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        """Keras's hook: open the event file."""
        if self.model.optimizer is None:
            raise ValueError(
                "GradientMonitor needs a model that is compiled with an optimizer. "
                f"Received: model {self.model.name!r} with optimizer None"
            )
        if self.model.built and not self.model.trainable_variables:
            raise ValueError(
                "GradientMonitor needs a model with trainable weights. "
                f"Received: model {self.model.name!r}, which has none"
            )
        self._file = EventFile(self.log_dir)

    def on_train_batch_begin(self, batch, logs=None):
        """Keras's hook: record the coming steps."""
        # Not at on_train_begin, where another callback may yet restore the optimizer's state; and
        # again where one has made the train function anew, perhaps with another optimizer.
        if self._function is None or not self._function.in_place():
            self._start()
        self._function.arm()

    def on_train_batch_end(self, batch, logs=None):
        """Keras's hook: write the steps just made."""
        self._write_steps()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: write the weights' histograms."""
        paths = variable_paths(self.model)
        for weight in self.model.weights:
            _, path = paths[id(weight)]
            self._file.write_histogram(f"weights/{path}", weight.numpy(), self._last_step)
        self._file.flush()

    def on_train_end(self, logs=None):
        """Keras's hook: close the event file and leave model and optimizer as they were."""
        self._stop()

    def _start(self):
        """Record from the next step on."""
        self._recorder = GradientRecorder(self.model)
        self._function = RecordingTrainFunction.of(self.model)
        self._function.add(self._recorder)
        self._last_step = max(self._last_step, self._recorder.updates_before)
        self._tags = None

    def _stop(self):
        """Write what is left and let go of model, optimizer and file."""
        if self._function is not None:
            self._write_steps()
            RecordingTrainFunction.remove_from(self.model)
        if self._file is not None:
            self._file.close()
        self._function = self._recorder = self._file = None

    def _write_steps(self):
        """Write the update steps made since the last call."""
        rows = self._recorder.new_rows()
        if len(rows) and self._tags is None:
            self._name_columns()
        for _, loss, *columns in rows:
            rates, squares = np.split(columns, [len(self._recorder.rules)])
            layers = np.bincount(self._layer_of_variable, squares)
            norms = np.sqrt([*layers, squares.sum()])
            # A loss that the train step does not show has no tag.
            values = [*norms, *rates, loss][: len(self._tags)]
            self._last_step += 1
            self._file.write_scalars(self._tags, values, self._last_step)

    def _name_columns(self):
        """Find the tags, and for each variable the number of its layer among them."""
        paths = variable_paths(self.model)
        layers = [paths[id(variable)][0] for variable in self._recorder.variables]
        names = list(dict.fromkeys(layers))
        self._layer_of_variable = [names.index(layer) for layer in layers]
        rules = len(self._recorder.rules)
        rates = ["learning_rate"] if rules == 1 else [f"learning_rate/{i}" for i in range(rules)]
        norms = [f"gradient_norm/{name}" for name in [*names, "global"]]
        self._tags = (*norms, *rates) + ("loss/batch",) * self._recorder.sees_loss
