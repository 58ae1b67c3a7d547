"""What the tests of Rescue share: a small model, its data, and the same training by hand."""

import keras
import numpy as np

from keras_bp._keras import global_seed_state

L = keras.layers
BATCH = 4


def examples(batches=8):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH * batches, 4)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] + 0.5).astype("float32")


def build(optimizer="adam", **options):
    """Whatever a step changes: batch statistics, dropout's seed, a metric, momentum."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(8, "tanh", name="hidden"), L.BatchNormalization()]
    model = keras.Sequential([*layers, L.Dropout(0.3), L.Dense(1, name="last")])
    optimizer = optimizer() if callable(optimizer) else optimizer
    model.compile(optimizer, "mse", metrics=["mae"], **{"run_eagerly": True, **options})
    return model


def linear(optimizer, **options):
    """One weight, from 1 on: with targets of 0 and inputs of 1 gradient descent is 1 - 2 rate."""
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", **{"run_eagerly": True, **options})
    model.set_weights([np.ones((1, 1))])
    return model


def fit(model, data, *callbacks, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data, callbacks=list(callbacks), **options).history


def state(model):
    """All that the next step depends on."""
    variables = [*model.variables, *model.optimizer.variables, global_seed_state()]
    return [np.array(v) for v in variables]


def without(data, batch):
    """Return the data without one batch."""
    rows = np.arange(len(data[0])) // BATCH != batch
    return [array[rows] for array in data]
