"""One line on how a training goes, which updates in place."""

import shutil
import sys
import time

import numpy as np

from keras_bp._html import escaped, in_notebook
from keras_bp.recording import RecordingCallback

_SECONDS, _SECONDS_OF_A_LOG = 0.25, 30.0


class ProgressLine(RecordingCallback):
    """Shows a `model.fit` in one line: loss, gradient norm and learning rate, as they change.

        epoch 3/10  batch 120/500  loss 0.2345  gradient norm 0.518  rate 0.001  val_loss 0.2817

    The loss is the mean of the batches' own losses since the line was last written, not Keras's
    running mean of the epoch; the norm is that of the last update's gradient, over all layers and
    before clipping; the rate is the last update's, one for each optimizer of a composite;
    `val_loss` is the last epoch's, with validation data. The line is written once per second, up to
    four times where steps are short, and at the end.

    - In a terminal the line is rewritten, and cut off at the terminal's width.
    - In a Jupyter notebook it is updated below the cell.
    - Elsewhere, as where the output goes to a file, a new line is written every 30 seconds, and
      another at the end.

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
        self._losses: list[float] = []
        self._batch = 0
        self._handle, self._shown_at = None, 0.0

    def _begin(self):
        self._line = self._written = self._validation = ""
        self._handle, self._shown_at, self._losses = None, time.monotonic(), []

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
        self._losses += updates.losses.tolist()
        self._line = (
            f"{self._epoch}  batch {batch}  loss {np.mean(self._losses):.4g}"
            f"  gradient norm {norm:.3g}  rate {rates}"
        )
        self._show()

    def _show(self, last=False):
        """Write the line if it is time, or the training's last one if it is not written yet."""
        line, now = self._line + self._validation, time.monotonic()
        if self._worker() or not self._line:  # of several the first one
            return
        live = in_notebook() or sys.stdout.isatty()
        late = now - self._shown_at >= (_SECONDS if live else _SECONDS_OF_A_LOG)
        if line != self._written if last else late:
            self._losses, self._shown_at = [], now
            if in_notebook():
                self._show_in_notebook(line)
            elif live:
                covering = line.ljust(len(self._written))
                width = shutil.get_terminal_size().columns - 1
                print("\r" + covering[:width], end="", flush=True)
            else:
                print(line, flush=True)
            self._written = line
        if last and live and not in_notebook():
            print(flush=True)

    def _show_in_notebook(self, line):
        from IPython.display import HTML, display

        shown = HTML(f"<pre>{escaped(line)}</pre>")
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _end(self):
        self._show(last=True)
        self._line = ""
