"""Two replicas with synchronized batch normalization are one device with the whole batch."""

import contextlib

import keras
import numpy as np

from keras_bp import layers, losses

FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def replicated(run_eagerly):
    """A model with batch normalization over the steps that a mask lets through."""
    parts = [keras.layers.Masking(), layers.Dense(5, "relu")]
    parts += [layers.BatchNormalization(synchronized=True), layers.Dense(4)]
    parts += [keras.layers.GlobalAveragePooling1D(), layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((6, 4)), *parts])
    loss = losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly)
    return model


def data():
    """Return sequences of different lengths, padded with zeros, and labels."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 32)
    sequences = generator.normal(size=(32, 6, 4)).astype("float32")
    for row, length in enumerate(generator.integers(1, 7, 32)):
        sequences[row, length:] = 0.0
    return sequences, y


def test_synchronized_replicas_are_one_device_with_the_whole_batch(replicas):
    sequences, y = data()
    results = []
    for strategy in (replicas, None):
        keras.utils.set_random_seed(1)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = replicated(run_eagerly=strategy is None)
        history = model.fit(sequences, y, **FIT).history["loss"]
        results.append((history, model.get_weights()))
    (losses_, weights), (expected_losses, expected) = results
    # 8 steps in float32, the sums in another order.
    np.testing.assert_allclose(losses_, expected_losses, rtol=1e-5)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
