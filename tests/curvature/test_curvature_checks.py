"""TrainingHealth's advice on batch size and learning rate."""

import types

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.callbacks import TrainingHealth, health_checks
from keras_bp.callbacks.health._check import Update
from keras_bp.callbacks.health._watch import HealthWatch
from keras_bp.curvature import NoiseScale
from keras_bp.recording import Curvature

nan, inf = np.nan, np.inf


def update(curvature, steps=1):
    """Updates up to the step 10, of a model without layers."""
    places = np.zeros((steps, 0))
    return Update(
        step=np.arange(11 - steps, 11),
        loss=np.ones(steps),
        sees_loss=True,
        clipped=np.ones(steps),
        order=types.SimpleNamespace(outputs=()),
        norms=places,
        means=places,
        moves=None,
        ratios=None,
        weights=None,
        curvature=curvature,
        statistics={"not_finite": places},
    )


def noise(low, high, examples=32):
    return Curvature(10, NoiseScale(320.0, low, high, 1.0, 1.0), examples, 0.1, None, None)


def rate(critical):
    return Curvature(10, None, 0, 0.1, critical, None)


def found(check, curvature, measurements=1, steps=1):
    watch = HealthWatch([check])
    for _ in range(measurements):
        watch.see_updates(update(None, 4))  # of which nothing is known, and nothing is forgotten
        watch.see_updates(update(curvature, steps))
    return watch.findings


@pytest.mark.parametrize(
    "curvature, value",
    [
        (noise(320.1, 400), 10),
        (noise(319.9, 400), None),
        (noise(0, 3.1), 0.1),
        (noise(0, 3.3), None),
        (noise(500, inf), 10),
        (noise(nan, nan), None),
        (rate(0.01), None),
        (None, None),
    ],
)
def test_the_batch_is_compared_with_the_interval(curvature, value):
    findings = found(health_checks.BatchSize(updates=1), curvature)
    assert [finding.value for finding in findings] == ([] if value is None else [value])
    assert all(finding.step == 10 and finding.layer is None for finding in findings)


@pytest.mark.parametrize(
    "critical, share", [(0.099, 1.01), (0.101, None), (0.0, None), (nan, None), (inf, None)]
)
def test_the_rate_is_compared_with_the_critical_one(critical, share):
    findings = found(health_checks.EdgeOfStability(updates=1), rate(critical))
    assert [round(finding.value, 2) for finding in findings] == ([] if share is None else [share])
    assert not found(health_checks.EdgeOfStability(updates=1), noise(1000, 2000))


@pytest.mark.parametrize("steps", [1, 3])
def test_consecutive_measurements_count_and_not_the_steps_of_a_call(steps):
    check = health_checks.EdgeOfStability()
    assert not found(check, rate(0.05), 2, steps)
    assert len(found(check, rate(0.05), 3, steps)) == 1


def test_a_training_at_too_high_a_rate_with_too_large_a_batch_is_told_both():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 0.1, size=(64, 1)).astype("float32")  # examples that are much alike
    model = keras.Sequential([keras.Input((1,)), keras_bp.layers.Dense(1, use_bias=False)])
    # The curvature is 2 times the mean of x^2: above a rate of 1 the loss of each batch rises.
    model.compile(keras_bp.optimizers.SGD(1.02), "mse", run_eagerly=True)
    options = {"every": 1, "updates": 2}
    checks = [health_checks.EdgeOfStability(**options), health_checks.BatchSize(**options)]
    health = TrainingHealth(checks, action=lambda finding: None)
    model.fit(x, 2 * x, epochs=5, batch_size=64, verbose=0, callbacks=[health])
    assert [finding.check for finding in health.findings] == ["edge_of_stability", "batch_size"]
    assert "update raises the loss of its own batch" in health.report
    assert "a batch has 64 examples, the gradient noise scale is" in health.report
    assert {check.name for check in TrainingHealth().checks}.isdisjoint(
        {check.name for check in checks}
    )
    assert not TrainingHealth()._curvature.every
