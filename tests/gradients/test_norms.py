"""squared_norm and global_norm: the norm of the dense gradients, however they are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradients import global_norm, squared_norm, squared_norms
from keras_bp.recording import UpdateMeter


def _float64(gradient):
    return tf.convert_to_tensor(gradient).numpy().astype(np.float64)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (40, 30), (2, 3, 4, 5), (0, 3)])
def test_dense_gradient(shape, jit_compile):
    gradient = tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))
    square = tf.function(squared_norm, jit_compile=jit_compile)(gradient)
    assert square.dtype == tf.float64
    # A tree-like float32 sum of 1200 positive terms: far under ten roundings of 6e-8.
    np.testing.assert_allclose(square, np.sum(_float64(gradient) ** 2), rtol=6e-7)


def test_a_large_gradient_keeps_its_digits():
    gradient = tf.random.stateless_normal((2_000_000,), seed=(1, 2)) + 1.0
    np.testing.assert_allclose(
        global_norm([gradient]), np.linalg.norm(_float64(gradient)), rtol=1e-6
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_global_norm_of_an_embedding_is_that_of_its_dense_gradient(jit_compile):
    """K2: with repeated ids TensorFlow's own global norm is another number."""
    table = tf.Variable(np.random.default_rng(0).normal(size=(6, 4)), dtype=tf.float32)
    ids = tf.constant([[1, 1, 1], [2, 5, 1]])

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, ids) ** 2)
        return tape.gradient(loss, table)

    sparse = gradient()
    assert isinstance(sparse, tf.IndexedSlices)
    expected = np.linalg.norm(_float64(sparse))
    norm = tf.function(lambda: global_norm([gradient(), None]), jit_compile=jit_compile)()
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    assert abs(tf.linalg.global_norm([sparse]) - expected) > 0.1 * expected


def test_the_numbers_of_the_facts():
    twice = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]))
    np.testing.assert_allclose(global_norm([twice]), 8**0.5, rtol=1e-7)


def test_none_and_an_empty_list_count_as_zero():
    assert float(squared_norm(None)) == 0.0
    assert float(global_norm([])) == 0.0
    assert float(global_norm((None, None))) == 0.0
    assert float(global_norm([None, tf.constant([3.0, 4.0])])) == 5.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_squared_in_float32(dtype):
    # 300^2 overflows float16, and bfloat16 would round the sum of 65536 equal terms.
    gradient = tf.cast(tf.fill((256, 256), 300.0), dtype)
    norm = global_norm([gradient])
    assert norm.dtype == tf.float32
    np.testing.assert_allclose(norm, 300.0 * 256.0, rtol=1e-6)
    rows = tf.IndexedSlices(tf.cast(tf.fill((3, 1), 30000.0), dtype), tf.zeros(3, tf.int32))
    exact = 3.0 * float(tf.cast(rows.values[0, 0], tf.float32))
    np.testing.assert_allclose(global_norm([rows]), exact, rtol=1e-6)


def test_float64_stays_float64():
    gradient = tf.constant([1e-30, 1e-30], tf.float64)
    mixed = global_norm([gradient, tf.constant([0.0])])
    assert mixed.dtype == tf.float64
    np.testing.assert_allclose(mixed, 2**0.5 * 1e-30, rtol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_not_a_number_and_infinity_show(jit_compile):
    norm = tf.function(lambda *given: global_norm(list(given)), jit_compile=jit_compile)
    for shape in (2,), (2, 1):
        assert np.isnan(norm(tf.constant([np.nan, 1.0], shape=shape)))
        assert np.isinf(norm(tf.constant([-np.inf, 1.0], shape=shape)))


@pytest.mark.parametrize("wrong", [tf.ones(3), None, {"w": tf.ones(3)}])
def test_anything_but_a_list_is_refused(wrong):
    with pytest.raises(TypeError, match=r"`gradients` must be a list or tuple.*Received: "):
        global_norm(wrong)


def test_gradients_of_keras_variables():
    layer = keras.layers.Dense(2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.ones((3, 4))) ** 2)
    gradients = tape.gradient(loss, layer.trainable_weights)
    expected = np.sqrt(sum(np.sum(_float64(g) ** 2) for g in gradients))
    np.testing.assert_allclose(global_norm(gradients), expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_squares_that_overflow_float32(jit_compile):
    """The norms of the others keep their digits, and repeated rows are summed first."""
    rows = tf.IndexedSlices(tf.fill((2, 1), 3e38), tf.constant([1, 1]), tf.constant([3, 1]))
    given = [tf.constant([3e38, -3e38]), tf.constant([[3e-3]]), rows, None]
    given += [tf.constant([3e-30]), tf.constant([[3e38, 0.0], [3e38, 3e-30]])]
    squares = tf.function(lambda: squared_norms(given), jit_compile=jit_compile)()
    np.testing.assert_allclose(squares, [1.8e77, 9e-6, 3.6e77, 0.0, 9e-60, 1.8e77], rtol=1e-6)
    norm = global_norm([tf.constant([3e37, -4e37])])
    assert norm.dtype == tf.float32
    np.testing.assert_allclose(norm, 5e37, rtol=1e-6)


def test_a_gradient_costs_a_step_one_operation():
    """Beside its own, a number of them that does not grow, on scalars and one vector."""
    numbers = []
    for n in 2, 12:
        given = [tf.TensorSpec((3,))] * n
        norms = tf.function(lambda *gradients: squared_norms(gradients))
        operations = norms.get_concrete_function(*given).graph.get_operations()
        numbers.append(len([o for o in operations if o.type != "Placeholder"]))
    assert numbers[1] - numbers[0] == 10


def test_the_norm_has_a_gradient():
    @tf.function
    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            norm = global_norm([x])
        return tape.gradient(norm, x)

    x = tf.constant([3.0, 4.0])
    np.testing.assert_allclose(derivative(x), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(derivative(x * 1e30), [0.6, 0.8], rtol=1e-6)


def test_an_update_that_explodes_has_a_norm():
    variable = keras.Variable([1.0, 0.0])
    meter = UpdateMeter([variable])
    meter.start()
    variable.assign([3e20, 4e20])
    np.testing.assert_allclose(meter.stop()[:, 0], [2.5e41, 1.0, 2.5e41], rtol=1e-6)
