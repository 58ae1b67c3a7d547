"""Checks of layers' outputs: dead or saturated units, initial weights that rescale signals."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._check import Check, Symptom, Update, share

_ENOUGH = 32


@dataclasses.dataclass(frozen=True)
class DeadUnits(Check):
    """Too many of a layer's ReLU units are 0 for the whole batch.

    A unit counts as dead if it is nonzero in less than 1 % of the batch (of batch and
    positions in a convolution). No gradient passes through it. The share must be exceeded in
    `updates` consecutive updates: small healthy layers lose half of their units for some twenty
    steps, then recover. Where a unit has fewer than 32 values in a batch, healthy units are often 0
    in all of them, and only a layer whose units are all dead counts.

    Args:
        share: number in (0, 1]. Defaults to 0.5.
        updates: integer of 1 or more. Defaults to 50.

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

    def _found(self, update):
        dead, values = update.statistics["dead"], update.statistics["values"]
        # 1 up to the rounding of float32.
        return update.order.can_die & (dead > np.where(values < _ENOUGH, 1 - 1e-6, self.share))

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell in which of several updates units are dead."""
        return self._found(updates).any(axis=1)

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptoms of the layers in which too many units are dead."""
        dead = update.statistics["dead"]
        return [
            Symptom(
                update.order.outputs[i],
                dead[i],
                self.share,
                f"{dead[i]:.0%} of its units are 0 in all or nearly all of the batch",
            )
            for i in np.flatnonzero(self._found(update))
        ]


@dataclasses.dataclass(frozen=True)
class Saturation(Check):
    """Too many of a layer's sigmoid or tanh outputs lie within 0.01 of a bound.

    There the derivative is below 0.02, and the layers before learn almost nothing. It is found
    after `updates` consecutive updates. Only layers whose outputs go into another layer with
    weights are checked: the output layer of a classifier saturates as it learns, and its
    gradient does not vanish, since the loss cancels the derivative.

    Args:
        share: number in (0, 1]. Defaults to 0.5.
        updates: integer of 1 or more. Defaults to 10.

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

    def _found(self, update):
        return update.order.hidden & (update.statistics["saturated"] > self.share)

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell in which of several updates outputs are saturated."""
        return self._found(updates).any(axis=1)

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptoms of the hidden layers with too many saturated outputs."""
        saturated = update.statistics["saturated"]
        return [
            Symptom(
                update.order.outputs[i],
                saturated[i],
                self.share,
                f"{saturated[i]:.0%} of its outputs lie within 0.01 of a bound of the activation",
            )
            for i in np.flatnonzero(self._found(update))
        ]


_SAME, _FEW = 1e-6, 16


@dataclasses.dataclass(frozen=True)
class PoorInitialization(Check):
    """As training begins, signals grow or shrink from layer to layer, or all units are the same.

    The check looks at the hidden dense and convolutional layers in the first `steps` update steps,
    up to the first update that is larger than the weights. It finds the first layer that shows a
    symptom in `updates` consecutive updates:

    - all its units give the same output, or 0: constant initial weights get equal gradients and
      stay constant;
    - the variance of its outputs is more than `ratio` times that of the layer that feeds it, or
      less than a `ratio`th. Over ten layers that is a factor of 1e10. A layer with more outputs
      than inputs may also shrink the variance in that proportion, as with Glorot's initialization,
      which keeps the gradients from growing.

    The variances were measured in dense and convolutional networks of 2 to 20 layers.
    He with ReLU, Glorot with tanh, ReLU or sigmoid, LeCun with SELU: within a factor of 6. With
    N(0, 0.01^2): a 100th or less. With N(0, 1) and ReLU: 16 times or more. With N(0, 1) and tanh
    the variances stay near 1, and `Saturation` finds it.

    These are not compared:

    - a layer whose outputs go into normalization: whatever its weights, the variance after it is 1,
      and such networks train;
    - a layer that feeds a sum, where another branch carries the signal (residual branches that
      begin at 0 are healthy);
    - a layer of fewer than 16 units, whose variance is a matter of chance;
    - the first layer, the model's outputs, and a layer fed by an operation outside any layer.

    Args:
        ratio: number above 0. Defaults to 10.
        steps: integer of 1 or more. Defaults to 10.
        updates: integer of 1 or more. Defaults to 1: the first pass sees the initial weights.

    References:
        Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equations 10 to 16; He et al., 2015, "Delving deep into rectifiers", section 2.2.
    """

    name = "poor_initialization"
    advice = 'Try "he_normal" with ReLU and its like, "glorot_normal" with tanh and sigmoid.'

    ratio: float = 10.0
    steps: int = 10
    updates: int = 1

    def suspects(self, updates: Update) -> np.ndarray:
        """Tell which of several updates are among the first."""
        return updates.step <= self.steps

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptom of the first layer that has one."""
        if update.step > self.steps or update.replaced:
            return None
        variances, spreads = update.statistics["variance"], update.statistics["spread"]
        for link in update.order.links:
            layer, variance = update.order.outputs[link.layer], variances[link.output]
            spread = spreads[link.output]
            if link.units > 1 and spread <= _SAME * variance and (link.alone or variance > 0):
                share = spread / variance if variance else 0.0
                return [Symptom(layer, share, _SAME, "all its units give the same")]
            known = link.source is not None and link.alone and not link.normalized
            if not known or link.units < _FEW:
                continue
            before = variances[link.source]
            if variance > self.ratio * before:
                change = variance / before if before else np.inf
            elif variance * max(1.0, link.widening) * self.ratio < before:
                change = before / variance if variance else np.inf
            else:
                continue
            description = (
                f"the variance of its outputs is {variance:.1e}, that of the layer before, "
                f"`{update.order.outputs[link.source]}`, {before:.1e}"
            )
            return [Symptom(layer, change, self.ratio, description)]
        return []
