"""Clipping, accumulation and averages over 50 steps on two replicas, and on one device."""

import pytest
from distribution_cases import (
    BOUND,
    OPTIONS,
    WORDS,
    by_fit,
    by_loop,
    difference,
    sgd,
    small,
    with_option,
    with_words,
)

from keras_bp import optimizers

# What a class refuses beside a table whose rows it defers.
DEFERRED = {"gradient_accumulation_steps": 4, "global_clipnorm": 0.4}
NAMES = [name for name in optimizers.__all__ if hasattr(getattr(optimizers, name), "_rule")]
NAMES.remove("Optimizer")


# What accumulates, and what clips at a global norm, is in "all".
@pytest.mark.parametrize("name", ["clipvalue", "clipnorm", "all"])
def test_two_replicas_are_one(name, replicas):
    """50 steps are 12 updates of 4 micro-steps, and a last one of 2."""
    assert difference(with_option(replicas, name), with_option(None, name)) < BOUND


@pytest.mark.parametrize(
    "name",
    [n if n == "all" else pytest.param(n, marks=pytest.mark.long) for n in OPTIONS],
)
def test_fit_makes_the_same_steps(name, replicas):
    """The loop divides the sum by the rows, a power of two, and fit the two halves by theirs."""
    assert difference(by_fit(replicas, small, sgd(name)), with_option(replicas, name)) == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_tells(name):
    """Far more than the bound above: it would show an option that one of the two ignores."""
    assert difference(with_option(None, name), with_option(None, "plain")) > 1000 * BOUND


@pytest.mark.parametrize(
    "name",
    [n if n == "DeferredAdam" else pytest.param(n, marks=pytest.mark.long) for n in NAMES],
)
def test_every_optimizer_with_a_table(name, replicas):
    """Of repeated ids, within a replica and across the two."""
    options = DEFERRED if name == "DeferredAdam" else OPTIONS["all"]

    def optimizer():
        return getattr(optimizers, name)(0.02, **options)

    two, one = (by_loop(s, with_words, optimizer, WORDS) for s in (replicas, None))
    assert difference(two, one) < BOUND
