"""A live picture of loss, learning rate, gradients and weights during training."""

import os
import warnings
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bp._arguments import check_suffix
from keras_bp._types import Path
from keras_bp._versions import require_matplotlib
from keras_bp.callbacks.dashboard._panels import DashboardPanels, Record, ThinnedSeries
from keras_bp.callbacks.dashboard._screens import DrawingPace, Screen, screen_for
from keras_bp.recording import RecordingCallback, count_values, rows

_SHARE = 0.05
# Seconds for the first drawing, which loads fonts and lays out the panels, on a slow machine.
_FIRST_DRAWING = 0.3


class TrainingDashboard(RecordingCallback):
    """Shows a `model.fit` live, in one picture of five panels.

    - Training loss: the batches' own losses, faint, and the epochs' as Keras reports them, drawn
      where the epoch ends. The batches' are those that the train step hands to
      `optimizer.scale_loss`, as Keras's does, or if it does not, gets from `compute_loss`.
    - Validation loss, on the same scale.
    - Learning rate: the rate of each update; of a composite (`keras.optimizers.
      MultiOptimizer`) one for each optimizer in it.
    - Gradient norm: for each layer the L2 norm over its trainable variables, of the true gradient,
      before clipping, as `GradientMonitor` writes it. The axis is logarithmic; norms of 0 are left
      out.
    - Weights: for each layer, from the first on top to the last, a histogram of its trainable
      variables as they are now, all of the same height. The layers' colours, dark to bright,
      are also those of the norms' lines. Of more than 22 layers
      some are named, evenly spread.

    The losses' axis is logarithmic where they are positive and span more than a factor of 10.
    Values that are not finite are left out of the lines, with a note.

    `filepath` determines where it is shown:

    - It ends with `.png`: in that file, which each picture replaces. The file can be read at any
      moment, and is whole even after a kill.
    - It ends with `.gif`: in that file, as an animation of up to 40 pictures, spread evenly
      over the training, written when it ends.
    - It is `None`, in a Jupyter notebook: below the cell, each picture in place of the last.
    - It is `None` elsewhere: in a window of Matplotlib's backend. It is not one of pyplot's
      figures, and stays open after training until the program ends.

    Keras does not tell callbacks of an exception. After one, the GIF is written and the window
    closed when the callback is garbage collected, at the latest when the program ends.

    A drawing takes a tenth of a second or more. Its time is measured, and a picture is drawn only
    if all drawings, this one included, stay within 5 % of the time since the first step: one every
    few seconds, the first after 6. There is always one at the end, which lengthens a training of a
    few seconds. The weights are the same, bit for bit, with and without the dashboard.

    Some 2000 points per line are kept of a long training, the smallest and the largest of
    neighbouring steps, so that the line looks as if all were drawn. A second `fit` continues in the
    same picture, unless it trains other layers.

    Args:
        filepath: string or `os.PathLike` that ends with `.png` or `.gif`, the file to write; its
            directory is made if it does not exist. Defaults to `None`: a notebook or a window.

    Attributes:
        figure: the `matplotlib.figure.Figure`, from the start of the first `fit`; `None` before.
            It is not one of pyplot's.

    Raises:
        ImportError: if Matplotlib is not installed: `pip install matplotlib`.
        TypeError: if `filepath` is not a path.
        ValueError: if it has another ending; and by `fit`, before the first update, if the file
            cannot be written, if `filepath` is `None` and there is neither a notebook nor a window,
            or if the model has no optimizer or is built and has no trainable weights.

    It works with `jit_compile` and `run_eagerly`, with `steps_per_execution`, and under
    `tf.distribute.MirroredStrategy`; of several workers the first one draws. A drawing that fails
    later, on a full disk for instance, gives one RuntimeWarning, and training continues without it.
    Several dashboards may watch one `fit`.

    Example:
    ```python
    dashboard = keras_bp.callbacks.TrainingDashboard("dashboard.png")
    model.fit(x, y, epochs=5, validation_split=0.1, callbacks=[dashboard])
    ```
    """

    def __init__(self, filepath: Path | None = None) -> None:
        if filepath is not None:
            _check(filepath)
        require_matplotlib("TrainingDashboard")
        super().__init__()
        self.filepath = filepath
        self._pace = DrawingPace(_SHARE, _FIRST_DRAWING)

    def _forget(self) -> None:
        super()._forget()
        self.figure = None
        self._columns = None
        self._epoch = ""
        self._panels: Any = None
        self._screen: Any = None
        self._at_an_exception: Any = None

    # Keras's hooks, and those of RecordingCallback.

    def _change_model(self):
        """Go on in the same picture, in which the steps count on."""

    def _begin(self):
        draws = not self._worker()  # of several the first one
        if self._panels is None:
            self._panels = DashboardPanels()
            self.figure = self._panels.figure
            shown = screen_for if draws else lambda filepath, figure: Screen(figure)
            self._screen = shown(self.filepath, self.figure)
        self._screen.begin()
        self._failed, self._counting = not draws, False
        # Keras does not tell a callback of an exception, but drops it at the end.
        if self._at_an_exception is not None:
            self._at_an_exception.detach()
        self._at_an_exception = weakref.finalize(self, self._screen.abandon)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: note which epoch it is."""
        self._epoch = f"epoch {epoch + 1} of {self.params['epochs']}"

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: take the updates, and draw if there is time."""
        super().on_train_batch_end(batch, logs)
        # The first step is compiled, which takes seconds, and has almost nothing to show.
        if not self._counting:
            self._pace.start()
        self._counting = True
        self._draw_if_due()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: take the updates and the epoch's losses, and draw if there is time."""
        super().on_epoch_end(epoch, logs)
        if self._columns is None:  # no update was made
            return
        for name, series in ("loss", self._epochs), ("val_loss", self._validations):
            if np.ndim((logs or {}).get(name, ())) == 0:
                series.add([self._last_step], [np.array([float(logs[name])])])
        self._draw_if_due()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Keras's hook: draw the last picture; leave model and optimizer as they were."""
        super().on_train_end(logs)
        self._draw()
        self._attempt(self._screen.end)
        self._at_an_exception.detach()

    def _take(self, updates):
        norms = self._norms(updates.squares)[:, :-1]
        columns = updates.rates.shape[1], self._layers
        if self._columns != columns:
            self._reset(columns)
        steps = np.arange(self._last_step - len(norms) + 1, self._last_step + 1)
        if self._first_step is None:
            self._first_step = steps[0]
        self._losses.add(steps, updates.losses[:, None])
        self._rates.add(steps, updates.rates)
        self._gradients.add(steps, norms)
        wrong = steps[~np.isfinite(updates.losses)]
        if len(wrong) and self._recorder.sees_loss:
            self._first_wrong = self._first_wrong or wrong[0]
            self._wrong += len(wrong)
        with self._pace.spending():
            self._attempt(self._screen.refresh)

    def _reset(self, columns):
        """Begin an empty record of these learning rates and layers."""
        self._columns = columns
        self._losses, self._rates, self._gradients = (ThinnedSeries() for _ in range(3))
        self._epochs, self._validations = ThinnedSeries(), ThinnedSeries()
        self._first_step, self._first_wrong, self._wrong = None, None, 0

    def _draw_if_due(self):
        if self._pace.due():
            self._take_updates()
            self._draw()

    def _draw(self):
        """Draw what has been recorded."""
        # A recorder that has seen no update yet (of a new optimizer, say) knows no layers.
        if self._columns is not None and self._layers is not None:
            with self._pace.drawing():
                self._attempt(lambda: self._panels.update(self._record()))
                self._attempt(self._screen.show)

    def _attempt(self, action):
        """Perform a part of the drawing, unless an earlier part has failed."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # of any kind: it must not end a training of several hours
            self._failed = True
            warnings.warn(
                f"TrainingDashboard(filepath={self.filepath!r}) stops drawing in this fit; "
                f"training goes on. The error: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _record(self):
        warning = ""
        if not self._recorder.sees_loss:
            warning = "no batch losses: the train step calls\nneither scale_loss nor compute_loss"
        elif self._wrong:
            steps = f"{self._wrong:,} step" + "s" * (self._wrong > 1)
            warning = f"not finite in {steps}, first in step {self._first_wrong:,}"
        series = {"losses": self._losses, "epochs": self._epochs, "validations": self._validations}
        series |= {"rates": self._rates, "norms": self._gradients}
        return Record(
            **{name: values.points() for name, values in series.items()},
            title=f"{self.model.name}: {self._epoch}, update step {self._last_step:,}",
            layers=self._layers,
            weights=self._histograms(),
            steps=(self._first_step, self._last_step),
            warning=warning,
        )

    def _histograms(self):
        """Return a histogram of each layer's trainable variables."""
        values = [[] for _ in self._layers]
        for layer, variable in zip(self._layer_of_variable, self._recorder.variables, strict=True):
            values[layer].append(np.ravel(tf.convert_to_tensor(variable.value)))
        return [rows(count_values(np.concatenate(parts))) for parts in values]


def _check(filepath):
    if not isinstance(filepath, str | os.PathLike):
        raise TypeError(
            "`filepath` must be a string, a path or None. "
            f"Received: filepath={filepath!r} (of type {type(filepath).__name__})"
        )
    check_suffix("filepath", filepath, (".png", ".gif"))
