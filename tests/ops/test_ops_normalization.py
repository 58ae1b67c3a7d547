"""Normalizations where numbers are large, equal, missing, padding, or few."""

import keras
import numpy as np
import ops_calculus as calculus
import ops_twins as twins
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import ops

# name: (op, twin, shape of x, options)
LAYOUTS = {
    "batch": (ops.batch_normalization, twins.batch_normalization, (6, 4), {}),
    "batch, axis 1": (ops.batch_normalization, twins.batch_normalization, (4, 3, 2), {"axis": 1}),
    "layer": (ops.layer_normalization, twins.layer_normalization, (4, 6), {}),
    "layer, axis 1": (ops.layer_normalization, twins.layer_normalization, (3, 6, 2), {"axis": 1}),
    "layer, axes 0, 2": (
        ops.layer_normalization,
        twins.layer_normalization,
        (3, 4, 2),
        {"axis": (0, 2)},
    ),
    "group": (ops.group_normalization, twins.group_normalization, (4, 6), {"groups": 2}),
    "group, rank 3": (ops.group_normalization, twins.group_normalization, (2, 5, 4), {"groups": 2}),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def bind(layout):
    op, twin, shape, options = LAYOUTS[layout]

    def outputs(x, gamma=None, beta=None):
        result = op(x, gamma=gamma, beta=beta, **options)
        return result.outputs if isinstance(result, tuple) else result

    def twin_outputs(x):
        return twin(x, **options)

    return outputs, twin_outputs, shape


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    "layout, compiled",
    [*((name, False) for name in LAYOUTS), ("batch, axis 1", True), ("layer", True)],
)
def test_zero_variance(layout, compiled):
    """Half of the entries, and with them whole channels, rows or groups, are equal."""
    op, twin, shape = bind(layout)
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
    op, _, shape = bind(layout)
    y, gradients = calculus.first_derivatives(op)(tf.fill(shape, tf.constant(0.1)))
    # One rounding of the mean, times 1/sqrt(epsilon).
    assert_allclose(y, np.zeros(shape), atol=32 * 1.5e-8)
    assert np.isfinite(gradients[0]).all()


@every_layout
def test_a_mean_ten_thousand_times_the_deviation(layout):
    """The variance as E[x^2] - E[x]^2 would be off by 6 here, the rounding of 1e8 in float32."""
    op, twin, shape = bind(layout)
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


@pytest.mark.parametrize(
    "layout, shape, known",
    [
        ("batch", (3000, 48), True),
        ("batch", (3000, 48), False),
        ("batch", (8, 16, 16, 64), False),
        ("layer", (128, 256), True),
        ("group", (4, 8, 8, 64), True),
    ],
)
def test_large_float32_batches(layout, shape, known):
    """Sizes of practice, at which another kernel may be the faster one."""
    op, _, _ = bind(layout)
    x = np.float32(random(*shape))
    gamma, beta = np.float32(1 + 0.3 * random(shape[-1])), np.float32(random(shape[-1]))
    differentiate = calculus.second_derivatives(op)
    if not known:
        signature = [tf.TensorSpec((*[None] * (len(shape) - 1), shape[-1]))]
        signature += [tf.TensorSpec(shape[-1:])] * 2
        differentiate = tf.function(differentiate, signature, autograph=False)
    actual = differentiate(*calculus.tensors([x, gamma, beta], "float32"))
    options = LAYOUTS[layout][3]
    twin = LAYOUTS[layout][1]
    expected = calculus.second_derivatives(lambda x, g, b: twin(x, gamma=g, beta=b, **options))(
        *calculus.tensors([x, gamma, beta])
    )
    # The project's bound; second derivatives subtract sums of thousands of terms.
    for part, truth, tolerance in zip(actual, expected, (1e-6, 1e-6, 1e-5), strict=True):
        calculus.assert_near(part, truth, tolerance)


KERAS_LAYERS = {
    "batch": lambda options: keras.layers.BatchNormalization(**options),
    "layer": lambda options: keras.layers.LayerNormalization(**options),
    "group": lambda options: keras.layers.GroupNormalization(**options),
}


