"""A wrong argument or shape is named, with what came, and a right call after it works."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, losses

NAMES = losses.__all__
SMOOTHED = ["BinaryCrossentropy", "CategoricalCrossentropy"]
NAN = float("nan")


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize(
    "value, error",
    [
        *[(value, ValueError) for value in (-1e-9, 1 + 1e-9, NAN, float("inf"))],
        *[(value, TypeError) for value in ("0.1", None, True, [0.1])],
    ],
)
def test_label_smoothing(name, value, error):
    with pytest.raises(error, match="label_smoothing.*Received") as caught:
        getattr(losses, name)(label_smoothing=value)
    assert str(value[0] if isinstance(value, list) else value) in str(caught.value)


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("value", [0, 0.0, 1e-9, 1, 1.0, np.float32(0.5)])
def test_label_smoothing_at_the_bounds(name, value):
    loss = getattr(losses, name)(label_smoothing=value)
    assert np.isfinite(loss(np.eye(2, dtype="float32"), np.full((2, 2), 0.5, "float32")))


@pytest.mark.parametrize("name", NAMES)
def test_reduction_dtype_and_keyword(name):
    for options in ({"reduction": "summ"}, {"dtype": "float31"}):
        with pytest.raises(ValueError, match=next(iter(options.values()))):
            getattr(losses, name)(**options)
    with pytest.raises(TypeError, match="from_logit"):
        getattr(losses, name)(from_logit=True)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(
    "name, labels, predictions",
    [
        *[
            (name, *shapes)
            for name in SMOOTHED
            for shapes in [
                ((4, 2), (4, 3)),
                ((4, 1), (4, 3)),
                ((3, 3), (4, 3)),
                ((4,), (4, 3)),
                ((4, 3, 1, 1), (4, 3)),
                ((4, 3), (4, 2, 3)),
            ]
        ],
        *[
            ("SparseCategoricalCrossentropy", *shapes)
            for shapes in [((4, 2), (4, 3)), ((4, 3), (4, 3)), ((3,), (4, 3)), ((4, 2), (4, 5, 3))]
        ],
    ],
    ids=str,
)
def test_labels_of_another_shape(name, labels, predictions, from_logits):
    loss = getattr(losses, name)(from_logits=from_logits)
    with pytest.raises(ValueError, match=r"y_true.*Received") as caught:
        loss(np.zeros(labels, "int32"), np.full(predictions, 0.5, "float32"))
    assert str(labels) in str(caught.value)
    assert str(predictions) in str(caught.value)
    right = predictions[:-1] if name.startswith("Sparse") else predictions
    assert np.isfinite(loss(np.zeros(right, "int32"), np.full(predictions, 0.5, "float32")))


@pytest.mark.parametrize("name", SMOOTHED)
def test_labels_of_another_shape_are_not_broadcast_in_a_graph(name):
    """Where shapes are known only as the step runs, a column of labels is found then."""
    signature = [tf.TensorSpec([None, None])] * 2
    loss = getattr(losses, name)(from_logits=True)
    traced = tf.function(loss, input_signature=signature, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="same shape"):
        traced(np.ones((4, 1), "float32"), np.ones((4, 3), "float32"))
    assert np.isfinite(traced(np.ones((4, 3), "float32"), np.ones((4, 3), "float32")))


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name, axis", [(n, a) for n in losses.__all__ for a in (2, -3, True)])
def test_axis_outside_the_rank(name, axis, from_logits):
    with pytest.raises((ValueError, TypeError), match=f"`axis`.*{axis}"):
        loss = getattr(losses, name)(axis=axis, from_logits=from_logits)
        labels = np.eye(3, dtype="float32")
        loss(labels[0] if "Sparse" in name else labels, np.full((3, 3), 0.5, "float32"))


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_sparse_labels_must_lack_the_axis_of_the_classes(axis):
    loss = losses.SparseCategoricalCrossentropy(axis=axis)
    shapes = (
        rf"y_true.*Received: y_true of shape \(4, 2\), y_pred of shape \(4, 2, 3\), axis={axis % 3}"
    )
    with pytest.raises(ValueError, match=shapes):
        loss(np.zeros((4, 2), "int32"), np.full((4, 2, 3), 0.5, "float32"))


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_sparse_labels_outside_the_classes(label, from_logits):
    """They raise; compiled, they are NaN, as in Keras: never a number that looks right."""
    loss = losses.SparseCategoricalCrossentropy(from_logits=from_logits, reduction=None)
    labels, predictions = tf.constant([0, label]), tf.constant([[0.2, 0.3, 0.5]] * 2)
    with pytest.raises(ValueError, match=f"y_true.*Received.*{label}"):
        loss(labels, predictions)
    ignoring = losses.SparseCategoricalCrossentropy(from_logits, ignore_class=label)
    assert np.isfinite(ignoring(labels, predictions))
    compiled = tf.function(loss, jit_compile=True, autograph=False)(labels, predictions)
    np.testing.assert_array_equal(np.isnan(compiled), [False, True])


@pytest.mark.parametrize("dtype, most", [("bfloat16", 257), ("float16", 2049)])
def test_a_dtype_too_narrow_for_the_labels(dtype, most):
    """Keras's casts the last label but one of 258 or 2050 classes to another class."""
    loss = losses.SparseCategoricalCrossentropy(dtype=dtype)
    labels = tf.constant([most - 1])
    predictions = tf.cast(tf.one_hot(labels, most), dtype)
    assert float(loss(labels, predictions)) == 0
    with pytest.raises(ValueError, match=f"`dtype`.*up to {most - 1}.*Received.*{most + 1}"):
        loss(labels, tf.pad(predictions, [[0, 0], [0, 1]]))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", NAMES)
def test_from_logits_behind_an_activation_warns(name, mode):
    """Not silently one or the other: the logits behind the activation are used, and it says so."""
    activation = "sigmoid" if name == "BinaryCrossentropy" else "softmax"
    labels = np.array([0, 1]) if name.startswith("Sparse") else np.eye(2, dtype="float32")
    layer = layers.Dense(2, activation)
    layer.build((None, 3))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3)).astype("float32"))
    right, wrong = getattr(losses, name)(), getattr(losses, name)(from_logits=True)
    for outputs in (layer, lambda x: getattr(keras.activations, activation)(layer(x) + 1)):
        call = lambda x, outputs=outputs: wrong(labels, outputs(x))  # noqa: E731
        with pytest.warns(UserWarning, match=f"from_logits=True.*{activation}"):
            value = (tf.function(call, autograph=False) if mode == "graph" else call)(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(value, right(labels, outputs(x)), rtol=1e-6)


def test_a_single_class_warns():
    loss = losses.CategoricalCrossentropy()
    with pytest.warns(SyntaxWarning, match="single class"):
        loss(np.ones((4, 1), "float32"), np.full((4, 1), 0.5, "float32"))


def test_a_wrong_call_in_a_model_leaves_it_usable():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax")])
    model.compile("sgd", losses.SparseCategoricalCrossentropy(), run_eagerly=True)
    x = np.ones((4, 2), "float32")
    before = [w.numpy() for w in model.weights]
    with pytest.raises(ValueError, match="y_true"):
        model.fit(x, np.zeros((4, 2), "int32"), verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert np.isfinite(model.fit(x, np.zeros(4, "int32"), verbose=0).history["loss"][0])
