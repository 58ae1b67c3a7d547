"""First weights that blow up signals, shrink them, or make all units the same."""

import dataclasses

import numpy as np

from keras_bp.callbacks.health._rule import Rule, Symptom

_SAME, _FEW = 1e-6, 16


@dataclasses.dataclass(frozen=True)
class PoorInitialization(Rule):
    """Signals change their size from layer to layer, or all units are one, as training begins.

    Looked at are the hidden dense and convolutional layers in the first `steps` update steps, up to
    the first update that is larger than the weights. The first layer that shows a symptom in
    `updates` consecutive updates is found:

    - all its units give the same, or 0: constant first weights, which no gradient tells apart;
    - the variance of its outputs is more than `ratio` times that of the layer that feeds it, or
      less than a `ratio`th. Over ten layers that is a factor of 1e10. A layer that has more
      outputs than inputs may shrink the variance in that proportion too, as Glorot's
      initialization lets it, to keep the gradients from growing.

    What the second tells apart was measured in dense and convolutional networks of 2 to 20 layers.
    He with ReLU, Glorot with tanh, ReLU or sigmoid, LeCun with SELU: within a factor of 6. With
    N(0, 0.01^2): a 100th and less. With N(0, 1) and ReLU: 16 times and more. With N(0, 1) and tanh
    the variances stay near 1, and `Saturation` finds it.

    These are not compared:

    - a layer whose outputs go into normalization: whatever its weights, what comes next has the
      variance 1, and such networks train;
    - one that feeds a sum, since another branch carries the signal there (residual branches that
      begin at 0 are healthy);
    - one of fewer than 16 units, whose variance is a matter of chance;
    - the first layer, the model's outputs, and what is fed by an operation outside any layer.

    Args:
        ratio: number above 0. Defaults to 10.
        steps: integer of 1 or more. Defaults to 10.
        updates: integer of 1 or more. Defaults to 1: the first pass sees the first weights.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if it is out of its range.

    References:
        Glorot and Bengio, 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equations 10 to 16; He et al., 2015, "Delving deep into rectifiers", section
        2.2.
    """

    name = "poor_initialization"
    advice = 'Try "he_normal" with ReLU and its like, "glorot_normal" with tanh and sigmoid.'

    ratio: float = 10.0
    steps: int = 10
    updates: int = 1

    def in_update(self, update):
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
