"""The first number that is none."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom


@dataclasses.dataclass(frozen=True)
class NotFinite(Rule):
    """The loss, a gradient or a weight is NaN or infinite; found in the first such update.

    The finding names the layer in which it began:

    - in the forward pass, the first layer whose outputs hold such a number, in the order of the
      calls; a layer whose outputs hold some in healthy updates too, the -inf of a mask, is passed
      over. If all outputs are finite, it is the loss that is not;
    - if the loss is finite, in the backward pass: the layer nearest to the output whose gradient is
      not finite. It, or what lies between it and the next, has no finite derivative there.

    Outputs that are not finite while loss and gradients are, are no finding. Nor is a step that
    loss scaling skips, unless an epoch has no other. Norms above about 1e19 count as infinite.

    It has no thresholds.
    """

    name = "not_finite"
    advice = (
        "Look for a division by 0, a logarithm, root or power of what may be 0 or negative, and an "
        "overflow (too high a learning rate, no clipping); in the model's first layer, at the data."
    )
    updates = 1

    def in_update(self, update):
        """Return the symptom of the layer in which it began."""
        if update.finite:
            return []
        shares = update.statistics["not_finite"]
        forward = np.flatnonzero(shares > 0)
        if len(forward):
            place, share = forward[0], shares[forward[0]]
            description = f"{share:.1%} of its outputs are NaN or infinite, the first in the model"
            if place and np.isnan(shares[place - 1]):
                before = update.order.outputs[place - 1]
                description += f" but for `{before}`, which is computed in one kernel with it"
            return [Symptom(update.order.outputs[place], share, 0.0, description)]
        if update.sees_loss and not np.isfinite(update.loss):
            description = "the loss is NaN or infinite, though all layers' outputs are finite"
            return [Symptom(None, update.loss, 0.0, description)]
        last = np.flatnonzero(~np.isfinite(update.norms))[-1]
        description = (
            "its gradient is NaN or infinite though the loss is finite; so the backward pass "
            "of " + _between(update.order, last) + " has no finite value"
        )
        return [Symptom(update.order.layers[last], update.norms[last], 0.0, description)]


def _between(order, last):
    """Name the layers whose derivative it may be: this one, and those up to the next."""
    here = order.places[last]
    if here < 0:
        return f"`{order.layers[last]}`"
    after = order.places[order.places > here]
    names = [f"`{name}`" for name in order.outputs[here : after[0] if len(after) else None]]
    return " or ".join(names if len(after) else [*names, "the loss"])
