"""Online linear losses g w on [-1, 1] for one row, which is in the batch in some steps only."""

import numpy as np
from replay import Replay

from keras_bp.optimizers import Adam, DeferredAdam, LazyAdam

OPTIMIZERS = {
    "Adam": (Adam, {}),
    "DeferredAdam": (DeferredAdam, {}),
    "AMSGrad": (Adam, {"amsgrad": True}),
    "LazyAdam, per row": (LazyAdam, {"correction": "row"}),
    "LazyAdam, global": (LazyAdam, {"correction": "global"}),
}
# A period of gradients, the steps from one to the next, betas, and a for the rate a / sqrt(t). In
# each the best fixed w is -1.
SCENES = {
    "reddi": ([1010.0] + [-10.0] * 100, 1, (0.9, 0.99), 0.5),
    "adam_fails": ([3.0, -1.0, -1.0], 100, (0.9, 0.98), 0.5),
    "lazy_fails": ([-1.0] * 12 + [-10.0, 10.0] + [0.8] * 20, 10, (0.5, 0.9), 1.0),
}
EPSILON, DIAMETER = 1e-7, 2.0


def sequence(scene, periods):
    """Return the visits' gradients, the rates of all steps, and the steps of the visits."""
    period, gap, _, rate = SCENES[scene]
    gradients = np.tile(period, periods)
    rates = rate / np.sqrt(np.arange(1, len(gradients) * gap + 1))
    return gradients, rates, np.arange(len(gradients)) * gap


def step_sizes(rates, beta_1, beta_2, t=None):
    """Return alpha_t = a_t c_t, the steps' sizes with both corrections; t is 1, 2, ... if absent.

    In double precision, whatever the dtype of the rates.
    """
    t = np.arange(1.0, len(rates) + 1) if t is None else t
    return rates.astype(float) * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)


def play(job, folder=None):
    """Return an optimizer's mean position in each period, and what follows of its regret.

    The regret up to each period's end, and Theorem 3's bound of it, are per visit.
    """
    gradients, rates, visits = sequence(job["scene"], job["periods"])
    period, _, (beta_1, beta_2), _ = SCENES[job["scene"]]
    optimizer, options = OPTIMIZERS[job["optimizer"]]
    replay = Replay(
        optimizer, 1, 1, box=1.0, beta_1=beta_1, beta_2=beta_2, epsilon=EPSILON, **options
    )
    ids, z = np.full((len(rates), 1), -1), np.zeros((len(rates), 1))
    ids[visits], z[visits, 0] = 0, gradients
    reads, _ = replay.run(np.zeros((1, 1)), ids, rates, z=z)
    w = reads[visits, 0, 0]
    regret = np.cumsum(gradients * w) + np.abs(np.cumsum(gradients))
    ends = np.arange(len(period), len(w) + 1, len(period))
    return {
        "position": w.reshape(job["periods"], -1).mean(axis=1).tolist(),
        "regret": (regret[ends - 1] / ends).tolist(),
        "bound": (bound(job["scene"], job["optimizer"], job["periods"])[ends - 1] / ends).tolist(),
    }


def of_periods(result, length):
    """Return the regret of each period alone, per visit, from `play`'s result."""
    ends = length * np.arange(1, len(result["regret"]) + 1)
    return np.diff(ends * result["regret"], prepend=0.0) / length


def bound(scene, name, periods):
    """Return Theorem 3's bound of the regret up to each visit, from an optimizer's averages.

    In an optimizer's own time: Adam's is all steps, LazyAdam's is the row's visits.
    """
    gradients, rates, visits = sequence(scene, periods)
    beta_1, beta_2 = SCENES[scene][2]
    if name.startswith("LazyAdam"):
        counted = visits + 1.0 if "global" in name else None
        alpha = step_sizes(rates[visits], beta_1, beta_2, counted)
        return regret_bounds(gradients, alpha, beta_1, beta_2)
    given, gradients = gradients, np.zeros(len(rates))
    gradients[visits] = given
    alpha = step_sizes(rates, beta_1, beta_2)
    return regret_bounds(gradients, alpha, beta_1, beta_2, name == "AMSGrad")[visits]


def regret_bounds(gradients, alpha, beta_1, beta_2, amsgrad=False):
    """Return D^2 V / (2 (1 - b1)) + (1 + b1) / (2 (1 - b1)) sum m^2 / h of one entry, by update.

    The arrays are in the optimizer's own time; alpha are its steps' sizes, corrections included.
    """
    m = v = largest = before = variation = squares = 0.0
    bounds, share = [], 2 * (1 - beta_1)
    for g, size in zip(gradients.tolist(), alpha.tolist(), strict=True):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        largest = max(largest, v)
        h = (np.sqrt(largest if amsgrad else v) + EPSILON) / size
        variation += max(h - before, 0.0)
        squares, before = squares + m * m / h, h
        bounds.append(DIAMETER**2 * variation / share + (1 + beta_1) / share * squares)
    return np.array(bounds)


def corrections(job, folder=None):
    """Return how far the updates k = 1, 2, ... of a row carry it, in learning rates.

    Its gradient is 1 each time, `gap` steps apart; one row is first seen in update 1, one in
    `late`. What a row moves until its next visit counts too.
    """
    optimizer, options = OPTIMIZERS[job["optimizer"]]
    steps = job["late"] + job["gap"] * job["visits"]
    ids = np.full((steps, 2), -1)
    for row, first in enumerate((1, job["late"])):
        ids[np.arange(job["visits"] + 1) * job["gap"] + first - 1, row] = row
    rate = 2.0**-10
    replay = Replay(optimizer, 2, 1, beta_1=0.9, beta_2=0.999, epsilon=EPSILON, **options)
    reads, _ = replay.run(np.zeros((2, 1)), ids, np.full(steps, rate), z=1.0)
    moved = [-np.diff(reads[ids[:, row] >= 0, row, 0]) / rate for row in (0, 1)]
    return {"early": moved[0].tolist(), "late": moved[1].tolist()}
