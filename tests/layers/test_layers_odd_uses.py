"""What is odd but legal in Keras is legal here too, and does the same."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    NAMES,
    assert_alike,
    built_pair,
    calls,
    observe,
    pair,
    share_random_weights,
)

from keras_bp import layers

X = np.random.default_rng(2).normal(size=(3, 5)).astype("float32")


@dataclasses.dataclass
class Scaled:
    """An activation that Python cannot hash, as every mutable dataclass."""

    factor: float = 2.0

    def __call__(self, x):
        return self.factor * x


@pytest.mark.parametrize(
    "activation",
    [Scaled(), keras.layers.LeakyReLU(0.3), tf.nn.relu, lambda x: x * x, keras.ops.tanh],
    ids=["unhashable", "layer", "tensorflow", "lambda", "keras.ops"],
)
def test_any_callable_is_an_activation(activation):
    theirs, ours = built_pair("Dense", X.shape, activation=activation)
    assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


@pytest.mark.parametrize("activation", [None, keras.activations.tanh, keras.activations.linear])
def test_the_activation_can_be_replaced(activation):
    """Taking the softmax off a trained model is how its logits are looked at."""
    theirs, ours = built_pair("Dense", X.shape, activation="softmax")
    for layer in (theirs, ours):
        layer(X)
        layer.activation = activation
    assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dense_without_autocast(dtype):
    """With `autocast=False` inputs keep their dtype, and the result is of the wider one."""
    theirs, ours = built_pair("Dense", X.shape, autocast=False)
    results = [layer(tf.cast(X, dtype)) for layer in (theirs, ours)]
    assert results[1].dtype == results[0].dtype
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name, axis",
    [
        ("BatchNormalization", np.int64(1)),
        ("GroupNormalization", np.int64(-1)),
        ("LayerNormalization", [np.int64(1)]),
    ],
)
def test_axes_from_numpy(name, axis):
    results = [layer(X[:, :4]).numpy() for layer in pair(name, axis=axis)]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)


# Keras warns of its own deprecated argument, when the layer is made and when it is called.
@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`:UserWarning")
def test_the_deprecated_scaling_of_layer_normalization():
    theirs, ours = built_pair("LayerNormalization", X.shape, rms_scaling=True)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights] == ["gamma"]
    assert_alike(observe(theirs, X), observe(ours, X), 1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        [[True], [False], [True]],
        [[True, True, False, True]],
        pytest.param(
            [[1.0, 0.0, 2.0, 0.0]] * 3,
            marks=pytest.mark.skipif(keras.__version__ < "3.15", reason="Keras takes weights"),
        ),
    ],
    ids=["a row each", "all rows alike", "numbers"],
)
@pytest.mark.parametrize("axis", [-1, 1])
def test_masks_that_broadcast(mask, axis):
    """A mask need only broadcast to the batch and steps, and counts as in the full shape."""
    x = np.random.default_rng(3).normal(1.0, 2.0, (3, 4, 2)).astype("float32")
    theirs, ours = built_pair("BatchNormalization", x.shape, axis=axis, momentum=0.0)
    call = {"training": True, "mask": tf.constant(mask)}
    # Keras adds 1e-7 to the count of what the mask lets through.
    assert_alike(observe(theirs, x, **call), observe(ours, x, **call), 1e-5)


def test_a_mask_that_lets_nothing_through():
    """There is no batch then whose statistics could be: Keras's averages move to 0."""
    x = np.random.default_rng(3).normal(1.0, 2.0, (3, 4, 2)).astype("float32")
    theirs, ours = built_pair("BatchNormalization", x.shape, momentum=0.5)
    before = [w.numpy() for w in ours.non_trainable_variables]
    call = {"training": True, "mask": tf.zeros((3, 4), tf.bool)}
    expected, found = observe(theirs, x, **call), observe(ours, x, **call)
    assert_alike([*expected[:-2], *before], found, 1e-5)


def test_averages_forget_larger_ones_as_far_as_their_momentum_says():
    """A difference to the old average, of 1e6, would leave its rounding behind."""
    x = np.random.default_rng(3).normal(size=(16, 2)).astype("float32")
    layer = layers.BatchNormalization(momentum=0.0)
    for scale in 1e3, 1e-3:
        layer(scale * x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 1e-3 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 1e-6 * x.var(0), rtol=1e-5)


