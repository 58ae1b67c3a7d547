"""The rules that read one learning rate off a curve: functions of rates and smoothed losses."""

import numpy as np

# Both are fastai's numbers; the second is in units of loss per update step.
SLIDE_WINDOW = 15
SLIDE_THRESHOLD = 0.005


def valley(learning_rates, losses):
    """Return the rate in the middle of the longest decline.

    The longest run of update steps, not necessarily neighbours, whose losses fall strictly: its
    end is where it ends, its beginning as many steps earlier as it has members.
    """
    lengths = np.ones(len(losses), int)
    for i in range(1, len(losses)):
        higher = lengths[:i][losses[:i] > losses[i]]
        lengths[i] = 1 + higher.max(initial=0)
    end = int(np.argmax(lengths))
    length = int(lengths[end])
    # A third and half a third, each rounded down, as in the published rule.
    return learning_rates[max(end - length + length // 3 + length // 6, 0)]


def slide(learning_rates, losses):
    """Return the rate at which the loss begins to bend, seen from the right.

    A window slides from the end of the curve to the left as long as the slopes at its two ends
    differ; where they agree the curve is straight, and the rise at the end is out of sight.
    """
    slopes = np.gradient(losses)
    differences = np.abs(slopes[SLIDE_WINDOW:] - slopes[:-SLIDE_WINDOW])
    straight = np.flatnonzero(differences <= SLIDE_THRESHOLD)
    left = straight[-1] + 1 if len(straight) else 0
    return learning_rates[min(left, len(differences) - 1)]


def steep(learning_rates, losses):
    """Return the rate at which the loss falls fastest against the logarithm of the rate."""
    return learning_rates[np.argmin(np.diff(losses) / np.diff(np.log(learning_rates)))]


def minimum(learning_rates, losses):
    """Return a tenth of the rate at which the loss is lowest."""
    return learning_rates[np.argmin(losses)] / 10.0


# Each with the least number of points that it can do with.
RULES = {
    "valley": (valley, 5),
    "slide": (slide, SLIDE_WINDOW + 1),
    "steep": (steep, 5),
    "minimum": (minimum, 5),
}
