"""The closed form dZ = A - Y, exact and finite at the extremes; where Keras's loss is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, losses

NAMES = losses.__all__
EPSILON = keras.config.epsilon()
# Keras's loss of the same case is an expected failure that fails the suite once Keras mends it.
WRONG_IN_KERAS = pytest.mark.xfail(strict=True, reason="Keras 3.15 has it wrong")


def both(mended=None):
    """List our losses and Keras's, which are right from the version on that has `mended` them."""
    marks = [] if mended and keras.__version__ >= mended else [WRONG_IN_KERAS]
    theirs = pytest.param(keras.losses, id="keras", marks=marks)
    return [pytest.param(losses, id="keras_bp"), theirs]


BOTH = both()
MODES = ["eager", "graph", "jit"]


def run(function, mode):
    """Return the function, run eagerly, as a graph, or compiled by XLA."""
    return (
        function
        if mode == "eager"
        else tf.function(function, autograph=False, jit_compile=mode == "jit")
    )


def gradient_of(loss, labels, predictions, mode="eager"):
    """Return the loss and its gradient with respect to the predictions."""

    def both(labels, predictions):
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            value = loss(labels, predictions)
        return value, tape.gradient(value, predictions)

    return [t.numpy() for t in run(both, mode)(tf.constant(labels), tf.constant(predictions))]


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def softmax(z):
    a = np.exp(z - z.max(-1, keepdims=True))
    return a / a.sum(-1, keepdims=True)


