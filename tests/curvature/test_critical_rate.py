"""The critical learning rate against closed forms."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.curvature import (
    LossSurface,
    PowerIteration,
    RateSearch,
    critical_learning_rate,
    critical_sharpness,
)
from keras_bp.recording import UpdateMeter


class Counted:
    """A loss that counts its calls."""

    def __init__(self, function):
        self.calls, self._function = 0, function

    def __call__(self, rate):
        self.calls += 1
        return self._function(rate)


# With their critical rates; the last is e^(3r) - 1 = 10 r.
LOSSES = {
    "parabola": (lambda r: 3 + (1 - 5 * r) ** 2, 0.4),
    "quartic": (lambda r: r**4 - r, 1.0),
    "exponential": (lambda r: math.exp(min(3 * r, 700)) - 10 * r, 0.687),
}


@pytest.mark.parametrize("guess", [1e-5, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("loss, rate", LOSSES.values(), ids=LOSSES)
def test_the_rate_is_found_from_anywhere(loss, rate, guess):
    assert critical_learning_rate(loss, guess, most=40) == pytest.approx(rate, rel=0.02)


def test_a_parabola_takes_four_losses_and_then_three():
    loss = Counted(LOSSES["parabola"][0])
    search = RateSearch(0.05, 8)
    assert search.find(loss, 0.3) == pytest.approx(0.4, rel=1e-6)
    assert loss.calls <= 4
    loss = Counted(lambda r: (1 - 4 * r) ** 2)
    assert search.find(loss, 9.0) == pytest.approx(0.5, rel=1e-6)
    assert loss.calls == 3


@pytest.mark.parametrize(
    "loss, rate",
    [
        (lambda r: r, 0.0),
        (lambda r: -r, math.inf),
        (lambda r: 1.0, math.inf),
        (lambda r: -r if r < 0.3 else math.nan, pytest.approx(0.3, rel=0.03)),
        (lambda r: -r if r < 0.3 else math.inf, pytest.approx(0.3, rel=0.03)),
    ],
)
def test_losses_without_a_way_back(loss, rate):
    assert critical_learning_rate(loss, 1.0) == rate


def _regression():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 4)) * [3, 1, 0.3, 0.1]).astype("float32")
    y = rng.normal(size=(50, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras_bp.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    hessian = 2 * x.T @ x / 50
    gradient = hessian @ model.layers[0].kernel.numpy() - 2 * x.T @ y / 50
    return model, x, y, gradient, hessian


def test_linear_regression_has_the_curvature_along_its_gradient():
    model, x, y, gradient, hessian = _regression()
    before = [weight.numpy() for weight in model.weights]
    along = (gradient.T @ hessian @ gradient).item() / np.square(gradient).sum()
    assert critical_sharpness(model, x, y) == pytest.approx(along, rel=1e-3)
    update = np.ones_like(gradient) * -np.sign(gradient.sum())
    expected = (update.T @ hessian @ update).item() / -(gradient * update).sum()
    assert critical_sharpness(model, x, y, update=[update]) == pytest.approx(expected, rel=1e-3)
    assert critical_sharpness(model, x, y, update=[gradient]) == math.inf
    assert math.isnan(critical_sharpness(model, x, y, update=[np.nan * gradient]))
    np.testing.assert_array_equal(before, [weight.numpy() for weight in model.weights])


def test_an_update_of_other_shapes_is_refused():
    model, x, y, *_ = _regression()
    with pytest.raises(ValueError, match=r"`update` must hold .*\[\(4, 1\)\].*\[\(4,\)\]"):
        critical_sharpness(model, x, y, update=[np.ones(4)])
    with pytest.raises(ValueError, match="guess"):
        critical_learning_rate(abs, 0.0)


def test_penalties_of_outputs_belong_to_the_loss():
    model = keras.Sequential(
        [keras.Input((1,)), keras_bp.layers.Dense(1, activity_regularizer="l2")]
    )
    model.compile("sgd", "mse")
    ones = np.ones((4, 1), "float32")
    weights = [2 * ones[:1], ones[0]]
    loss = LossSurface(model).loss(weights, weights, 0.0, (ones, ones))
    # Before version 3.14 Keras adds the penalties of all examples.
    model.set_weights(weights)
    assert float(loss) == pytest.approx(model.evaluate(ones, ones, verbose=0))
    assert float(loss) > (3 - 1) ** 2 + 0.08


def test_many_surfaces_give_no_warning_of_retracing(caplog):
    """Each traces its own functions, as do what iterates on it and what measures updates."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    batch = tf.ones((2, 1)), tf.zeros((2, 1))
    tf.get_logger().addHandler(caplog.handler)
    try:
        for _ in range(6):
            surface, meter = LossSurface(model), UpdateMeter(model.trainable_variables)
            PowerIteration(surface).run(surface.weights(), batch, 0.1, 1)
            for _ in range(2):
                meter.start()
                meter.stop()
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert caplog.text == ""


def test_a_gradient_of_nan_under_a_finite_loss_has_none():
    """TensorFlow's relu of NaN is 0."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu")])
    model.compile("sgd", "mse")
    x, y = np.full((4, 2), np.nan, "float32"), np.ones((4, 3), "float32")
    assert math.isnan(critical_sharpness(model, x, y))


@pytest.mark.parametrize("present", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_has_no_critical_rate(present):
    tried = []
    rate = critical_learning_rate(lambda r: (tried.append(r), 1.0 if r else present)[1], 0.1)
    assert np.isnan(rate) and tried == [0.0]
