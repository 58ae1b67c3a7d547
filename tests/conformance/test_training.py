"""Every public class trains in every way to run, to the same weights.

A class that is added without a place in `trainings.py` makes the first test fail.
"""

import functools

import keras
import numpy as np
import pytest
import trainings
from trainings import KINDS, TRAININGS, fit, make_model, tape_loop

import keras_bp
from keras_bp import callbacks

# Keras's own, with NumPy 2, where ResumableTraining writes.

# The ways sum in another order: 6e-8 of gradients of size 1, in four steps, which the optimizers'
# quotients hand on where a gradient is small.
ROUNDING = 1e-5
# What no training needs: the base holds no rule.
BASES = {"optimizers": {"Optimizer"}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_takes_part(kind):
    public = {n.split(".")[1] for n in trainings.public_classes() if n.startswith(f"{kind}.")}
    assert set(KINDS[kind]) == public - BASES.get(kind, set())


def weights_after(training, way, replicas, layers=keras_bp.layers):
    options = {"jit_compile": True} if way == "jit" else {}
    strategy = replicas if way == "replicas" else None
    model = make_model(training, layers, strategy, **options)
    before = model.get_weights()
    if way == "tape loop":
        tape_loop(model, training)
    else:
        fit(model, training)
    after = model.get_weights()
    assert any(np.any(one != other) for one, other in zip(before, after, strict=True))
    return after


fitted = functools.cache(lambda training: weights_after(training, "fit", None))


# Compiling by XLA, and tracing two replicas, take seconds: the suite makes some, `-m long` all.
# The tape loop is eager, as the fits in `test_saving.py` are.
IN_SUITE = {"jit": ("GPT3", "OneCycle"), "replicas": ("GPT3",)}
CASES = [
    pytest.param(training, way, id=f"{'-'.join(training)}-{way}")
    if training[3] in IN_SUITE.get(way, training)
    else pytest.param(training, way, id=f"{'-'.join(training)}-{way}", marks=pytest.mark.long)
    for training in TRAININGS
    for way in ("tape loop", "jit", "replicas")
]


@pytest.mark.parametrize("training, way", CASES)
def test_ways_to_run(training, way, replicas):
    if training[0] == "Dropout" and way in ("jit", "replicas"):
        # XLA draws another mask, and each replica one of its own: those of Keras's layer.
        expected = weights_after(training, way, replicas, keras.layers)
    else:
        expected = fitted(training)
    for one, other in zip(weights_after(training, way, replicas), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=ROUNDING, rtol=ROUNDING)


def all_callbacks(folder):
    """Return one of each public callback, by name."""
    return {
        "GradientMonitor": callbacks.GradientMonitor(folder / "logs"),
        "ProgressLine": callbacks.ProgressLine(),
        "TrainingDashboard": callbacks.TrainingDashboard(folder / "picture.png"),
        "TrainingHealth": callbacks.TrainingHealth(["saturation"], action=lambda finding: None),
        "OptimizerSwitch": callbacks.OptimizerSwitch(0.01, patience=1, min_delta=1e9),
        "Rescue": callbacks.Rescue(folder / "faults"),
        "ResumableTraining": callbacks.ResumableTraining(folder / "checkpoints"),
    }


def fit_with(made, way, replicas):
    """Train two epochs with one optimizer and four with the other, on a layer that is saturated."""
    options = {"jit_compile": True} if way == "jit" else {}
    training = TRAININGS[2]
    model = make_model(training, strategy=replicas if way == "replicas" else None, **options)
    model.get_layer("subject").bias.assign([9.0] * 6)
    x, y = trainings.data(training)
    model.fit(x, y, epochs=6, callbacks=made, **trainings.FIT)
    return model


@pytest.mark.parametrize(
    "way", ["fit", *(pytest.param(w, marks=pytest.mark.long) for w in ("jit", "replicas"))]
)
def test_all_callbacks_together(way, tmp_path, replicas):
    made = all_callbacks(tmp_path)
    public = {n.split(".")[1] for n in trainings.public_classes() if n.startswith("callbacks.")}
    # Another model than this one has several tasks: see callbacks/test_gradient_conflict.py.
    # And one is there to change the rates: see callbacks/test_discovered_schedule.py. One needs
    # averages: see optimizers/test_optimizers_ema.py.
    elsewhere = {"health_checks", "GradientConflict", "DiscoveredSchedule", "SwapEMAWeights"}
    assert set(made) == public - elsewhere
    model = fit_with(list(made.values()), way, replicas)
    # Each has done its work, and the others leave the training as it is.
    assert any((tmp_path / "logs").iterdir()) and (tmp_path / "picture.png").exists()
    assert made["OptimizerSwitch"].switched_at_epoch == 2
    assert {finding.layer for finding in made["TrainingHealth"].findings} == {"subject"}
    assert (tmp_path / "checkpoints" / "epoch-6.index").exists()
    assert made["Rescue"].rescues == []
    alone = fit_with([all_callbacks(tmp_path / "alone")["OptimizerSwitch"]], way, replicas)
    # In the same way: Adam makes steps of a saturated layer's gradients, which are all rounding.
    for one, other in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
