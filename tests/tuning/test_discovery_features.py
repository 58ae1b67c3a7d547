"""What a probe tells of trainings whose curvature, noise and units are known."""

import math

import numpy as np
import pytest
from discovery_cases import Bowl, Scaled

from keras_bp.tuning import discovery
from tools.discovery import make_task, simulation

INVARIANT = ["quadratic", "classifier", "words"]


def probe(task, steps=30, seed=0):
    return simulation.probe(task, steps, seed)[0]


def by_name(seen, total=400):
    return dict(zip(discovery.NAMES, discovery.features(seen, total), strict=True))


@pytest.mark.parametrize("curvature", [0.01, 1.0, 50.0])
def test_a_bowl_of_known_curvature(curvature):
    """Gradient descent on c/2 |w|^2: the unit is 1/2c, 2u ends at the bottom, 4u as high up."""
    seen = probe(Bowl(curvature))
    # The loss falls a little while the unit is measured.
    assert seen.unit == pytest.approx(0.5 / curvature, rel=1e-3)
    features = by_name(seen)
    # At 2 u a step ends at the bottom, where the sweep ends too; rates are a factor 1.47 apart.
    assert 0.5 < math.exp(features["lowest"]) < 2.0 * 1.47
    assert features["alignment"] == pytest.approx(1.0, abs=1e-6)
    assert features["depth"] > 0.95
    assert features["loss_noise"] < 0.01 and features["noise"] < -6
    # Of 64 ones with the gradient c: |u g| / |w| = 1/2.
    assert features["reach"] == pytest.approx(math.log(0.5), abs=0.02)
    assert features["momentum"] == pytest.approx(0.0, abs=1e-3)
    assert features["steps"] == math.log(400)
    assert seen.fault is None


def test_each_row_of_a_bowl():
    """From one gradient to the next along the update: g' . d = (1 - rate c) g . d."""
    seen = probe(Bowl(2.0))
    rows = dict(zip(discovery.SEEN, np.array(seen.rows).T, strict=True))
    rates = np.array(seen.rates)
    w = np.cumprod(np.append(1.0, 1 - 2.0 * rates))[:-1]  # each weight before each step
    still = rates <= 4 * seen.unit  # beyond, rounding is magnified
    expected = {
        "loss": 64 * w**2,
        "square": 64 * (2 * w) ** 2,
        "weights": 64 * w**2,
        "update": 64 * (2 * rates * w) ** 2,
        "along": -64 * rates * (2 * w) ** 2,
    }
    for name, values in expected.items():
        # float32 weights, of up to 30 steps.
        np.testing.assert_allclose(rows[name][still], values[still], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(rows["with_before"][1:9], 64 * 4 * w[1:9] * w[:8], rtol=1e-4)
    along = -64 * 4 * rates[:8] * w[:8] * w[1:9]
    np.testing.assert_allclose(rows["along_before"][1:9], along, rtol=1e-3, atol=1e-9)


def test_known_noise():
    """A gradient of 64 entries 1, each with noise of deviation s: variance over square is s^2."""
    for deviation in (0.5, 1.0, 2.0):
        seen = [by_name(probe(Bowl(1.0, deviation), seed=seed))["noise"] for seed in range(200)]
        # The median of 200: a probe has four products, of a deviation of some s^2 / 16 each.
        assert np.median(seen) == pytest.approx(2 * math.log(deviation), abs=0.15)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_lag_of_a_momentum(noise):
    """In steps q apart 0.9 adds up to 1 / (1 - 0.9 / q), where the rate stays to 10."""
    for rule in simulation.RULES:
        seen = probe(Bowl(1.0, noise, optimizer=rule))
        momentum, factor = discovery.lag(seen)
        q = 1e4 ** (1 / 24)  # of 25 steps from 0.003 to 30 units
        expected = (0.9, 0.1 / (1 - 0.9 / q)) if rule == "momentum" else (0.0, 1.0)
        assert (momentum, factor) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("family", INVARIANT)
@pytest.mark.parametrize("number", range(4))
def test_other_units_change_no_feature(family, number):
    """A loss times 8, weights times 4, and a rate that follows as that of the optimizer does."""
    task = make_task(family, number)
    for rule in ("sgd", "adam"):
        task.optimizer = rule
        seen = probe(task)
        for loss, weights in ((8.0, 1.0), (1.0, 4.0), (0.125, 2.0)):
            other = probe(Scaled(task, loss, weights))
            factor = weights**2 / loss if rule == "sgd" else weights
            # The first of the four tiny rates is chosen before the rule is known, and moves the
            # weights a little more or less; and Adam's epsilon has a unit.
            tolerance = 0.005
            np.testing.assert_allclose(
                other.rates[5:], factor * np.array(seen.rates[5:]), rtol=tolerance
            )
            np.testing.assert_allclose(
                discovery.features(other, 400), discovery.features(seen, 400), atol=5 * tolerance
            )
            found, expected = (discovery.discover(s, 400) for s in (other, seen))
            assert found.decay == expected.decay
            assert found.peak_learning_rate == pytest.approx(
                factor * expected.peak_learning_rate, rel=tolerance
            )


@pytest.mark.parametrize(
    "row, reason",
    [
        ([np.nan] * 8, "the loss of the first step is not finite"),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], "no step lowered the loss to first order"),
    ],
)
def test_faults(row, reason):
    """The update is along the gradient, not against it, where its product with it is positive."""
    seen = discovery.Probe(20, parameters=4)
    while not seen.done:
        seen.see(seen.plan()[0], row)
    assert seen.fault == reason
    found = discovery.discover(seen, 400)
    assert found.fallback_reason == reason
    assert (found.warmup_share, found.decay) == (0.1, "cosine")


