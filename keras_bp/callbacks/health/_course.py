"""What is remembered of a training, to judge its later updates by."""

import collections

import numpy as np

_LOSSES, _START, _FEW, _NORMS = 20, 10, 5, 10


class TrainingCourse:
    """How loss and gradients were at the start of a training, and how the loss is now.

    Attributes:
        updates: the number of updates taken.
        start: the mean loss of the first ten batches, or of those there were; NaN where there was
            none or the train step does not show it.
        replaced: whether an update of a layer was larger than its weights.
        masked: set, the layers whose outputs held NaN or infinite numbers in a healthy update.
        losses: list of the epochs' training losses.
        validated: list of pairs of training and validation loss, for the epochs that have both.
    """

    def __init__(self):
        self.updates = 0
        self.start = np.nan
        self.replaced = False
        self.masked = set()
        self.losses, self.validated = [], []
        self._first_losses, self._last_losses = [], collections.deque(maxlen=_LOSSES)
        self._finite_losses = 0
        self._first_norms = []

    def add(self, update):
        """Take an `Update`, after it was judged."""
        self.updates += 1
        norm = np.sqrt(np.sum(np.square(update.norms)))
        if np.isfinite(norm) and len(self._first_norms) < _NORMS:
            self._first_norms.append(norm)
        if update.ratios is not None:
            self.replaced |= bool((update.ratios > 1).any())
        if not np.isfinite(update.loss):
            return
        if np.isfinite(norm):
            not_finite = np.flatnonzero(update.statistics["not_finite"] > 0)
            self.masked.update(update.order.outputs[i] for i in not_finite)
        self._finite_losses += 1
        self._last_losses.append(update.loss)
        if len(self._first_losses) < _LOSSES:
            self._first_losses.append(update.loss)
            self.start = np.mean(self._first_losses[:_START])

    def add_epoch(self, logs):
        """Take an epoch's logs."""
        self.losses.append(logs["loss"])
        if "val_loss" in logs:
            self.validated.append((logs["loss"], logs["val_loss"]))

    def first_norm(self):
        """Return the median norm of all gradients over the first updates, infinite before them."""
        return float(np.median(self._first_norms)) if self._first_norms else np.inf

    def learned(self):
        """Tell whether the loss has fallen: by 1 %, and by 3 times what chance lets it differ."""
        size = min(_LOSSES, self._finite_losses // 2)
        if size < _FEW:
            return False
        first, last = self._first_losses[:size], list(self._last_losses)[-size:]
        error = np.sqrt((np.var(first) + np.var(last)) / size)
        fall = np.mean(first) - np.mean(last)
        return bool(fall > max(0.01 * abs(np.mean(first)), 3 * error))
