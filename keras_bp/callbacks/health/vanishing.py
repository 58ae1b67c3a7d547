"""Gradients that vanish on their way back."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom


@dataclasses.dataclass(frozen=True)
class Vanishing(Rule):
    """The gradient is next to nothing where it arrives.

    Either of the two is a symptom, and a finding after `updates` consecutive updates:

    - the norm of the first layer's gradient is below `first`, and below `ratio` times that of the
      last layer, in the order of the forward pass;
    - the mean |g| of a layer, taken as the root mean square of the gradient's entries, is below
      `mean`. At a minimum all gradients are small and rightly so: it counts only if another
      layer's is 1000 times as large, or if the loss has not fallen since the training began.

    The finding names the first such layer. A dead layer stops the gradients of those before it,
    and is then found beside them, as is a layer whose weights are not moved at all. Embeddings are
    left out of the second symptom, since the rows that a batch does not hold have no gradient.

    Args:
        mean: number above 0. Defaults to 1e-7.
        ratio: number above 0. Defaults to 1e-3.
        first: number above 0. Defaults to 1e-4.
        updates: integer of 1 or more. Defaults to 10.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    References:
        Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
        networks".
    """

    name = "vanishing"
    advice = (
        "Try ReLU with He initialization in place of sigmoid or tanh, batch normalization, or "
        "connections that skip layers."
    )

    mean: float = 1e-7
    ratio: float = 1e-3
    first: float = 1e-4
    updates: int = 10

    def in_update(self, update):
        """Return the symptom of the first layer that has one."""
        called = np.flatnonzero(update.order.called)
        if len(called) < 2:
            return []
        first, last = called[0], called[-1]
        norm, last_norm = update.norms[first], update.norms[last]
        if norm < self.first and norm < self.ratio * last_norm:
            description = (
                f"the norm of its gradient is {norm:.1e}, that of the last layer, "
                f"`{update.order.layers[last]}`, {last_norm:.1e}"
            )
            return [Symptom(update.order.layers[first], norm / last_norm, self.ratio, description)]
        means = update.means[called]
        uneven = (means > 1000 * self.mean).any()
        small = np.flatnonzero(means < self.mean)
        if not len(small) or (update.learned and not uneven):
            return []
        layer = called[small[0]]
        description = f"the mean |g| of its gradient is {update.means[layer]:.1e}"
        if len(small) > 1:
            description += f", and as small in {len(small) - 1} more layers"
        return [Symptom(update.order.layers[layer], update.means[layer], self.mean, description)]
