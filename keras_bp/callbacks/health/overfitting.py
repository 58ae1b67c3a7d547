"""A model that learns its training data by heart."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom


@dataclasses.dataclass(frozen=True)
class Overfitting(Rule):
    """The validation loss moves away from the training loss, upwards.

    In each of the last `epochs` epochs

        gap = (validation loss - training loss) / training loss

    is above `gap`, larger in the last than in the first of them, and the validation loss is above
    its best so far by a share of more than `rise`. The gap alone would find every training that
    goes well: where the training loss is nearly 0, it is large though the validation loss falls.
    Losses that are not above 0 are not compared, nor epochs without validation.

    Args:
        gap: number above 0. Defaults to 0.1.
        rise: number above 0. Defaults to 0.1.
        epochs: integer of 1 or more. Defaults to 5.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

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

    def in_epochs(self, epochs):
        """Return the symptom, if validation and training loss part."""
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
