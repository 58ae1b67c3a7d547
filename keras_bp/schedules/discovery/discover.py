"""From a probe to a schedule."""

import dataclasses

import numpy as np

from keras_bp.schedules.discovery.features import NAMES, features, reference_rate, swept
from keras_bp.schedules.discovery.grid import make_schedule
from keras_bp.schedules.discovery.meta_learner import MetaLearner

_SAFE = {"warmup_share": 0.1, "decay": "cosine"}


@dataclasses.dataclass(frozen=True)
class Discovery:
    """A schedule that was predicted from a probe, or the safe one.

    Attributes:
        peak_learning_rate: float, the highest rate; None where a safe schedule has yet to get one.
        warmup_share: float, the share of the steps in which the rate rises.
        decay: string, `"constant"`, `"cosine"` or `"linear"`, how it falls afterwards.
        expected_regret: float, what the model expects the schedule to be behind the best of all,
            as a share of the whole fall of the loss; None for the safe one.
        features: dict of the features by name, see `features`; empty where there are none.
        fallback_reason: string, why the schedule is the safe one; None where it was predicted.
    """

    peak_learning_rate: float | None
    warmup_share: float
    decay: str
    expected_regret: float | None = None
    features: dict = dataclasses.field(default_factory=dict)
    fallback_reason: str | None = None

    @classmethod
    def safe(cls, peak, reason, seen=None):
        """Return a warm-up and a cosine from a peak."""
        return cls(peak, **_SAFE, features=seen or {}, fallback_reason=reason)

    def at(self, peak):
        """Return the same with another peak."""
        return dataclasses.replace(self, peak_learning_rate=peak)

    def schedule(self, steps):
        """Return the schedule over a number of steps, for an optimizer."""
        return make_schedule(self.peak_learning_rate, self.warmup_share, self.decay, steps)

    def __str__(self):
        kind = "fallback" if self.fallback_reason else "found"
        peak = "unknown" if self.peak_learning_rate is None else f"{self.peak_learning_rate:.3g}"
        return f"{kind}: peak rate {peak}, warm-up {self.warmup_share:.0%}, {self.decay}"


def discover(probe, total_steps, model=None):
    """Predict the schedule of the steps after a probe.

    Args:
        probe: a `Probe` that has seen steps.
        total_steps: integer, the update steps of the whole run, probe included.
        model: a `MetaLearner`. Defaults to `None`, the one that the package comes with.

    Returns:
        A `Discovery`. Where the probe has a `fault`, it is the safe one, without a peak; and where
        features lie far outside of those that the model has learnt from, the safe one at a tenth of
        the rate that led to the lowest loss of the sweep.

    Example:
        >>> from keras_bp.schedules import discovery
        >>> from keras_bp.schedules.discovery import simulation
        >>> task = discovery.make_task("teacher", 0)
        >>> probe, _ = simulation.probe(task, steps=30, seed=0)
        >>> found = discovery.discover(probe, task.total_steps)
        >>> schedule = found.schedule(task.total_steps - len(probe.rows))
        >>> found.fallback_reason is None, found.decay, float(schedule(10**6))
        (True, 'linear', 0.0)
    """
    if probe.fault is not None:
        return Discovery.safe(None, probe.fault)
    model = model or MetaLearner.shipped()
    values = features(probe, total_steps)
    seen = dict(zip(NAMES, map(float, values), strict=True))
    outside = [NAMES[i] for i in model.outside(values)]
    if outside:
        reason = "features far outside of what was learnt from: " + ", ".join(
            f"{name} {seen[name]:.3g}" for name in outside
        )
        return Discovery.safe(_tenth_of_the_lowest(probe), reason, seen)
    rate, (warmup_share, decay), regret = model.choose(values)
    return Discovery(rate * reference_rate(probe), warmup_share, decay, regret, seen)


def _tenth_of_the_lowest(probe):
    """Return the range test's rate, by its rule "minimum"."""
    rates, falls = swept(probe)
    return float(rates[np.argmax(falls)]) / 10
