"""Every loss is a drop-in for its Keras namesake: arguments, shapes, weights, masks and dtypes."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import losses

NAMES = losses.__all__
# Every argument of every constructor, none at its default, in the order of the signature.
ALL_ARGUMENTS = {
    "BinaryCrossentropy": {"from_logits": True, "label_smoothing": 0.1, "axis": 1},
    "CategoricalCrossentropy": {"from_logits": True, "label_smoothing": 0.1, "axis": 1},
    "SparseCategoricalCrossentropy": {"from_logits": True, "ignore_class": 2},
}
COMMON = {"reduction": "sum", "name": "cost", "dtype": "float64"}
ALL_ARGUMENTS["BinaryCrossentropy"] |= COMMON
ALL_ARGUMENTS["CategoricalCrossentropy"] |= COMMON
ALL_ARGUMENTS["SparseCategoricalCrossentropy"] |= {
    "reduction": "sum",
    "axis": 1,
    "label_smoothing": 0.1,
    **COMMON,
}
# Keras has it from 3.16 on.
LATER = {"SparseCategoricalCrossentropy": "label_smoothing"}
REDUCTIONS = [None, "none", "sum", "sum_over_batch_size", "mean", "mean_with_sample_weight"]


def data(name, shape=(5, 3), from_logits=False, seed=0):
    """Return labels and predictions in float64; rows of probabilities do not quite sum to 1."""
    generator = np.random.default_rng(seed)
    predictions = (
        generator.normal(0, 3, shape) if from_logits else generator.uniform(0.05, 0.95, shape)
    )
    if name == "SparseCategoricalCrossentropy":
        return generator.integers(0, shape[-1], shape[:-1]), predictions
    labels = generator.uniform(0, 1, shape)
    if name == "CategoricalCrossentropy":
        labels /= labels.sum(-1, keepdims=True)
    return labels, predictions


def value_and_gradient(loss, labels, predictions, sample_weight=None, mask=None):
    """Return the loss and the gradient of its sum with respect to the predictions."""
    predictions = tf.convert_to_tensor(predictions)
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        watched = tf.identity(predictions)
        if mask is not None:
            watched._keras_mask = mask
        value = loss(labels, watched, sample_weight=sample_weight)
        total = tf.reduce_sum(value)
    return value, tape.gradient(total, predictions)


def assert_like_keras(name, labels, predictions, rtol=1e-11, call=None, **options):
    """Compare value and gradient with Keras's; in float64 only the order of operations differs."""
    options = {"dtype": "float64", **options}
    expected = value_and_gradient(
        getattr(keras.losses, name)(**options), labels, predictions, **call or {}
    )
    result = value_and_gradient(getattr(losses, name)(**options), labels, predictions, **call or {})
    for mine, other in zip(result, expected, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(
            tf.cast(mine, "float64"), tf.cast(other, "float64"), rtol=rtol, atol=rtol
        )


def test_every_loss_is_in_the_table():
    assert set(ALL_ARGUMENTS) == set(NAMES)


def _arguments(function):
    """List names, kinds and defaults; Keras annotates nothing."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("name", NAMES)
def test_class_signature_and_configuration(name):
    theirs, ours = getattr(keras.losses, name), getattr(losses, name)
    assert issubclass(ours, theirs)
    known = inspect.signature(theirs).parameters
    assert [a for a in _arguments(ours) if a[0] in known] == _arguments(theirs)
    assert _arguments(ours.call) == _arguments(theirs.call)
    arguments = ALL_ARGUMENTS[name]
    assert set(arguments) - set(known) <= {LATER.get(name)}
    assert list(arguments) == list(inspect.signature(ours).parameters)
    for made in (ours(**arguments), ours(*arguments.values())):
        config = made.get_config()
        # Keras's sparse loss leaves its axis out of its configuration, up to 3.15.
        expected = theirs(**{k: v for k, v in arguments.items() if k in known}).get_config()
        assert expected.items() <= config.items()
        assert all(config[k] == v for k, v in arguments.items() if k != "dtype")
        assert made.dtype == "float64"
        again = ours.from_config(config)
        assert type(again) is ours
        assert again.get_config() == config
    assert theirs().get_config().items() <= ours().get_config().items()
    assert ours().name == theirs().name


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 3, 2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_shapes(name, shape, from_logits):
    labels, predictions = data(name, shape, from_logits)
    assert_like_keras(name, labels, predictions, from_logits=from_logits)
    assert_like_keras(name, labels, predictions, from_logits=from_logits, reduction=None)


# Of the shape of the loss before the reduction, here (4, 2), or such that it broadcasts.
WEIGHTS = {
    "none": None,
    "an example": np.linspace(0, 2, 4),
    "an example, column": np.linspace(0, 2, 4)[:, None],
    "a step": np.linspace(0, 2, 8).reshape(4, 2),
    "all zero": np.zeros(4),
}


# Reductions are Keras's own code, which sees the loss before them alone: each once with weights,
# the weights with one reduction and one loss of each shape of labels.
@pytest.mark.parametrize(
    "name, reduction, weights",
    [
        *(("BinaryCrossentropy", reduction, "a step") for reduction in REDUCTIONS),
        *((name, "sum_over_batch_size", weights) for name in NAMES[::2] for weights in WEIGHTS),
    ],
)
def test_reductions_and_sample_weights(name, reduction, weights):
    shape = (4, 2, 3) if weights != "an example" and weights != "all zero" else (4, 3)
    labels, predictions = data(name, shape)
    call = {"sample_weight": WEIGHTS[weights]}
    assert_like_keras(name, labels, predictions, call=call, reduction=reduction)


@pytest.mark.parametrize("reduction", [None, "sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("name", NAMES)
def test_masks(name, reduction):
    labels, predictions = data(name, (4, 2, 3))
    mask = tf.constant([[True, False], [True, True], [False, False], [True, True]])
    weights = np.linspace(0.5, 2, 8).reshape(4, 2)
    for call in ({"mask": mask}, {"mask": mask, "sample_weight": weights}):
        assert_like_keras(name, labels, predictions, call=call, reduction=reduction)


@pytest.mark.parametrize("label_smoothing", [0, 0.1, np.float32(0.3), 1])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy"])
def test_label_smoothing(name, from_logits, label_smoothing):
    labels, predictions = data(name, (4, 2, 3), from_logits)
    options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
    assert_like_keras(name, labels, predictions, **options)


@pytest.mark.parametrize("axis, ignore_class", [(-1, None), (1, 2), (0, None)])
@pytest.mark.parametrize("label_smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("from_logits", [False, True])
def test_sparse_labels_are_those_of_one_hot_ones(from_logits, label_smoothing, axis, ignore_class):
    """Every version of Keras has the loss of one-hot labels, smoothed and along any axis."""
    name, options = "CategoricalCrossentropy", {"from_logits": from_logits, "dtype": "float64"}
    _, predictions = data(name, (4, 3, 2), from_logits)
    shape = np.delete(predictions.shape, axis)
    labels = np.random.default_rng(0).integers(0, predictions.shape[axis], shape)
    one_hot = np.moveaxis(np.eye(predictions.shape[axis])[labels], -1, axis)
    # Smoothed here: Keras divides by the length of the last axis, whatever `axis` is.
    one_hot = one_hot * (1 - label_smoothing) + label_smoothing / one_hot.shape[axis]
    options["axis"] = axis % 3
    weights = None if ignore_class is None else (labels != ignore_class).astype(float)
    theirs = keras.losses.CategoricalCrossentropy(**options, reduction="sum")
    expected = value_and_gradient(theirs, one_hot, predictions, weights)
    options |= {"axis": axis, "ignore_class": ignore_class, "reduction": "sum"}
    ours = losses.SparseCategoricalCrossentropy(**options, label_smoothing=label_smoothing)
    for given in (labels, np.expand_dims(labels, axis)):
        for mine, other in zip(value_and_gradient(ours, given, predictions), expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-11)
    symbolic = [keras.Input(batch_shape=array.shape) for array in (labels, predictions)]
    assert losses.SparseCategoricalCrossentropy(axis=axis, reduction=None)(*symbolic).shape == (
        *shape,
    )


@pytest.mark.parametrize("axis", [1, -2, -3])
def test_sparse_labels_with_a_last_axis_of_one(axis):
    """That axis is no class axis: it stays, and `axis` counts from the same end."""
    shape = (4, 3, 5, 1)[1 if axis == -2 else 0 :]
    predictions = np.random.default_rng(0).normal(size=shape)
    labels = np.random.default_rng(1).integers(0, shape[axis], np.delete(shape, axis))
    log_shares = np.moveaxis(predictions, axis, -1)
    log_shares = log_shares - np.log(np.exp(log_shares).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_shares, labels[..., None], -1)[..., 0]
    options = {"from_logits": True, "reduction": None, "dtype": "float64"}
    ours = losses.SparseCategoricalCrossentropy(**options, axis=axis)(labels, predictions)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)


@pytest.mark.parametrize("axis", [-1, 2, 1, -2, 0])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy"])
def test_axes(name, from_logits, axis):
    labels, predictions = data(name, (4, 2, 3), from_logits)
    if name == "CategoricalCrossentropy":
        labels /= labels.sum(axis, keepdims=True)
    options = {"from_logits": from_logits, "reduction": None, "dtype": "float64"}
    # Counted from the front for Keras: of logits it cannot take -2.
    theirs = getattr(keras.losses, name)(**options, axis=axis % 3)
    ours = getattr(losses, name)(**options, axis=axis)
    for mine, other in zip(
        value_and_gradient(ours, labels, predictions),
        value_and_gradient(theirs, labels, predictions),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-11)


def test_axes_from_numpy():
    for name in NAMES:
        labels, predictions = data(name)
        assert_like_keras(name, labels, predictions, axis=np.int64(1))


@pytest.mark.parametrize("ignore_class", [-1, 2])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 3)])
def test_ignored_class(shape, from_logits, ignore_class):
    labels, predictions = data("SparseCategoricalCrossentropy", shape, from_logits)
    labels.flat[::2] = ignore_class
    options = {"from_logits": from_logits, "ignore_class": ignore_class}
    for reduction in (None, "sum", "mean"):
        options["reduction"] = reduction
        assert_like_keras("SparseCategoricalCrossentropy", labels, predictions, **options)
    mask = tf.constant(np.arange(labels.size).reshape(labels.shape) < 4)
    call = {"mask": mask}
    assert_like_keras("SparseCategoricalCrossentropy", labels, predictions, call=call, **options)


def test_ignored_class_as_a_float():
    labels, predictions = data("SparseCategoricalCrossentropy", (6, 3))
    labels[::2] = 255
    assert_like_keras("SparseCategoricalCrossentropy", labels, predictions, ignore_class=255.0)


def test_ignored_predictions_may_be_anything():
    loss = losses.SparseCategoricalCrossentropy(ignore_class=1, from_logits=True)
    predictions = np.array([[1.0, 2.0, 3.0], [np.nan, np.inf, -np.inf]], "float32")
    value, gradient = value_and_gradient(loss, np.array([0, 1]), predictions)
    np.testing.assert_allclose(value, np.log(np.exp([0.0, 1.0, 2.0]).sum()), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], np.zeros(3))
    nothing, gradient = value_and_gradient(loss, np.array([1, 1]), predictions)
    assert nothing == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


# Each dtype beside float32 on either side, and the two half precisions.
DTYPES = ["float16", "bfloat16", "float64"]
PAIRS = [pair for dtype in DTYPES for pair in ((dtype, "float32"), ("float32", dtype))]
PAIRS += [("bfloat16", "float16")]


@pytest.mark.parametrize("dtype, policy", PAIRS)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, dtype, policy):
    """The loss is computed in its own dtype, whatever the predictions'."""
    labels, predictions = data(name, from_logits=True)
    # A few units in the last place of the coarser of the two.
    rtol = {"float16": 4e-3, "bfloat16": 4e-2, "float32": 1e-6, "float64": 1e-6}
    predictions = tf.cast(predictions, dtype)
    tolerance = max(rtol[dtype], rtol[policy])
    assert_like_keras(name, labels, predictions, tolerance, from_logits=True, dtype=policy)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8", "bool", "float16", "float64", "list"])
@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_labels(name, kind):
    labels = np.array([[0], [1], [1]]) if name.startswith("Sparse") else np.eye(2)[[0, 1, 1]]
    predictions = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]], "float32")
    expected = getattr(losses, name)()(labels.astype("float32"), predictions)
    given = labels.astype(int).tolist() if kind == "list" else labels.astype(kind)
    if kind == "list" and not name.startswith("Sparse"):
        predictions = predictions.tolist()
    elif kind == "list":
        given = tf.constant(given)  # Keras itself refuses lists of two structures
    np.testing.assert_allclose(getattr(losses, name)()(given, predictions), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("other", [(6,), (6, 1)])
def test_binary_columns(shape, other):
    labels, predictions = data("BinaryCrossentropy", (6,))
    assert_like_keras("BinaryCrossentropy", labels.reshape(shape), predictions.reshape(other))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 2), (3, 2, 1)])
