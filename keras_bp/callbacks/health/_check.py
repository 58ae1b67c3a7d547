"""The base of `TrainingHealth`'s checks, what they see and what they report."""

import dataclasses
import typing

import numpy as np

from keras_bp._arguments import check_integer, check_number
from keras_bp._html import table
from keras_bp._types import Array
from keras_bp.callbacks.health._forward_order import ForwardOrder
from keras_bp.recording import Curvature


class Update(typing.NamedTuple):
    """An update step as the checks see it: numbers, and arrays with one entry per layer.

    Also several update steps, read together: then numbers are arrays, and arrays but for moves,
    ratios and weights have another axis before.
    """

    step: Array
    """Its number, 1 for the optimizer's first."""
    loss: Array
    """The batch's own loss, NaN where the train step does not show it."""
    sees_loss: bool
    """Whether the train step shows the loss."""
    clipped: Array
    """The share of the norm of all gradients that clipping leaves, 1 for all of it."""
    order: ForwardOrder
    """The layers that the arrays' entries belong to."""

    norms: np.ndarray
    """Norm of the gradient of each of `order.layers`, before clipping."""
    means: np.ndarray
    """Root mean square of its entries, NaN for embeddings."""
    moves: Array
    """Norm of the update of each of `order.layers`; None if it was not measured."""
    ratios: Array
    """Norm of the update over norm of the weights, NaN for weights of norm 0; or None."""
    weights: Array
    """Root mean square of the weights before the update; or None."""

    statistics: dict[str, np.ndarray]
    """Maps the name of a statistic of the outputs to its value for each of `order.outputs`."""

    curvature: Curvature | None = None
    """Noise and curvature at the last of the steps; None if they were not measured."""

    # What came before it; not of several steps.
    learned: bool = False
    """Whether the loss is clearly below what it was at the start, or is not shown."""
    replaced: bool = False
    """Whether an earlier update of a layer was larger than its weights."""
    first_norm: float = np.inf
    """Median norm of all gradients over the first updates."""

    @property
    def finite(self) -> Array:
        """Whether the loss and the gradients are finite."""
        known = np.isfinite(self.loss) | (not self.sees_loss)
        return np.isfinite(self.norms).all(axis=-1) & known

    def row(self, number: int) -> "Update":
        """Return one of several steps."""
        names = "step", "loss", "clipped", "norms", "means"
        own: dict[str, typing.Any] = {name: getattr(self, name)[number] for name in names}
        own["statistics"] = {name: values[number] for name, values in self.statistics.items()}
        return self._replace(**own)


class Epochs(typing.NamedTuple):
    """The epochs so far, as the checks see them."""

    start: float
    """The first batches' mean loss, or the first epoch's where the train step does not show it."""
    losses: list[float]
    """Training loss of each epoch."""
    validated: list[tuple[float, float]]
    """Pairs of training and validation loss, for the epochs that have both."""


class Symptom(typing.NamedTuple):
    """What a check sees in one update or after an epoch; see `Finding`."""

    layer: str | None
    value: float
    threshold: float
    description: str
    advice: str | None = None
    """Replaces the check's advice."""
    at_once: bool = False
    """Whether it is a finding at once, however many updates the check requires."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of a training: what it is, where, and what to try.

    `str(finding)` says all of it in a sentence or two.

    Attributes:
        check: string, the name of the check, such as `"vanishing"`.
        layer: string, the path of the layer, as in `GradientMonitor`; `None` where the fault is
            the whole model's.
        step: integer, the number of the update step in which the fault was found.
        value: float, what was measured.
        threshold: float, the check's threshold that the value has passed.
        description: string, what was measured, in words.
        advice: string, what to try.
    """

    check: str
    layer: str | None
    step: int
    value: float
    threshold: float
    description: str
    advice: str

    def __str__(self) -> str:
        place = "the model" if self.layer is None else f"layer `{self.layer}`"
        title = self.check.replace("_", " ").capitalize()
        return f"{title} in {place} at step {self.step}: {self.description}. {self.advice}"


class Findings(list[Finding]):
    """A list of `Finding`s, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        number = f"{len(self) or 'no'} finding" + "s" * (len(self) != 1)
        header = "step", "check", "layer", "value", "threshold", "what", "advice"
        rows = [
            (
                f.step,
                f.check,
                "(model)" if f.layer is None else f.layer,
                f"{f.value:.3g}",
                f"{f.threshold:.3g}",
                f.description,
                f.advice,
            )
            for f in self
        ]
        return table(f"TrainingHealth: {number}", header, rows)


class Check:
    """Base of the checks: a frozen dataclass of thresholds, verified as it is made.

    A check keeps no record of a training. It overrides `in_update`, perhaps `suspects`, and has a
    field `updates`, the number of consecutive updates in which a layer must show a symptom; or it
    overrides `in_epochs`.

    Raises:
        TypeError: if an argument is not a number of its kind.
        ValueError: if one is out of its range.
    """

    name: typing.ClassVar[str]
    advice: typing.ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type is int:
                check_integer(field.name, value, 1)
            else:
                high = field.metadata.get("high", np.inf)
                check_number(field.name, value, 0.0, high, low_open=True)

    def in_update(self, update: Update) -> list[Symptom] | None:
        """Return the symptoms in an `Update`, a list, or None if they cannot be known."""
        return None

    def suspects(self, updates: Update) -> np.ndarray | None:
        """Tell which of several updates may show a symptom; None if that cannot be known.

        So that a healthy training, whose updates are judged together, waits for nothing else.
        """
        sees_updates = type(self).in_update is not Check.in_update
        return np.ones(len(updates.loss), bool) if sees_updates else None

    def in_epochs(self, epochs: Epochs) -> list[Symptom]:
        """Return the symptoms after an epoch, a list, from `Epochs`."""
        return []


def share(default: float) -> float:
    """Return a field of a check that lies in (0, 1]."""
    return dataclasses.field(default=default, metadata={"high": 1.0})
