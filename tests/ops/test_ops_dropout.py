"""Dropout drops what Keras drops, bit for bit, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import ops

X = np.random.default_rng(0).normal(size=(6, 5, 4))
MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("noise_shape", [None, (None, 1, None), (6, 5, 1), (1, 1, 4)])
def test_the_result_is_that_of_keras_bit_for_bit(mode, dtype, noise_shape):
    x = tf.cast(X, dtype)
    expected = keras.random.dropout(x, 0.3, noise_shape=_lengths(noise_shape), seed=5)
    seed = keras.random.SeedGenerator(5).next()
    dropped = MODES[mode](lambda x: ops.dropout(x, 0.3, seed, noise_shape))(x)
    assert dropped.dtype == x.dtype
    assert_array_equal(np.float64(dropped), np.float64(expected))


def test_compiled_by_xla_the_mask_is_a_function_of_the_seed():
    dropped = MODES["xla"](lambda x, seed: ops.dropout(x, 0.3, seed))
    x, seeds = tf.constant(X), [tf.constant([5, 0]), tf.constant([5, 1]), tf.constant([6, 0])]
    results = [dropped(x, seed).numpy() for seed in seeds]
    assert_array_equal(dropped(x, seeds[0]), results[0])
    assert all(not np.array_equal(results[0], other) for other in results[1:])


def _lengths(noise_shape):
    return noise_shape and [X.shape[a] if n is None else n for a, n in enumerate(noise_shape)]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_keras_layer_of_the_same_seed_drops_the_same(rate, seed):
    layer = keras.layers.Dropout(rate, seed=seed)
    x = tf.constant(X, "float32")
    expected = [layer(x, training=True), layer(x, training=True)]
    generator = keras.random.SeedGenerator(seed)
    for outputs in expected:
        # At rate 0 the layer draws nothing.
        assert_array_equal(ops.dropout(x, rate, generator.next()), outputs)
    assert rate == 0 or not np.array_equal(*expected)


def test_the_seeds_integer_type_does_not_matter():
    x = tf.ones([100])
    results = [ops.dropout(x, 0.5, tf.constant([7, 9], dtype)) for dtype in ("int32", "int64")]
    results += [ops.dropout(x, 0.5, [7, 9]), ops.dropout(x, 0.5, tf.constant([7, 9], "uint32"))]
    for result in results:
        assert_array_equal(result, results[0])


@every_mode
def test_the_share_that_is_dropped_and_the_scale(mode):
    x = tf.ones([100, 100])
    for rate in (0.1, 0.5, 0.9):
        dropped = MODES[mode](lambda x, r=rate: ops.dropout(x, r, [1, 2]))(x).numpy()
        kept = dropped[dropped != 0]
        assert_allclose(kept, 1 / (1 - rate), rtol=1e-6)
        # Ten thousand draws: four standard deviations are at most 4 * 0.5 / 100.
        assert abs(1 - kept.size / 1e4 - rate) < 0.02


@every_mode
def test_the_gradient_goes_through_what_is_kept_alone(mode):
    @MODES[mode]
    def value_and_gradient(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.dropout(x, 0.25, [3, 4])
        return y, tape.gradient(y, x, output_gradients=upstream)

    x = tf.constant(X, "float32")
    y, dx = value_and_gradient(x, 2 * x)
    # The same mask and scale, so exactly twice the output.
    assert_array_equal(dx, 2 * y)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf, np.nan])
def test_what_is_dropped_is_zero_whatever_it_was(infinite):
    x = tf.fill([50], tf.constant(infinite, "float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.dropout(x, 0.5, [1, 2])
    dx = tape.gradient(y, x, output_gradients=x)
    kept = ops.dropout(tf.ones([50]), 0.5, [1, 2]).numpy() != 0
    assert 0 < kept.sum() < 50
    for result in (y, dx):
        assert_array_equal(result, np.where(kept, infinite, 0.0))


@every_mode
def test_rates_of_zero_and_one(mode):
    x = tf.constant(X)
    assert_array_equal(MODES[mode](lambda x: ops.dropout(x, 0, [1, 2]))(x), X)
    assert_array_equal(MODES[mode](lambda x: ops.dropout(x, 1.0, [1, 2]))(x), 0 * X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        none, all_of_it = ops.dropout(x, 0.0, [1, 2]), ops.dropout(x, 1, [1, 2])
    assert_array_equal(tape.gradient(none, x), np.ones_like(X))
    assert_array_equal(tape.gradient(all_of_it, x), np.zeros_like(X))


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_batches_of_no_row_and_of_one(rows, noise_shape):
    signature = [tf.TensorSpec((None, 3))]
    traced = tf.function(lambda x: ops.dropout(x, 0.5, [1, 2], noise_shape), signature)
    x = tf.ones([rows, 3])
    expected = keras.random.dropout(x, 0.5, noise_shape and (rows, 1), seed=5)
    seed = keras.random.SeedGenerator(5).next()
    assert_array_equal(ops.dropout(x, 0.5, seed, noise_shape), expected)
    assert traced(x).shape == (rows, 3)


@pytest.mark.parametrize("shape", [(4, 6), (1, 6)])
@pytest.mark.parametrize("noise_shape", [(6,), (None,)])
def test_a_shorter_noise_shape_belongs_to_the_last_axes(shape, noise_shape):
    dropped = ops.dropout(tf.ones(shape), 0.5, [1, 2], noise_shape)
    one_row = ops.dropout(tf.ones([6]), 0.5, [1, 2])
    assert_array_equal(dropped, np.broadcast_to(one_row, shape))


def test_an_input_of_unknown_rank():
    traced = tf.function(lambda x: ops.dropout(x, 0.5, [1, 2]), [tf.TensorSpec(None)])
    for x in (tf.ones([4]), tf.ones([2, 3, 4])):
        assert_array_equal(traced(x), ops.dropout(x, 0.5, [1, 2]))
