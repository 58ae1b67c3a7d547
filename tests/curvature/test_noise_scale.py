"""The gradient noise scale against closed forms and per-example gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.curvature import (
    NoiseScale,
    gradient_noise_scale,
    noise_and_signal,
    noise_scale_of,
    part_estimates,
)


def test_two_sizes_give_noise_and_signal():
    # Exactly what is expected of batches of 4 and 12 where tr(Sigma) = 24 and |G|^2 = 3.
    noise, signal = noise_and_signal(3 + 24 / 4, 3 + 24 / 12, 4, 12)
    np.testing.assert_allclose([noise, signal], [24, 3], rtol=1e-14)


def test_estimates_have_no_bias():
    rng = np.random.default_rng(0)
    truth, spread = np.array([0.3, -0.2, 0.1]), np.array([1.0, 2.0, 0.5])
    halves = truth + spread / np.sqrt(5) * rng.normal(size=(20_000, 2, 3))  # batches of 5 examples
    small = np.square(halves).sum(-1).mean(1)
    big = np.square(halves.mean(1)).sum(-1)
    noise, signal = noise_and_signal(small, big, 5, 10)
    np.testing.assert_allclose(noise.mean(), np.square(spread).sum(), rtol=0.03)
    np.testing.assert_allclose(signal.mean(), np.square(truth).sum(), rtol=0.1)
    scale = noise_scale_of(noise, signal)
    assert scale.low < np.square(spread).sum() / np.square(truth).sum() < scale.high


def test_the_interval_holds_the_truth_in_95_of_100():
    rng = np.random.default_rng(1)
    truth, trials, number = np.full(10, 0.5), 400, 25
    halves = truth + rng.normal(size=(trials, number, 2, 10)) / 2  # batches of 4 examples
    small, big = np.square(halves).sum(-1).mean(2), np.square(halves.mean(2)).sum(-1)
    weights = 0.97 ** np.arange(number)
    found = [
        noise_scale_of(*noise_and_signal(*pair, 4, 8), weights)
        for pair in zip(small, big, strict=True)
    ]
    share = np.mean([scale.low <= 10 / 2.5 <= scale.high for scale in found])
    assert 0.91 <= share <= 0.985  # 95 %, give or take two standard errors of 400 trials


def test_intervals_of_a_signal_that_is_not_seen_are_open():
    open_top = noise_scale_of([9.0, 11.0, 10.0], [1.0, -0.9, 0.2])
    assert open_top.low > 0 and open_top.high == np.inf
    assert noise_scale_of([9.0, 11.0], [-1.0, -0.9]).value == np.inf
    single = noise_scale_of([8.0], [2.0])
    assert single.value == 4.0 and np.isnan(single.low) and np.isnan(single.high)
    everything = noise_scale_of([1.0, -1.1, 0.3], [1.0, -0.9, 0.2])
    assert (everything.low, everything.high) == (0.0, np.inf)


@pytest.mark.parametrize("numbers", [(1, 1, 1, 8, 64), (4, 5, 2, 12, 80), (1, 1, 2, 0, 0)])
def test_parts_of_different_sizes_give_nothing(numbers):
    assert np.isnan(part_estimates(numbers)).all()
    assert np.isfinite(part_estimates((4, 5, 2, 12, 72))).all()


def _per_example(model, x, y):
    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], 0)

    x, y = tf.constant(x[:, None]), tf.constant(y[:, None])
    return np.array([gradient(*pair) for pair in zip(x, y, strict=True)])


def test_a_network_has_the_noise_scale_of_its_examples_gradients():
    rng = np.random.default_rng(0)
    ids = rng.integers(4, size=(400, 2))
    y = (ids.sum(1) + 0.5 * rng.normal(size=400))[:, None].astype("float32")
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="int32"),
            keras_bp.layers.Embedding(4, 3),  # whose gradient is sparse
            keras.layers.Flatten(),
            keras_bp.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    found = gradient_noise_scale(model, ids, y, batch_size=4)
    each = _per_example(model, ids, y)
    noise = each.var(0, ddof=1).sum()
    signal = np.square(each.mean(0)).sum() - noise / 400
    assert found.low <= noise / signal <= found.high < 3 * found.low
    np.testing.assert_allclose(found.noise, noise, rtol=0.25)  # 50 pairs of batches
    assert isinstance(found, NoiseScale)


def test_of_nan_nothing_is_known():
    scale = noise_scale_of([1.0, np.nan, 1.0], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(scale, [np.nan] * 4 + [1.0])


def test_bad_arguments():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    x = np.ones((6, 1))
    with pytest.raises(ValueError, match="compiled with a loss"):
        gradient_noise_scale(model, x, x, batch_size=2)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="batch_size=4 and 6 examples"):
        gradient_noise_scale(model, x, x, batch_size=4)
    with pytest.raises(ValueError, match="must be built"):
        gradient_noise_scale(keras.Sequential([keras.layers.Dense(1)]), x, x, batch_size=2)
