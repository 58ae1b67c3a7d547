"""Every layer's values, gradients and state are Keras's, whatever the options and dtypes."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import NAMES, OPTIONS, assert_alike, built_pair, calls, observe, pair

from keras_bp import layers


@pytest.mark.parametrize("name, options, shape", OPTIONS, ids=str)
def test_values_gradients_and_state(name, options, shape):
    theirs, ours = built_pair(name, shape, dtype="float64", **options)
    x = np.random.default_rng(1).normal(1.0, 2.0, shape)
    # float64 throughout, so that only the order of operations can differ; Keras's `synchronized`
    # takes the variance as a difference of two squares, which loses three digits more.
    rtol = 1e-9 if options.get("synchronized") else 1e-12
    for call in calls(name):
        assert_alike(observe(theirs, x, **call), observe(ours, x, **call), rtol)


# Rounding of the outputs' dtype: a few units in the last place, which differ where the order of
# operations does. float16 variables hold their gradients too.
POLICIES = {
    "float32": 2e-6,
    "float64": 1e-12,
    "float16": 4e-3,
    "bfloat16": 4e-2,
    "mixed_float16": 4e-3,
    "mixed_bfloat16": 4e-2,
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_dtype_policies(name, policy):
    theirs, ours = built_pair(name, (6, 8), dtype=policy)
    assert [w.dtype for w in ours.weights] == [w.dtype for w in theirs.weights]
    x = np.random.default_rng(1).normal(size=(6, 8))
    x = x if policy == "float64" else x.astype("float32")
    call = calls(name)[0]
    assert_alike(observe(theirs, x, **call), observe(ours, x, **call), POLICIES[policy])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Normalization")])
def test_statistics_of_large_float16_inputs(name, policy):
    # 12288 +- 128, exact in both dtypes; their squares overflow float16.
    _, layer = pair(name, dtype=policy, epsilon=1e-6)
    sign = np.array([[1, -1, -1, 1], [-1, 1, 1, -1]] * 3, "float32")
    outputs = layer(tf.cast(12288 + 128 * sign, layer.compute_dtype), **calls(name)[0])
    np.testing.assert_allclose(tf.cast(outputs, "float32"), sign, rtol=1e-2)
    if name == "BatchNormalization":
        # The step kept 99 % of a mean of 0 and a variance of 1.
        np.testing.assert_allclose(layer.moving_mean, np.full(4, 122.88), rtol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, np.full(4, 164.83), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("name", NAMES)
def test_integer_inputs(name, dtype):
    x = np.random.default_rng(1).integers(0, 2, (5, 6)).astype(dtype)
    for call in calls(name):
        (_, ours), (_, twin) = built_pair(name, (5, 6)), built_pair(name, (5, 6))
        expected = twin(x.astype("float32"), **call)
        np.testing.assert_allclose(ours(x, **call), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Normalization")])
def test_large_integers_under_a_float16_policy(name):
    # 100000 is over float16's range, but the statistics are taken in float32, as in Keras.
    _, layer = pair(name, dtype="mixed_float16")
    x = np.array([[100000, 100002, 99998, 100000], [100004, 99998, 100002, 100004]])
    call = calls(name)[0]
    expected = pair(name)[1](x.astype("float32"), **call)
    np.testing.assert_allclose(np.asarray(layer(x, **call), "float32"), expected, atol=2e-3)


def test_dropout_of_everything():
    layer = layers.Dropout(1)
    outputs, gradient, _ = observe(layer, np.ones((4, 6), "float32"), training=True)
    assert not outputs.any()
    assert not gradient.any()
