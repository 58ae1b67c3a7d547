"""Units that give 0 whatever comes in."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom, share

_ENOUGH = 32


@dataclasses.dataclass(frozen=True)
class DeadUnits(Rule):
    """More than a share of a layer's ReLU units are 0 for the whole batch.

    A unit counts as dead if it is other than 0 in less than 1 % of the batch (of batch and
    positions in a convolution). No gradient passes through it. The share must be exceeded in
    `updates` consecutive updates: small healthy layers lose half of their units for some twenty
    steps, and get them back. Where a unit has fewer than 32 values in a batch, healthy units are
    often 0 in all of them, and only a layer of which nothing is left counts.

    Args:
        share: number in (0, 1]. Defaults to 0.5.
        updates: integer of 1 or more. Defaults to 50.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    References:
        Maas, Hannun and Ng, 2013, "Rectifier nonlinearities improve neural network acoustic
        models", section 2.
    """

    name = "dead_units"
    advice = (
        "Try a lower learning rate, biases that begin at 0, He initialization, or a leaky ReLU "
        '(activation="leaky_relu").'
    )

    share: float = share(0.5)
    updates: int = 50

    def in_update(self, update):
        """Return the symptoms of the layers in which too many units are dead."""
        dead, values = update.statistics["dead"], update.statistics["values"]
        # 1 - 1e-6: a share in float32.
        found = update.order.can_die & (dead > np.where(values < _ENOUGH, 1 - 1e-6, self.share))
        return [
            Symptom(
                update.order.outputs[i],
                dead[i],
                self.share,
                f"{dead[i]:.0%} of its units are 0 in all or nearly all of the batch",
            )
            for i in np.flatnonzero(found)
        ]
