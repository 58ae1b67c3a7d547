"""What the tests of DiscoveredSchedule share: a model and its training, every step of it known."""

import keras
import numpy as np

L = keras.layers
STEPS = 120


def data(examples=40):
    x = np.random.default_rng(0).normal(size=(examples, 6)).astype("float32")
    return x, (x[:, 0] * x[:, 1] > 0).astype("int32")


def build(optimizer="adam", seed=0, **options):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6,)), L.Dense(16, "tanh"), L.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **{"jit_compile": False, **options})
    return model


def fit(model, *callbacks, steps=STEPS, epochs=1):
    """Train with the same batch in each step, so that every step is known."""
    arrays = [np.concatenate([array] * (steps // epochs)) for array in data()]
    options = {"batch_size": 40, "shuffle": False, "verbose": 0, "epochs": epochs}
    return model.fit(*arrays, callbacks=list(callbacks), **options).history["loss"]
