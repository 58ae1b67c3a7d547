"""The course of some quantities over a training of any length."""

import numpy as np


class ThinnedSeries:
    """Values over steps, in a bounded number of points whose line looks like that of all of them.

    A column of pixels that holds a thousand points shows their range. So when there are `points`
    of them, the smallest and the largest of each 4 in a row stay, at the steps where they were,
    and from then on 2 of each 4 steps, later of 8, 16, ... The points stay evenly spread, and are
    values that were recorded, none made up. What is not finite stays where nothing else is there.

    Args:
        points: multiple of 4, the number of points at which they are thinned out.
    """

    def __init__(self, points=2000):
        self._limit = points
        self._points = []  # pairs of (columns,) arrays: steps, values
        self._block = []  # those that are not thinned out yet
        self._steps_a_point = 1

    def add(self, steps, rows):
        """Add rows, array of shape (n, columns), of n steps."""
        for step, row in zip(steps, rows, strict=True):
            self._block.append((np.full(len(row), step), row))
            if len(self._block) == 2 * self._steps_a_point:
                self._points += _extremes(self._block)
                self._block = []
            if len(self._points) == self._limit:
                blocks = range(0, self._limit, 4)
                self._points = [p for i in blocks for p in _extremes(self._points[i : i + 4])]
                self._steps_a_point *= 2

    def points(self):
        """Return steps and values, two arrays of shape (points, columns)."""
        points = self._points + self._block
        if not points:
            return np.zeros((2, 0, 1))
        steps, values = zip(*points, strict=True)
        return np.stack(steps), np.stack(values)


def _extremes(points):
    """Return the smallest and the largest of some points, in each column, in their order."""
    if len(points) == 2:
        return points
    steps, values = (np.stack(part) for part in zip(*points, strict=True))
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf).argmin(axis=0)
    high = np.where(finite, values, -np.inf).argmax(axis=0)
    columns = np.arange(values.shape[1])
    rows = np.minimum(low, high), np.maximum(low, high)
    return [(steps[row, columns], values[row, columns]) for row in rows]
