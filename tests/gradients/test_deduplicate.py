"""deduplicate: the dense tensor stays the same, and every id stands in it once."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradients import deduplicate


def _slices(ids, width=3, dtype="float32"):
    values = np.random.default_rng(0).normal(size=(len(ids), width)).astype(dtype)
    return tf.IndexedSlices(tf.constant(values), tf.constant(ids, tf.int64), [9, width])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("ids", [[7, 3, 7, 7, 0], [4, 4], [2, 5, 8], [6]])
def test_rows_are_summed_per_id(ids, jit_compile):
    slices = _slices(ids)

    @tf.function(jit_compile=jit_compile)
    def compute():
        unique = deduplicate(slices)
        return unique.values, unique.indices

    values, indices = (tensor.numpy() for tensor in compute())
    assert indices.tolist() == list(dict.fromkeys(ids))
    for row, index in zip(values, indices, strict=True):
        expected = slices.values.numpy()[np.array(ids) == index].sum(0, dtype=np.float64)
        # A sum of at most three float32 rows of size 1: two roundings of 6e-8 each.
        np.testing.assert_allclose(row, expected, rtol=0, atol=5e-7)


def test_dense_tensor_dtype_and_shape_are_kept():
    slices = _slices([1, 8, 1], dtype="float64")
    unique = deduplicate(slices)
    assert unique.values.dtype == tf.float64 and unique.indices.dtype == tf.int64
    assert tuple(unique.dense_shape) == (9, 3)
    dense = tf.convert_to_tensor(slices).numpy()
    np.testing.assert_allclose(tf.convert_to_tensor(unique).numpy(), dense, rtol=1e-15)


def test_rows_may_have_any_rank():
    vector = tf.IndexedSlices(tf.constant([1.0, 2.0, 4.0]), tf.constant([5, 0, 5]))
    assert deduplicate(vector).values.numpy().tolist() == [5.0, 2.0]
    cube = tf.IndexedSlices(tf.ones((2, 2, 2)), tf.constant([3, 3]))
    assert deduplicate(cube).values.numpy().tolist() == [[[2.0, 2.0], [2.0, 2.0]]]


def test_no_rows_are_no_rows():
    empty = tf.IndexedSlices(tf.zeros((0, 4)), tf.zeros((0,), tf.int32))
    unique = deduplicate(empty)
    assert unique.values.shape == (0, 4) and unique.indices.shape == (0,)


@pytest.mark.parametrize("wrong", [tf.ones((2, 2)), None, [1.0]])
def test_anything_else_is_refused(wrong):
    with pytest.raises(TypeError, match=r"`gradient` must be a tf.IndexedSlices.*Received: "):
        deduplicate(wrong)
