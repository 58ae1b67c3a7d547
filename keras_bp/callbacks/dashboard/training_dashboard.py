"""Loss, gradients, learning rate and weights of a training, in one picture that is kept fresh."""

import os
import pathlib
import warnings
import weakref

import numpy as np
import tensorflow as tf

from keras_bp.callbacks._histogram import count_values, rows
from keras_bp.callbacks._recording_callback import RecordingCallback
from keras_bp.callbacks.dashboard._pace import DrawingPace
from keras_bp.callbacks.dashboard._panels import DashboardPanels, Record
from keras_bp.callbacks.dashboard._screens import screen_for
from keras_bp.callbacks.dashboard._series import ThinnedSeries

_SHARE = 0.05
# The first drawing, which finds fonts and lays out the panels, on a slow machine. If training ends
# before there is time for it, the last picture is the only one.
_FIRST_DRAWING = 0.3


class TrainingDashboard(RecordingCallback):
    """Shows a plain `model.fit` live, in one picture of five panels.

    - Training loss: the batches' own losses, faint, and the epochs' as Keras reports them, drawn
      where the epoch ends.
    - Validation loss, on the same scale.
    - Learning rate: the one that each update used; of a composite (`keras.optimizers.
      MultiOptimizer`) one for each optimizer in it.
    - Gradient norm: for each layer the L2 norm over its trainable variables, of the true gradient,
      before clipping, as `GradientMonitor` writes it. A logarithmic axis; norms of 0 are left out.
    - Weights: for each layer, from the first on top to the last, a histogram of its trainable
      variables as they are now, each as high as the others. The layers' colours, dark to bright,
      are also those of the norms' lines.

    The losses' axis is logarithmic where they are positive and span more than a factor of 10. What
    is not finite is left out of the lines, and said in words.

    Where it is shown:

    - `path` ends with `.png`: in that file, written anew with each picture. It is put in place as
      a whole, so that it can be read at any moment, and is whole after a kill.
    - `path` ends with `.gif`: in that file, as an animation of up to 40 pictures, spread evenly
      over the training, written when it ends.
    - `path` is `None`, in a Jupyter notebook: below the cell, each picture in place of the last.
    - `path` is `None` elsewhere: in a window of Matplotlib's backend. It is none of pyplot's
      figures, and stays after the training, for as long as the program runs.

    Keras tells callbacks nothing of an exception. After one the GIF is written and the window
    closed when Python lets go of the callback, at the latest when the program ends.

    Drawing takes a tenth of a second and more. So its time is measured, and a picture is only drawn
    where the time for all of them, this one included, is within 5 % of the time since the first
    step: one every few seconds, the first after 6. At the end one is always drawn, and a training
    of a few seconds notices it. Nothing else changes: the weights are the same, bit for bit, with
    and without the dashboard.

    Of a long training up to some 2000 points a line are kept: of more steps the smallest and the
    largest of neighbours, so that the line looks as if all were drawn. A second `fit` goes on in
    the same picture, unless it trains other layers.

    Args:
        path: string or `os.PathLike` that ends with `.png` or `.gif`, the file to write; its
            directory is made if it does not exist. Defaults to `None`: a notebook or a window.

    Attributes:
        figure: the `matplotlib.figure.Figure`, from the beginning of the first `fit` on; `None`
            before. It is none of pyplot's.

    Raises:
        ImportError: if Matplotlib is not installed: `pip install keras_bp[examples]`.
        TypeError: if `path` is no path.
        ValueError: if it ends otherwise; and by `fit`, before the first update, if the file cannot
            be written, if `path` is `None` and there is neither a notebook nor a window, or if the
            model has no optimizer or is built and has no trainable weights.

    It works with `jit_compile` and `run_eagerly`, with `steps_per_execution`, and under
    `tf.distribute.MirroredStrategy`. A drawing that fails later, on a full disk, gives one
    RuntimeWarning, and the training goes on without it. Several dashboards may watch one `fit`.

    Example:
    ```python
    dashboard = keras_bp.callbacks.TrainingDashboard(path="dashboard.png")
    model.fit(x, y, epochs=5, validation_split=0.1, callbacks=[dashboard])
    ```
    """

    def __init__(self, path=None):
        if path is not None:
            _check(path)
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "TrainingDashboard needs Matplotlib, which is an extra: "
                "pip install keras_bp[examples]"
            ) from error
        super().__init__()
        self.path = path
        self.figure = None
        self._pace = DrawingPace(_SHARE, _FIRST_DRAWING)
        self._columns = None
        self._epoch = ""
        self._at_an_exception = None
        self._panels = self._screen = None

    # Keras's hooks, and those of RecordingCallback.

    def _begin(self):
        if self._panels is None:
            self._panels = DashboardPanels()
            self.figure = self._panels.figure
            self._screen = screen_for(self.path, self.figure)
        self._screen.begin()
        self._failed = self._counting = False
        # Keras tells a callback nothing of an exception, but lets go of it in the end.
        if self._at_an_exception is not None:
            self._at_an_exception.detach()
        self._at_an_exception = weakref.finalize(self, self._screen.abandon)

    def on_epoch_begin(self, epoch, logs=None):
        """Keras's hook: note which epoch it is."""
        self._epoch = f"epoch {epoch + 1} of {self.params['epochs']}"

    def on_train_batch_end(self, batch, logs=None):
        """Keras's hook: take the updates, and draw if there is time."""
        super().on_train_batch_end(batch, logs)
        # The first step is compiled, which takes seconds, and has next to nothing to show.
        if not self._counting:
            self._pace.start()
        self._counting = True
        self._draw_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Keras's hook: take the updates and the epoch's losses, and draw if there is time."""
        super().on_epoch_end(epoch, logs)
        if self._columns is None:  # not one update was made
            return
        for name, series in ("loss", self._epochs), ("val_loss", self._validations):
            if np.ndim((logs or {}).get(name, ())) == 0:
                series.add([self._last_step], [np.array([float(logs[name])])])
        self._draw_if_due()

    def on_train_end(self, logs=None):
        """Keras's hook: draw the last picture; leave model and optimizer as they were."""
        super().on_train_end(logs)
        self._draw()
        self._attempt(self._screen.end)
        self._at_an_exception.detach()

    def _take(self, updates):
        norms = self._norms(updates.squares)[:, :-1]
        columns = updates.rates.shape[1], self._layers
        if self._columns != columns:
            self._start_anew(columns)
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

    def _start_anew(self, columns):
        """Begin an empty record of these rules and layers."""
        self._columns = columns
        self._losses, self._rates, self._gradients = (ThinnedSeries() for _ in range(3))
        self._epochs, self._validations = ThinnedSeries(), ThinnedSeries()
        self._first_step, self._first_wrong, self._wrong = None, None, 0

    def _draw_if_due(self):
        if self._pace.due():
            self._take_updates()
            self._draw()

    def _draw(self):
        """Draw what has been taken."""
        # A recorder that has seen no update yet, of a new optimizer say, knows no layers.
        if self._columns is not None and self._layers is not None:
            with self._pace.drawing():
                self._attempt(lambda: self._panels.update(self._record()))
                self._attempt(self._screen.show)

    def _attempt(self, action):
        """Do something that has to do with drawing, unless an earlier attempt has failed."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # whatever it is: no picture is worth a training of hours
            self._failed = True
            warnings.warn(
                f"TrainingDashboard(path={self.path!r}) can draw no more in this fit; the training "
                f"goes on. The error: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _record(self):
        warning = ""
        if self._wrong:
            steps = f"{self._wrong:,} step" + "s" * (self._wrong > 1)
            warning = f"not finite in {steps}, first in step {self._first_wrong:,}"
        return Record(
            title=f"{self.model.name}: {self._epoch}, update step {self._last_step:,}",
            layers=self._layers,
            losses=self._losses.points(),
            epochs=self._epochs.points(),
            validations=self._validations.points(),
            rates=self._rates.points(),
            norms=self._gradients.points(),
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


def _check(path):
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "Argument `path` must be a string or a path, or None. "
            f"Received: path={path!r} (of type {type(path).__name__})"
        )
    if pathlib.Path(path).suffix.lower() not in (".png", ".gif"):
        raise ValueError(
            f"Argument `path` must name a file that ends with .png or .gif. Received: path={path!r}"
        )
