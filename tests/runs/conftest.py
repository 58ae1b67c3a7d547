"""Two small runs that differ in the rate, with their monitors."""

import types

import keras
import numpy as np
import pytest

from keras_bp.callbacks import GradientMonitor


def make(rate=0.05, units=3):
    keras.utils.set_random_seed(7)
    layers = [keras.layers.Dense(units, "tanh", name="hidden"), keras.layers.Dense(1, name="out")]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", run_eagerly=True)
    return model


@pytest.fixture(scope="session")
def data():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    return x, x[:, :1] * x[:, 1:2]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, data):
    """Return the folder, and what was written: {run: [(tags, values, step)]}."""
    folder = tmp_path_factory.mktemp("runs")
    written = {}
    for name, options in {"one": {}, "two": {"rate": 0.1}, "wide": {"units": 5}}.items():
        seen = written.setdefault(name, {})
        monitor = GradientMonitor(folder / name, updates_every=4, sinks=[seen.__setitem__])
        make(**options).fit(*data, batch_size=5, epochs=2, verbose=0, callbacks=[monitor])
    return types.SimpleNamespace(folder=folder, written=written)


@pytest.fixture(name="make")
def _make():
    return make
