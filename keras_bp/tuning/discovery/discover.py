"""From a probe to a schedule: the choices, and the model that chooses."""

import dataclasses
import functools
import pathlib
from typing import Self

import numpy as np

from keras_bp._arguments import check_choice
from keras_bp._types import Array, Path
from keras_bp.schedules import CosineAnnealing, LinearDecay, Warmup
from keras_bp.tuning.discovery.probe import NAMES, Probe, features, reference_rate, swept

SHAPES = ((0.0, "constant"), (0.0, "cosine"), (0.0, "linear"), (0.1, "cosine"), (0.1, "linear"))
"""Pairs of the share of the steps in which the rate rises, and the kind of decay afterwards."""

PEAKS = 10 ** np.linspace(-2, 0, 9)
"""The peaks to choose from, relative to the probe's reference rate; higher ones risk divergence."""

_SHIPPED = pathlib.Path(__file__).parent / "coefficients.npz"
# A feature still counts as near this many ranges beyond the range of the training tasks.
_MARGIN = 1.0
# Standardized features are clipped here; the model knows nothing beyond.
_DEVIATIONS = 3.0


def warmup_steps(share: float, steps: int) -> int:
    """Return a share of the steps, rounded down."""
    return int(share * steps)


def make_schedule(
    peak: float, warmup_share: float, decay: str, steps: int
) -> CosineAnnealing | LinearDecay | Warmup:
    """Return the schedule of a peak and a shape.

    Args:
        peak: number of 0 or more, the highest rate.
        warmup_share: number in [0, 1), of the steps.
        decay: `"constant"`, `"cosine"` or `"linear"`, the latter two down to 0.
        steps: integer of 1 or more.

    Raises:
        ValueError: if `decay` is not one of these.
    """
    check_choice("decay", decay, ("constant", "cosine", "linear"))
    warmup = warmup_steps(warmup_share, steps)
    rest = steps - warmup
    falling: CosineAnnealing | LinearDecay
    if decay == "cosine":
        falling = CosineAnnealing(peak, rest)
    else:
        falling = LinearDecay(peak, rest, peak if decay == "constant" else 0.0)
    return Warmup(falling, warmup) if warmup else falling


