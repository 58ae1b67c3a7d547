"""LoRA and quantization of Dense are those of Keras's Dense."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import assert_alike, built_pair, observe, share_random_weights

from keras_bp import layers

X = np.random.default_rng(4).normal(size=(6, 8)).astype("float32")


def models():
    """Return two small models, of Keras's layers and of ours, with the same weights."""
    made = []
    for module in (keras.layers, layers):
        parts = [module.Dense(5, "relu"), module.BatchNormalization(), module.Dense(3, "softmax")]
        made.append(keras.Sequential([keras.Input((8,)), *parts]))
    share_random_weights(*made)
    return made


def test_lora_trains_its_factors_only(tmp_path):
    losses, predictions = [], []
    for model in models():
        dense = model.layers[0]
        keras.utils.set_random_seed(0)
        dense.enable_lora(2, lora_alpha=3)
        assert [w.name for w in dense.trainable_weights] == [
            "bias",
            "lora_kernel_a",
            "lora_kernel_b",
        ]
        before = {w.name: w.numpy() for w in dense.weights}
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        labels = np.arange(6) % 3
        losses.append(model.fit(X, labels, epochs=3, shuffle=False, verbose=0).history["loss"])
        moved = {w.name: not np.array_equal(w, before[w.name]) for w in dense.weights}
        assert moved == {
            "kernel": False,
            "bias": True,
            "lora_kernel_a": True,
            "lora_kernel_b": True,
        }
        predictions.append(model(X).numpy())

        # A file holds the merged kernel: a model without LoRA predicts the same from it.
        model.save_weights(tmp_path / "lora.weights.h5")
        for plain in models():
            plain.load_weights(tmp_path / "lora.weights.h5")
            np.testing.assert_allclose(plain(X), predictions[-1], atol=1e-6)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(predictions[1], predictions[0], atol=1e-6)


def test_lora_with_a_float16_policy():
    theirs, ours = built_pair("Dense", X.shape, dtype="mixed_float16", lora_rank=2, lora_alpha=4)
    assert_alike(observe(theirs, X), observe(ours, X), 4e-3)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("activation", [None, "relu", "softmax"])
def test_quantized_layer(mode, activation):
    theirs, ours = built_pair("Dense", X.shape, activation=activation)
    for layer in (theirs, ours):
        layer.quantize(mode)
    assert [(w.name, w.dtype) for w in ours.weights] == [(w.name, w.dtype) for w in theirs.weights]
    assert ours.dtype_policy.name == theirs.dtype_policy.name
    if mode == "float8":  # Keras cannot differentiate it eagerly; `test_float8_training` does.
        np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-6, atol=1e-6)
    else:
        assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


def test_quantization_of_blocks():
    config = keras.quantizers.Int4QuantizationConfig(block_size=4)
    theirs, ours = built_pair("Dense", X.shape)
    for layer in (theirs, ours):
        layer.quantize("int4", config=config)
    assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


def test_lora_then_quantization():
    theirs, ours = built_pair("Dense", X.shape, lora_rank=2)
    for layer in (theirs, ours):
        layer.quantize("int8")
    assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.filterwarnings("ignore:.model.quantize.*were skipped:UserWarning")  # of Keras 3.16
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_model(mode, tmp_path):
    """`model.quantize` warns of each layer that it cannot quantize, as of Keras's own."""
    theirs, ours = models()
    for model in (theirs, ours):
        model.quantize(mode)
    expected = theirs(X)
    np.testing.assert_allclose(ours(X), expected, atol=1e-6)
    assert ours.layers[0].quantization_mode == mode
    ours.save(tmp_path / "quantized.keras")
    loaded = keras.saving.load_model(tmp_path / "quantized.keras")
    assert type(loaded.layers[0]) is layers.Dense
    np.testing.assert_allclose(loaded(X), expected, atol=1e-6)


def test_float8_training():
    histories = []
    for model in models():
        model.layers[0].quantize("float8")
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        labels = np.arange(6) % 3
        histories.append(model.fit(X, labels, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-6)


def test_quantized_from_the_start():
    theirs, ours = (m.Dense(3, dtype="int8_from_float32") for m in (keras.layers, layers))
    for layer in (theirs, ours):
        layer.build(X.shape)
    assert [(w.name, w.dtype) for w in ours.weights] == [(w.name, w.dtype) for w in theirs.weights]
    assert ours(X).shape == (6, 3)


@pytest.mark.parametrize("module", [keras.layers, layers], ids=["keras", "keras_bp"])
def test_a_subclass_is_not_quantized_unless_asked(module):
    class Doubled(module.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs, training=training)

    layer = Doubled(3)
    layer.build(X.shape)
    with pytest.raises(NotImplementedError, match="Doubled"):
        layer.quantize("int8")
    layer.quantize("int8", type_check=False)
    assert layer.quantization_mode == "int8"


def test_wrong_quantization():
    layer = layers.Dense(3)
    with pytest.raises(ValueError, match="built"):
        layer.quantize("int8")
    layer.build(X.shape)
    with pytest.raises(ValueError, match="int7"):
        layer.quantize("int7")
    layer.quantize("int8")
    with pytest.raises(ValueError, match="already quantized"):
        layer.quantize("int8")
    assert np.all(np.isfinite(layer(tf.constant(X))))
