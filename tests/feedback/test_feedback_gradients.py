"""The gradients of whole networks, against the equations in NumPy and against differences."""

import feedback_cases as cases
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp import layers, losses
from keras_bp.feedback import direct_feedback_model, exact_gradients

# Some hundred roundings of float64, of numbers of order 1.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}
LOSS = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
modes = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])


def tape_gradients(model, x=cases.X, jit=False, loss=LOSS):
    def run():
        with tf.GradientTape() as tape:
            cost = loss(cases.LABELS, model(x, training=True))
        return tape.gradient(cost, model.trainable_variables)

    found = tf.function(run, jit_compile=True)() if jit else run()
    return [g.numpy() for g in found]


def assert_equal(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, **ROUNDING)


@pytest.mark.parametrize("feedback, jit", [("random", False), ("random", True), ("sign", False)])
def test_feedback_alignment(feedback, jit):
    model = cases.chain(feedback=feedback)
    weights = cases.weights_of(model)
    matrices = [layer.feedback_kernel.numpy() for layer in model.layers]
    if feedback == "sign":
        matrices = [np.sign(w) * np.abs(b) for (w, _), b in zip(weights, matrices, strict=True)]
    expected = cases.gradients(weights, lambda n, delta, e: delta @ matrices[n + 1].T)
    assert_equal(tape_gradients(model, jit=jit), expected)


@modes
def test_direct_feedback_alignment(jit):
    model = cases.direct()
    matrices = [w.numpy() for w in model.get_layer("direct_feedback").weights]
    expected = cases.gradients(cases.weights_of(model), lambda n, delta, e: e @ matrices[n])
    assert_equal(tape_gradients(model, jit=jit), expected)


@pytest.mark.parametrize("make", [cases.chain, cases.direct])
def test_behind_the_switch_it_is_backpropagation(make):
    model = make()
    weights = cases.weights_of(model)
    expected = cases.gradients(weights, lambda n, delta, e: delta @ weights[n + 1][0].T)
    with exact_gradients():
        found = tape_gradients(model)
    assert_equal(found, expected)


def test_with_the_kernels_for_feedback_it_is_backpropagation():
    model = cases.chain()
    for layer in model.layers:
        layer.feedback_kernel.assign(layer.kernel)
    flat = np.concatenate([np.ravel(g) for g in tape_gradients(model)])
    weights = cases.weights_of(model)
    numeric = []
    for pair in weights:
        for array in pair:
            for place in np.ndindex(array.shape):
                value, costs = array[place], []
                for step in (1e-5, -1e-5):
                    array[place] = value + step
                    costs.append(cases.loss(weights))
                array[place] = value
                numeric.append((costs[0] - costs[1]) / 2e-5)
    # The project's bound; the step leaves about 1e-10.
    figure = np.linalg.norm(flat - numeric) / (np.linalg.norm(flat) + np.linalg.norm(numeric))
    assert figure < 1e-8