@pytest.mark.parametrize("loss", [np.nan, np.inf, 3.0])
def test_a_sweep_that_diverges_at_once(loss):
    seen = discovery.Probe(20, parameters=4)
    while not seen.done:
        rate = seen.plan()[0]
        seen.see(rate, [1.0 if len(seen.rows) < 7 else loss, 1, 1, -rate, 4, rate**2, -rate, 0])
    assert len(seen.rows) == 8 and seen.diverged
    assert seen.fault == "the sweep ended within five steps"
    assert discovery.discover(seen, 400).fallback_reason == seen.fault


def test_what_follows_a_step_that_is_not_finite():
    """It changes no feature, and the probe has diverged all the same."""
    seen, longer = probe(Bowl(1.0, noise=1.0)), probe(Bowl(1.0, noise=1.0))
    assert seen.diverged
    for row in ([np.nan] * 8, [1.0] * 8, [1.0, 1.0, 1.0, 1.0, 1.0, np.inf, 1.0, 1.0]):
        longer.see(longer.rates[-1], row)
    assert longer.diverged and longer.finite == len(seen.rows)
    np.testing.assert_array_equal(discovery.features(longer, 400), discovery.features(seen, 400))
    start = seen.sweep_start
    for finite, fault in ((4, None), (3, "the sweep ended within five steps")):
        longer.rows = [*seen.rows[: start + finite], *[[np.nan] * 8] * 5]
        longer.rates = seen.rates[: start + finite] + [1.0] * 5
        assert longer.fault == fault


def steps_of(seen, loss=lambda k: 1.0, length=lambda k: 1.0, weights=lambda k: 2.0, invariant=0.0):
    """Let a probe see steps along the gradient 1, updates `length(k)` times as long as the rate."""
    while not seen.done:
        (rate,), k = seen.plan(), len(seen.rows)
        update = rate * length(k)
        seen.see(rate, [loss(k), 1.0, 1.0, 0.0, weights(k) ** 2, update**2, -update, invariant])
    return seen


def test_a_sweep_ends_where_nothing_is_left_to_see():
    for share, count in ((0.021, 20), (0.019, 13)):
        seen = steps_of(discovery.Probe(20, 4), loss=lambda k, s=share: 3.0 * (s if k >= 12 else 1))
        assert len(seen.rows) == count and not seen.diverged and seen.fault is None


