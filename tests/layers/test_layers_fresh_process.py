"""What needs a process of its own: loading files with `import keras_bp` alone, and replicas."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import NAMES

import keras_bp
from keras_bp import layers, losses

# Keras 3.15's variables have the `__array__` of NumPy 1, which Keras itself calls where it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HERE = pathlib.Path(__file__).parent
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def network():
    """A model of every layer, with options that a file must keep."""
    parts = [
        layers.Dense(6, "relu", kernel_regularizer=keras.regularizers.L2(0.01)),
        layers.BatchNormalization(momentum=0.6, epsilon=1e-5),
        layers.LayerNormalization(epsilon=1e-5, gamma_initializer="he_normal"),
        layers.GroupNormalization(groups=3, center=False),
        layers.Dropout(0.3, noise_shape=(None, 6), seed=5),
        layers.Dense(3, "softmax"),
    ]
    assert {type(part).__name__ for part in parts} == set(NAMES)
    model = keras.Sequential([keras.Input((4,)), *parts])
    loss = losses.SparseCategoricalCrossentropy(ignore_class=2)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def replicated(masked=False):
    """A model with batch normalization, over the steps that a mask lets through if `masked`."""
    parts = [keras.layers.Masking()] if masked else []
    parts += [layers.Dense(5, "relu"), layers.BatchNormalization(synchronized=True)]
    parts += [layers.Dense(4), keras.layers.GlobalAveragePooling1D()] if masked else []
    shape = (6, 4) if masked else (4,)
    model = keras.Sequential([keras.Input(shape), *parts, layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.1), losses.SparseCategoricalCrossentropy())
    return model


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Save the models, use them in a fresh process, and return (folder, models, data)."""
    folder = tmp_path_factory.mktemp("fresh")
    generator = np.random.default_rng(0)
    data = {"x": generator.normal(1.0, 2.0, (32, 4)).astype("float32")}
    data["y"] = generator.integers(0, 3, 32)
    data["sequences"] = generator.normal(size=(32, 6, 4)).astype("float32")
    for row, length in enumerate(generator.integers(1, 7, 32)):
        data["sequences"][row, length:] = 0.0
    np.savez(folder / "data.npz", **data)

    keras.utils.set_random_seed(1)
    models = {
        "network": network(),
        "replicas_plain": replicated(),
        "replicas_masked": replicated(masked=True),
    }
    models["network"].fit(data["x"], data["y"], **FIT)
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    models["network"].export(folder / "exported", verbose=False)
    source = pathlib.Path(keras_bp.__file__).parents[1]
    subprocess.run(
        [sys.executable, HERE / "fresh_process.py", folder],
        env={**os.environ, "PYTHONPATH": str(source), "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
    )
    return folder, models, data


def test_a_loaded_model_is_of_our_classes(fresh):
    folder, models, _ = fresh
    names = json.loads((folder / "classes.json").read_text())
    parts = [*models["network"].layers, models["network"].loss]
    assert names == [f"{type(part).__module__}.{type(part).__name__}" for part in parts]
    assert all(name.startswith("keras_bp.") for name in names)


def test_a_loaded_model_predicts_and_trains_the_same(fresh):
    folder, models, data = fresh
    loaded = np.load(folder / "loaded.npz")
    model = models["network"]
    np.testing.assert_allclose(
        loaded["predictions"], model.predict(data["x"], verbose=0), atol=1e-6
    )
    # The file holds the optimizer's momentum, but not the state of the dropout's seed: both
    # start from the seed.
    model.layers[4].seed_generator.state.assign([5, 0])
    expected = model.fit(data["x"], data["y"], **FIT).history["loss"]
    np.testing.assert_allclose(loaded["losses"], expected, rtol=1e-5)


def test_an_exported_model_serves_and_differentiates_the_same(fresh):
    folder, _, data = fresh
    served = np.load(folder / "served.npz")
    model = keras.saving.load_model(folder / "network.keras")
    x = tf.constant(data["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = model(x)
        total = tf.reduce_sum(outputs * tf.range(3.0))
    np.testing.assert_allclose(served["outputs"], outputs, atol=1e-6)
    np.testing.assert_allclose(served["gradient"], tape.gradient(total, x), atol=1e-5)


def on_one_device(folder, name, data):
    """Train a saved model here, with the whole batch on one device; return losses and weights."""
    model = keras.saving.load_model(folder / f"{name}.keras")
    x = data["sequences" if "masked" in name else "x"]
    history = model.fit(x, data["y"], epochs=2, **FIT).history
    return history["loss"], model.get_weights()


def replicas(folder, name):
    """Return losses and weights of the same training on two replicas."""
    arrays = dict(np.load(folder / f"{name}.npz"))
    losses_ = arrays.pop("losses")
    return losses_, [arrays[f"arr_{index}"] for index in range(len(arrays))]


@pytest.mark.parametrize("name", ["replicas_plain", "replicas_masked"])
def test_synchronized_replicas_are_one_device_with_the_whole_batch(fresh, name):
    folder, _, data = fresh
    expected_losses, expected = on_one_device(folder, name, data)
    losses_, weights = replicas(folder, name)
    # 8 steps in float32, the sums in another order.
    np.testing.assert_allclose(losses_, expected_losses, rtol=1e-5)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
