"""Checks of gradients: NaN or infinite, exploding, vanishing."""

import dataclasses
import typing

import numpy as np

from keras_bp.callbacks.health._check import Check, Symptom, Update


@dataclasses.dataclass(frozen=True)
class NotFinite(Check):
    """The loss, a gradient or a weight is NaN or infinite; found in the first such update.

    The finding names the layer in which it began:

    - in the forward pass, the first layer whose outputs hold NaN or infinity, in the order of
      the calls; a layer whose outputs hold some in healthy updates too, such as the -inf of a
      mask, is skipped. If all outputs are finite, it began in the loss;
    - if the loss is finite, in the backward pass: the layer nearest to the output whose gradient is
      not finite. That layer, or what lies between it and the next, has no finite derivative there.

    Outputs that are not finite are no finding while loss and gradients are finite. Nor is a step
    that loss scaling skips, unless an epoch has only such steps.

    It has no thresholds.
    """

    name = "not_finite"
    advice = (
        "Look for a division by 0, a logarithm, root or power of what may be 0 or negative, and an "
        "overflow (too high a learning rate, no clipping); in the model's first layer, at the data."
    )
    updates: typing.ClassVar[int] = 1

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell which of several updates are not finite."""
        return np.logical_not(updates.finite)

    def in_update(self, update: Update) -> list[Symptom] | None:
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
            advice = f"Under XLA labels outside of the classes give NaN. {self.advice}"
            return [Symptom(None, update.loss, 0.0, description, advice)]
        last = np.flatnonzero(~np.isfinite(update.norms))[-1]
        description = (
            "its gradient is NaN or infinite though the loss is finite; so the backward pass "
            "of " + _between(update.order, last) + " has no finite value"
        )
        return [Symptom(update.order.layers[last], update.norms[last], 0.0, description)]


def _between(order, last):
    """Name the layers whose derivative may be the cause: this one, and those up to the next."""
    here = order.places[last]
    if here < 0:
        return f"`{order.layers[last]}`"
    after = order.places[order.places > here]
    names = [f"`{name}`" for name in order.outputs[here : after[0] if len(after) else None]]
    return " or ".join(names if len(after) else [*names, "the loss"])


@dataclasses.dataclass(frozen=True)
class Exploding(Check):
    """A layer's gradient is far larger than the last layer's, or than at the start.

    A layer whose gradient has a norm above `norm` shows a symptom if that is more than

    - `ratio` times the last layer's, in the order of the forward pass: each layer on the way back
      multiplies the gradient by more than 1, or each step of a recurrent layer does; or
    - if it is the largest of all, and the norm of all gradients is more than `growth` times what
      it was at first (the median of the first 10 updates).

    Norms are taken after clipping, so a training whose optimizer clips them below `norm` gives no
    finding. One update is enough by default: after the first explosion the next step may be NaN.
    The check `NotFinite` finds gradients that are NaN or infinite.

    Args:
        ratio: number above 0. Defaults to 70.
        growth: number above 0. Defaults to 100.
        norm: number above 0, in units of loss per unit of weight. Defaults to 10.
        updates: integer of 1 or more. Defaults to 1.

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

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell in which of several updates a norm is large."""
        norms = updates.norms * updates.clipped[:, None]
        return (norms[:, updates.order.called] > self.norm).any(axis=1)

    def in_update(self, update: Update) -> list[Symptom] | None:
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


@dataclasses.dataclass(frozen=True)
class Vanishing(Check):
    """The first layer's gradient, or any layer's, is almost 0.

    Either of the two is a symptom, and a finding after `updates` consecutive updates:

    - the norm of the first layer's gradient is below `first`, and below `ratio` times that of the
      last layer, in the order of the forward pass;
    - the mean |g| of a layer, taken as the root mean square of the gradient's entries, is below
      `mean`. At a minimum all gradients are small, as they should be: this counts only if
      another layer's is 1000 times as large, or if the loss has not fallen since training began.

    The finding names the first such layer. A dead layer stops the gradients of those before it,
    and is then found as well, as is a layer whose weights do not move at all. Embeddings are left
    out of the second symptom, since the rows that a batch does not hold have no gradient.

    Args:
        mean: number above 0. Defaults to 1e-7.
        ratio: number above 0. Defaults to 1e-3.
        first: number above 0. Defaults to 1e-4.
        updates: integer of 1 or more. Defaults to 10.

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

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell in which of several updates a norm or a mean is small."""
        called = updates.order.called
        small = (updates.norms < self.first) | (updates.means < self.mean)
        return np.asarray(small[:, called].any(axis=1))

    def in_update(self, update: Update) -> list[Symptom] | None:
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