@pytest.mark.parametrize("deviation", [0.001, 0.02, 0.5])
def test_the_reference_rate_beside_a_normalization(deviation):
    """From the sweep's own rate to 3.2 units, as the batches' noise hides the fall of the loss."""

    def loss(k):
        """The losses before the sweep deviate; in it a step lowers the loss by a tenth."""
        return 1.0 + deviation * (-1) ** k if k < 4 else (0.9 if k == 14 else 1.0)

    plain, normalized, barely = (
        steps_of(discovery.Probe(20, 4), loss=loss, invariant=share) for share in (0.0, 0.1, 0.009)
    )
    own, rate = discovery.reference_rate(plain), discovery.reference_rate(normalized)
    assert discovery.reference_rate(barely) == own
    seen_rates = np.array(plain.rates)[5:]
    assert own == pytest.approx(np.sqrt(seen_rates[8] * seen_rates[-1]))
    # The step's fall of 0.1, averaged with its neighbours', a factor 1.93 apart each.
    kernel = 0.5 ** ((math.log(1e4) / 14 / math.log(2) * (np.arange(14) - 8)) ** 2)
    fall = 0.1 / kernel.sum()
    # Of five losses, of which four are 1 +- deviation and one is 1.
    noise = deviation * np.std([1, -1, 1, -1, 0], ddof=1)
    hidden = 1 / (1 + (fall / (5 * noise)) ** 2)
    assert rate == pytest.approx(own ** (1 - hidden) * (10**0.5 * plain.unit) ** hidden, rel=1e-3)


def test_updates_that_do_not_follow_the_rate():
    """A momentum makes them up to 10 times as long; DoG and Prodigy thousands of times."""
    for growth, fault in ((9.9, None), (10.1, "the optimizer's updates do not follow its rate")):
        seen = steps_of(discovery.Probe(20, 4), length=lambda k, g=growth: g if k > 9 else 1.0)
        assert seen.fault == fault


def test_updates_that_follow_the_size_of_the_weights():
    """As Lamb's, whose rate is a share of the weights."""
    reason = "the optimizer's updates follow the size of the weights"
    for growth, fault in ((1.02, None), (1.1, reason)):
        size = lambda k, g=growth: g ** max(k - 8, 0)  # noqa: E731
        assert steps_of(discovery.Probe(20, 4), length=size, weights=size).fault == fault
    size = lambda k: 1.1 ** max(k - 8, 0)  # noqa: E731
    # Gradient descent has updates as long as the gradient, whatever the weights do.
    assert steps_of(discovery.Probe(20, 4), weights=size).fault is None
    assert probe(Bowl(1.0)).fault is None


def test_the_plan():
    """A step at 0, four that move weights of the norm 0.05 by 1e-4 of it, the sweep."""
    seen = discovery.Probe(20, parameters=25)
    loss, square, size = 2.0, 50.0, 0.01
    for _ in range(20):
        rate = seen.plan()[0]
        update = [rate**2 * square, -rate * square]
        seen.see(rate, [loss, square, square, 0.0, 25 * size**2, *update, 0.0])
    assert seen.done and not seen.diverged and seen.sweep_start == 5
    np.testing.assert_allclose(seen.rates[:5], [0, *[1e-4 * 5 * size / 50**0.5] * 4])
    np.testing.assert_allclose(seen.rates[5:], 0.04 * np.geomspace(3e-3, 30, 15))


@pytest.mark.parametrize("count", [2, 4, 7])
def test_a_plan_of_several_steps(count):
    seen = discovery.Probe(35, parameters=1)
    while not seen.done:
        for rate in seen.plan(count):
            seen.see(rate, [1.0, 1.0, 1.0, 0.0, 1.0, rate**2, -rate, 0.0])
    still = seen.sweep_start
    assert still == 3 * count
    assert seen.rates[:count] == [0.0] * count
    np.testing.assert_allclose(seen.rates[count:still], 1e-4)
    swept = np.geomspace(3e-3, 30, 35 - still)
    np.testing.assert_allclose(seen.rates[still:35], swept)
