"""Weights of layers and slots of optimizers pass to Keras's namesake and back."""

import re

import keras
import numpy as np
import pytest
from trainings import KINDS, TRAININGS, data, make_model

import keras_bp

# Of the classes with a namesake: schedule-free AdamW keeps other slots than Keras's, which computes
# another step (K9), Adafactor not the largest, which follows from the others, and Muon AdamW's for
# the output layer.
OWN_SLOTS = {"Adafactor", "ScheduleFreeAdamW", "Muon"}
LAYERS = sorted(name for name in set(KINDS["layers"]) if hasattr(keras.layers, name))
OPTIMIZERS = sorted(
    name for name in set(KINDS["optimizers"]) - OWN_SLOTS if hasattr(keras.optimizers, name)
)
# With every slot that a class can have.
OPTIONS = {
    "SGD": [{"momentum": 0.9}],
    "Adadelta": [{}],
    "Adagrad": [{}],
    "Adam": [{}, {"amsgrad": True}],
    "AdamW": [{}, {"amsgrad": True}],
    "Adamax": [{}],
    "Ftrl": [{"l1_regularization_strength": 0.1}],
    "Lamb": [{"weight_decay": None}],
    "Lion": [{}],
    "Nadam": [{}],
    "RMSprop": [{}, {"momentum": 0.5, "centered": True}],
}


def test_which_have_a_namesake():
    assert set(OPTIONS) == set(OPTIMIZERS)
    own = {"DeferredEmbedding", "Detach", "DirectFeedback", "FeedbackConv2D", "FeedbackDense"}
    assert set(keras_bp.layers.__all__) - set(LAYERS) == own


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_weights(name, ours_first, tmp_path):
    training = next(training for training in TRAININGS if training[0] == name)
    x, y = data(training)
    modules = (keras_bp.layers, keras.layers) if ours_first else (keras.layers, keras_bp.layers)
    one, other, by_file = (
        make_model(training, m, run_eagerly=True) for m in (*modules, modules[1])
    )
    one.train_on_batch(x, y)
    other.set_weights(one.get_weights())
    one.save_weights(tmp_path / "model.weights.h5")
    by_file.optimizer.build(by_file.trainable_variables)  # the file holds its slots too
    by_file.load_weights(tmp_path / "model.weights.h5")
    for model in (other, by_file):
        for mine, its in zip(model.weights, one.weights, strict=True):
            assert mine.name == its.name
            np.testing.assert_array_equal(mine, its)
        # Rounding alone, of activations of size 1.
        np.testing.assert_allclose(model(x), one(x), atol=1e-6)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    "name, options", [(name, options) for name in OPTIMIZERS for options in OPTIONS[name]], ids=str
)
def test_slots(name, options, ours_first):
    """Three steps with one of the two, then three with each of them, from the same slots."""
    modules = [keras_bp.optimizers, keras.optimizers]
    one, other = (getattr(m, name)(0.01, **options) for m in modules[:: 1 if ours_first else -1])
    generator = np.random.default_rng(0)
    weights = [keras.Variable(generator.normal(size=(3, 2)), name="w") for _ in range(2)]
    for optimizer, weight in zip((one, other), weights, strict=True):
        optimizer.build([weight])
    gradients = generator.normal(size=(6, 3, 2)).astype("float32")
    for gradient in gradients[:3]:
        one.apply([gradient], weights[:1])
    weights[1].assign(weights[0])
    store = {}
    one.save_own_variables(store)  # the file format
    other.load_own_variables(store)
    for mine, its in zip(other.variables, one.variables, strict=True):
        if name != "Nadam" or len(mine.shape):  # Keras's product of momentums has no name
            assert re.split("[/_]", mine.path)[-1] == re.split("[/_]", its.path)[-1]
        np.testing.assert_array_equal(mine, its)
    for gradient in gradients[3:]:
        one.apply([gradient], weights[:1])
        other.apply([gradient], weights[1:])
    # Steps of 0.01 on weights of size 1, with roundings of 6e-8 in each of three.
    np.testing.assert_allclose(weights[1], weights[0], atol=5e-7)
