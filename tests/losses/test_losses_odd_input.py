"""Predictions that no healthy model makes: finite where Keras is, but for what is listed here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import losses

NAN, INF = float("nan"), float("inf")
PROBABILITIES = [
    *([0, 0.5, 0.5], [1, 0, 0], [-0.0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1e-4, 0]),
    *([1e-6, 0.5, 0.5], [1e-6, 1e-6, 1e-6], [1e-40, 0.5, 0.5], [6e4, 1, 1], [6e4, 6e4, 6e4]),
    *([-0.1, 0.6, 0.5], [1.5, 0.2, 0.3], [-1, -1, -1], [1, -1, 0]),
    *([3e38, 3e38, 1], [-INF, 0.5, 0.5], [INF, 0.5, 0.5], [NAN, 0.5, 0.5], [NAN, NAN, NAN]),
]
LOGITS = [
    *([0, 0, 0], [20, -20, 0], [-100, 100, 0], [6e4, -6e4, 0], [6e4, 6e4, 6e4], [3e38, -3e38, 0]),
    *([1e-40, 0, 0], [INF, 0, 0], [-INF, 0, 0], [INF, INF, 0], [-INF, -INF, -INF]),
    *([NAN, 0, 0], [NAN, NAN, NAN]),
]
TARGETS = {
    "BinaryCrossentropy": [[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5], [0, 0, 0], [1, 1, 1]],
    "CategoricalCrossentropy": [[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5], [0, 0, 0]],
    "SparseCategoricalCrossentropy": [0, 1],
}
# Dtypes of the predictions and of the loss.
DTYPES = [
    *(("float16", "float16"), ("float16", "float32"), ("bfloat16", "bfloat16")),
    *(("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")),
]


def each(loss, y, x):
    """Return the loss of each row and its gradient, in float64."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(y, x)
    return tf.cast(value, "float64").numpy(), tf.cast(tape.gradient(value, x), "float64").numpy()


@pytest.mark.parametrize("dtype, of_loss", DTYPES)
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_finite_where_keras_is(name, from_logits, dtype, of_loss):
    inputs, targets = LOGITS if from_logits else PROBABILITIES, TARGETS[name]
    x = tf.cast(tf.constant(np.repeat(inputs, len(targets), 0)), dtype)
    y = tf.constant(targets * len(inputs), "int32" if name[0] == "S" else of_loss)
    options = {"from_logits": from_logits, "dtype": of_loss, "reduction": None}
    loss, gradient = each(getattr(losses, name)(**options), y, x)
    keras_loss, keras_gradient = each(getattr(keras.losses, name)(**options), y, x)
    x = tf.cast(x, "float64").numpy()
    # A NaN among the predictions is one in the loss and in its own gradient, where Keras has 0.
    nan = np.isnan(x)
    assert np.isnan(loss[nan.any(1)]).all()
    assert np.isnan(gradient[nan]).all()
    excused = nan.any(1)
    if not from_logits and name != "BinaryCrossentropy":
        # So is an infinity that is to be divided by the row's sum: Keras's Categorical does alike.
        excused |= np.isposinf(x).any(1)
    better = np.isfinite(loss) | ~np.isfinite(keras_loss) | excused
    assert better.all(), (x[~better], loss[~better], keras_loss[~better])
    better = (np.isfinite(gradient) | ~np.isfinite(keras_gradient)).all(1) | excused
    assert better.all(), (x[~better], gradient[~better], keras_gradient[~better])


@pytest.mark.parametrize("name", [name for name in TARGETS if name[0] != "B"])
def test_certain_errors_of_unnormalized_float16(name):
    """1 / sum(p) - y / max(p, e sum(p)), of which no term may exceed half of float16's range."""
    p = tf.constant([[0, 0, 0], [0, 1e-4, 0]], "float16")
    y = tf.constant([0, 0]) if name[0] == "S" else tf.one_hot([0, 0], 3, dtype="float16")
    _, gradient = each(getattr(losses, name)(dtype="float16", reduction=None), y, p)
    most, total = 65504 / 2, float(p[1, 1])
    expected = [[0, most, most], [1 / total - most, 1 / total, 1 / total]]
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=32)  # float16's rounding


def test_a_probability_beyond_one_counts_as_one():
    p, y = tf.constant([[1.5], [INF], [-2.0], [-INF]]), tf.constant([[1.0], [1.0], [0.0], [0.0]])
    loss, _ = each(losses.BinaryCrossentropy(reduction=None), y, p)
    np.testing.assert_array_equal(loss, 0)
    loss, _ = each(losses.BinaryCrossentropy(reduction=None), 1 - y, p)
    np.testing.assert_allclose(loss, -np.log(keras.config.epsilon()), rtol=1e-6)