class MetaLearner:
    """Predicts, from a probe's features, the regrets of all schedules, and chooses one.

    The regret of a schedule is how far its last loss is above the best of all, as a share of the
    best one's whole fall: r = (L - L_best) / (L_start - L_best), at most 1. What is predicted is
    its square root, in which small regrets are told apart: a quadratic function of the features,
    which are standardized and clipped at three deviations.

    Args:
        arrays: dict of the arrays that a file of coefficients holds.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.arrays = arrays

    @classmethod
    def load(cls, filepath: Path) -> Self:
        """Read a `.npz` file of coefficients."""
        with np.load(filepath, allow_pickle=False) as file:
            return cls(dict(file))

    @classmethod
    @functools.cache  # noqa: B019  (of a class, which lives as long as the process)
    def shipped(cls) -> Self:
        """Return the one that comes with the package."""
        return cls.load(_SHIPPED)

    def regrets(self, features: Array) -> np.ndarray:
        """Return the expected regrets, (peaks, shapes), or (tasks, peaks, shapes) of many."""
        roots = self._predict(self._standardized(np.atleast_2d(features)))
        regrets = np.clip(roots, 0.0, 1.0) ** 2
        return regrets.reshape(*np.shape(features)[:-1], len(PEAKS), len(SHAPES))

    def choose(self, features: Array) -> tuple[float, tuple[float, str], float]:
        """Return the peak over the reference rate, the shape, and the expected regret."""
        regrets = self.regrets(features)
        peak, shape = np.unravel_index(np.argmin(regrets), regrets.shape)
        return float(PEAKS[peak]), SHAPES[shape], float(regrets[peak, shape])

    def outside(self, features: Array) -> np.ndarray:
        """Return the indices of the features that lie far outside of the training tasks' ranges.

        The number of steps is left out: a longer training behaves like the longest of the tasks.
        """
        low, high = (self.arrays[name] for name in ("low", "high"))
        margin = _MARGIN * (high - low)
        near = (features >= low - margin) & (features <= high + margin)
        near[NAMES.index("steps")] = True
        return np.flatnonzero(~near)

    def _predict(self, x):
        return products(x) @ self.arrays["learner_coefficients"].astype("float64")

    def _standardized(self, features):
        scaled = (features - self.arrays["centre"]) / self.arrays["scale"]
        return np.clip(scaled, -_DEVIATIONS, _DEVIATIONS)


def products(x: np.ndarray) -> np.ndarray:
    """Return ones, the inputs, (examples, n), their squares and their products, concatenated."""
    rows, columns = np.triu_indices(x.shape[1])
    return np.concatenate([np.ones((len(x), 1)), x, x[:, rows] * x[:, columns]], axis=1)


@dataclasses.dataclass(frozen=True)
class Discovery:
    """A schedule that was predicted from a probe, or the safe one.

    Attributes:
        peak_learning_rate: float, the highest rate; None in a safe schedule that has not got one
            yet.
        warmup_share: float, the share of the steps in which the rate rises.
        decay: string, `"constant"`, `"cosine"` or `"linear"`, how it falls afterwards.
        expected_regret: float, how far the model expects the schedule to be behind the best of all,
            as a share of the whole fall of the loss; None for the safe one.
        features: dict of the features by name, see `features`; empty if there are none.
        fallback_reason: string, why the schedule is the safe one; None if it was predicted.
    """

    peak_learning_rate: float | None
    warmup_share: float
    decay: str
    expected_regret: float | None = None
    features: dict[str, float] = dataclasses.field(default_factory=dict)
    fallback_reason: str | None = None

    @classmethod
    def safe(cls, peak: float | None, reason: str, seen: dict[str, float] | None = None) -> Self:
        """Return a warm-up and a cosine from a peak."""
        return cls(peak, 0.1, "cosine", features=seen or {}, fallback_reason=reason)

    def at(self, peak: float) -> Self:
        """Return the same with another peak."""
        return dataclasses.replace(self, peak_learning_rate=peak)

    def schedule(self, steps: int) -> CosineAnnealing | LinearDecay | Warmup:
        """Return the schedule over a number of steps, for an optimizer."""
        if self.peak_learning_rate is None:
            raise ValueError(
                "`peak_learning_rate` must be a number, which `at` gives to a safe discovery. "
                "Received: peak_learning_rate=None"
            )
        return make_schedule(self.peak_learning_rate, self.warmup_share, self.decay, steps)

    def __str__(self) -> str:
        kind = "fallback" if self.fallback_reason else "found"
        peak = "unknown" if self.peak_learning_rate is None else f"{self.peak_learning_rate:.3g}"
        return f"{kind}: peak rate {peak}, warm-up {self.warmup_share:.0%}, {self.decay}"


def discover(probe: Probe, total_steps: int, model: MetaLearner | None = None) -> Discovery:
    """Predict the schedule of the steps after a probe.

    Args:
        probe: a `Probe` that has seen steps.
        total_steps: integer, the update steps of the whole training, probe included.
        model: a `MetaLearner`. Defaults to `None`, the one that comes with the package.

    Returns:
        A `Discovery`. Where the probe has a `fault`, it is the safe one, without a peak; and where
        features lie far outside of the training tasks' ranges, the safe one at a tenth of the
        rate that led to the lowest loss of the sweep.

    Example:
        >>> from keras_bp.tuning import discovery
        >>> rng, w = np.random.default_rng(0), np.ones(8)
        >>> probe, before, update = discovery.Probe(steps=30, parameters=8), 0 * w, 0 * w
        >>> while not probe.done:  # noisy gradient descent on |w|^2 / 2
        ...     (rate,) = probe.plan()
        ...     g = w + 0.5 * rng.normal(size=8)
        ...     row = [0.5 * w @ w, g @ g, g @ before, g @ update, w @ w]
        ...     before, update = g, -rate * g
        ...     probe.see(rate, [*row, update @ update, g @ update, 0.0])
        ...     w = w + update
        >>> found = discovery.discover(probe, total_steps=400)
        >>> schedule = found.schedule(400 - len(probe.rows))
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
        reason = "features far outside of the training tasks' range: " + ", ".join(
            f"{name} {seen[name]:.3g}" for name in outside
        )
        return Discovery.safe(_tenth_of_the_lowest(probe), reason, seen)
    rate, (warmup_share, decay), regret = model.choose(values)
    return Discovery(rate * reference_rate(probe), warmup_share, decay, regret, seen)


def _tenth_of_the_lowest(probe):
    """Return the suggestion of the range test's rule "minimum"."""
    rates, falls = swept(probe)
    return float(rates[np.argmax(falls)]) / 10
