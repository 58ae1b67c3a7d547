"""Two replicas with synchronized batch normalization are one device with the whole batch."""

import contextlib

import keras
import numpy as np
import pytest

from keras_bp import layers, losses

FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def replicated(masked=False):
    """A model with batch normalization, over the steps that a mask lets through if `masked`."""
    parts = [keras.layers.Masking()] if masked else []
    parts += [layers.Dense(5, "relu"), layers.BatchNormalization(synchronized=True)]
    parts += [layers.Dense(4), keras.layers.GlobalAveragePooling1D()] if masked else []
    shape = (6, 4) if masked else (4,)
    model = keras.Sequential([keras.Input(shape), *parts, layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.1), losses.SparseCategoricalCrossentropy())
    return model


def data():
    """Return examples, sequences of different lengths padded with zeros, and labels."""
    generator = np.random.default_rng(0)
    x = generator.normal(1.0, 2.0, (32, 4)).astype("float32")
    y = generator.integers(0, 3, 32)
    sequences = generator.normal(size=(32, 6, 4)).astype("float32")
    for row, length in enumerate(generator.integers(1, 7, 32)):
        sequences[row, length:] = 0.0
    return x, sequences, y


@pytest.mark.parametrize("masked", [False, True])
def test_synchronized_replicas_are_one_device_with_the_whole_batch(masked, replicas):
    x, sequences, y = data()
    results = []
    for strategy in (replicas, None):
        keras.utils.set_random_seed(1)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = replicated(masked)
        history = model.fit(sequences if masked else x, y, **FIT).history["loss"]
        results.append((history, model.get_weights()))
    (losses_, weights), (expected_losses, expected) = results
    # 8 steps in float32, the sums in another order.
    np.testing.assert_allclose(losses_, expected_losses, rtol=1e-5)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
