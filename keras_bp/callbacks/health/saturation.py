"""Units that are stuck at a bound of their activation."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom, share


@dataclasses.dataclass(frozen=True)
class Saturation(Rule):
    """More than a share of a layer's sigmoid or tanh outputs lie within 0.01 of a bound.

    There the derivative is below 0.02 and the layers before learn next to nothing. It is a finding
    after `updates` consecutive updates. Only layers whose outputs go into another one that holds
    weights are looked at: the output layer of a classifier saturates as it learns, and its
    gradient does not vanish, since the loss cancels the derivative.

    Args:
        share: number in (0, 1]. Defaults to 0.5.
        updates: integer of 1 or more. Defaults to 10.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    References:
        Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
        networks", section 3.
    """

    name = "saturation"
    advice = (
        "Try smaller first weights (Glorot), inputs scaled to variance 1, normalization before the "
        "activation, a lower learning rate, or ReLU."
    )

    share: float = share(0.5)
    updates: int = 10

    def in_update(self, update):
        """Return the symptoms of the hidden layers of which too much is saturated."""
        saturated = update.statistics["saturated"]
        return [
            Symptom(
                update.order.outputs[i],
                saturated[i],
                self.share,
                f"{saturated[i]:.0%} of its outputs lie within 0.01 of a bound of the activation",
            )
            for i in np.flatnonzero(update.order.hidden & (saturated > self.share))
        ]
