"""What Rescue takes for a spike: no healthy series of losses, and each that is none."""

import numpy as np
import pytest

from keras_bp.callbacks.rescue._levels import Levels, is_above

RANDOM = np.random.default_rng(0)
STEPS = np.arange(3000)


def spikes(values, threshold=10.0):
    """Return the steps that are spikes, each counted as usual afterwards."""
    levels, found = Levels(threshold), []
    for step, value in enumerate(values):
        if levels.is_spike(value):
            found.append(step)
        levels.add(value)
    return found


def cycles(length):
    """A loss that falls in each cycle of the rate, and rises twofold a step in a new one."""
    place = STEPS % length
    return np.minimum(0.1 * 2.0**place, np.maximum(0.1, 5.0 * np.exp(-place / length * 5)))


HEALTHY = {
    "normal": RANDOM.normal(2.0, 0.3, 3000),
    "around zero": RANDOM.normal(0.0, 1.0, 3000),
    "lognormal": np.exp(RANDOM.normal(0.0, 1.5, 3000)),
    "single examples, most of them learned": RANDOM.gamma(0.05, 1.0, 3000) + 1e-6,
    "Pareto": RANDOM.pareto(2.0, 3000) + 1.0,
    "falling": 5.0 * np.exp(-STEPS / 300) * RANDOM.uniform(0.8, 1.2, 3000) + 0.01,
    "rising, in a warm-up": np.minimum(STEPS / 50 + 0.1, 20.0),
    "rising 2.9-fold a step": 2.9 ** STEPS[:60],
    "a new cycle": cycles(500) * RANDOM.uniform(0.8, 1.2, 3000),
    "constant": np.full(300, 0.7),
    "constant but for rounding": 0.7 + 1e-7 * RANDOM.normal(size=300),
    "zero": np.zeros(300),
    "likelihoods": -5.0 - STEPS / 1000 + RANDOM.normal(size=3000),
}


@pytest.mark.parametrize("values", HEALTHY.values(), ids=HEALTHY)
def test_healthy_losses(values):
    assert spikes(values) == []


@pytest.mark.parametrize("name", ["normal", "falling", "constant", "likelihoods", "lognormal"])
@pytest.mark.parametrize("step", [25, 290])
def test_one_value_that_is_far_off(name, step):
    values = HEALTHY[name].copy()
    values[step] = 1e8
    assert spikes(values) == [step]


def test_before_there_are_twenty_values():
    values = np.ones(30)
    values[19] = 1e9
    assert spikes(values) == []
    values[19], values[20] = 1.0, 1e9
    assert spikes(values) == [20]


def test_both_conditions():
    """Threefold the largest, and so many deviations in the logarithm."""
    levels = Levels(0.1)
    for value in np.exp(np.resize([-0.5, 0.5], 50)):
        levels.add(value)
    assert not levels.is_spike(2.99 * np.exp(0.5)) and levels.is_spike(3.01 * np.exp(0.5))
    spread = Levels(10.0)
    for value in np.exp(np.linspace(-1.0, 1.0, 99)):
        spread.add(value)
    bound = 10.0 * 0.8 / 1.2816  # a tenth exceeds 0.8
    assert not spread.is_spike(np.exp(0.99 * bound)) and spread.is_spike(np.exp(1.01 * bound))


def test_forgotten_values():
    levels = Levels(10.0)
    for value in range(30):
        levels.add(float(value))
    levels.forget(3)
    assert levels.level(1) == levels.highest() == 26.0 and levels.known
    levels.forget()
    assert np.isnan(levels.level()) and np.isnan(levels.highest()) and not levels.known


@pytest.mark.parametrize(
    "value, level, above",
    [(3.1, 1.0, True), (2.9, 1.0, False), (-1.0, -2.0, False), (2.1, -1.0, True)],
)
def test_far_above(value, level, above):
    assert is_above(value, level) == above and not is_above(np.nan, level)
