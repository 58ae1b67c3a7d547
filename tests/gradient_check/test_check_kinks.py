"""Kinks are told apart from wrong gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradient_check import check_gradients
from keras_bp.gradient_check.numeric import compare

EPSILON = 1e-5


def _compare(function, theta, analytic, noise=1e-16):
    """Run `compare` on a NumPy function of one number, at each of several values.

    Every entry has a J of its own here, of which the value at the entry is taken off, since
    `compare` knows one J(0).
    """
    theta, analytic = np.asarray(theta, float), np.asarray(analytic, float)

    def along(entries, offsets):
        base = function(theta[entries])
        return np.stack([function(theta[entries] + o) - base for o in offsets], axis=1)

    return compare(along, theta, analytic, 0.0, noise, EPSILON)


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.3, -2.0), (1.0, 1.01)])
def test_a_kink_anywhere_within_the_step_is_no_fault(slopes):
    """Distances to the kink from far outside the step to 1e-12 of it, on both sides."""
    low, high = slopes
    near = np.concatenate([np.linspace(0.01, 1.3, 130), 10.0 ** -np.arange(3.0, 13.0)])
    theta = EPSILON * np.concatenate([-near, near])
    slope = np.where(theta > 0, high, low)

    def function(x):
        return 0.7 + np.where(x > 0, high, low) * x + 0.2 * np.sin(x)

    found = _compare(function, theta, slope + 0.2 * np.cos(theta))
    assert not found.faults.any()
    # Outside the step there is nothing to excuse.
    assert not found.kinks[np.abs(theta) > EPSILON].any()
    # Well inside it a kink is seen, or lies so near that only another point can decide.
    inside = (np.abs(theta) < 0.9 * EPSILON) & (np.abs(theta) > 2e-3 * EPSILON)
    assert found.kinks[inside].all()


@pytest.mark.parametrize("off", [1.001, 0.999, -1.0, 0.0])
def test_a_wrong_slope_is_not_taken_for_a_kink(off):
    """The same kinks, with a slope that is off: none may be accepted."""
    near = np.concatenate([np.linspace(0.01, 1.3, 130), 10.0 ** -np.arange(3.0, 13.0)])
    theta = EPSILON * np.concatenate([-near, near])
    slope = np.where(theta > 0, 2.0, 0.5) + 0.2 * np.cos(theta)

    def function(x):
        return np.where(x > 0, 2.0, 0.5) * x + 0.2 * np.sin(x)

    found = _compare(function, theta, off * slope)
    assert not found.kinks.any()
    # Nearer than a thousandth of the step a kink is as good as at the value itself.
    far = np.abs(theta) > 1e-3 * EPSILON
    assert found.faults[far].all()
    assert (found.faults | found.undecided).all()


def test_a_kink_at_a_third_of_the_step_is_seen():
    """There both one-sided slopes happen to be equal, and only the central ones tell."""
    theta = np.array([-EPSILON / 3.0])
    found = _compare(lambda x: np.maximum(x, 0.0), theta, np.array([0.0]))
    assert found.kinks.all() and not found.faults.any()


def test_kinks_on_both_sides_are_resolved_with_a_shorter_step():
    def function(x):
        return np.abs(x - 0.5 * EPSILON) + np.abs(x + 0.3 * EPSILON) + 3.0 * x

    right, wrong = (_compare(function, [0.0], [slope]) for slope in (3.0, 3.01))
    assert right.kinks.all() and not right.faults.any()
    assert wrong.faults.all() and not wrong.kinks.any()


def test_a_sharp_but_smooth_bend_is_no_fault():
    """A third derivative of 1e10 makes the central difference wrong by a sixth."""
    theta = np.linspace(-1e-4, 1e-4, 41)
    right = _compare(lambda x: np.sin(1e5 * x) / 1e5, theta, np.cos(1e5 * theta))
    wrong = _compare(lambda x: np.sin(1e5 * x) / 1e5, theta, 1.001 * np.cos(1e5 * theta))
    assert not right.faults.any()
    assert wrong.faults.mean() > 0.9 and not wrong.kinks.any()


def test_an_infinite_neighbour_is_a_kink_and_an_infinite_gradient_a_fault():
    edge = _compare(lambda x: np.where(x > EPSILON / 3, np.inf, 2.0 * x), [0.0], [2.0])
    assert edge.kinks.all() and not edge.faults.any()
    for bad in (np.nan, np.inf):
        assert _compare(lambda x: 2.0 * x, [0.0], [bad]).faults.all()


def test_steps_that_were_rounded_are_measured():
    """Near 1e5 a step of 1e-5 is off by up to 7e-7, relatively; the slope must not be."""
    theta = 1e5 + np.linspace(0.0, 1.0, 50)
    found = _compare(lambda x: 3.0 * (x - 1e5 - 0.5), theta, np.full(50, 3.0))
    assert np.abs(found.numeric - 3.0).max() < 1e-9
    assert not found.faults.any() and not found.kinks.any()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6", "hard_tanh"])
def test_planted_kinks_of_activations(rng, name):
    """Inputs within a step of zero, on zero, and far away."""
    x = np.concatenate([EPSILON * np.array([-0.5, -0.01, 0.3, 0.9, 0.0]), rng.normal(size=5)])
    report = check_gradients(keras.layers.Activation(name), x[None])
    assert report.verdict == "correct"
    if name != "hard_tanh":  # its kinks are at -1 and 1
        assert report.rows[0].kinks == 5
        assert "5 entries lie on a kink" in str(report)


def test_planted_kinks_of_abs_and_maximum_pooling():
    x = np.array([0.4 * EPSILON, -0.2 * EPSILON, 0.0, 1.0])
    report = check_gradients(tf.abs, x)
    assert report.verdict == "correct"
    assert report.rows[0].kinks >= 2
    # Two nearly equal maxima, and two exactly equal ones, of which TensorFlow takes the first.
    x = np.array([1.0, 1.0 + 0.3 * EPSILON, 0.5, 0.2, 2.0, 2.0, -1.0, 0.0])
    report = check_gradients(keras.layers.MaxPooling1D(2), x.reshape(1, 8, 1))
    assert report.verdict == "correct"
    assert report.rows[0].kinks == 4


def test_a_network_whose_every_unit_stands_on_its_kink(rng):
    """Zero inputs and biases: what autodiff gives is no slope of J there, in no direction."""
    model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)])
    report = check_gradients(model, np.zeros((2, 4)))
    assert report.verdict == "correct"
    assert report.rows[1].kinks == 16  # the hidden biases
    assert report.rows[1].worst_index is None


def test_a_wrong_gradient_is_found_beside_the_kinks(rng, with_gradient):
    """The same network with a hidden gradient that is off wherever it can be seen."""
    spoil = with_gradient(lambda g: 1.001 * g)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    hidden = keras.layers.Lambda(spoil)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    report = check_gradients(model, np.zeros((2, 4)))
    assert report.verdict == "wrong"
    assert report.rows[-1].path == "inputs"
    assert report.rows[-1].verdict == "wrong"


def test_only_kinks_is_no_proof():
    report = check_gradients(tf.nn.relu, np.array([0.3 * EPSILON, -0.1 * EPSILON]))
    assert report.rows[0].kinks == 2
    assert report.relative_difference == 0.0
    assert report.verdict == "suspicious"
    assert "nothing is left to compare" in str(report)


@pytest.mark.parametrize("off, verdict", [(1.0, "correct"), (1.001, "wrong")])
def test_relu_network_with_many_kinks(rng, with_gradient, off, verdict):
    """A step of 1e-3 and 64 examples: many entries cross a kink of some unit and example."""
    spoil = with_gradient(lambda g: off * g)
    model = keras.Sequential(
        [
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Lambda(spoil),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    report = check_gradients(
        model, rng.normal(size=(64, 5)), rng.normal(size=(64, 3)), "mae", epsilon=1e-3
    )
    kinks = sum(row.kinks for row in report.rows)
    assert report.verdict == verdict
    assert 30 < kinks < sum(row.entries for row in report.rows) / 2


def test_conv_relu_pooling_network(rng):
    model = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    report = check_gradients(
        model, rng.normal(size=(4, 10, 10, 2)), rng.integers(0, 4, 4), loss, max_entries=40
    )
    assert report.verdict == "correct"
    assert report.relative_difference < 1e-8
