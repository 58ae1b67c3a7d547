"""Steps that are far too large or too small for the weights."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom

_TINY, _SMALL = 1e-3, 1e-7


@dataclasses.dataclass(frozen=True)
class UpdateRatio(Rule):
    """The norm of a layer's update, over that of its weights, is out of all proportion.

    A ratio near 1e-3 is healthy.

    - Above `high`, the update has replaced the weights, and one is a finding at once: the next
      ratios are measured by the large weights that it left. Weights that began at 0, or smaller
      than 1e-3 in the root mean square, may grow by so much and are left out.
    - Below `low` but not 0, in `updates` consecutive updates, the weights stand still for all
      practical purposes. At a minimum they do so rightly: it counts only if the loss has not fallen
      since the training began, or if another layer's ratio is above 1e-6.

    If all layers show the symptom, the finding is the first one's.

    Args:
        high: number above 0. Defaults to 10.
        low: number above 0. Defaults to 1e-8.
        updates: integer of 1 or more, for `low`. Defaults to 10.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.
    """

    name = "update_ratio"
    advice = "Try a {direction} learning rate; keras_bp.find_learning_rate suggests one."

    high: float = 10.0
    low: float = 1e-8
    updates: int = 10

    def in_update(self, update):
        """Return the symptoms of the layers whose updates are too large or too small."""
        ratios = update.ratios
        if update.moves is None:
            return None
        large = (ratios > self.high) & (update.weights > _TINY)
        if large.any():
            return self._symptoms(update, large, self.high)
        # Smaller gradients are Vanishing's; a table's means are not known.
        small = (ratios < self.low) & (ratios > 0) & ~(update.means < _SMALL)
        if update.learned and not (ratios > 1e-6).any():
            return []
        return self._symptoms(update, small, self.low)

    def _symptoms(self, update, found, threshold):
        places = np.flatnonzero(found)
        too_large = threshold == self.high
        others = ""
        if len(places) == len(found) > 1:
            places, others = places[:1], ", and so it is in all other layers"
        description = "an update has {:.1e} times the norm of its weights" + others
        direction = "lower" if too_large else "higher"
        return [
            Symptom(
                update.order.layers[i],
                update.ratios[i],
                threshold,
                description.format(update.ratios[i]),
                at_once=too_large,
                advice=self.advice.format(direction=direction),
            )
            for i in places
        ]