def test_a_mask_of_one_entry():
    x = np.random.default_rng(3).normal(1.0, 2.0, (1, 4, 2)).astype("float32")
    layer = layers.BatchNormalization(momentum=0.0)
    layer(x, training=True, mask=tf.constant([[True]]))
    np.testing.assert_allclose(layer.moving_mean, x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, x.var((0, 1)), rtol=1e-5)


def test_a_mask_over_a_single_channel():
    # 0, 1 and 3 count.
    x = np.arange(6.0, dtype="float32").reshape(2, 3, 1)
    layer = layers.BatchNormalization(momentum=0.0)
    layer(x, training=True, mask=tf.constant([[True, True, False], [True, False, False]]))
    np.testing.assert_allclose(layer.moving_mean, [4 / 3], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [14 / 9], rtol=1e-6)


def test_a_nan_behind_the_mask():
    x = np.array([[[1.0], [3.0], [np.nan]], [[5.0], [7.0], [np.nan]]], "float32")
    layer = layers.BatchNormalization(momentum=0.0)
    layer(x, training=True, mask=tf.constant([[True, True, False]] * 2))
    np.testing.assert_allclose([layer.moving_mean[0], layer.moving_variance[0]], [4.0, 5.0])


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_sparse_inputs_of_dense(dtype):
    dense = np.array([[0, 1, 0, 2, 0], [3, 0, 0, 0, 0]])
    sparse = tf.sparse.from_dense(tf.cast(dense, dtype))
    theirs, ours = built_pair("Dense", dense.shape, activation="relu")
    results = [layer(sparse).numpy() for layer in (theirs, ours)]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    np.testing.assert_allclose(results[1], ours(dense.astype("float32")), rtol=1e-6)


def test_sparse_inputs_of_a_model():
    x = np.random.default_rng(1).normal(size=(8, 5)) * (np.arange(40).reshape(8, 5) % 3 == 0)
    sparse = tf.sparse.from_dense(x.astype("float32"))
    models = []
    for module in (keras.layers, layers):
        sizes = [module.Dense(4, "relu"), module.Dense(1)]
        models.append(keras.Sequential([keras.Input((5,), sparse=True), *sizes]))
        models[-1].compile(keras.optimizers.SGD(0.1), "mse")
    share_random_weights(*models)
    histories = [m.fit(sparse, np.ones((8, 1)), epochs=2, verbose=0).history for m in models]
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ragged_inputs(name):
    """Where Keras takes a ragged tensor, so do we; where it raises, we do not guess either."""
    ragged = tf.RaggedTensor.from_row_lengths(tf.reshape(tf.range(24.0), (6, 4)), [1, 3, 2])
    theirs, ours = built_pair(name, (None, None, 4))
    for call in calls(name):
        try:
            expected = theirs(ragged, **call)
        except Exception as error:
            with pytest.raises(type(error)):
                ours(ragged, **call)
            continue
        result = ours(ragged, **call)
        assert type(result) is type(expected)
        flat = [getattr(t, "flat_values", t) for t in (result, expected)]
        np.testing.assert_allclose(*flat, rtol=1e-5, atol=1e-6)


def test_unknown_batches_and_steps():
    """Only the channels must be known when a function is traced; the rest may vary."""
    shapes = {
        "BatchNormalization": (None, None, 4),
        "Dense": (None, None, 4),
        "Dropout": (None, None, None),
        "GroupNormalization": (None, None, 4),
        "LayerNormalization": (None, None, 4),
    }
    assert set(shapes) == set(NAMES)
    for name, shape in shapes.items():
        theirs, ours = built_pair(name, (None, None, 4))
        for layer in (theirs, ours):
            layer.traced = tf.function(
                layer, input_signature=[tf.TensorSpec(shape)], autograph=False
            )
        for size in ((2, 3, 4), (5, 1, 4)):
            x = np.random.default_rng(0).normal(size=size).astype("float32")
            np.testing.assert_allclose(ours.traced(x), theirs.traced(x), rtol=1e-5, atol=1e-6)
