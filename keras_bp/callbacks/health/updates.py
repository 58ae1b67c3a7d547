"""Checks of updates: missing, far too large, far too small."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._check import Check, Symptom, Update


@dataclasses.dataclass(frozen=True)
class UnchangedWeights(Check):
    """A layer's trainable weights are the same, bit for bit, after `updates` updates in a row.

    The layer is cut off from the loss (`stop_gradient`, a dead layer after it, an operation
    without a gradient), its gradient underflows, or the learning rate is 0. A layer that is frozen
    by `trainable=False` has no trainable weights and is left out. At a minimum weights may
    stand still: this counts only if the loss has not fallen since the training began, or if
    another layer's update has more than 1e-6 times the norm of its weights.

    If all layers show the symptom, the finding is the first one's.

    Args:
        updates: integer of 1 or more. Defaults to 3.
    """

    name = "unchanged_weights"
    advice = (
        "See whether the loss depends on the layer through operations that have a gradient, and "
        "whether its learning rate is above 0; if intended, freeze it with trainable=False."
    )

    updates: int = 3

    def suspects(self, updates: Update) -> np.ndarray | None:
        """Tell of all of several updates whether a layer did not move."""
        if updates.moves is None:
            return None
        return np.full(len(updates.loss), (updates.moves == 0).any())

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptoms of the layers that did not move."""
        if update.moves is None:
            return None
        unchanged = np.flatnonzero(update.moves == 0)
        if update.learned and not (update.ratios > 1e-6).any():
            return []
        description = "the update has not moved its weights"
        if len(unchanged) == len(update.order.layers) > 1:
            unchanged, description = unchanged[:1], description + ", nor any other layer's"
        return [Symptom(update.order.layers[i], 0.0, 0.0, description) for i in unchanged]


_TINY, _SMALL = 1e-3, 1e-7


@dataclasses.dataclass(frozen=True)
class UpdateRatio(Check):
    """The norm of a layer's update is far too large or too small beside that of its weights.

    A ratio near 1e-3 is healthy.

    - Above `high`, the update has replaced the weights, and one such update is a finding: the next
      ratios are measured against the large weights that it left. Weights that began at 0, or
      smaller than 1e-3 in the root mean square, may grow by so much and are left out.
    - Below `low` but not 0, in `updates` consecutive updates, the weights hardly move. At a
      minimum that is as it should be: this counts only if the loss has not fallen
      since the training began, or if another layer's ratio is above 1e-6.

    If all layers show the symptom, the finding is the first one's.

    Args:
        high: number above 0. Defaults to 10.
        low: number above 0. Defaults to 1e-8.
        updates: integer of 1 or more, for `low`. Defaults to 10.
    """

    name = "update_ratio"
    advice = "Try a {direction} learning rate; keras_bp.find_learning_rate suggests one."

    high: float = 10.0
    low: float = 1e-8
    updates: int = 10

    def suspects(self, updates: Update) -> np.ndarray | None:
        """Tell of all of several updates whether a ratio is out of the range."""
        ratios = updates.ratios
        if ratios is None:
            return None
        return np.full(len(updates.loss), ((ratios > self.high) | (ratios < self.low)).any())

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptoms of the layers whose updates are too large or too small."""
        ratios = update.ratios
        if update.moves is None:
            return None
        large = (ratios > self.high) & (update.weights > _TINY)
        if large.any():
            return self._symptoms(update, large, self.high)
        # Vanishing finds smaller gradients; the means of an embedding are not known.
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