def test_sparse_columns(shape):
    labels, predictions = data("SparseCategoricalCrossentropy", (6, 3))
    predictions = predictions.reshape((6, 3) if shape[0] == 6 else (3, 2, 3))
    assert_like_keras("SparseCategoricalCrossentropy", labels.reshape(shape), predictions)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_examples(name, from_logits):
    for shape in ((0, 3), (0, 2, 3)):
        labels, predictions = data(name, shape, from_logits)
        assert_like_keras(name, labels, predictions, from_logits=from_logits)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_unknown_shapes(name, jit_compile):
    options = {"label_smoothing": 0.1} if name != "SparseCategoricalCrossentropy" else {}
    labels, predictions = data(name, (4, 2, 3), from_logits=True)
    loss = getattr(losses, name)(from_logits=True, dtype="float64", **options)
    signature = [
        tf.TensorSpec([None] * labels.ndim, labels.dtype),
        tf.TensorSpec([None] * 3, "float64"),
    ]
    traced = tf.function(loss, input_signature=signature, autograph=False, jit_compile=jit_compile)
    expected = getattr(keras.losses, name)(from_logits=True, dtype="float64", **options)
    for rows in (slice(0, 4), slice(0, 3)):
        result = traced(labels[rows], predictions[rows])
        np.testing.assert_allclose(result, expected(labels[rows], predictions[rows]), rtol=1e-11)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
@pytest.mark.parametrize("name", NAMES)
def test_symbolic_tensors(name, reduction):
    """A functional model may hold the loss as one of its nodes."""
    labels, predictions = data(name, (4, 3))
    inputs = [keras.Input(batch_shape=array.shape) for array in (labels, predictions)]
    output = getattr(losses, name)(reduction=reduction)(*inputs)
    expected = getattr(losses, name)(reduction=reduction)(labels, predictions)
    assert output.shape == expected.shape
    model = keras.Model(inputs, output)
    np.testing.assert_allclose(model([labels, predictions]), expected, rtol=1e-6)
