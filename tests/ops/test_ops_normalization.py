"""Normalizations where numbers are large, equal, missing or padding."""

import numpy as np
import ops_calculus as calculus
import ops_twins as twins
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from ops_layouts import LAYOUTS, every_layout, random

from keras_bp import ops


@pytest.mark.parametrize(
    "layout, compiled",
    [*((name, False) for name in LAYOUTS), ("batch, axis 1", True), ("layer", True)],
)
def test_zero_variance(layout, compiled):
    """Half of the entries, and with them whole channels, rows or groups, are equal."""
    op, twin, shape, _ = LAYOUTS[layout]
    x = random(*shape)
    if layout.startswith("batch"):
        x[:, :2] = 3.0
    elif layout == "layer, axes 0, 2":
        x[:, :2] = 3.0
    else:
        x[:1] = 3.0
    expected = calculus.second_derivatives(twin)(*calculus.tensors([x]))
    differentiate = calculus.second_derivatives(op)
    if compiled:
        differentiate = tf.function(differentiate, jit_compile=True, autograph=False)
    actual = differentiate(*calculus.tensors([x]))
    y = actual[0].numpy()
    assert_array_equal(y[x == 3.0], 0.0)
    # 1/sqrt(epsilon) is 32, its cube, which second derivatives hold, 3e4.
    for a, e in zip(actual, expected, strict=True):
        calculus.assert_near(a, e, 1e-11)


@every_layout
def test_all_entries_equal_in_float32(layout):
    """0.1 has no exact sum: the mean rounds, and the variance must not take that for a spread."""
    op, _, shape, _ = LAYOUTS[layout]
    y, gradients = calculus.first_derivatives(op)(tf.fill(shape, tf.constant(0.1)))
    # One rounding of the mean, times 1/sqrt(epsilon).
    assert_allclose(y, np.zeros(shape), atol=32 * 1.5e-8)
    assert np.isfinite(gradients[0]).all()


@every_layout
def test_a_mean_ten_thousand_times_the_deviation(layout):
    """The variance as E[x^2] - E[x]^2 would be off by 6 here, the rounding of 1e8 in float32."""
    op, twin, shape, _ = LAYOUTS[layout]
    # Some 200 numbers to a mean, in most layouts.
    longest = 1 if layout in ("layer", "group") else 0
    shape = tuple(n * 32 if axis == longest else n for axis, n in enumerate(shape))
    x = np.float32(1e4 + random(*shape))
    y, [dx] = calculus.first_derivatives(op)(tf.constant(x))
    y_twin, [dx_twin] = calculus.first_derivatives(twin)(tf.constant(x, "float64"))
    # float32 numbers near 1e4 lie 1e-3 apart. Each of the sum's 200 additions rounds the mean by
    # half of that, together sqrt(200) times as much; x - mean is exact, the deviation about 1.
    assert_allclose(y, y_twin, rtol=0, atol=0.5e-3 * 14)
    assert np.linalg.norm(dx.numpy() - dx_twin) < 2 * 0.5e-3 * 14 * np.linalg.norm(dx_twin)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("padding", [np.nan, np.inf, -np.inf, 1e30])
def test_what_lies_outside_the_mask_does_not_reach_the_statistics(axis, padding):
    x = np.float32(random(5, 4, 3))
    mask = random(5, 4, seed=1) > 0
    kept = x[mask]
    if axis == 1:  # a channel's positions are those that the mask keeps of its column
        mean = [x[:, c][mask[:, c]].mean() for c in range(4)]
        variance = [x[:, c][mask[:, c]].var() for c in range(4)]
    else:
        mean, variance = kept.mean(0), kept.var(0)
    clean = ops.batch_normalization(x, axis=axis, mask=mask)
    x[~mask] = padding
    padded = ops.batch_normalization(x, axis=axis, mask=mask)
    # Averages of some ten numbers of order 1.
    for result in (clean, padded):
        assert_allclose(result.mean, mean, rtol=0, atol=5e-7)
        assert_allclose(result.variance, variance, rtol=1e-6)
    assert_array_equal(padded.outputs.numpy()[mask], clean.outputs.numpy()[mask])


def test_a_mask_counts_positions_not_examples():
    """By hand: channel 0 keeps 1 and 3, channel 1 keeps 2 and 6."""
    x = tf.constant([[1.0, 2.0], [100.0, 100.0], [3.0, 6.0]])
    result = ops.batch_normalization(x, epsilon=0.0, mask=[True, False, True])
    assert_array_equal(result.mean, [2.0, 4.0])
    assert_allclose(result.variance, [1.0, 4.0], rtol=1e-6)
    assert_allclose(result.outputs, [[-1.0, -1.0], [98.0, 48.0], [1.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (1, 1)])
def test_a_mask_that_broadcasts_counts_every_position(axis, shape):
    x = random(5, 4, 3)
    mask = np.ones(shape, bool)
    if shape != (1, 1):
        mask.flat[1] = False
    short = ops.batch_normalization(x, axis=axis, mask=mask)
    whole = ops.batch_normalization(x, axis=axis, mask=np.broadcast_to(mask, (5, 4)))
    for a, b in zip(short, whole, strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_mask_that_is_false_everywhere(axis):
    x = tf.constant(random(2, 3, 4))

    def outputs(x):
        return ops.batch_normalization(x, axis=axis, mask=np.zeros((2, 3), bool)).outputs

    result = ops.batch_normalization(x, axis=axis, mask=np.zeros((2, 3), bool))
    assert_array_equal(result.mean, np.zeros(x.shape[axis]))
    assert_array_equal(result.variance, np.zeros(x.shape[axis]))
    assert_allclose(result.outputs, x / np.sqrt(1e-3), rtol=1e-14)
    _, [dx] = calculus.first_derivatives(outputs)(x)
    upstream = calculus.first_derivatives(tf.identity)(result.outputs)[1][0]
    assert_allclose(dx, upstream / np.sqrt(1e-3), rtol=1e-14)


@pytest.mark.parametrize("shape, axis", [((7, 3), -1), ((4, 3, 5), 1), ((4, 5, 2, 3), -1)])
def test_the_statistics_are_numpys_and_carry_no_gradient(shape, axis):
    x = tf.constant(random(*shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, mean, variance = ops.batch_normalization(x, axis=axis)
        total = tf.reduce_sum(mean + variance)
    others = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    assert_allclose(mean, np.mean(x, others), rtol=0, atol=1e-15)
    assert_allclose(variance, np.var(x, others), rtol=1e-14)
    assert tape.gradient(total, x) is None


@pytest.mark.parametrize("compiled", [False, True])
def test_unknown_masks(compiled):
    """A mask is known only as the step runs."""
    signature = [tf.TensorSpec((None, None, 3), "float64"), tf.TensorSpec((None, None), "bool")]

    @tf.function(input_signature=signature, autograph=False, jit_compile=compiled)
    def outputs(x, mask):
        return ops.batch_normalization(x, mask=mask).outputs

    x, mask = tf.constant(random(4, 2, 3)), random(4, 2, seed=1) > 0
    assert_allclose(outputs(x, mask), twins.batch_normalization(x, mask=mask), rtol=1e-13)
