"""What is far above the usual: spikes among a training's losses or gradient norms."""

import collections

import numpy as np

_WINDOW, _LEAST, _TIMES = 100, 20, 3.0
# Of a normal distribution the standard deviation is so many median absolute deviations.
_DEVIATIONS = 1.4826


class Levels:
    """The values of the last good steps, and what is far above them.

    A value x is a spike if both hold, of the last 100 values v (20 at least)

        x > 3 max(v)
        log(x) > median(log(v)) + threshold * 1.4826 * median(|log(v) - median(log(v))|)

    The first lets a level rise threefold with each step: after a warm-up, in a new cycle of the
    rate. The second lets noise be noise, whose largest values exceed all earlier ones by much if it
    is heavy-tailed; logarithms, since losses and norms vary by factors. Where some are not
    positive, x > max(v) + 2 max(max(v) - min(v), |median(v)|) takes the place of the first, and the
    second is without logarithms.

    Args:
        threshold: number above 0, in standard deviations.
    """

    def __init__(self, threshold):
        self._threshold = threshold
        self._values = collections.deque(maxlen=_WINDOW)

    def add(self, value):
        """Add the value of a good step."""
        self._values.append(value)

    def forget(self, steps=None):
        """Forget the values of the last steps, or all."""
        for _ in range(len(self._values) if steps is None else min(steps, len(self._values))):
            self._values.pop()

    def level(self, steps=_WINDOW):
        """Return the median of the last values, NaN if there are none."""
        values = list(self._values)[-steps:]
        return float(np.median(values)) if values else np.nan

    def is_spike(self, value):
        """Tell whether a finite value is far above the usual."""
        # First what costs no median: almost every step ends here.
        if len(self._values) < _LEAST or value <= max(self._values):
            return False
        values = np.array(self._values)
        if values.min() > 0:
            jumps, values, value = value > _TIMES * values.max(), np.log(values), np.log(value)
        else:
            spread = max(np.ptp(values), abs(np.median(values)))
            jumps = value > values.max() + (_TIMES - 1) * spread
        median = np.median(values)
        deviation = _DEVIATIONS * np.median(np.abs(values - median))
        return bool(jumps and value > median + self._threshold * deviation)


def is_above(value, level):
    """Tell whether a loss is more than three times another, a negative one by twice its size."""
    return value > level + (_TIMES - 1) * abs(level)
