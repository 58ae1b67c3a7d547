"""Cross-entropies where the logits are huge, the probabilities certain, the targets odd."""

from decimal import Decimal, localcontext

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from keras_bp import ops

# From where exp over- and underflows, in float32 and in float64, to where it does not.
LOGITS = [-1e4, -710.0, -90.0, -30.0, -3.0, 0.0, 0.5, 20.0, 90.0, 710.0, 1e4]


def gradients(function, *arguments):
    """The value and the gradients of its sum."""
    arguments = [tf.convert_to_tensor(a) for a in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = function(*arguments)
    return y, tape.gradient(y, arguments)


def logits(op):
    return lambda target, output: op(target, output, from_logits=True)


def exact_softmax(z):
    """`(logarithms of the softmax, softmax)` with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        z = [Decimal(float(number)) for number in z]
        largest = max(z)
        total = sum((number - largest).exp() for number in z).ln() + largest
        return [number - total for number in z], [(number - total).exp() for number in z]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
def test_binary_of_logits_is_exact(dtype, y):
    z, unit = np.array(LOGITS, dtype), np.finfo(dtype).eps
    loss, dz = [], []
    for number in z:
        # Two classes, the other with the logit 0.
        (log_p, log_q), (p, _) = exact_softmax([number, 0.0])
        loss.append(float(-Decimal(y) * log_p - (1 - Decimal(y)) * log_q))
        dz.append(float(p - Decimal(y)))
    value, (dy_op, dz_op) = gradients(logits(ops.binary_crossentropy), np.full_like(z, y), z)
    tiny = np.finfo(dtype).tiny
    # Four roundings; what lies below the normal numbers counts as 0. p - y rounds as p does.
    assert_allclose(value, loss, rtol=4 * unit, atol=tiny)
    assert_allclose(dz_op, dz, rtol=4 * unit, atol=unit if y else tiny)
    assert_array_equal(dy_op, -z)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "target, sparse",
    [
        ([1, 0, 0], False),
        ([1, 0, 0], True),
        ([0, 0, 1], True),
        ([0.25, 0.5, 0.25], False),
        ([2, 0, 1], False),
        ([0, 0, 0], False),
    ],
)
def test_categorical_of_logits_is_exact(dtype, target, sparse):
    rows = [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, -1e4], [30, 0, -30], [1e4, 9.99e3, -710]]
    z, y = np.array(rows, dtype), np.tile(np.array(target, dtype), (len(rows), 1))
    log_a, a = (np.array(part) for part in zip(*map(exact_softmax, z), strict=True))
    decimals = np.array([Decimal(number) for number in target])
    loss = np.float64(-(log_a * decimals).sum(-1))
    dz = np.float64(a * sum(decimals) - decimals)
    if sparse:
        labels = y.argmax(-1)
        value, (dz_op,) = gradients(
            lambda z: ops.sparse_categorical_crossentropy(labels, z, from_logits=True), z
        )
    else:
        value, (dy_op, dz_op) = gradients(logits(ops.categorical_crossentropy), y, z)
        assert_allclose(dy_op, np.float64(-log_a), rtol=4 * np.finfo(dtype).eps, atol=1e-7)
    # The kernel adds exp(z - max) up from 1 on, so losses next to 0 have an absolute error only.
    unit = np.finfo(dtype).eps
    assert_allclose(value, loss, rtol=4 * unit, atol=4 * unit)
    assert_allclose(dz_op, dz, rtol=4 * unit, atol=4 * unit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("epsilon", [1e-7, 1e-3])
def test_binary_of_certain_probabilities(dtype, epsilon):
    """Right: exactly 0. Wrong: -log(epsilon), with the gradient at the bound, not 0."""
    usual = keras.config.epsilon()
    keras.config.set_epsilon(epsilon)
    try:
        target, p = np.array([0, 1, 1, 0], dtype), np.array([0, 1, 0, 1], dtype)
        loss, (dy, dp) = gradients(ops.binary_crossentropy, target, p)
    finally:
        keras.config.set_epsilon(usual)
    wrong = -np.log(epsilon)
    assert_array_equal(loss[:2], [0, 0])
    assert_allclose(loss[2:], [wrong, wrong], rtol=1e-6)
    # Of a right prediction: -y/p and (1-y)/(1-p), which push it on.
    assert_allclose(dp, [1, -1, -1 / epsilon, 1 / epsilon], rtol=1e-6)
    assert_allclose(dy, [wrong, -wrong, wrong, -wrong], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sparse", [False, True])
def test_categorical_of_certain_probabilities(dtype, sparse):
    p = np.array([[1, 0, 0], [0, 1, 0], [0, 2, 0]], dtype)
    if sparse:
        loss, (dp,) = gradients(
            lambda p: ops.sparse_categorical_crossentropy(np.zeros(3, "int32"), p), p
        )
    else:
        target = np.array([[1, 0, 0]] * 3, dtype)
        loss, (dy, dp) = gradients(ops.categorical_crossentropy, target, p)
        wrong = -np.log(keras.config.epsilon())
        assert_allclose(dy, [[0, wrong, wrong], [wrong, 0, wrong], [wrong, 0, wrong]], rtol=1e-6)
    e = keras.config.epsilon()
    assert_array_equal(loss[0], 0)
    assert_allclose(loss[1:], [-np.log(e)] * 2, rtol=1e-6)
    # (1 - y_k / q_k) / s, with s the row's sum.
    expected = [[0, 1, 1], [1 - 1 / e, 1, 1], [(1 - 1 / e) / 2, 0.5, 0.5]]
    assert_allclose(dp, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_of_ten_thousand(dtype):
    z = tf.constant([[1e4, -1e4], [-1e4, 1e4]], dtype)
    target = tf.constant([[1.0, 0.0], [1.0, 0.0]], dtype)
    largest = float(z[0, 0])  # bfloat16 rounds 1e4 to 9984
    for op in (ops.binary_crossentropy, ops.categorical_crossentropy):
        loss, (dy, dz) = gradients(logits(op), target, z)
        assert loss.dtype == dy.dtype == dz.dtype == z.dtype
        assert_array_equal(np.float64(dz), [[0, 0], [-1, 1]])
        wrong = [largest, largest] if op is ops.binary_crossentropy else 2 * largest
        assert_array_equal(np.float64(loss[1]), wrong)
        assert_array_equal(np.float64(loss[0]), np.zeros_like(wrong))
    loss, (dz,) = gradients(
        lambda z: ops.sparse_categorical_crossentropy([0, 0], z, from_logits=True), z
    )
    assert_array_equal(np.float64(loss), [0, 2 * largest])
    assert_array_equal(np.float64(dz), [[0, 0], [-1, 1]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_certain_probabilities(dtype):
    """In float16 1e-7 is a subnormal number, and its reciprocal, the gradient, infinite."""
    p, target = tf.constant([0.0, 1.0, 0.0, 1.0], dtype), tf.constant([0.0, 1.0, 1.0, 0.0], dtype)
    bound = 2 / 65504 if dtype == "float16" else keras.config.epsilon()
    wrong, unit = -np.log(bound), float(ml_dtypes.finfo(dtype).eps)
    loss, (_, dp) = gradients(ops.binary_crossentropy, target, p)
    assert_allclose(np.float64(loss), [0, 0, wrong, wrong], rtol=unit)
    assert_allclose(np.float64(dp), [1, -1, -1 / bound, 1 / bound], rtol=2 * unit)
    for op in (
        lambda p: ops.sparse_categorical_crossentropy(0, p),
        lambda p: ops.categorical_crossentropy(tf.one_hot(0, 4, dtype=dtype), p),
    ):
        loss, (dp,) = gradients(op, p)
        assert_allclose(np.float64(loss), wrong, rtol=unit)
        assert_allclose(np.float64(dp), [(1 - 1 / bound) / 2, 0.5, 0.5, 0.5], rtol=2 * unit)


@pytest.mark.parametrize("op", ["binary", "categorical", "sparse"])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("traced", [False, True])
def test_batches_of_no_row_and_of_one_do_as_keras(op, from_logits, rows, traced):
    output = np.full((rows, 3), 0.2, "float32")
    target = np.full((rows, 3), 0.5, "float32") if op != "sparse" else np.ones(rows, "int32")
    name = {"sparse": "sparse_categorical_crossentropy"}.get(op, f"{op}_crossentropy")

    def function(output):
        return getattr(ops, name)(target, output, from_logits=from_logits)

    if traced:
        function = tf.function(function, [tf.TensorSpec((None, 3))], autograph=False)
    loss, (gradient,) = gradients(function, output)
    expected = getattr(keras.ops, name)(target, output, from_logits=from_logits)
    assert loss.shape == expected.shape
    assert_allclose(loss, expected, rtol=1e-6)
    assert gradient.shape == output.shape and np.isfinite(gradient).all()


@pytest.mark.parametrize("classes", [2, 50])
@pytest.mark.parametrize("compiled", [False, True])
def test_targets_of_any_sum_have_the_right_gradient(classes, compiled):
    """By hand, at equal logits: a_k = 1/classes, dz = a sum(y) - y, dy = log(classes)."""
    target = np.zeros((4, classes), "float32")
    target[:, :2] = [[1, 0], [3, 0], [0, 0], [1, -1]]
    function = tf.function(
        logits(ops.categorical_crossentropy), autograph=False, jit_compile=compiled
    )
    loss, (dy, dz) = gradients(function, target, np.zeros_like(target))
    sums = target.sum(-1, keepdims=True)
    assert_allclose(loss, sums[:, 0] * np.log(classes), rtol=1e-6)
    assert_allclose(dz, sums / classes - target, atol=2e-7)
    assert_allclose(dy, np.full_like(target, np.log(classes)), rtol=1e-6)


def test_a_masked_class_has_no_part_in_the_loss_under_xla():
    """TensorFlow's kernel multiplies minus infinity by 0 instead, without XLA."""
    target = np.eye(4, 50, dtype="float32")
    output = np.random.default_rng(0).normal(size=(4, 50)).astype("float32")
    function = tf.function(logits(ops.categorical_crossentropy), autograph=False, jit_compile=True)
    loss, (_, dz) = gradients(function, target[:, :49], output[:, :49])
    output[:, 49] = -np.inf
    masked, (_, dz_masked) = gradients(function, target, output)
    assert_allclose(masked, loss, rtol=1e-6)
    assert_allclose(dz_masked, np.pad(dz, ((0, 0), (0, 1))), atol=1e-7)
    output[2, 7] = np.nan
    assert np.isnan(gradients(function, target, output)[0]).tolist() == [False, False, True, False]


ELSEWHERE = pytest.mark.parametrize(
    "crossentropy",
    [
        lambda target, z: tf.nn.softmax_cross_entropy_with_logits(target, z),
        logits(keras.ops.categorical_crossentropy),
    ],
    ids=["tensorflow", "keras"],
)


@pytest.mark.xfail(
    strict=True, reason="TensorFlow takes the targets' sum for 1: tensorflow/tensorflow#60314"
)
@ELSEWHERE
def test_targets_of_any_sum_have_the_right_gradient_elsewhere(crossentropy):
    _, (_, dz) = gradients(crossentropy, [[3.0, 0.0]], [[0.0, 0.0]])
    assert_allclose(dz, [[-1.5, 1.5]])


@ELSEWHERE
def test_targets_that_sum_to_one_have_the_right_gradient_elsewhere(crossentropy):
    """So that the test above fails for the reason it gives, and not for another."""
    _, (_, dz) = gradients(crossentropy, [[1.0, 0.0]], [[0.0, 0.0]])
    assert_allclose(dz, [[-0.5, 0.5]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_sparse_targets_of_every_integer_type(dtype, from_logits):
    """MNIST's labels are uint8."""
    output = tf.constant([[0.2, 0.8], [0.6, 0.4]])
    target = np.array([1, 0])
    loss = ops.sparse_categorical_crossentropy(target.astype(dtype), output, from_logits)
    one_hot = tf.one_hot(target, 2)
    assert_allclose(loss, ops.categorical_crossentropy(one_hot, output, from_logits), rtol=1e-6)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("target", [-1, 3])
def test_sparse_targets_outside_the_classes(from_logits, target):
    """An error that names them, and NaN under XLA: either way nothing passes for a loss."""

    def loss(target, output):
        return ops.sparse_categorical_crossentropy(target, output, from_logits)

    output = tf.constant([[0.2, 0.3, 0.5]])
    # A graph's assertion puts brackets around what it names.
    smallest, largest = sorted([target, 1])
    words = rf"labels from\W+?{smallest}\]? \[?to\]? \[?{largest}\b.*classes is\W+3"
    with pytest.raises(ValueError, match=words):
        loss(tf.constant([target, 1]), tf.tile(output, [2, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        tf.function(loss, autograph=False)(tf.constant([target, 1]), tf.tile(output, [2, 1]))
    compiled = tf.function(loss, jit_compile=True, autograph=False)
    assert np.isnan(compiled(tf.constant([target]), output)).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_sparse_targets_of_unknown_shape(compiled):
    signature = [tf.TensorSpec((None, None), "int64"), tf.TensorSpec((None, None, None))]
    function = tf.function(
        lambda target, output: ops.sparse_categorical_crossentropy(target, output, True),
        signature,
        autograph=False,
        jit_compile=compiled,
    )
    z = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4)))
    target = np.array([[0, 3, 1], [2, 2, 0]])
    expected = ops.categorical_crossentropy(tf.one_hot(target, 4), z, True)
    assert_allclose(function(target, z), expected, rtol=1e-6)
