"""The schedules that are tried, chosen between and compared with: peak, warm-up share, decay."""

import numpy as np

from keras_bp.schedules.cosine_annealing import CosineAnnealing
from keras_bp.schedules.linear_decay import LinearDecay
from keras_bp.schedules.warmup import Warmup

SHAPES = (
    (0.0, "constant"),
    (0.0, "cosine"),
    (0.0, "linear"),
    (0.1, "cosine"),
    (0.1, "linear"),
)
"""Pairs of the share of the steps in which the rate rises, and of how it falls afterwards."""

HAND_TUNED = {
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "momentum": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "sgd": (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
}
"""The peak rates that a person tries: six times the five shapes make a grid of 30 schedules."""


def shape(warmup_share, decay, steps):
    """Return the rates of a schedule over its peak, a float64 array (steps,)."""
    _check_decay(decay)
    warmup = warmup_steps(warmup_share, steps)
    step = np.arange(steps)
    made = np.maximum(step - warmup, 0) / (steps - warmup)
    if decay == "constant":
        falling = np.ones(steps)
    elif decay == "cosine":
        falling = np.cos(0.5 * np.pi * made) ** 2
    else:
        falling = 1 - made
    return np.where(step < warmup, step / max(warmup, 1), falling)


def shapes(steps):
    """Return the rates over the peak of all of `SHAPES`, (steps, shapes)."""
    return np.stack([shape(share, decay, steps) for share, decay in SHAPES], axis=1)


def schedules(peaks, steps):
    """Return the rates of all peaks in all `SHAPES`, (steps, peaks * shapes)."""
    return (np.asarray(peaks)[:, None] * shapes(steps)[:, None]).reshape(steps, -1)


def make_schedule(peak, warmup_share, decay, steps):
    """Return the schedule as an object that an optimizer takes.

    Args:
        peak: number of 0 or more, the highest rate.
        warmup_share: number in [0, 1), of the steps.
        decay: `"constant"`, `"cosine"` or `"linear"`, the latter two down to 0.
        steps: integer of 1 or more.

    Raises:
        ValueError: if `decay` is another.
    """
    _check_decay(decay)
    warmup = warmup_steps(warmup_share, steps)
    rest = steps - warmup
    if decay == "cosine":
        falling = CosineAnnealing(peak, rest)
    else:
        falling = LinearDecay(peak, rest, minimum=peak if decay == "constant" else 0.0)
    return Warmup(falling, warmup) if warmup else falling


def _check_decay(decay):
    if decay not in ("constant", "cosine", "linear"):
        raise ValueError(
            f"`decay` must be 'constant', 'cosine' or 'linear'. Received: decay={decay!r}"
        )


def warmup_steps(share, steps):
    """Return how many of the steps a share is."""
    return int(share * steps)
