"""What a rule of TrainingHealth has found."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of a training: what it is, where, and what to try.

    `str(finding)` is a sentence or two that says all of it.

    Attributes:
        rule: string, the name of the rule, such as `"vanishing"`.
        layer: string, the path of the layer, as in `GradientMonitor`; `None` where the fault is
            the whole model's.
        step: integer, the number of the update step in which the rule was met.
        value: float, what was measured.
        threshold: float, the rule's threshold that the value has passed.
        description: string, what was measured, in words.
        advice: string, what to try.
    """

    rule: str
    layer: str | None
    step: int
    value: float
    threshold: float
    description: str
    advice: str

    def __str__(self):
        place = "the model" if self.layer is None else f"layer `{self.layer}`"
        title = self.rule.replace("_", " ").capitalize()
        return f"{title} in {place} at step {self.step}: {self.description}. {self.advice}"
