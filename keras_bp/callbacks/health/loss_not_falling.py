"""A loss that stays where it is."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom, share


@dataclasses.dataclass(frozen=True)
class LossNotFalling(Rule):
    """The training loss falls by less than a share of `fall` in `epochs` epochs.

    The fall is that of the straight line through the losses of so many epochs and the one before
    them, so that a single low epoch does not hide it.

    A training that has come to its end does not let the loss fall any more either, and no rule can
    know how low a loss can go. So it counts only while the loss is above `learned` times the mean
    of the first ten batches. A model that has learned less than that, because there is no more to
    learn, is found all the same; `EarlyStopping` ends such a training.

    Args:
        fall: number in (0, 1]. Defaults to 0.001.
        epochs: integer of 1 or more. Defaults to 10.
        learned: number in (0, 1]. Defaults to 0.5.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.
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

    def in_epochs(self, epochs):
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
