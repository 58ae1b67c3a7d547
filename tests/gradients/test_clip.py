"""clip: each bound against NumPy, on dense and sparse gradients, and what it leaves alone."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradients import clip

BOUNDS = ["clipvalue", "clipnorm", "global_clipnorm"]


def expected(arrays, **bound):
    """The clipped dense gradients, in float64."""
    arrays, [(name, c)] = list(arrays), bound.items()
    if name == "clipvalue":
        return [np.clip(a, -c, c) for a in arrays]
    norms = [np.linalg.norm(a) for a in arrays]
    if name == "global_clipnorm":
        norms = [np.linalg.norm(norms)] * len(arrays)
    return [a * min(1.0, c / n) if n else a for a, n in zip(arrays, norms, strict=True)]


def gradients(dtype="float32"):
    generator = np.random.default_rng(0)
    rows = tf.constant(generator.normal(size=(5, 2)), dtype)
    return [
        tf.constant(generator.normal(size=(3, 4)), dtype),
        tf.IndexedSlices(rows, tf.constant([4, 1, 4, 4, 0]), tf.constant([6, 2])),
        tf.constant(generator.normal(), dtype),
    ]


def dense(gradient):
    return tf.convert_to_tensor(gradient).numpy().astype("float64")


# A few roundings of entries of size 1, 6e-8 each in float32 and 1e-16 in float64.
@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("bound", [1e-3, 0.5, 1.5, 100.0])
@pytest.mark.parametrize("name", BOUNDS)
def test_against_numpy(name, bound, dtype, rounding):
    given = gradients(dtype)
    clipped = clip(given, **{name: bound})
    assert isinstance(clipped[1], tf.IndexedSlices) and clipped[1].values.dtype == dtype
    for value, array in zip(clipped, expected(map(dense, given), **{name: bound}), strict=True):
        np.testing.assert_allclose(dense(value), array, rtol=rounding, atol=rounding * bound)


@pytest.mark.parametrize("name", BOUNDS)
def test_compiled_by_xla_also_behind_another_sum_of_rows(name):
    """TensorFlow's unique, compiled, takes its own padding for ids: no gradient is summed twice."""

    @tf.function(jit_compile=True)
    def compute(first, last):
        given = gradients()
        clipped = clip([first, given[1], last], **{name: 0.5})
        return [tf.convert_to_tensor(g) for g in clipped]

    given = gradients()
    arrays = expected(map(dense, given), **{name: 0.5})
    for value, array in zip(compute(given[0], given[2]), arrays, strict=True):
        np.testing.assert_allclose(value, array, atol=1e-6)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_gradient_within_the_bound_keeps_every_bit(name):
    [clipped] = clip([tf.constant([0.3, -0.4])], **{name: 0.6})
    np.testing.assert_array_equal(clipped, tf.constant([0.3, -0.4]))


def test_the_numbers_of_the_facts():
    """K2: a row [1, 1] twice has the norm 2.83, and the norm 1 once it is clipped to that."""
    twice = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([3, 2]))
    for name in ("clipnorm", "global_clipnorm"):
        [clipped] = clip([twice], **{name: 1.0})
        np.testing.assert_allclose(np.linalg.norm(dense(clipped)), 1.0, rtol=1e-6)
    [clipped] = clip([twice], clipvalue=1.5)
    np.testing.assert_array_equal(dense(clipped), [[0, 0], [1.5, 1.5], [0, 0]])


def test_no_bound_gives_the_items_themselves():
    given = [*gradients(), None]
    assert all(a is b for a, b in zip(clip(given), given, strict=True))


@pytest.mark.parametrize("name", BOUNDS)
def test_none_and_zeros_and_nothing(name):
    bound = {name: 1.0}
    assert clip([], **bound) == []
    none, zeros, empty = clip([None, tf.zeros(3), tf.zeros((0, 2))], **bound)
    assert none is None
    np.testing.assert_array_equal(zeros, np.zeros(3))
    assert empty.shape == (0, 2)
    rows = tf.IndexedSlices(tf.zeros((0, 2)), tf.zeros(0, tf.int32), tf.constant([3, 2]))
    assert clip([rows], **bound)[0].values.shape == (0, 2)


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(name, value):
    fault, other = clip([tf.constant([value, 1.0]), tf.constant([1.0])], **{name: 1.0})
    assert np.all(np.isnan(fault))
    # By its own norm the other one is fine.
    assert np.isnan(other[0]) == (name == "global_clipnorm")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
def test_half_precision(name, dtype):
    """The square of 300 overflows in float16."""
    [clipped] = clip([tf.cast([300.0, 400.0], dtype)], **{name: 5.0})
    assert clipped.dtype == dtype
    # The two roundings of the dtype: 8 bits in bfloat16.
    np.testing.assert_allclose(dense(clipped), [3.0, 4.0], rtol=2**-7)


def test_two_bounds_at_once():
    with pytest.raises(ValueError, match="At most one of .*Received: clipvalue=1.0, clipnorm=2.0"):
        clip([tf.ones(2)], clipvalue=1.0, clipnorm=2.0)


def test_variables_are_read():
    [clipped] = clip([tf.Variable([3.0, 4.0])], clipnorm=1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("bound", [2.0, 1e-7])
def test_squares_norms_and_excesses_that_overflow_float32(bound, name, jit_compile):
    """The norm of the last gradient is 4.2e38, and its excess over the bound up to 4e45."""
    compute = tf.function(lambda g: clip([g], **{name: bound})[0], jit_compile=jit_compile)
    for given in [6e19, -8e19], [6e37, -8e37], [3e38, -3e38]:
        given = np.array(given, "float32")
        expected = bound * given.astype("float64") / np.linalg.norm(given.astype("float64"))
        np.testing.assert_allclose(compute(tf.constant(given)), expected, rtol=1e-6)
