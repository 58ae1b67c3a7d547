"""Batch normalization in NumPy against its definition and central differences."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import reference


@pytest.fixture
def layer():
    layer = reference.BatchNormalization(3)
    layer.gamma[:] = [[1.5], [-0.5], [2.0]]
    layer.beta[:] = [[0.3], [0.0], [-1.0]]
    return layer


def draw(m, seed=0):
    return np.random.default_rng(seed).standard_normal((3, m)) * 2.0 + 1.0


def test_forward_normalizes_each_feature(layer):
    Z = draw(50)
    Y, _ = layer.forward(Z)
    # In the sum over the examples, feature by feature, with NumPy's own variance.
    expected = [
        layer.gamma[i, 0] * (Z[i] - np.mean(Z[i])) / np.sqrt(np.var(Z[i]) + 1e-5) + layer.beta[i, 0]
        for i in range(3)
    ]
    assert_allclose(Y, expected, rtol=1e-13)


# m = 1: the output is beta whatever comes in, so that the gradient of the input is 0.
@pytest.mark.parametrize("m", [1, 2, 7, 64])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_backward_agrees_with_central_differences(layer, m, epsilon):
    layer.epsilon = epsilon
    Z, dY = draw(m), draw(m, seed=1)
    analytic = layer.backward(dY, layer.forward(Z)[1])
    numerical = reference.numerical_gradients(
        lambda: float(np.sum(dY * layer.forward(Z)[0])), [Z, layer.gamma, layer.beta]
    )
    assert reference.relative_difference(analytic, numerical) < 1e-8
    if m == 1:
        assert_array_equal(analytic[0], np.zeros((3, 1)))


def test_the_input_gradient_is_orthogonal_to_what_normalization_removes(layer):
    # A shift of z changes nothing, nor does a scale (up to epsilon): no gradient points there.
    Z, dY = draw(20), draw(20, seed=1)
    layer.epsilon = 1e-15
    _, cache = layer.forward(Z)
    dZ, _, _ = layer.backward(dY, cache)
    assert_allclose(dZ.sum(axis=1), 0.0, atol=1e-12)
    assert_allclose(np.sum(dZ * Z, axis=1), 0.0, atol=1e-12)


def test_a_thousandth_off_is_found(layer):
    Z, dY = draw(8), draw(8, seed=1)
    dZ, _, _ = layer.backward(dY, layer.forward(Z)[1])
    numerical = reference.numerical_gradients(lambda: float(np.sum(dY * layer.forward(Z)[0])), [Z])
    assert reference.relative_difference([1.001 * dZ], numerical) > 1e-4


def test_running_statistics_follow_the_batches(layer):
    batches = [draw(10, seed) for seed in range(3)]
    for Z in batches:
        layer.forward(Z)
    # After three batches: 0.9^3 of the start, then 0.1 * 0.9^2, 0.1 * 0.9 and 0.1 of each batch.
    weights = [0.081, 0.09, 0.1]
    mean = sum(w * Z.mean(axis=1) for w, Z in zip(weights, batches, strict=True))
    variance = 0.729 + sum(w * Z.var(axis=1) for w, Z in zip(weights, batches, strict=True))
    assert_allclose(layer.running_mean[:, 0], mean, rtol=1e-13)
    assert_allclose(layer.running_variance[:, 0], variance, rtol=1e-13)


def test_inference_uses_the_running_statistics_and_leaves_them(layer):
    layer.running_mean = np.array([[1.0], [2.0], [3.0]])
    layer.running_variance = np.array([[4.0], [9.0], [16.0]])
    Z = np.array([[3.0, 1.0], [5.0, 2.0], [7.0, 3.0]])
    # One deviation above the mean, then on it; epsilon takes about 1e-6 off.
    expected = layer.gamma * [[1.0, 0.0]] + layer.beta
    assert_allclose(layer.infer(Z), expected, atol=1e-5)
    assert_allclose(layer.infer(Z)[:, [0]], layer.infer(Z[:, [0]]), rtol=1e-15)
    assert_array_equal(layer.running_mean, [[1.0], [2.0], [3.0]])
    assert_array_equal(layer.running_variance, [[4.0], [9.0], [16.0]])


def test_momentum_zero_takes_the_last_batch():
    layer = reference.BatchNormalization(3, momentum=0.0)
    Z = draw(9)
    Y, _ = layer.forward(Z)
    assert_allclose(layer.infer(Z), Y, rtol=1e-12, atol=1e-14)


def test_a_constant_feature_stays_finite():
    layer = reference.BatchNormalization(1)
    Y, cache = layer.forward([[5.0, 5.0, 5.0]])
    assert_array_equal(Y, np.zeros((1, 3)))
    assert np.isfinite(layer.backward([[1.0, 2.0, 3.0]], cache)[0]).all()


@pytest.mark.parametrize(
    "keywords, error, message",
    [
        ({"units": 0}, ValueError, "`units`.*Received: units=0"),
        ({"units": 2.0}, TypeError, "Received: units=2.0"),
        ({"units": 1, "momentum": 1.0}, ValueError, r"`momentum`.*\[0, 1\)"),
        ({"units": 1, "momentum": -0.1}, ValueError, "Received: momentum=-0.1"),
        ({"units": 1, "epsilon": 0.0}, ValueError, r"`epsilon`.*\(0, inf\)"),
    ],
)
def test_wrong_arguments(keywords, error, message):
    with pytest.raises(error, match=message):
        reference.BatchNormalization(**keywords)


def test_wrong_shapes(layer):
    for method in (layer.forward, layer.infer):
        with pytest.raises(ValueError, match=r"`Z` must have the shape \(3, m >= 1\).*Received"):
            method(np.zeros((2, 5)))
    _, cache = layer.forward(np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"`dY` must have the shape \(3, 5\).*\(3, 1\)"):
        layer.backward(np.zeros((3, 1)), cache)
