"""Activations and cross-entropies against closed forms, differences and high precision."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import reference

# From far below to far above where exp over- or underflows; no entry is 0, ReLU's kink.
POINTS = np.array([-1e4, -710.0, -40.0, -3.0, -0.5, 1e-3, 0.5, 3.0, 40.0, 710.0, 1e4])


def exact(function, z):
    """Evaluate a function of exp(z), given and returned as Decimals, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return float(function(Decimal(z).exp()))


# 1e-15 is about four roundings; a result below 1e-300 is compared as 0, as float64 itself loses
# digits there.
@pytest.mark.parametrize(
    "function, of_exponential",
    [
        (reference.sigmoid, lambda e: e / (1 + e)),
        (reference.sigmoid_derivative, lambda e: e / (1 + e) ** 2),
        (reference.tanh, lambda e: (e**2 - 1) / (e**2 + 1)),
        (reference.tanh_derivative, lambda e: 4 * e**2 / (1 + e**2) ** 2),
    ],
    ids=lambda argument: getattr(argument, "__name__", ""),
)
def test_smooth_activations_are_accurate_everywhere(function, of_exponential):
    expected = [exact(of_exponential, z) for z in POINTS]
    assert_allclose(function(POINTS), expected, rtol=1e-15, atol=1e-300)


def test_piecewise_linear_activations():
    Z = [-2.0, 0.0, 3.0]
    assert_array_equal(reference.relu(Z), [0.0, 0.0, 3.0])
    assert_array_equal(reference.relu_derivative(Z), [0.0, 0.0, 1.0])
    assert_array_equal(reference.linear(Z), Z)
    assert_array_equal(reference.linear_derivative(Z), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["linear", "relu", "sigmoid", "tanh"])
def test_derivatives_against_differences(name):
    Z = np.array([[-2.0, -0.3, 0.4], [1.5, 3.0, -0.1]])
    function = getattr(reference, name)
    analytic = getattr(reference, f"{name}_derivative")(Z)
    numerical = reference.numerical_gradients(lambda: float(function(Z).sum()), [Z])
    assert reference.relative_difference([analytic], numerical) < 1e-8


def test_softmax():
    Z = np.array([[1.0, 1e4, -1e4], [2.0, 0.0, -1e4], [3.0, -1e4, -1e4]])
    A = reference.softmax(Z)
    e = np.exp([1.0, 2.0, 3.0])
    assert_allclose(A[:, 0], e / e.sum(), rtol=1e-15)
    assert_array_equal(A[:, 1], [1.0, 0.0, 0.0])
    assert_allclose(A[:, 2], 1 / 3, rtol=1e-15)


def test_softmax_backward_against_differences():
    generator = np.random.default_rng(0)
    Z, dA = generator.standard_normal((2, 4, 3))
    analytic = reference.softmax_backward(dA, Z)
    numerical = reference.numerical_gradients(lambda: float(np.sum(dA * reference.softmax(Z))), [Z])
    assert reference.relative_difference([analytic], numerical) < 1e-8


def test_every_function_returns_float64():
    for name in reference.__all__:
        function = getattr(reference, name)
        if function.__module__.endswith(".activations"):
            arguments = [np.ones((2, 2), "float32")] * (1 + name.endswith("_backward"))
            assert function(*arguments).dtype == np.float64, name


def test_the_closed_form_is_the_chain_rule_of_cross_entropy_and_activation():
    generator = np.random.default_rng(1)
    Z = generator.standard_normal((3, 5))
    Y = np.eye(3)[:, [0, 2, 1, 1, 0]]
    P = reference.sigmoid(Z)
    through_sigmoid = (-Y / P + (1 - Y) / (1 - P)) * reference.sigmoid_derivative(Z)
    assert_allclose(through_sigmoid, P - Y, rtol=1e-13)
    P = reference.softmax(Z)
    assert_allclose(reference.softmax_backward(-Y / P, Z), P - Y, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("z", POINTS)
def test_binary_cross_entropy_is_exact_where_saturated(z, label):
    expected = exact(
        lambda e: -Decimal(label) * (e / (1 + e)).ln() + (1 - Decimal(label)) * (1 + e).ln(), z
    )
    computed = reference.binary_cross_entropy([[z]], [[label]])
    # The Decimal twin itself has 60 digits, of which 1 + e^-40 and its like take 18.
    assert_allclose(computed, expected, rtol=1e-15, atol=1e-40)


@pytest.mark.parametrize("z", POINTS)
def test_two_class_softmax_is_the_sigmoid(z):
    Y = np.array([[0.0, 0.3, 1.0]])
    Z = np.full((1, 3), z)
    categorical = reference.categorical_cross_entropy(
        np.concatenate([Z, np.zeros_like(Z)]), np.concatenate([Y, 1.0 - Y])
    )
    assert_allclose(categorical, reference.binary_cross_entropy(Z, Y), rtol=1e-15)
    # Alone, the saturated column shows whether its tiny loss survives.
    saturated = reference.categorical_cross_entropy([[abs(z)], [0.0]], [[1.0], [0.0]])
    assert_allclose(saturated, reference.binary_cross_entropy([[abs(z)]], [[1.0]]), rtol=1e-15)


def test_cross_entropies_sum_over_units_and_average_over_examples():
    Z = np.array([[0.5, -1.0], [2.0, 0.1]])
    Y = np.array([[1.0, 0.0], [0.0, 1.0]])
    P = 1 / (1 + np.exp(-Z))
    expected = -(np.log(P[0, 0]) + np.log(1 - P[1, 0]) + np.log(1 - P[0, 1]) + np.log(P[1, 1])) / 2
    assert_allclose(reference.binary_cross_entropy(Z, Y), expected, rtol=1e-14)
    P = np.exp(Z) / np.exp(Z).sum(axis=0)
    expected = -(np.log(P[0, 0]) + np.log(P[1, 1])) / 2
    assert_allclose(reference.categorical_cross_entropy(Z, Y), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "name, Y, message",
    [
        ("binary_cross_entropy", [[0.0, 1.0]], r"`Y` must have the shape \(2, 2\)"),
        ("binary_cross_entropy", [[0.0, 1.1], [0.0, 0.0]], r"\[0, 1\].*maximum 1.1"),
        ("binary_cross_entropy", [[0.0, -0.1], [0.0, 0.0]], r"\[0, 1\].*minimum -0.1"),
        ("binary_cross_entropy", [[0.0, np.nan], [0.0, 0.0]], r"\[0, 1\].*nan"),
        ("categorical_cross_entropy", [[1.0, 1.0], [0.0, 1.0]], "sum to 1.*between 1.0 and 2.0"),
        ("categorical_cross_entropy", [0.0, 1.0], r"Received: Y.shape=\(2,\)"),
    ],
)
def test_wrong_labels(name, Y, message):
    with pytest.raises(ValueError, match=message):
        getattr(reference, name)(np.zeros((2, 2)), Y)


def test_smoothed_labels_from_float32_are_a_distribution():
    Y = np.full((3, 1), 1 / 3, dtype="float32")
    assert_allclose(reference.categorical_cross_entropy(np.zeros((3, 1)), Y), np.log(3), rtol=1e-6)
