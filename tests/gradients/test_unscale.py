"""Loss scales divided out of gradients, without rounding the factor."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradients import unscale


@pytest.mark.parametrize("factor", [3.3, 2.0**70, 1e39, 1.0])
def test_a_number_is_not_rounded_to_float32(factor):
    assert unscale(tf.constant([0.1], tf.float64), factor).numpy() == np.array([0.1]) / factor


def test_half_precision_is_divided_in_float32():
    # In float16 the quotient would be 0.
    quotient = unscale(tf.constant([2e-5], tf.float16), tf.constant(2.0**15))
    assert quotient.dtype == tf.float32
    np.testing.assert_allclose(quotient, np.float32(np.float16(2e-5)) / 2**15)


def test_rows_and_none_keep_their_form():
    rows = tf.IndexedSlices(tf.constant([[2.0]]), tf.constant([3]), tf.constant([9, 1]))
    halved = unscale(rows, 2.0)
    assert halved.values.numpy() == 1.0 and halved.indices.numpy() == [3]
    assert halved.dense_shape is rows.dense_shape
    assert unscale(None, 2.0) is None
