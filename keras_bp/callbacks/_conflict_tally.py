"""How tasks' gradients lie to one another, in single steps and over many."""

import numpy as np


def similarities(gramians, pairs):
    """Return the cosines and the magnitude similarities of each pair of tasks.

        cosine = g_s . g_t / (|g_s| |g_t|),    similarity = 2 |g_s| |g_t| / (|g_s|^2 + |g_t|^2)

    Args:
        gramians: array of shape (steps, layers, tasks, tasks).
        pairs: bool array of shape (layers, tasks, tasks), which tasks share the layer.

    Returns:
        Two arrays of shape (steps, layers, tasks (tasks - 1) / 2), the pairs in the order (0, 1),
        (0, 2), ...; NaN where the two share nothing, or one has no finite gradient other than 0.
    """
    s, t = np.triu_indices(gramians.shape[-1], 1)
    squares = np.diagonal(gramians, axis1=-2, axis2=-1)
    a, b = squares[..., s], squares[..., t]
    known = pairs[..., s, t] & (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, np.nan), np.where(known, b, np.nan)
    norms = np.sqrt(a) * np.sqrt(b)
    # Two sums may round to a cosine beyond 1.
    return np.clip(gramians[..., s, t] / norms, -1.0, 1.0), 2.0 * norms / (a + b)


class ConflictTally:
    """What was measured over some steps.

    Attributes:
        steps: int array (layers, pairs), the number of steps in which there was a cosine.
    """

    def __init__(self):
        self.steps = self._sums = self._layers = 0

    def add(self, cosines, magnitudes):
        """Add cosines and magnitude similarities, arrays of shape (steps, layers, pairs)."""
        known, conflicts = np.isfinite(cosines), cosines < 0
        self.steps = self.steps + known.sum(axis=0)
        self._sums = self._sums + np.array(
            [np.nansum(cosines, axis=0), np.nansum(magnitudes, axis=0), conflicts.sum(axis=0)]
        )
        either = [conflicts.any(axis=2).sum(axis=0), known.any(axis=2).sum(axis=0)]
        self._layers = self._layers + np.array(either)

    def means(self):
        """Return mean cosine, mean magnitude similarity and share of conflicting steps.

        Three arrays (layers, pairs), NaN where there was no step.
        """
        with np.errstate(invalid="ignore"):
            return self._sums / self.steps

    def conflicting_steps(self):
        """Return for each layer the share of steps in which any two tasks conflict."""
        with np.errstate(invalid="ignore"):
            return self._layers[0] / self._layers[1]
