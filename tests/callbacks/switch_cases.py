"""What the tests of OptimizerSwitch share: a model, its training, and the same by hand."""

import contextlib

import keras

from keras_bp.optimizers import SGD
from keras_bp.schedules import Warmup

L = keras.layers

# Keras's own, as it reads a variable with NumPy 2.

# Nothing counts as an improvement but the first epoch, so the third one has a new optimizer.
PLATEAU = {"patience": 1, "min_delta": 1e9, "warmup_steps": 4}
SWITCHED = 2
# Tracing takes longer than the few steps of these trainings.
EAGER = {"run_eagerly": True}


def new_optimizer(rate=0.05):
    """What the switch puts in, made by hand."""
    return SGD(Warmup(rate, 4), momentum=0.9)


def build(optimizer="adam", strategy=None, dropout=0.3, **options):
    """Whatever a switch could disturb: batch statistics, dropout, a penalty, metrics."""
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        layers = [keras.Input((4,)), L.Dense(8, "tanh", kernel_regularizer="l2")]
        layers += [L.BatchNormalization(), L.Dropout(dropout), L.Dense(1)]
        model = keras.Sequential(layers)
        optimizer = optimizer() if callable(optimizer) else optimizer
        model.compile(optimizer, "mse", metrics=["mae"], **(options or EAGER))
    return model


def fit(model, data, *callbacks, epochs=5, **options):
    """Train on 2 batches an epoch; return the epochs' logs."""
    options = {"batch_size": 5, "shuffle": False, "verbose": 0, **options}
    data = [array[: 2 * options["batch_size"]] for array in data]
    return model.fit(*data, epochs=epochs, callbacks=list(callbacks), **options).history


def state(model):
    """All that a training has made of a model and its optimizer."""
    return [v.numpy() for v in model.weights + model.optimizer.variables]


def by_hand(model, data, optimizer=new_optimizer, **options):
    """Train as a user without the callback would; return the epochs' logs."""
    first = fit(model, data, epochs=SWITCHED)
    model.compile(optimizer(), "mse", metrics=["mae"], **(options or EAGER))
    second = fit(model, data, epochs=5 - SWITCHED)
    return {name: values + second[name] for name, values in first.items()}
