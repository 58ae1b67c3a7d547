"""Every public class in files: a fresh process trains on, and serves without the package."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import EMBEDDINGS, IDS, NUMBERS, TRAININGS, data, fit, make_model

import keras_bp

HERE = pathlib.Path(__file__).parent
NUMBERED = [pytest.param(n, id="-".join(training)) for n, training in enumerate(TRAININGS)]
# The first training of each layer is exported.
LAYERS = [training[0] for training in TRAININGS]
EXPORTED = [n for n, layer in enumerate(LAYERS) if LAYERS.index(layer) == n]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Save all models within their training, use them in one process, and return what it left."""
    folder = tmp_path_factory.mktemp("fresh")
    arrays, models = {}, []
    for number, training in enumerate(TRAININGS):
        arrays[f"x_{number}"], arrays[f"y_{number}"] = data(training)
        model = make_model(training, run_eagerly=True)
        fit(model, training, epochs=1)
        model.save(folder / f"{number}.keras")
        models.append(model)
    # In one model, as an export traces for seconds.
    numbers, ids = keras.Input((3, 4)), keras.Input((3,), dtype="int32")
    outputs = [models[n](ids if LAYERS[n] in EMBEDDINGS else numbers) for n in EXPORTED]
    keras.Model([numbers, ids], outputs).export(folder / "exported", verbose=False)
    arrays["numbers"], arrays["ids"] = NUMBERS, IDS
    np.savez(folder / "data.npz", **arrays)
    source = str(pathlib.Path(keras_bp.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, HERE / "fresh_process.py", folder],
        env={**os.environ, "PYTHONPATH": source, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return folder, models


@pytest.mark.parametrize("number", EXPORTED, ids=lambda n: LAYERS[n])
def test_an_exported_layer_serves_without_the_package(number, fresh):
    """And differentiates."""
    folder, models = fresh
    x = tf.constant(data(TRAININGS[number])[0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = models[number](x)
        total = tf.reduce_sum(outputs * tf.range(3.0))
    served = np.load(folder / "served.npz")
    # The same kernels in another order, on activations and gradients of size 1.
    place = EXPORTED.index(number)
    np.testing.assert_allclose(served[f"outputs_{place}"], outputs, atol=1e-6)
    if x.dtype.is_floating:
        gradient = tape.gradient(total, x)
        np.testing.assert_allclose(served[f"gradient_{place}"], gradient, atol=1e-5)


@pytest.mark.parametrize("number", NUMBERED)
def test_a_loaded_model_trains_on_to_the_bit(number, fresh):
    folder, models = fresh
    names = json.loads((folder / "classes.json").read_text())[str(number)]
    assert [name.split(".")[-1] for name in names] == list(TRAININGS[number])
    assert all(name.startswith("keras_bp.") for name in names)
    trained = weights_one_epoch_on(models[number], TRAININGS[number])
    arrays = np.load(folder / f"trained_{number}.npz")
    assert len(arrays) == len(trained)
    for index, weight in enumerate(trained):
        np.testing.assert_array_equal(arrays[f"arr_{index}"], weight)


def weights_one_epoch_on(model, training):
    """Return the weights after one more epoch here, and put the model back."""
    subject = model.get_layer("subject")
    if hasattr(subject, "seed_generator"):  # a file holds the seed, not how far it has come
        subject.seed_generator.state.assign([subject.seed, 0])
    before = [v.numpy() for v in model.variables + model.optimizer.variables]
    fit(model, training, epochs=1)
    weights = model.get_weights()
    for variable, value in zip(model.variables + model.optimizer.variables, before, strict=True):
        variable.assign(value)
    return weights
