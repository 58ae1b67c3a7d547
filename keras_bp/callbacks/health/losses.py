"""Checks of the epochs' losses: no decrease, or a rising validation loss."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._check import Check, Epochs, Symptom, share


@dataclasses.dataclass(frozen=True)
class LossNotFalling(Check):
    """The training loss falls by less than `fall` of itself in `epochs` epochs.

    The fall is that of a straight line through the losses of these epochs and the one before, so
    that a single low epoch does not hide it.

    The loss of a converged training no longer falls either, and no check knows how low it can go.
    So this counts only while the loss is above `learned` times the mean of the first ten batches. A
    model that has learned less because there is no more to learn is found nevertheless;
    `EarlyStopping` ends such a training.

    Args:
        fall: number in (0, 1]. Defaults to 0.001.
        epochs: integer of 1 or more. Defaults to 10.
        learned: number in (0, 1]. Defaults to 0.5.
    """

    name = "loss_not_falling"
    advice = (
        "See whether inputs and targets belong together, try another learning rate "
        "(keras_bp.find_learning_rate) or a larger model; if that is as low as it can get, stop "
        "with EarlyStopping."
    )

    fall: float = share(0.001)
    epochs: int = 10
    learned: float = share(0.5)

    def in_epochs(self, epochs: Epochs) -> list[Symptom]:
        """Return the symptom, if the loss has not fallen."""
        losses = np.array(epochs.losses[-self.epochs - 1 :])
        if len(losses) <= self.epochs or not np.isfinite(losses).all():
            return []
        slope = np.polyfit(np.arange(len(losses)), losses, 1)[0]
        level, start = np.mean(losses), epochs.start
        fall = -slope * self.epochs / abs(level) if level else 0.0
        if fall >= self.fall or start - level > (1 - self.learned) * abs(start):
            return []
        description = (
            f"in {self.epochs} epochs the training loss has fallen by {max(fall, 0.0):.2%}, to "
            f"{losses[-1]:.4g}; the first batches had {start:.4g}"
        )
        return [Symptom(None, fall, self.fall, description)]


@dataclasses.dataclass(frozen=True)
class Overfitting(Check):
    """The validation loss rises away from the training loss.

    In each of the last `epochs` epochs

        gap = (validation loss - training loss) / training loss

    is above `gap`, larger in the last than in the first of them, and the validation loss is above
    its best so far by a share of more than `rise`. The gap alone would find every good
    training: where the training loss is nearly 0, it is large though the validation loss falls.
    Losses of 0 or less are not compared, nor are epochs without validation.

    Args:
        gap: number above 0. Defaults to 0.1.
        rise: number above 0. Defaults to 0.1.
        epochs: integer of 1 or more. Defaults to 5.

    References:
        Prechelt, 1998, "Early stopping - but when?", which calls the rise the generalization loss.
    """

    name = "overfitting"
    advice = (
        "Try more data or augmentation, dropout or weight decay, a smaller model, or EarlyStopping "
        "with restore_best_weights=True."
    )

    gap: float = 0.1
    rise: float = 0.1
    epochs: int = 5

    def in_epochs(self, epochs: Epochs) -> list[Symptom]:
        """Return the symptom, if validation and training loss move apart."""
        pairs = epochs.validated
        if len(pairs) < self.epochs or not np.min(pairs) > 0:
            return []
        training, validation = np.array(pairs).T
        best = np.minimum.accumulate(validation)
        gaps = (validation - training) / training
        apart = (gaps > self.gap) & (validation > (1 + self.rise) * best)
        if not apart[-self.epochs :].all() or (self.epochs > 1 and gaps[-1] <= gaps[-self.epochs]):
            return []
        description = (
            f"the validation loss is {validation[-1]:.4g} and was {best[-1]:.4g} at best, the "
            f"training loss is {training[-1]:.4g}"
        )
        return [Symptom(None, gaps[-1], self.gap, description)]
