"""A training with each callback, on one device or over workers, and what comes of it."""

import keras
import numpy as np
from distribution_cases import BATCH, LABELS, X, loss_function, scope, small

from keras_bp import layers, multitask, optimizers, tuning
from keras_bp.callbacks import (
    DiscoveredSchedule,
    GradientConflict,
    GradientMonitor,
    OptimizerSwitch,
    SwapEMAWeights,
    TrainingDashboard,
    TrainingHealth,
)

ROWS = 16 * BATCH


def trained(strategy, model, optimizer, callbacks, y=LABELS[:ROWS], epochs=1, loss=None):
    """Return the weights, the history's numbers and those of predictions."""
    with scope(strategy):
        model = model()
        model.compile(optimizer(), loss or loss_function(), jit_compile=False)
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": epochs}
    data = X[:ROWS], y
    history = model.fit(*data, validation_data=data, callbacks=callbacks, **fit).history
    return [*model.get_weights(), *(np.array(values) for _, values in sorted(history.items()))]


def tasks():
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    hidden = layers.Dense(8, "tanh", name="hidden")(x)
    outputs = {name: layers.Dense(3, name=name)(hidden) for name in ("first", "second")}
    return multitask.MultiTaskModel(x, outputs, combiner=multitask.PCGrad(seed=0))


def recorded(strategy, folder):
    """GradientMonitor with all that it measures, TrainingHealth and a dashboard, in one fit."""
    monitor = GradientMonitor(folder / "logs", activations=True, histograms_every=8)
    health = TrainingHealth(action=lambda finding: None, log_dir=folder / "logs")
    dashboard = TrainingDashboard(folder / "dashboard.png")
    callbacks = [monitor, health, dashboard]
    weights = trained(strategy, small, lambda: optimizers.SGD(0.5, clipnorm=0.15), callbacks)
    return weights, "\n".join(map(str, health.findings))


def switched(strategy, folder):
    switch = OptimizerSwitch(0.1, patience=1, min_delta=10.0, verbose=0)
    weights = trained(strategy, small, lambda: optimizers.AdamW(0.01), [switch], epochs=3)
    return weights, switch.switched_at_epoch


def averaged(strategy, folder):
    swap = SwapEMAWeights(swap_on_epoch=True)

    def optimizer():
        return optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)

    return trained(strategy, small, optimizer, [swap], epochs=2), ""


def discovered(strategy, folder):
    discovery = DiscoveredSchedule(probe_steps=20, verbose=0)
    weights = trained(strategy, small, lambda: optimizers.AdamW(0.01), [discovery], epochs=3)
    rates = np.array([float(discovery.schedule(step)) for step in range(20)])
    return [*weights, rates], discovery.steps_probed, discovery.fallback_reason


def conflicting(strategy, folder):
    conflict = GradientConflict(folder / "conflict")
    y = {"first": LABELS[:ROWS], "second": (LABELS[:ROWS] + 1) % 3}
    loss = {name: loss_function() for name in y}
    weights = trained(strategy, tasks, lambda: optimizers.SGD(0.1), [conflict], y, loss=loss)
    table = conflict.table()
    numbers = [[row[key] for row in table] for key in ("cosine", "magnitude_similarity", "steps")]
    return [*weights, *map(np.array, numbers)], [row["layer"] for row in table]


def ranged(strategy, folder):
    with scope(strategy):
        model = small()
        model.compile(optimizers.SGD(), loss_function(), jit_compile=False)
    before = model.get_weights()
    options = {"steps": 20, "batch_size": BATCH, "max_learning_rate": 1.0}
    keras.utils.set_random_seed(0)
    curve = tuning.find_learning_rate(model, X[:ROWS], LABELS[:ROWS], **options)
    unchanged = all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    return [curve.losses, curve.learning_rates], curve.stop_reason, unchanged


def without_examples(strategy, folder):
    """The last batch leaves a worker without any, and its normalization is its own."""
    with scope(strategy):
        model = small(synchronized=False)
        model.compile(optimizers.SGD(0.1), loss_function(), jit_compile=False)
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    health = TrainingHealth(action=lambda finding: None)
    callbacks = [health, GradientMonitor(folder / "alone", activations=True, histograms_every=1)]
    model.fit(X[: BATCH + 1], LABELS[: BATCH + 1], callbacks=callbacks, **fit)
    return [], [np.isfinite(array).all() for array in model.get_weights()], health.findings


CASES = [without_examples, recorded, switched, averaged, discovered, conflicting, ranged]
