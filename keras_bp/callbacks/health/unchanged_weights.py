"""Weights that updates do not move."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom


@dataclasses.dataclass(frozen=True)
class UnchangedWeights(Rule):
    """A layer's trainable weights are the same, bit for bit, after `updates` consecutive updates.

    The layer is cut off from the loss (`stop_gradient`, a dead layer behind it, an operation
    without a gradient), its gradient underflows, or the learning rate is 0. A layer that is frozen
    by `trainable=False` has no trainable weights and is left out. At a minimum weights stand
    still rightly: it counts only if the loss has not fallen since the training began, or if
    another layer's update has more than 1e-6 times the norm of its weights.

    If all layers show the symptom, the finding is the first one's.

    Args:
        updates: integer of 1 or more. Defaults to 3.

    Raises:
        TypeError: if the argument is no integer.
        ValueError: if it is out of its range.
    """

    name = "unchanged_weights"
    advice = (
        "See whether the loss depends on the layer through operations that have a gradient, and "
        "whether its learning rate is above 0; freeze it with trainable=False if it is meant."
    )

    updates: int = 3

    def in_update(self, update):
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
