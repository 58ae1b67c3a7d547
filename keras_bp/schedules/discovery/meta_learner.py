"""The model that predicts how far behind the best each schedule will end."""

import functools
import pathlib

import numpy as np

from keras_bp.schedules.discovery.features import NAMES
from keras_bp.schedules.discovery.grid import SHAPES
from keras_bp.schedules.discovery.learners import LEARNERS

PEAKS = 10 ** np.linspace(-2, 0, 9)
"""The peaks that are chosen between, over the probe's reference rate; above it lies the risk."""

_SHIPPED = pathlib.Path(__file__).parent / "coefficients.npz"
# How many ranges of a feature beyond the range that was learnt from are still near.
_MARGIN = 1.0
# Beyond what this clips, the learners know nothing.
_DEVIATIONS = 3.0


class MetaLearner:
    """Predicts, from a probe's features, the regrets of all schedules, and chooses one.

    The regret of a schedule is how far its last loss is behind the best of all, as a share of the
    best one's whole fall: r = (L - L_best) / (L_start - L_best), at most 1. What is learnt is its
    square root, in which small regrets are told apart; features are standardized and clipped at
    three deviations.

    Args:
        learner: string, a key of `learners.LEARNERS`.
        arrays: dict of the arrays, what `save` writes; empty before `fit`.
    """

    def __init__(self, learner, arrays=None):
        self.learner = learner
        self.arrays = arrays or {}

    def fit(self, features, regrets):
        """Learn from features (tasks, features) and regrets (tasks, peaks, shapes)."""
        centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
        ranges = {"low": features.min(axis=0), "high": features.max(axis=0)}
        self.arrays = {"centre": centre, "scale": scale, **ranges}
        roots = np.sqrt(np.clip(regrets, 1e-3, 1.0)).reshape(len(regrets), -1)
        learner = LEARNERS[self.learner]().fit(self._standardized(features), roots)
        learnt = {f"learner_{name}": array for name, array in learner.arrays.items()}
        self.arrays = {n: a.astype("float16") for n, a in (self.arrays | learnt).items()}
        return self

    def regrets(self, features):
        """Return the expected regrets, (peaks, shapes), or (tasks, peaks, shapes) of many."""
        learner = LEARNERS[self.learner]()
        prefix = "learner_"
        learner.arrays = {
            name.removeprefix(prefix): array.astype("float64")
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }
        roots = learner.predict(self._standardized(np.atleast_2d(features)))
        regrets = np.clip(roots, 0.0, 1.0) ** 2
        return regrets.reshape(*np.shape(features)[:-1], len(PEAKS), len(SHAPES))

    def choose(self, features):
        """Return the peak over the reference rate, the shape, and the expected regret."""
        regrets = self.regrets(features)
        peak, shape = np.unravel_index(np.argmin(regrets), regrets.shape)
        return float(PEAKS[peak]), SHAPES[shape], float(regrets[peak, shape])

    def outside(self, features):
        """Return the numbers of the features that lie far outside of what was learnt from.

        The number of steps is left out: a longer training is as the longest that was learnt from.
        """
        low, high = (self.arrays[name] for name in ("low", "high"))
        margin = _MARGIN * (high - low)
        near = (features >= low - margin) & (features <= high + margin)
        near[NAMES.index("steps")] = True
        return np.flatnonzero(~near)

    def save(self, path):
        """Write the arrays to a `.npz` file."""
        np.savez_compressed(path, learner=self.learner, **self.arrays)

    @classmethod
    def load(cls, path):
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return cls(str(arrays.pop("learner")), arrays)

    @classmethod
    @functools.cache  # noqa: B019  (of a class, which lives as long as the process)
    def shipped(cls):
        """Return the one that the package comes with, made by `discovery.train`."""
        return cls.load(_SHIPPED)

    def _standardized(self, features):
        scaled = (features - self.arrays["centre"]) / self.arrays["scale"]
        return np.clip(scaled, -_DEVIATIONS, _DEVIATIONS)
