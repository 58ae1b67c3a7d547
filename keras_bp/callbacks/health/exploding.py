"""Gradients that explode on their way back."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom


@dataclasses.dataclass(frozen=True)
class Exploding(Rule):
    """The gradient is far larger than where it came from, or than it was.

    A layer whose gradient has a norm above `norm` shows a symptom if that is more than

    - `ratio` times the last layer's, in the order of the forward pass: each layer on the way back
      multiplies the gradient by more than 1, or each step of a recurrent layer does; or
    - if it is the largest of all, and the norm of all gradients is more than `growth` times what
      it was at first (the median of the first 10 updates).

    Norms are taken after clipping, so a training whose optimizer clips them below `norm` is
    silent. One update is enough by default: the first explosion throws the weights to where the
    next step may find no number any more. Gradients that are NaN or infinite are the rule
    `NotFinite`'s.

    Args:
        ratio: number above 0. Defaults to 70.
        growth: number above 0. Defaults to 100.
        norm: number above 0, in units of loss per unit of weight. Defaults to 10.
        updates: integer of 1 or more. Defaults to 1.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    References:
        Pascanu, Mikolov and Bengio, 2013, "On the difficulty of training recurrent neural
        networks", section 3.2 on clipping.
    """

    name = "exploding"
    advice = (
        "Try clipping (global_clipnorm=1.0 in the optimizer), a lower learning rate, or smaller "
        "first weights (He or Glorot; orthogonal ones in a recurrent layer)."
    )

    ratio: float = 70.0
    growth: float = 100.0
    norm: float = 10.0
    updates: int = 1

    def in_update(self, update):
        """Return the symptom of the layer whose gradient is the largest."""
        norms = np.where(update.order.called, update.norms * update.clipped, 0.0)
        largest = int(np.argmax(norms))
        if norms[largest] <= self.norm:
            return []
        layer, norm = update.order.layers[largest], update.norms[largest]
        last = np.flatnonzero(update.order.called)[-1]
        if norm > self.ratio * update.norms[last]:
            description = (
                f"the norm of its gradient is {norm:.1e}, that of the last layer, "
                f"`{update.order.layers[last]}`, {update.norms[last]:.1e}"
            )
            value = norm / update.norms[last] if update.norms[last] else np.inf
            return [Symptom(layer, value, self.ratio, description)]
        total = np.sqrt(np.sum(np.square(update.norms)))
        if total > self.growth * update.first_norm:
            description = (
                f"the norm of its gradient is {norm:.1e}; that of all was {update.first_norm:.1e} "
                f"at first and is {total:.1e}"
            )
            return [Symptom(layer, total / update.first_norm, self.growth, description)]
        return []
