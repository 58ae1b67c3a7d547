"""FeedbackDense and FeedbackConv2D beside their Keras namesakes; what they take and refuse."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers

_rng = np.random.default_rng(6)
X = _rng.normal(size=(4, 5)).astype("float32")
IMAGES = _rng.normal(size=(2, 6, 5, 3)).astype("float32")
DENSE = (layers.FeedbackDense, keras.layers.Dense, {"units": 3}, X)
CONV = (layers.FeedbackConv2D, keras.layers.Conv2D, {"filters": 3, "kernel_size": 2}, IMAGES)
OPTIONS = [
    *((DENSE, {"activation": name}) for name in (None, "relu", "softmax", "gelu")),
    (DENSE, {"use_bias": False, "kernel_regularizer": "l2", "activity_regularizer": "l1"}),
    (DENSE, {"lora_rank": 2, "activation": "tanh"}),
    (CONV, {"activation": "relu"}),
    (CONV, {"use_bias": False, "strides": (1, 2), "padding": "same", "kernel_regularizer": "l2"}),
    (CONV, {"dilation_rate": 2, "bias_regularizer": "l1"}),
    (CONV, {"lora_rank": 2}),
]


def made(kind, options, feedback="random"):
    """Return the layer and Keras's, with the same weights."""
    ours, theirs, required, x = kind
    one = ours(**required, **options, feedback=feedback)
    other = theirs(**required, **options)
    for layer in (one, other):
        layer.build(x.shape)
    fixed = one.feedback_kernel
    weights = [w for w in one.weights if w is not fixed]
    for weight, its in zip(weights, other.weights, strict=True):
        assert (weight.name, weight.shape) == (its.name, its.shape)
        weight.assign(_rng.normal(size=weight.shape))
        its.assign(weight)
    return one, other


def observe(layer, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        weights = np.cos(np.arange(tf.size(y))).reshape(y.shape)
        total = tf.reduce_sum(y * weights.astype("float32")) + sum(layer.losses)
    return y, *tape.gradient(total, [x, *layer.trainable_weights])


@pytest.mark.parametrize("kind, options", OPTIONS, ids=str)
def test_all_but_the_inputs_gradient_is_that_of_the_namesake(kind, options):
    one, other = made(kind, options)
    mine, its = observe(one, kind[3]), observe(other, kind[3])
    for place, (a, b) in enumerate(zip(mine, its, strict=True)):
        if place == 1:
            assert np.abs(a - b).max() > 0.1
        else:
            # Roundings of 6e-8 of sums of some tens of terms of order 1.
            np.testing.assert_allclose(a, b, atol=2e-5)
    one.feedback_kernel.assign(tf.convert_to_tensor(one.kernel))
    np.testing.assert_allclose(observe(one, kind[3])[1], its[1], atol=2e-5)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 1, 3, 5)])
def test_dense_of_any_rank(shape):
    layer = layers.FeedbackDense(3, feedback="sign")
    x = tf.constant(_rng.normal(size=shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    assert y.shape == (*shape[:-1], 3)
    matrix = np.sign(layer.kernel) * np.abs(layer.feedback_kernel)
    np.testing.assert_allclose(tape.gradient(y, x), np.ones(y.shape) @ matrix.T, atol=1e-6)


def test_initializers():
    for layer, x, fan in [
        (layers.FeedbackDense(400), np.ones((1, 50), "float32"), 400),
        (layers.FeedbackConv2D(40, 3), np.ones((1, 4, 4, 10), "float32"), 360),
    ]:
        layer(x)
        matrix = layer.feedback_kernel.numpy()
        bound = 1 / np.sqrt(fan)
        assert 0.99 * bound < np.abs(matrix).max() <= bound
        assert np.isclose(matrix.std(), bound / np.sqrt(3), rtol=0.05)
        assert np.any(matrix != layer.kernel.numpy()) and not layer.feedback_kernel.trainable
    ones = layers.FeedbackDense(2, feedback_initializer="ones")
    ones(X)
    assert np.all(ones.feedback_kernel.numpy() == 1)
    # Layers made alike have matrices of their own.
    one, two = layers.FeedbackDense(4), layers.FeedbackDense(4)
    one(X), two(X)
    assert np.any(one.feedback_kernel.numpy() != two.feedback_kernel.numpy())


def test_it_stays_fixed_where_the_layer_is_frozen_and_thawed():
    layer = layers.FeedbackDense(2)
    layer(X)
    layer.trainable = False
    layer.trainable = True
    assert [weight.name for weight in layer.trainable_weights] == ["kernel", "bias"]


def test_integers_become_numbers():
    layer = layers.FeedbackDense(2)
    np.testing.assert_array_equal(layer(np.array([[1, 2]])), layer(np.array([[1.0, 2.0]])))


@pytest.mark.parametrize("kind", [DENSE, CONV], ids=["dense", "conv"])
def test_files(kind, tmp_path):
    """LoRA's factors are merged, the fixed matrix is kept; a namesake's file lacks it."""
    one, other = made(kind, {"lora_rank": 2})
    x = kind[3]
    model, theirs = (keras.Sequential([keras.Input(x.shape[1:]), part]) for part in (one, other))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.layers[0].feedback_kernel, one.feedback_kernel)
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-5)
    assert loaded.layers[0].get_config() == one.get_config()

    plain, _ = made(kind, {})
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    with pytest.raises(ValueError, match="must hold the `feedback_kernel`.*Received: "):
        keras.Sequential([keras.Input(x.shape[1:]), plain]).load_weights(
            tmp_path / "theirs.weights.h5"
        )


def test_quantization_of_a_model_passes_over():
    parts = [layers.FeedbackDense(5), layers.Dense(2), layers.FeedbackDense(2)]
    model = keras.Sequential([keras.Input((5,)), *parts])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize("int8")
    texts = [str(warning.message) for warning in caught]
    if keras.__version__ < "3.16":  # which asks the class, not the layer
        assert sum("`FeedbackDense` cannot be quantized. Received: " in text for text in texts) == 2
    assert [part.quantization_mode for part in parts] == [None, "int8", None]


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: layers.FeedbackDense(0), ValueError, "`units` must be a positive integer"),
        (lambda: layers.FeedbackDense(2.0), ValueError, "`units` must be a positive integer"),
        (lambda: layers.FeedbackDense(2, feedback="mirror"), ValueError, "`feedback` must be one"),
        (lambda: layers.FeedbackConv2D(2, 2, feedback=None), ValueError, "`feedback` must be one"),
        (lambda: layers.FeedbackConv2D(2, 2, groups=2), ValueError, "`groups` must be 1"),
        (
            lambda: layers.FeedbackDense(2, dtype="int8_from_float32").build((4, 5)),
            ValueError,
            "cannot be quantized",
        ),
        (
            lambda: layers.FeedbackDense(2).call(tf.sparse.from_dense(X)),
            TypeError,
            "`inputs` must be dense",
        ),
    ],
)
def test_what_is_refused(make, error, says):
    with pytest.raises(error) as raised:
        make()
    assert re.search(f"{says}.*Received: .", str(raised.value), re.DOTALL), raised.value
