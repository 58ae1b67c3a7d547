"""Layers inside TensorFlow's and Keras's transformations do what their Keras namesakes do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import (
    NAMES,
    REQUIRED,
    assert_alike,
    built_pair,
    calls,
    observe,
    pair,
    share_random_weights,
)

from keras_bp import layers

X = np.random.default_rng(5).normal(size=(4, 6))
# Every layer, Dense with each activation that has a backward rule of its own, and the layouts in
# which a normalization sums over several axes.
CASES = [
    *[(name, {}, X.shape) for name in NAMES if name != "Dense"],
    *[("Dense", {"activation": a}, X.shape) for a in (None, "relu", "tanh", "sigmoid", "softmax")],
    ("BatchNormalization", {"axis": 1}, (3, 4, 2, 2)),
    ("GroupNormalization", {}, (3, 2, 2, 4)),
    ("LayerNormalization", {"axis": [1, 2]}, (3, 2, 4, 2)),
]


def compare(use):
    """Compare what `use` makes of a stack of all layers, Keras's and ours, in float64."""
    keras.config.set_dtype_policy("float64")
    # Three channels a group: two become 1 and -1, and let no gradient through.
    options = REQUIRED | {"Dense": {"units": 6}}
    theirs, ours = (
        keras.Sequential(
            [keras.Input((6,)), *(getattr(module, name)(**options[name]) for name in NAMES)]
        )
        for module in (keras.layers, layers)
    )
    ours.set_weights(theirs.get_weights())
    expected, results = use(theirs), use(ours)
    assert all(np.abs(array).max() > 1e-6 for array in expected)
    assert_alike(expected, results, 1e-9, 1e-12)


def test_jacobian():
    def use(stack):
        @tf.function(autograph=False)
        def jacobian(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = stack(x, training=True)
            # With pfor, which must have a rule for every operation of the backward pass.
            return tape.jacobian(outputs, x)

        return [jacobian(tf.constant(X)).numpy()]

    compare(use)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Normalization")])
def test_forward_mode_where_the_variance_is_zero(name):
    """The derivative of a root at 0 is infinite, that of the variance is not."""
    x = tf.ones((3, 4), tf.float64)

    def use(layer):
        with tf.autodiff.ForwardAccumulator(
            x, tf.reshape(tf.range(12.0, dtype=x.dtype), (3, 4))
        ) as a:
            outputs = layer(x, **calls(name)[0])
        return [a.jvp(outputs).numpy()]

    theirs, ours = pair(name, dtype="float64")
    assert_alike(use(theirs), use(ours), 1e-9)


@pytest.mark.parametrize("name, options, shape", CASES, ids=str)
def test_gradient_penalty(name, options, shape):
    """A tape in a tape: the squared norm of the input's gradient, differentiated again."""
    x = tf.constant(np.random.default_rng(6).normal(size=shape))

    def use(layer):
        weights = [w.value for w in layer.trainable_variables]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(layer(x, **calls(name)[0]) ** 3)
            penalty = tf.reduce_sum(inner.gradient(total, x) ** 2)
        gradients = outer.gradient(penalty, [x, *weights], unconnected_gradients="zero")
        return [penalty.numpy(), *(g.numpy() for g in gradients)]

    theirs, ours = built_pair(name, shape, dtype="float64", **options)
    assert_alike(use(theirs), use(ours), 1e-9)


def test_vectorized_map():
    def use(stack):
        return [tf.vectorized_map(lambda row: stack(row[tf.newaxis])[0], tf.constant(X)).numpy()]

    compare(use)


def test_inside_a_while_loop():
    """Forward and backward inside `tf.map_fn`, as in the cell of a recurrent layer."""

    def use(stack):
        @tf.function(autograph=False)
        def gradients(x):
            weights = [w.value for w in stack.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = tf.map_fn(lambda part: stack(part, training=True), x)
                total = tf.reduce_sum(outputs**3)
            return [total, *tape.gradient(total, [x, *weights])]

        return [t.numpy() for t in gradients(tf.constant(X.reshape(2, 2, 6)))]

    compare(use)


def test_stateless_call():
    """The values passed in count, not the variables', and the new state is returned."""

    def use(stack):
        before = [w.numpy() for w in stack.variables]
        trainable = [w.value * 2 for w in stack.trainable_variables]
        state = [w.value + tf.cast(3, w.dtype) for w in stack.non_trainable_variables]
        outputs, state = stack.stateless_call(trainable, state, X, training=True)
        for w, value in zip(stack.variables, before, strict=True):
            np.testing.assert_array_equal(w, value)
        return [np.asarray(t) for t in (outputs, *state)]

    compare(use)


def test_rematerialization():
    with keras.RematScope(mode="full"):
        compare(lambda stack: observe(stack, X, training=True))


@pytest.mark.parametrize("name", NAMES)
def test_time_distributed(name):
    results = []
    for layer in pair(name, kernel_initializer="ones") if name == "Dense" else pair(name):
        wrapped = keras.layers.TimeDistributed(layer)
        x = X.reshape(2, 2, 6).astype("float32")
        results.append([wrapped(x, **calls(name)[0]).numpy()])
    assert_alike(*results, 1e-5)


def test_spectral_normalization():
    wrapped = [keras.layers.SpectralNormalization(layer) for layer in pair("Dense")]
    for wrapper in wrapped:
        wrapper.build(X.shape)
    share_random_weights(*wrapped)
    x = X.astype("float32")
    results = [[w(x, training=True).numpy(), w.layer.kernel.numpy()] for w in wrapped]
    assert_alike(*results, 1e-6)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_no_and_of_one_row(name, rows):
    theirs, ours = built_pair(name, (rows, 6))
    x = X[:rows].astype("float32")
    before = [w.numpy() for w in ours.non_trainable_variables]
    expected, results = (observe(layer, x, **calls(name)[0]) for layer in (theirs, ours))
    if name == "BatchNormalization" and not rows:  # Keras's are NaN: gamma's gradient, averages
        expected = [*(np.zeros_like(array) for array in expected[:-2]), *before]
    assert_alike(expected, results, 1e-5)