def test_convolutions():
    """Against the plain layers under autodiff, cut into pieces where the signal is another one."""
    model = cases.convolutional()
    one, two, pool, flatten, three, head = model.layers
    h1 = one(cases.IMAGES)
    h2 = flatten(pool(two(h1)))
    h3 = three(h2)
    with tf.GradientTape() as tape:
        tape.watch(h3)
        cost = LOSS(cases.LABELS, head(h3))
    d_head = tape.gradient(cost, head.trainable_variables)
    e = tf.constant(cases.error(head(h3).numpy()))

    def piece(layer, inputs, upstream, after=lambda outputs: outputs):
        with tf.GradientTape() as tape:
            outputs = after(tf.tanh(layer(inputs)))
        return tape.gradient(outputs, layer.trainable_variables, output_gradients=upstream)

    def plain(layer):
        """The layer without activation, of Keras's own, with these weights."""
        config = {**layer.get_config(), "activation": None}
        names = ("feedback", "feedback_initializer")
        config = {key: value for key, value in config.items() if key not in names}
        convolution = isinstance(layer, keras.layers.Conv2D)
        twin = (keras.layers.Conv2D if convolution else keras.layers.Dense).from_config(config)
        twin.build(layer.input.shape)
        twin.set_weights(layer.get_weights()[:2])
        return twin

    up3 = e @ tf.transpose(head.feedback_kernel.value)
    d3 = piece(plain(three), h2, up3)
    up2 = (up3 * (1 - h3**2)) @ tf.transpose(three.feedback_kernel.value)
    d2 = piece(plain(two), h1, up2, lambda outputs: flatten(pool(outputs)))
    with tf.GradientTape() as tape:
        h = tf.Variable(h1)
        z = tf.nn.conv2d(h, two.feedback_kernel.value, 1, "SAME")
    with tf.GradientTape() as pooled:
        a2 = tf.tanh(plain(two)(h1))
        pooled.watch(a2)
        out = flatten(pool(a2))
    up_a2 = pooled.gradient(out, a2, output_gradients=up2)
    up1 = tape.gradient(z, h, output_gradients=up_a2 * (1 - a2**2))
    d1 = piece(plain(one), cases.IMAGES, up1)
    assert_equal(tape_gradients(model, cases.IMAGES), [*d1, *d2, *d3, *d_head])


def test_direct_feedback_to_convolutions():
    base = cases.convolutional(keras.layers.Conv2D, keras.layers.Dense)
    model = direct_feedback_model(base)
    one, two, pool, flatten, three, head = base.layers
    h1 = one(cases.IMAGES)
    h2 = flatten(pool(two(h1)))
    e = tf.constant(cases.error(head(three(h2)).numpy()))
    feedback = [tf.cast(w.value, e.dtype) for w in model.get_layer("direct_feedback").weights]
    # A block ends before the next kernel: pooling belongs to the second convolution's.
    assert [b.shape[1] for b in feedback] == [np.prod(h1.shape[1:]), h2.shape[1], 6]
    expected = []
    for layer, x, b, after in [
        (one, cases.IMAGES, feedback[0], lambda a: a),
        (two, h1, feedback[1], lambda a: flatten(pool(a))),
        (three, h2, feedback[2], lambda a: a),
        (head, three(h2), None, lambda a: a),
    ]:
        with tf.GradientTape() as tape:
            outputs = after(layer(x))
        upstream = e if b is None else tf.reshape(e @ b, tf.shape(outputs))
        expected += tape.gradient(outputs, layer.trainable_variables, output_gradients=upstream)
    assert_equal(tape_gradients(model, cases.IMAGES), expected)


@pytest.mark.parametrize("module", [keras, keras_bp], ids=lambda module: module.__name__)
def test_the_error_of_probabilities_is_that_of_their_logits(module):
    """Where a loss takes the logits that travel along, and where it does not."""
    logits, softmax = cases.direct(), cases.direct(output="softmax")
    softmax.set_weights(logits.get_weights())
    loss = module.losses.SparseCategoricalCrossentropy(dtype="float64")
    assert_equal(tape_gradients(softmax, loss=loss), tape_gradients(logits))

    def squares(labels, outputs):
        return tf.reduce_mean((outputs - np.eye(cases.CLASSES)[labels]) ** 2)

    matrices = [w.numpy() for w in softmax.get_layer("direct_feedback").weights]
    p = softmax(cases.X).numpy()
    error = 2 / p.size * (p - np.eye(cases.CLASSES)[cases.LABELS])
    outputs = cases.forward(cases.weights_of(softmax))
    # The third layer's bias: sigmoid's slope times the error of the probabilities.
    delta = error @ matrices[2] * cases.SLOPES["sigmoid"](outputs[3])
    found = tape_gradients(softmax, loss=squares)
    np.testing.assert_allclose(found[5], delta.sum(axis=0), **ROUNDING)


def test_fixed_matrices_get_no_gradient():
    model = keras.Sequential([cases.chain(), layers.Detach(dtype="float64")])
    with tf.GradientTape() as tape:
        cost = LOSS(cases.LABELS, model(cases.X))
    assert tape.gradient(cost, model.non_trainable_variables) == [None] * 4
