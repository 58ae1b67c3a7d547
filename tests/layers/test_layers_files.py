"""Weights, copies and exports pass between Keras's layers and ours, with the same predictions."""

import copy
import pickle

import keras
import numpy as np
import pytest
from layer_cases import NAMES

from keras_bp import layers

X = np.random.default_rng(0).normal(1.0, 2.0, (24, 4, 4, 2)).astype("float32")
Y = np.arange(24) % 3


def network(module, prepare=lambda model: None):
    """A model of every layer, of `keras.layers` or of ours, around a convolution."""
    parts = [
        module.BatchNormalization(axis=1, momentum=0.5),
        keras.layers.Conv2D(4, 2, use_bias=False),
        module.BatchNormalization(momentum=0.5),
        module.GroupNormalization(groups=2),
        module.LayerNormalization(axis=[1, 2]),
        keras.layers.Flatten(),
        module.Dropout(0.2, seed=1),
        module.Dense(5, "relu"),
        module.Dense(3, "softmax"),
    ]
    assert {type(part).__name__ for part in parts} > set(NAMES)
    model = keras.Sequential([keras.Input((4, 4, 2)), *parts])
    prepare(model)
    return model


def add_lora(model):
    model.layers[-2].enable_lora(2)


def quantize(model):
    model.layers[-2].quantize("int8")


@pytest.fixture(scope="module")
def trained():
    """Both networks, trained for an epoch."""
    models = {}
    for module in (keras.layers, layers):
        keras.utils.set_random_seed(3)
        models[module] = network(module)
        options = {"loss": "sparse_categorical_crossentropy", "run_eagerly": True}
        models[module].compile(keras.optimizers.SGD(0.1), **options)
        models[module].fit(X, Y, batch_size=8, verbose=0)
    return models


@pytest.mark.parametrize("source, target", [(keras.layers, layers), (layers, keras.layers)])
def test_weights_pass_both_ways(trained, source, target, tmp_path):
    model = trained[source]
    model.save_weights(tmp_path / "model.weights.h5")
    other = network(target)
    other.load_weights(tmp_path / "model.weights.h5")
    for mine, its in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine, its, err_msg=mine.path)
    np.testing.assert_allclose(other(X), model(X), atol=1e-6)
    # The optimizer's file format, which the order of the variables is, is the same too.
    assert [w.shape for w in other.trainable_weights] == [w.shape for w in model.trainable_weights]


@pytest.mark.parametrize("prepare", [add_lora, quantize])
@pytest.mark.parametrize("source, target", [(keras.layers, layers), (layers, keras.layers)])
def test_weights_of_prepared_layers_pass_both_ways(prepare, source, target, tmp_path):
    model = network(source, prepare)
    for weight in model.layers[-2].trainable_weights:
        weight.assign(np.cos(np.arange(weight.numpy().size)).reshape(weight.shape))
    model.save_weights(tmp_path / "model.weights.h5")
    other = network(target, prepare)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(other(X), model(X), atol=1e-6)


def test_a_keras_model_becomes_ours_by_cloning(trained):
    """The way to take over a model that was built with keras.layers."""

    def replace(layer):
        cls = getattr(layers, type(layer).__name__, type(layer))
        return cls.from_config(layer.get_config())

    model = trained[keras.layers]
    clone = keras.models.clone_model(model, clone_function=replace)
    assert sum(type(layer).__module__.startswith("keras_bp") for layer in clone.layers) == 7
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(X), model(X), atol=1e-6)


def test_copies_of_a_model(trained):
    model = trained[layers]
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (clone, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(layer) for layer in other.layers] == [type(layer) for layer in model.layers]
        np.testing.assert_allclose(other(X), model(X), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*tf.lite:UserWarning")
def test_conversion_to_tensorflow_lite(trained, tmp_path):
    """A phone runs an inference model of ours as it does one of Keras's."""
    path = tmp_path / "model.tflite"
    trained[layers].export(str(path), format="litert", verbose=False)
    assert path.stat().st_size > 0