@every_layout
@pytest.mark.parametrize("mode, rows", [("eager", 0), ("graph", 0), ("graph", 1), ("xla", 0)])
def test_batches_of_no_row_and_of_one_do_as_keras(layout, mode, rows):
    op, _, shape = bind(layout)
    options = LAYOUTS[layout][3]
    x = tf.constant(random(rows, *shape[1:]), "float32")
    layer = KERAS_LAYERS[layout.split(",")[0]](options)
    features = np.prod([shape[a] for a in np.atleast_1d(options.get("axis", -1))])
    if layout == "layer, axes 0, 2":
        features = rows * shape[2]
    weights = [tf.ones(features), tf.zeros(features)]
    differentiate = calculus.first_derivatives(op)
    if mode != "eager":
        batch = None if mode == "graph" and layout != "layer, axes 0, 2" else rows
        signature = [
            tf.TensorSpec((batch, *shape[1:])),
            tf.TensorSpec(features),
            tf.TensorSpec(features),
        ]
        differentiate = tf.function(
            differentiate, signature, autograph=False, jit_compile=mode == "xla"
        )
    y, gradients = differentiate(x, *weights)
    training = {"training": True} if layout.startswith("batch") else {}
    y_keras, [dx_keras] = calculus.first_derivatives(lambda x: layer(x, **training))(x)
    assert_allclose(y, y_keras, atol=2e-6)
    # Keras's own rounding at one row, where terms of 1/sqrt(epsilon) = 32 cancel.
    assert_allclose(gradients[0], dx_keras, atol=1e-4)
    assert [g.shape for g in gradients] == [x.shape, (features,), (features,)]
    # Of no row, Keras's gradient of a batch normalization's gamma is NaN too: 0 times a variance
    # that is NaN.
    defined = slice(None) if rows or not layout.startswith("batch") else slice(2, None)
    assert all(np.isfinite(g).all() for g in gradients[defined])


@pytest.mark.parametrize("rows", [0, 1])
def test_the_statistics_of_no_row_and_of_one_are_those_of_keras(rows):
    x = tf.constant(random(rows, 3), "float32")
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    _, mean, variance = ops.batch_normalization(x)
    assert_allclose(mean, layer.moving_mean, rtol=1e-6)
    assert_allclose(variance, layer.moving_variance, atol=1e-12)
    assert np.isnan(mean).all() == (rows == 0)


@every_layout
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_ten_thousand_does_not_overflow(layout, dtype):
    """The squares, 1e8, are beyond float16's 65504; sums of three inputs are near it."""
    op, twin, shape = bind(layout)
    x = tf.cast(1e4 * (1 + random(*shape)), dtype)
    y, [dx] = calculus.first_derivatives(op)(x)
    assert y.dtype == dx.dtype == x.dtype
    y_twin, _ = calculus.first_derivatives(twin)(tf.cast(x, tf.float64))
    # Rounded once, at the end: half a unit in the last place of numbers up to 4.
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert_allclose(tf.cast(y, tf.float64), y_twin, rtol=unit * 1.01, atol=1e-6)
    # The gradient of 1e-4 and less fits into float16's subnormals only.
    assert np.isfinite(tf.cast(dx, tf.float32)).all()
    weights = {"gamma": tf.fill(shape[1:2], tf.cast(1.5, dtype))}
    if layout == "batch":
        result = ops.batch_normalization(x, **weights)
        assert result.mean.dtype == result.variance.dtype == tf.float32
        wide = np.float64(tf.cast(x, tf.float64))
        assert_allclose(result.mean, wide.mean(0), rtol=1e-6)
        assert_allclose(result.variance, wide.var(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_of_another_dtype_get_gradients_of_their_own(dtype):
    """Keras holds gamma and beta in float32 beside float16 inputs."""
    x, weight = tf.cast(random(4, 6), dtype), tf.ones(6)
    for name in ("batch", "layer", "group"):
        op, _, _ = bind(name)
        with tf.GradientTape() as tape:
            tape.watch([x, weight])
            y = op(x, weight, weight)
        dx, dweight = tape.gradient(y, [x, weight])
        assert (y.dtype, dx.dtype, dweight.dtype) == (x.dtype, x.dtype, tf.float32), name


@pytest.mark.parametrize("compiled", [False, True])
def test_unknown_masks(compiled):
    """A mask is known only as the step runs."""
    signature = [tf.TensorSpec((None, None, 3), "float64"), tf.TensorSpec((None, None), "bool")]

    @tf.function(input_signature=signature, autograph=False, jit_compile=compiled)
    def outputs(x, mask):
        return ops.batch_normalization(x, mask=mask).outputs

    x, mask = tf.constant(random(4, 2, 3)), random(4, 2, seed=1) > 0
    assert_allclose(outputs(x, mask), twins.batch_normalization(x, mask=mask), rtol=1e-13)
