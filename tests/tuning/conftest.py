"""Small data and models for the finder's tests, and the path to the helper module beside them."""

import pathlib
import sys

import keras
import numpy as np
import pytest

# pytest's importlib mode leaves the folder of a test file out of the path.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def data():
    """96 examples of a linear function of three features, and noise, float32."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(96, 3)).astype("float32")
    y = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 + 0.2 * rng.normal(size=(96, 1))
    return x, y.astype("float32")


@pytest.fixture
def linear():
    """Make a compiled linear model, with weights that are always the same."""

    def make(optimizer="sgd", loss="mean_squared_error", regularizer=None, **options):
        inputs = keras.Input((3,))
        dense = keras.layers.Dense(
            1, kernel_initializer=keras.initializers.Constant(0.1), kernel_regularizer=regularizer
        )
        model = keras.Model(inputs, dense(inputs))
        model.compile(optimizer, loss, **options)
        return model

    return make