# Logits at which a sigmoid or a softmax is 0 or 1 to the last bit, right and wrong predictions.
EXTREME = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]])
ONE_HOT = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits(name, mode):
    z, y = EXTREME.astype("float32"), ONE_HOT.astype("float32")
    if name == "BinaryCrossentropy":
        # By hand: a wrong logit of 1e4 costs 1e4, a right one nothing, a 0 log(2).
        costs = [[0, 0, np.log(2)], [1e4, 1e4, np.log(2)], [0, 1e4, 0], [1e4, 1e4, 0]]
        expected, a, share = np.mean(costs), sigmoid(EXTREME), 12
    else:
        expected, a, share = np.mean([0, 2e4, np.log(3), np.log(3)]), softmax(EXTREME), 4
    labels = y.argmax(-1) if name.startswith("Sparse") else y
    value, gradient = gradient_of(getattr(losses, name)(from_logits=True), labels, z, mode)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, (a - ONE_HOT) / share, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_dense_and_loss_together(name, mode):
    """Through the model's own activation: dZ = A - Y, so dkernel = X^T (A - Y) / m."""
    binary = name == "BinaryCrossentropy"
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(5, 4)), generator.normal(size=(4, 3))
    y = np.eye(3)[[0, 2, 1, 1, 0]]
    layer = layers.Dense(3, "sigmoid" if binary else "softmax", dtype="float64")
    layer.build(x.shape)
    loss = getattr(losses, name)(dtype="float64")
    labels = tf.constant(y.argmax(-1) if name.startswith("Sparse") else y)

    def step(x):
        with tf.GradientTape() as tape:
            value = loss(labels, layer(x))
        return value, *tape.gradient(value, [layer.kernel.value, layer.bias.value])

    step = run(step, mode)
    for scale in (1.0, 1e4):
        layer.kernel.assign(scale * kernel)
        value, dkernel, dbias = step(tf.constant(x))
        z = x @ layer.kernel.numpy()
        if binary:
            a, share = sigmoid(z), y.size
            expected = np.mean(np.logaddexp(0, z) - y * z)
        else:
            a, share = softmax(z), len(y)
            expected = np.mean(np.logaddexp.reduce(z, -1) - (y * z).sum(-1))
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(dkernel, x.T @ (a - y) / share, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(dbias, (a - y).sum(0) / share, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "dtype, mode",
    [("float16", "eager"), ("bfloat16", "eager"), ("float64", "eager")]
    + [("float32", mode) for mode in MODES],
)
@pytest.mark.parametrize("name", NAMES)
def test_certain_probabilities(name, dtype, mode):
    """Predictions of exactly 0 and 1: right ones cost 0, wrong ones -log(epsilon)."""
    probabilities = np.eye(3)[[0, 1, 2, 2]]
    y = np.eye(3)[[0, 1, 2, 1]]
    labels = y.argmax(-1) if name.startswith("Sparse") else y
    loss = getattr(losses, name)()
    value, gradient = gradient_of(loss, labels, tf.cast(probabilities, dtype), mode)
    # Of 12 entries, or of 4 examples, the last example has 2 wrong, or is wrong.
    share = 2 / 12 if name == "BinaryCrossentropy" else 1 / 4
    np.testing.assert_allclose(value, -np.log(EPSILON) * share, rtol=1e-6)
    gradient = gradient.astype("float64")
    assert np.all(np.isfinite(gradient))
    # It draws the probability of the right class up, and no right prediction anywhere else.
    assert gradient[3, 1] < -1e3
    assert np.all(np.abs(gradient[:3]) <= 1)


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("name", NAMES)
def test_a_certain_error_still_teaches(name, module):
    labels = np.array([1]) if name.startswith("Sparse") else np.array([[0.0, 1.0]], "float32")
    probabilities = np.array([[1.0, 0.0]], "float32")
    _, gradient = gradient_of(getattr(module, name)(), labels, probabilities)
    assert gradient[0, 1] < -1e3


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("name", NAMES)
def test_a_certain_and_right_prediction_costs_nothing(name, module):
    labels = np.array([0]) if name.startswith("Sparse") else np.array([[1.0, 0.0]], "float32")
    value, _ = gradient_of(getattr(module, name)(), labels, np.array([[1.0, 0.0]], "float32"))
    assert value == 0


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("module", both(mended="3.16"))
def test_label_smoothing_spreads_over_the_classes(module, from_logits):
    """With the classes on axis 1 a label is shared among them, not among the positions."""
    generator = np.random.default_rng(0)
    y = np.moveaxis(np.eye(3)[generator.integers(0, 3, (4, 5))], -1, 1)
    z = generator.normal(size=(4, 3, 5))
    a = np.moveaxis(softmax(np.moveaxis(z, 1, -1)), -1, 1)
    options = {"label_smoothing": 0.3, "from_logits": from_logits, "dtype": "float64"}
    loss = module.CategoricalCrossentropy(axis=1, **options)
    value, gradient = gradient_of(loss, y, z if from_logits else a)
    smooth = 0.7 * y + 0.1
    np.testing.assert_allclose(value, -np.mean(np.sum(smooth * np.log(a), 1)), rtol=1e-12)
    if from_logits:
        np.testing.assert_allclose(gradient, (a - smooth) / 20, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", BOTH)
def test_labels_that_do_not_sum_to_one(module, mode):
    """The gradient of sum_k y_k (log sum_j exp(z_j) - z_k) is a sum(y) - y, not a - y."""
    y, z = np.array([[0.5, 1.0, 2.0], [0.0, 0.0, 0.25]]), np.array([[1.0, 0.0, -1.0], [0.5, 2, 0]])
    loss = module.CategoricalCrossentropy(from_logits=True, reduction="sum", dtype="float64")
    _, gradient = gradient_of(loss, y, z, mode)
    np.testing.assert_allclose(gradient, softmax(z) * y.sum(1, keepdims=True) - y, rtol=1e-10)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize(
    "name, activation",
    [
        ("BinaryCrossentropy", "softmax"),
        ("CategoricalCrossentropy", "sigmoid"),
        ("SparseCategoricalCrossentropy", "sigmoid"),
    ],
)
def test_the_other_activation_is_not_undone(name, activation, module, mode):
    """Logits of a softmax are none of a sigmoid: the loss is that of the probabilities."""
    layer = layers.Dense(3, activation)
    layer.build((None, 4))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    y = np.array([0, 1, 2, 1, 0])
    labels = tf.constant(y if name.startswith("Sparse") else np.eye(3, dtype="float32")[y])
    loss = getattr(module, name)()
    together = run(lambda x: loss(labels, layer(x)), mode)(tf.constant(x))
    np.testing.assert_allclose(together, loss(labels, layer(x).numpy()), rtol=1e-5)


@pytest.mark.parametrize("module", BOTH)
def test_a_softmax_over_another_axis_is_not_undone(module):
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    probabilities = keras.layers.Softmax(axis=1)(x)
    labels = np.zeros((4, 2, 3), "float32")
    labels[..., 0] = 1
    loss = module.CategoricalCrossentropy()
    np.testing.assert_allclose(
        loss(labels, probabilities), loss(labels, probabilities.numpy()), rtol=1e-5
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_plain_activation_is_undone(name, mode):
    """Behind Keras's own activations, and in a graph behind TensorFlow's, stand the logits."""
    binary = name == "BinaryCrossentropy"
    labels = np.array([0, 1]) if name.startswith("Sparse") else np.eye(2, 3, dtype="float32")
    # Eagerly a softmax of these that is their sigmoid too could not be told from it.
    z = np.array([[-1e3, 1e3, 0], [1e3, -1e3, 1]], "float32")
    functions = [keras.activations.sigmoid if binary else keras.activations.softmax]
    if mode != "eager":
        functions.append(tf.nn.sigmoid if binary else tf.nn.softmax)
    loss = getattr(losses, name)()
    for activation in functions:
        value = run(lambda z, activation=activation: loss(labels, activation(z)), mode)(z)
        expected = (4e3 + np.log(2) + np.log1p(np.e)) / 6 if binary else 2e3
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_finite_difference(name):
    """The gradient of probabilities, away from 0 and 1, against central differences."""
    generator = np.random.default_rng(1)
    p = generator.uniform(0.1, 0.9, (4, 3))
    y = generator.integers(0, 3, 4) if name.startswith("Sparse") else generator.uniform(size=(4, 3))
    loss = getattr(losses, name)(dtype="float64")
    _, gradient = gradient_of(loss, y, p)
    numeric = np.zeros_like(p)
    for index in np.ndindex(p.shape):
        step = np.zeros_like(p)
        step[index] = 1e-5
        numeric[index] = (loss(y, p + step) - loss(y, p - step)) / 2e-5
    np.testing.assert_allclose(gradient, numeric, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_float16_model_with_a_certain_error(name, policy):
    """A float16 softmax is exactly 0 already at logits 17 apart; the loss still has the logits."""
    layer = layers.Dense(3, "sigmoid" if name[0] == "B" else "softmax", dtype=policy)
    layer.build((None, 2))
    layer.kernel.assign([[40.0, -40.0, 0.0], [0.0, 0.0, 0.0]])
    x = tf.constant([[1.0, 1.0], [1.0, -1.0]])
    labels = np.array([1, 0]) if name.startswith("Sparse") else np.eye(3, dtype="float32")[[1, 0]]
    with tf.GradientTape() as tape:
        value = getattr(losses, name)()(labels, layer(x))
    dkernel, dbias = tape.gradient(value, [layer.kernel.value, layer.bias.value])
    # By hand, with a = (1, 0, 0) of the softmax and (1, 0, 1/2) of the sigmoid.
    binary = name == "BinaryCrossentropy"
    expected = (80 + 2 * np.log(2)) / 6 if binary else 40
    a = [1, 0, 0.5 if binary else 0]
    dz = (np.array([a, a]) - np.eye(3)[[1, 0]]) / (6 if binary else 2)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(dbias, dz.sum(0), rtol=1e-3)
    np.testing.assert_allclose(dkernel, np.asarray(x).T @ dz, rtol=1e-3)
