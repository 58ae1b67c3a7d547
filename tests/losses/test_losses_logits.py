"""Which logits a loss computes from: those of its own activation for certain, or none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, losses

# The loss, and the activation whose logits are its own.
LOSSES = {
    "BinaryCrossentropy": "sigmoid",
    "CategoricalCrossentropy": "softmax",
    "SparseCategoricalCrossentropy": "softmax",
}
# A square of classes: a wrong axis fits as well. The labels are at the certain errors.
LOGITS = np.random.default_rng(0).normal(0, 1, (2, 3, 3)).astype("float32")
LABELS = np.array([[0, 1, 2], [2, 0, 1]])
LOGITS[0, 0, 0], LOGITS[0, 1, 1], LOGITS[1, 1, 0] = -20, -100, -40
# Where the activations, or the axes of a softmax, give the same.
ALIKE = {
    "zero": np.zeros((2, 3, 3), "float32"),
    "certain": np.float32(1e3) * (2 * np.eye(3, dtype="float32")[[[1, 2, 0], [2, 0, 1]]] - 1),
}
FUNCTIONS = {
    "sigmoid": (keras.activations.sigmoid, tf.nn.sigmoid),
    "softmax": (keras.activations.softmax, tf.nn.softmax),
}


@tf.custom_gradient
def twice_the_gradient(p):
    return tf.identity(p), lambda upstream: 2 * upstream


def with_identity(layer):
    """Build a layer with a kernel, of which it makes no use."""
    layer.build((None, 3, 3))
    layer.kernel.assign(tf.reshape(tf.eye(3), layer.kernel.shape))
    return layer


def heads(activation):
    """List (name, head, whether the logits are known: always, in a graph, or never)."""
    function, plain = FUNCTIONS[activation]
    inner = keras.Sequential([keras.Input((3, 3)), keras.layers.Activation(activation)])
    x = keras.Input((3, 3))
    conv = keras.layers.Conv1D(3, 1, activation=activation)
    reshape, drop = keras.layers.Reshape((3, 3)), keras.layers.Dropout(0.5)
    by_step = keras.layers.TimeDistributed(keras.layers.Activation(activation))
    by_step.build((None, 3, 3))
    mask = tf.ones((2, 3, 3), bool)
    yield "own layer", with_identity(layers.Dense(3, activation)), "always"
    yield "dense layer", with_identity(keras.layers.Dense(3, activation)), "always"
    yield "convolution", with_identity(conv), "always"
    yield "layer of its own", keras.layers.Activation(activation), "always"
    yield "nested", keras.Sequential([keras.Input((3, 3)), inner, drop]), "always"
    yield "functional", keras.Model(x, inner(x)), "always"
    yield "ops", getattr(keras.ops, activation), "always"
    yield "temperature before", lambda z: function(z / 2), "always"
    yield "tensorflow", plain, "graph"
    yield "tensorflow, cast", lambda z: tf.cast(plain(tf.cast(z, "float64")), "float32"), "never"
    yield "reshaped", lambda z: reshape(function(z)), "never"
    yield "squeezed", lambda z: tf.squeeze(function(z)[..., None], -1), "never"
    yield "by step", by_step, "never"
    yield "traced", tf.function(function, autograph=False), "never"
    yield "temperature after", lambda z: (function(z) + 1e-9) ** 0.5 / 2, "never"
    yield "another gradient", lambda z: twice_the_gradient(function(z)), "never"
    yield "another activation", keras.activations.hard_sigmoid, "never"
    if activation == "softmax":
        yield "softmax layer", keras.layers.Softmax(), "always"
        yield "list of axes", keras.layers.Softmax(axis=[-1]), "always"
        for axis in (0, 1, [1], (1, 2), None):
            other = keras.layers.Softmax(axis=axis) if axis is not None else None
            yield f"axis {axis}", other or (lambda z: keras.ops.softmax(z, axis=None)), "never"
        yield "masked", lambda z: keras.layers.Softmax().call(z, mask), "never"


def of_logits(name, z):
    """Return loss and gradient by the formulas of the logits, in NumPy and float64."""
    z, y = z.astype("float64"), np.eye(3)[LABELS]
    if name == "BinaryCrossentropy":
        p = np.exp(-np.logaddexp(0, -z))
        return np.mean(np.logaddexp(0, z) - y * z), (p - y) / z.size
    log_a = z - np.logaddexp.reduce(z, -1, keepdims=True)
    return -np.mean(np.sum(y * log_a, -1)), (np.exp(log_a) - y) / LABELS.size


def loss_and_gradient(head, loss, labels, z, lost=False):
    with tf.GradientTape() as tape:
        tape.watch(z)
        outputs = head(z)
        value = loss(labels, tf.identity(outputs) if lost else outputs)
    return value, tape.gradient(value, z)


def same(result, expected):
    # Gradients of the float32 probabilities: p (1 - p) / p and so on, a few roundings each.
    return all(np.allclose(a, b, rtol=2e-5, atol=1e-7) for a, b in zip(result, expected))  # noqa: B905


# The sparse loss finds its logits by the same function as the categorical one.
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n[0] == "S" else ()) for n in LOSSES]
)
def test_logits_or_probabilities(name, activation):
    """Loss and gradient are those of the logits, or of the plain probabilities: no third thing."""
    loss = getattr(losses, name)()
    labels = tf.constant(LABELS if name[0] == "S" else np.eye(3, dtype="float32")[LABELS])
    table = list(heads(activation))

    def all_heads(z):
        return [loss_and_gradient(head, loss, labels, z) for _, head, _ in table]

    runs = {"eager": all_heads, "graph": tf.function(all_heads, autograph=False)}
    for case, z in {"usual": LOGITS, **ALIKE}.items():
        results = [run(tf.constant(z)) for run in runs.values()]
        for (what, head, known), *by_mode in zip(table, *results, strict=True):
            temperature = 2 if what == "temperature before" else 1
            value, gradient = of_logits(name, z / temperature)
            right = value, gradient / temperature
            plain = loss_and_gradient(head, loss, labels, tf.constant(z), lost=True)
            for mode, result in zip(runs, by_mode, strict=True):
                at_logits = activation == LOSSES[name] and known in ("always", mode)
                found = same(result, right) if at_logits else same(result, plain)
                if at_logits and case == "usual":
                    # The case can tell the two apart.
                    assert not same(plain, right), what
                elif at_logits:
                    # Eagerly Keras's layers do not tell which activation they had.
                    found = found or (
                        mode == "eager" and what != "own layer" and same(result, plain)
                    )
                assert found, (what, mode, case, result, right, plain)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_survive_what_the_loss_does(dtype, mode):
    """It casts half precision, and drops a last axis of 1 that the labels lack."""
    z = tf.constant([[-20.0, 3.0], [-100.0, 40.0]], dtype)[..., tf.newaxis]
    y = tf.constant([[1.0, 0.0], [1.0, 1.0]])
    head, loss = keras.layers.Activation("sigmoid", dtype=dtype), losses.BinaryCrossentropy()
    run = lambda z: loss_and_gradient(head, loss, y, z)  # noqa: E731
    value, gradient = (tf.function(run, autograph=False) if mode == "graph" else run)(z)
    # softplus(z) - y z; the sigmoid minus y, over 4.
    np.testing.assert_allclose(value, (20 + np.log1p(np.exp(3)) + 100) / 4, rtol=1e-6)
    assert gradient.dtype == dtype
    expected = np.array([[-1, 1 / (1 + np.exp(-3.0))], [-1, 0]]) / 4
    # A rounding of float16 is 5e-4; the sigmoid of -20 is 2e-9.
    np.testing.assert_allclose(gradient[..., 0], expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_a_compiled_model_trains_as_its_probabilities_say(mode):
    """Two units of a softmax, a layer of its own, under the binary cross-entropy."""
    head = [keras.layers.Dense(2, use_bias=False), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((3,)), *head])
    options = {"run_eagerly": mode == "eager", "jit_compile": mode == "jit"}
    model.compile(keras.optimizers.SGD(1.0), losses.BinaryCrossentropy(), **options)
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(4, 3)).astype("float32"), np.eye(2)[[0, 1, 1, 0]]
    kernel = model.layers[0].kernel.numpy().astype("float64")
    z = x @ kernel
    a = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    # With two classes and one-hot labels both terms of a row are -log a_t: the mean is over 4.
    expected = kernel - x.T @ (a - y) / 4
    model.train_on_batch(x, y)
    np.testing.assert_allclose(model.layers[0].kernel, expected, rtol=1e-5)
