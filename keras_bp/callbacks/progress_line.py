"""One line on how a training goes, which updates in place."""

import html
import shutil
import sys
import time

import numpy as np

from keras_bp.callbacks.dashboard._screens import in_notebook
from keras_bp.recording import RecordingCallback

_SECONDS_OF_A_LOG = 30.0


class ProgressLine(RecordingCallback):
    """Shows a `model.fit` in one line: loss, gradient norm and learning rate, as they change.

        epoch 3/10  batch 120/500  loss 0.2345  gradient norm 0.518  rate 0.001  val_loss 0.2817

    The loss is the mean of the batches' own losses since the line was last written, not Keras's
    running mean of the epoch; the norm is that of the last update's gradient, over all layers and
    before clipping; the rate is the last update's, one for each optimizer of a composite;
    `val_loss` is the last epoch's, with validation data. It is written about once per second.

    - In a terminal the line is rewritten, and cut off at the terminal's width.
    - In a Jupyter notebook it is updated below the cell.
    - Elsewhere, as where the output goes to a file, a new line is written every 30 seconds, and one
      at the end.

    It takes the place of Keras's progress bar: call `fit` with `verbose=0`. The weights are the
    same, bit for bit, with and without it.

    Raises:
        ValueError: by `fit`, before the first update, if the model has no optimizer, or is built
            and has no trainable weights.

    Example:
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile(keras_bp.optimizers.SGD(0.5), "mse")
        >>> x = np.ones((4, 1))
        >>> line = keras_bp.callbacks.ProgressLine()
        >>> _ = model.fit(x, x, epochs=2, verbose=0, callbacks=[line])  # doctest: +ELLIPSIS
        epoch 2/2  batch 1/1  loss ...  gradient norm ...  rate 0.5
    """

    def __init__(self) -> None:
        super().__init__()

    def _forget(self) -> None:
        super()._forget()
        self._line = self._written = self._validation = self._epoch = ""
        self._batch = 0
        self._logged_at = 0.0
        self._handle = None

    def _begin(self):
        self._line = self._written = self._validation = ""
        self._handle, self._logged_at = None, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: note which epoch it is."""
        self._epoch = f"epoch {epoch + 1}/{self.params['epochs']}"

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Keras's hook: note which batch it is, and write the line if it is time."""
        self._batch = batch + 1
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keras's hook: write the line, with the validation's loss."""
        super().on_epoch_end(epoch, logs)
        if "val_loss" in (logs or {}):
            self._validation = f"  val_loss {float(logs['val_loss']):.4g}"  # type: ignore[index]
            self._show()

    def _take(self, updates):
        steps = self.params.get("steps")
        batch = f"{self._batch}/{steps}" if steps else self._batch
        norm = np.sqrt(updates.squares[-1].sum())
        rates = ", ".join(f"{rate:.4g}" for rate in updates.rates[-1])
        self._line = (
            f"{self._epoch}  batch {batch}  loss {np.mean(updates.losses):.4g}"
            f"  gradient norm {norm:.3g}  rate {rates}"
        )
        self._show()

    def _show(self):
        line = self._line + self._validation
        if self._worker() or not self._line:  # of several the first one
            return
        if in_notebook():
            self._show_in_notebook(line)
        elif sys.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            print("\r" + line.ljust(len(self._written)), end="", flush=True)
            self._written = line
        elif time.monotonic() - self._logged_at >= _SECONDS_OF_A_LOG:
            self._log(line)

    def _show_in_notebook(self, line):
        from IPython.display import HTML, display

        shown = HTML(f"<pre>{html.escape(line)}</pre>")
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _log(self, line):
        print(line, flush=True)
        self._written, self._logged_at = line, time.monotonic()

    def _end(self):
        line = self._line and self._line + self._validation
        self._line = ""
        if not line or self._worker() or in_notebook():
            return
        if sys.stdout.isatty():
            print(flush=True)
        elif line != self._written:
            self._log(line)
