"""What is far above the usual: spikes among a training's losses or gradient norms."""

import collections

import numpy as np

_WINDOW, _LEAST, _TIMES = 100, 20, 3.0
# What a tenth of a normal distribution exceeds lies so many standard deviations above the median.
_DEVIATIONS = 1.2816


class Levels:
    """The values of the last good steps, and what is far above them.

    A value x is a spike if both hold, of the last 100 values v (20 at least)

        x > 3 max(v)
        log(x) > m + threshold * (q - m) / 1.28

    with the median m and the quantile q that a tenth exceeds, of log(v): (q - m) / 1.28 is the
    standard deviation of a normal distribution, and larger where large values are far ones.
    The first lets a level rise threefold with each step, in a warm-up or a new cycle of the rate.
    The second lets noise be noise, whose largest values exceed all earlier ones by much if it is
    heavy-tailed; logarithms, since losses and norms vary by factors. Where some are not positive,
    x > max(v) + 2 max(max(v) - min(v), |median(v)|) takes the place of the first, and the second is
    without logarithms.

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
        low, high = min(self._values), self.highest()
        if value <= (_TIMES * high if low > 0 else high):  # almost every step ends here
            return False
        values = np.array(self._values)
        if low > 0:
            values, value = np.log(values), np.log(value)
        elif value <= high + (_TIMES - 1) * max(high - low, abs(np.median(values))):
            return False
        middle, high = np.quantile(values, [0.5, 0.9])
        return bool(value > middle + self._threshold * (high - middle) / _DEVIATIONS)


def is_above(value, level, times=_TIMES):
    """Tell whether a loss is so many times another, a negative one higher by as many sizes."""
    return value > level + (times - 1) * abs(level)
