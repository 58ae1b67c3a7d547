"""What is far above the usual: spikes among a training's losses or gradient norms."""

import collections

import numpy as np

_WINDOW, _LEAST, _TIMES = 100, 20, 3.0
# Of a normal distribution the standard deviation is so many median absolute deviations.
_DEVIATIONS = 1.4826


class Levels:
    """The values of the last good steps, and what is far above them.

    A value x is a spike if both hold, of the last 100 values v (20 at least)

        x > 3 q,  with the quantile q that a tenth of v exceeds
        log(x) > median(log(v)) + threshold * 1.4826 * median(|log(v) - median(log(v))|)

    The first lets a level rise threefold within ten steps: after a warm-up, in a new cycle of the
    rate. The second lets noise be noise, which may be heavy-tailed; logarithms, since losses and
    norms vary by factors. Where some are not positive, x > q + 2 max(q - min(v), |median(v)|) takes
    the place of the first, and the second is without logarithms.

    Args:
        threshold: number above 0, in standard deviations.
    """

    def __init__(self, threshold):
        self._threshold = threshold
        self._values = collections.deque(maxlen=_WINDOW)

    @property
    def known(self):
        """Whether there are enough values to tell what is usual."""
        return len(self._values) >= _LEAST

    def add(self, value):
        """Add the value of a good step."""
        self._values.append(value)

    def forget(self, steps=_WINDOW):
        """Forget the values of the last steps, all by default."""
        for _ in range(min(steps, len(self._values))):
            self._values.pop()

    def level(self, steps=_WINDOW):
        """Return the median of the last values, NaN if there are none."""
        values = list(self._values)[-steps:]
        return float(np.median(values)) if values else np.nan

    def highest(self):
        """Return the largest value, NaN if there are none."""
        return max(self._values, default=np.nan)

    def is_spike(self, value):
        """Tell whether a finite value is far above the usual."""
        if not self.known:
            return False
        values = sorted(self._values)
        high, middle = values[-len(values) // 10], values[len(values) // 2]
        if values[0] > 0:  # almost every step ends here
            if value <= _TIMES * high:
                return False
            values, value, middle = np.log(values), np.log(value), np.log(middle)
        elif value <= high + (_TIMES - 1) * max(high - values[0], abs(middle)):
            return False
        deviation = _DEVIATIONS * np.median(np.abs(np.asarray(values) - middle))
        return bool(value > middle + self._threshold * deviation)


def is_above(value, level, times=_TIMES):
    """Tell whether a loss is so many times another, a negative one higher by as many sizes."""
    return value > level + (times - 1) * abs(level)
