"""Trainings of a task in NumPy, many schedules side by side, and the schedules that are tried."""

import numpy as np

from keras_bp._arguments import check_choice
from keras_bp.tuning.discovery import SHAPES, Probe, warmup_steps

RULES = ("sgd", "momentum", "adam")


HAND_TUNED = {
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "momentum": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "sgd": (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
}
"""The peak rates that a person tries: six times the five shapes make a grid of 30 schedules."""


class Rule:
    """SGD, SGD with momentum and Adam as Keras has them, on weights (copies, size)."""

    def __init__(self, name, shape):
        self._name = name
        self._slots = np.zeros((2, *shape), "float32")
        self._step = 0

    def update(self, gradients, rates):
        """Return the update of each copy, for its rate."""
        rates = rates[:, None].astype("float32")
        self._step += 1
        if self._name == "sgd":
            return -rates * gradients
        first, second = self._slots
        if self._name == "momentum":
            first *= 0.9
            first -= rates * gradients
            return first
        first += np.float32(0.1) * (gradients - first)
        second += np.float32(0.001) * (gradients**2 - second)
        correction = np.sqrt(1 - 0.999**self._step) / (1 - 0.9**self._step)
        return -rates * np.float32(correction) * first / (np.sqrt(second) + np.float32(1e-7))


def shape(warmup_share, decay, steps):
    """Return the rates of a schedule over its peak, a float64 array (steps,)."""
    check_choice("decay", decay, ("constant", "cosine", "linear"))
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


def train(task, rates, seed, weights=None):
    """Train a copy of the task for each column of rates, (steps, copies); return the weights."""
    generator = np.random.default_rng(seed)
    start = task.weights if weights is None else weights
    weights = np.repeat(start[None], rates.shape[1], axis=0)
    rule = Rule(task.optimizer, weights.shape)
    with np.errstate(all="ignore"):  # what diverges ends at NaN
        for step_rates in rates:
            _, gradients = task.gradients(weights, generator)
            weights += rule.update(gradients, step_rates)
    return weights


def final_losses(task, weights):
    """Return the training losses, infinite for weights that have diverged."""
    with np.errstate(all="ignore"):
        losses = task.losses(weights).astype("float64")
    return np.where(np.isfinite(losses), losses, np.inf)


def probe(task, steps, seed):
    """Make the first steps of a task; return the `Probe` and the weights that it ends with."""
    generator = np.random.default_rng(seed)
    weights = task.weights[None].copy()
    rule, seen = Rule(task.optimizer, weights.shape), Probe(steps, weights.size)
    before, update = np.zeros((2, weights.size))
    with np.errstate(all="ignore"):
        while not seen.done:
            (rate,) = seen.plan()
            loss, gradients = task.gradients(weights, generator)
            g = gradients[0].astype("float64")
            row = [
                loss[0],
                g @ g,
                g @ before,
                g @ update,
                np.sum(weights[0].astype("float64") ** 2),
            ]
            change = rule.update(gradients, np.array([rate]))
            weights += change
            update = change[0].astype("float64")
            # No task has weights whose scale changes nothing.
            seen.see(rate, [*row, update @ update, g @ update, 0.0])
            before = g
    return seen, weights[0]
