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
# A period of gradients, the steps from one to the next, betas, the rate and whether it falls as
# 1 / sqrt(t). In each the best fixed w is -1.
SCENES = {
    "reddi": ([1010.0] + [-10.0] * 100, 1, (0.9, 0.99), 0.5, True),
    "adam_fails": ([3.0, -1.0, -1.0], 100, (0.9, 0.98), 0.01, False),
    "lazy_fails": ([-1.0] * 12 + [-10.0, 10.0] + [0.8] * 20, 10, (0.5, 0.9), 0.01, False),
}
EPSILON = 1e-7


def sequence(scene, periods):
    """Return the visits' gradients, the rates of all steps, and the steps of the visits."""
    period, gap, _, rate, falls = SCENES[scene]
    gradients = np.tile(period, periods)
    t = np.arange(1, len(gradients) * gap + 1)
    rates = rate / np.sqrt(t) if falls else np.full(len(t), rate)
    return gradients, rates, np.arange(len(gradients)) * gap


def play(job, folder=None):
    """Return where an optimizer is at each period's end on average, and its regret per visit."""
    gradients, rates, visits = sequence(job["scene"], job["periods"])
    period, _, (beta_1, beta_2), *_ = SCENES[job["scene"]]
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
        "bound": float(bound(job["scene"], job["optimizer"], job["periods"]) / len(w)),
    }


def bound(scene, name, periods):
    """Return Theorem 3's bound of the regret, from the averages that an optimizer has.

    In an optimizer's own time: Adam's is all steps, LazyAdam's is the row's visits.
    """
    gradients, rates, visits = sequence(scene, periods)
    beta_1, beta_2 = SCENES[scene][2]
    t = np.arange(1, len(rates) + 1)
    if name.startswith("LazyAdam"):
        rates, t = rates[visits], t[visits] if "global" in name else np.arange(1, len(visits) + 1)
    else:
        given, gradients = gradients, np.zeros(len(rates))
        gradients[visits] = given
    alpha = rates * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return regret_bound(gradients, alpha, beta_1, beta_2, name == "AMSGrad")


def regret_bound(gradients, alpha, beta_1, beta_2, amsgrad=False, diameter=2.0):
    """Return D^2 V / (2 (1 - b1)) + (1 + b1) / (2 (1 - b1)) sum m^2 / h, of one entry.

    The arrays are in the optimizer's own time; alpha are its steps' sizes, corrections included.
    """
    m = v = largest = before = variation = squares = 0.0
    for g, size in zip(gradients.tolist(), alpha.tolist(), strict=True):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        largest = max(largest, v)
        h = (np.sqrt(largest if amsgrad else v) + EPSILON) / size
        variation += max(h - before, 0.0)
        squares, before = squares + m * m / h, h
    share = 2 * (1 - beta_1)
    return diameter**2 * variation / share + (1 + beta_1) / share * squares


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
