"""Normalizations of large batches, of hardly any examples, and of half precision."""

import keras
import numpy as np
import ops_calculus as calculus
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose
from ops_layouts import LAYOUTS, every_layout, random

from keras_bp import ops


@pytest.mark.parametrize(
    "layout, shape, known",
    [
        ("batch", (3000, 48), True),
        ("batch", (3000, 48), False),
        ("batch", (8, 16, 16, 64), False),
        ("layer", (128, 256), True),
        ("group", (4, 8, 8, 64), True),
    ],
)
def test_large_float32_batches(layout, shape, known):
    """Sizes of practice, at which another kernel may be the faster one."""
    op, twin, _, _ = LAYOUTS[layout]
    x = np.float32(random(*shape))
    gamma, beta = np.float32(1 + 0.3 * random(shape[-1])), np.float32(random(shape[-1]))
    differentiate = calculus.second_derivatives(op)
    if not known:
        signature = [tf.TensorSpec((*[None] * (len(shape) - 1), shape[-1]))]
        signature += [tf.TensorSpec(shape[-1:])] * 2
        differentiate = tf.function(differentiate, signature, autograph=False)
    actual = differentiate(*calculus.tensors([x, gamma, beta], "float32"))
    expected = calculus.second_derivatives(twin)(*calculus.tensors([x, gamma, beta]))
    # The project's bound; second derivatives subtract sums of thousands of terms.
    for part, truth, tolerance in zip(actual, expected, (1e-6, 1e-6, 1e-5), strict=True):
        calculus.assert_near(part, truth, tolerance)


KERAS_LAYERS = {
    "batch": lambda options: keras.layers.BatchNormalization(**options),
    "layer": lambda options: keras.layers.LayerNormalization(**options),
    "group": lambda options: keras.layers.GroupNormalization(**options),
}


@every_layout
@pytest.mark.parametrize("mode, rows", [("graph", 0), ("graph", 1), ("xla", 0)])
def test_batches_of_no_row_and_of_one_do_as_keras(layout, mode, rows):
    op, _, shape, options = LAYOUTS[layout]
    x = tf.constant(random(rows, *shape[1:]), "float32")
    layer = KERAS_LAYERS[layout.split(",")[0]](options)
    features = np.prod([shape[a] for a in np.atleast_1d(options.get("axis", -1))])
    if layout == "layer, axes 0, 2":
        features = rows * shape[2]
    weights = [tf.ones(features), tf.zeros(features)]
    batch = None if mode == "graph" and layout != "layer, axes 0, 2" else rows
    signature = [
        tf.TensorSpec((batch, *shape[1:])),
        tf.TensorSpec(features),
        tf.TensorSpec(features),
    ]
    differentiate = tf.function(
        calculus.first_derivatives(op), signature, autograph=False, jit_compile=mode == "xla"
    )
    y, gradients = differentiate(x, *weights)
    training = {"training": True} if layout.startswith("batch") else {}
    y_keras, [dx_keras] = calculus.first_derivatives(lambda x: layer(x, **training))(x)
    assert_allclose(y, y_keras, atol=2e-6)
    # Keras's own rounding at one row, where terms of 1/sqrt(epsilon) = 32 cancel.
    assert_allclose(gradients[0], dx_keras, atol=1e-4)
    assert [g.shape for g in gradients] == [x.shape, (features,), (features,)]
    assert all(np.isfinite(g).all() for g in gradients)
    if not rows:
        assert not any(np.any(g) for g in gradients)


def test_the_statistics_of_one_row_are_those_of_keras_and_those_of_no_row_are_0():
    x = tf.constant(random(1, 3), "float32")
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    _, mean, variance = ops.batch_normalization(x)
    assert_allclose(mean, layer.moving_mean, rtol=1e-6)
    assert_allclose(variance, layer.moving_variance, atol=1e-12)
    layer(x[:0], training=True)
    _, mean, variance = ops.batch_normalization(x[:0])
    assert not np.any(mean) and not np.any(variance)
    # Keras's spread from here to all weights.
    assert np.isnan(layer.moving_mean).all()


@every_layout
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_ten_thousand_does_not_overflow(layout, dtype):
    """The squares, 1e8, are beyond float16's 65504; sums of three inputs are near it."""
    op, twin, shape, _ = LAYOUTS[layout]
    x = tf.cast(1e4 * (1 + random(*shape)), dtype)
    y, [dx] = calculus.first_derivatives(op)(x)
    assert y.dtype == dx.dtype == x.dtype
    y_twin, _ = calculus.first_derivatives(twin)(tf.cast(x, tf.float64))
    # Rounded once, at the end: half a unit in the last place of numbers up to 4.
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert_allclose(tf.cast(y, tf.float64), y_twin, rtol=unit * 1.01, atol=1e-6)
    # The gradient of 1e-4 and less fits into float16's subnormals only.
    assert np.isfinite(tf.cast(dx, tf.float32)).all()
    weights = {"gamma": tf.fill(shape[1:2], tf.cast(1.5, dtype))}
    if layout == "batch":
        result = ops.batch_normalization(x, **weights)
        assert result.mean.dtype == result.variance.dtype == tf.float32
        wide = np.float64(tf.cast(x, tf.float64))
        assert_allclose(result.mean, wide.mean(0), rtol=1e-6)
        assert_allclose(result.variance, wide.var(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_of_another_dtype_get_gradients_of_their_own(dtype):
    """Keras holds gamma and beta in float32 beside float16 inputs."""
    x, weight = tf.cast(random(4, 6), dtype), tf.ones(6)
    for name in ("batch", "layer", "group"):
        op = LAYOUTS[name].op
        with tf.GradientTape() as tape:
            tape.watch([x, weight])
            y = op(x, weight, weight)
        dx, dweight = tape.gradient(y, [x, weight])
        assert (y.dtype, dx.dtype, dweight.dtype) == (x.dtype, x.dtype, tf.float32), name
