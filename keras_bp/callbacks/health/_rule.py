"""What the rules have in common, and what they look at."""

import dataclasses
import typing

import numpy as np

from keras_bp._arguments import check_integer, check_number


class Update(typing.NamedTuple):
    """An update step as the rules see it: numbers, and arrays with an entry a layer."""

    step: int
    """Its number, 1 for the optimizer's first."""
    loss: float
    """The batch's own loss, NaN where the train step does not show it."""
    sees_loss: bool
    """Whether the train step shows the loss."""
    learned: bool
    """Whether the loss is clearly below what it was at the start, or is not shown."""
    replaced: bool
    """Whether an earlier update of a layer was larger than its weights."""
    first_norm: float
    """Median norm of all gradients over the first updates."""
    clipped: float
    """What clipping has left of the norm of all gradients: 1 for all of it."""
    order: typing.Any
    """The `ForwardOrder`: whose entries the arrays hold."""

    norms: np.ndarray
    """Norm of the gradient of each of `order.layers`, before clipping."""
    means: np.ndarray
    """Root mean square of its entries, NaN for embeddings."""
    moves: np.ndarray | None
    """Norm of the update of each of `order.layers`; None where it was not measured."""
    ratios: np.ndarray | None
    """Norm of the update over norm of the weights, NaN for weights of norm 0."""
    weights: np.ndarray | None
    """Root mean square of the weights before the update."""

    statistics: dict
    """Name of a statistic of `_layer_outputs` -> its value for each of `order.outputs`."""

    @property
    def finite(self):
        """Whether loss and gradients are numbers, and finite."""
        return bool(
            np.isfinite(self.norms).all() and (not self.sees_loss or np.isfinite(self.loss))
        )


class Epochs(typing.NamedTuple):
    """The epochs so far as the rules see them."""

    start: float
    """The first batches' mean loss, or the first epoch's where the train step does not show it."""
    losses: list
    """Training loss of each epoch."""
    validated: list
    """Pairs of training and validation loss, for the epochs that have both."""


class Symptom(typing.NamedTuple):
    """What a rule sees in one update or after an epoch; see `Finding`."""

    layer: str | None
    value: float
    threshold: float
    description: str
    advice: str | None = None
    """In place of the rule's."""
    at_once: bool = False
    """Whether it is a finding at once, however many updates the rule asks for."""


class Rule:
    """Base of the rules: a frozen dataclass of thresholds, which it checks.

    A rule keeps no record of a training. It overrides `in_update`, and has a field `updates`, the
    number of consecutive updates in which a layer must show a symptom; or it overrides `in_epochs`.
    """

    name: typing.ClassVar[str]
    advice: typing.ClassVar[str]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                check_integer(field.name, value, 1)
            else:
                high = field.metadata.get("high", np.inf)
                check_number(field.name, value, 0.0, high, low_open=True)

    def in_update(self, update):
        """Return the symptoms in an `Update`, a list, or None where they cannot be known."""
        return None

    def in_epochs(self, epochs):
        """Return the symptoms after an epoch, a list, from `Epochs`."""
        return []


def share(default):
    """Return a field of a rule that lies in (0, 1]."""
    return dataclasses.field(default=default, metadata={"high": 1.0})
