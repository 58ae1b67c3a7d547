"""The chapter's worked examples, number by number, with the package's layers and losses.

The chapter is column-major and Keras row-major: kernel = W transposed, inputs = X transposed. All
is float64; the tolerance is a few roundings of numbers of order 1.
"""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, losses, ops, optimizers, reference

EXAMPLES = json.loads((pathlib.Path(__file__).parent / "data/worked_examples.json").read_text())


def _close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-13, atol=1e-15)


def _dense(W, b, activation):
    layer = layers.Dense(len(W), activation=activation, dtype="float64")
    layer.build((None, len(W[0])))
    layer.set_weights([np.transpose(W), np.ravel(b)])
    return layer


def test_two_layer_backprop():
    example = EXAMPLES["two_layer_backprop"]
    given, forward = example["inputs"], example["forward"]
    backward, after = example["backward"], example["after_update"]
    x, y = np.transpose(given["X"]), np.transpose(given["Y"])
    hidden = _dense(given["W1"], given["b1"], "relu")
    output = _dense(given["W2"], given["b2"], "sigmoid")
    loss = losses.BinaryCrossentropy(dtype="float64")
    variables = hidden.trainable_variables + output.trainable_variables

    with tf.GradientTape(persistent=True) as tape:
        z1 = ops.dense(x, hidden.kernel.value, hidden.bias.value)
        a1 = ops.relu(z1)
        z2 = ops.dense(a1, output.kernel.value, output.bias.value)
        direct = losses.BinaryCrossentropy(from_logits=True, dtype="float64")(y, z2)
        prediction = output(hidden(tf.constant(x)))
        value = loss(y, prediction)
    _close(tf.transpose(z1), forward["Z1"])
    _close(tf.transpose(a1), forward["A1"])
    _close(tf.transpose(z2), forward["Z2"])
    _close(tf.transpose(prediction), forward["A2"])
    _close([value, direct], [forward["loss"]] * 2)

    dz1, da1, dz2 = tape.gradient(direct, [z1, a1, z2])
    _close(tf.transpose(dz1), backward["dZ1"])
    _close(tf.transpose(da1), backward["dA1"])
    _close(tf.transpose(dz2), backward["dZ2"])
    gradients = tape.gradient(value, [v.value for v in variables])
    dw1, db1, dw2, db2 = gradients
    _close(tf.transpose(dw1), backward["dW1"])
    _close(db1[:, None], backward["db1"])
    _close(tf.transpose(dw2), backward["dW2"])
    _close(db2[:, None], backward["db2"])

    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(given["learning_rate"] * gradient)
    _close(np.transpose(hidden.kernel), after["W1"])
    _close(np.asarray(hidden.bias)[:, None], after["b1"])
    _close(np.transpose(output.kernel), after["W2"])
    _close(np.asarray(output.bias)[:, None], after["b2"])


@pytest.mark.parametrize("name", ["batch_norm_forward", "exercise_batch_norm"])
def test_batch_normalization(name):
    example = EXAMPLES[name]
    z = np.asarray(example["z"])[:, None]
    layer = layers.BatchNormalization(momentum=0.9, epsilon=example["epsilon"], dtype="float64")
    layer.build(z.shape)
    # Not by Keras's Constant initializer, which rounds 0.3 to float32 on its way.
    layer.set_weights(np.array([[example["gamma"]], [example["beta"]], [0.0], [1.0]]))
    _close(np.ravel(layer(z, training=True)), example["y"])
    # From 0 and 1, one step of the running averages at momentum 0.9.
    _close(layer.moving_mean, [0.1 * example["mean"]])
    _close(layer.moving_variance, [0.9 + 0.1 * example["variance"]])

    z_hat, mean, variance = ops.batch_normalization(z, epsilon=example["epsilon"])
    _close(np.ravel(z_hat), example["z_hat"])
    _close(mean, [example["mean"]])
    _close(variance, [example["variance"]])
    assert abs(np.mean(z_hat) - example["z_hat_mean"]) < 1e-15
    # The file rounds this one to twelve places.
    assert abs(np.var(z_hat) - example["z_hat_variance"]) < 1e-11


def test_shapes():
    example = EXAMPLES["exercise_shapes_3_4_1_m5"]
    hidden, output = layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid")
    x = tf.random.normal([5, 3])
    with tf.GradientTape(persistent=True) as tape:
        a1 = hidden(x)
        a2 = output(a1)
        loss = losses.BinaryCrossentropy()(tf.ones([5, 1]), a2)
    for layer, a, number in ((hidden, a1, 1), (output, a2, 2)):
        assert list(layer.kernel.shape)[::-1] == example[f"W{number}"]
        assert [*layer.bias.shape, 1] == example[f"b{number}"]
        assert list(a.shape)[::-1] == example[f"A{number}"] == example[f"Z{number}"]
        sources = [layer.kernel.value, layer.bias.value, a]
        for source, gradient in zip(sources, tape.gradient(loss, sources), strict=True):
            # The output's own gradient is None: the loss is a function of its logits.
            assert gradient is None or gradient.shape == source.shape


def test_vanishing_bound():
    example = EXAMPLES["exercise_vanishing"]
    z = tf.zeros([1, 1], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(z)
        a = ops.sigmoid(z)
    _close(tape.gradient(a, z), [[example["max_sigmoid_derivative"]]])
    for depth, bound in example["bound_after_k"].items():
        # With kernels of 1 and biases of -1/2 every pre-activation is 0, where the derivative is
        # largest: the bound is met exactly.
        with tf.GradientTape() as tape:
            tape.watch(z)
            a = ops.sigmoid(z)
            for _ in range(int(depth) - 1):
                a = ops.dense(a, tf.ones([1, 1], tf.float64), [-0.5 + 0 * z[0, 0]], "sigmoid")
        _close(tape.gradient(a, z), [[bound]])


@pytest.mark.parametrize("hidden", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("units", [1, 3], ids=["binary", "categorical"])
def test_reference_network(hidden, units):
    rng = np.random.default_rng(0)
    last = "sigmoid" if units == 1 else "softmax"
    network = reference.Network([4, 6, 5, units], [hidden, hidden, last], seed=1)
    network.parameters = [rng.normal(size=p.shape) for p in network.parameters]
    x = rng.normal(size=(4, 8))
    labels = rng.integers(max(units, 2), size=8)
    y = labels[None] if units == 1 else np.eye(units)[:, labels]
    cache = network.forward(x)

    model = [
        _dense(network.W[number], network.b[number], activation)
        for number, activation in enumerate([hidden, hidden, last], start=1)
    ]
    kind = losses.BinaryCrossentropy if units == 1 else losses.CategoricalCrossentropy
    with tf.GradientTape() as tape:
        a = tf.constant(x.T)
        for layer in model:
            a = layer(a)
        loss = kind(dtype="float64")(y.T, a)
    _close(tf.transpose(a), cache.A[3])
    _close(loss, network.cost(cache, y))
    gradients = tape.gradient(loss, [v.value for layer in model for v in layer.weights])
    for gradient, expected in zip(gradients, network.backward(cache, y).as_list(), strict=True):
        actual = tf.transpose(gradient) if gradient.shape.rank == 2 else gradient[:, None]
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-14)


@pytest.fixture
def rates_in_float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def test_adam_step_2(rates_in_float64):
    example = EXAMPLES["adam_step_t2"]
    given = example["inputs"]
    theta = tf.Variable([0.0, 0.0], dtype=tf.float64)
    optimizer = optimizers.Adam(
        given["learning_rate"],
        beta_1=given["beta_1"],
        beta_2=given["beta_2"],
        epsilon=given["epsilon"],
        epsilon_hat=False,
    )
    optimizer.build([theta])
    iterations, rate = optimizer.variables[:2]
    optimizer.set_weights([np.int64(1), rate.numpy(), *map(np.array, (given["m1"], given["v1"]))])
    optimizer.apply([tf.constant(given["gradient"], tf.float64)], [theta])
    m, v = optimizer.variables[2:]
    assert int(iterations.numpy()) == given["t"]
    _close(m, example["m2"])
    _close(v, example["v2"])
    _close(-theta, example["step_subtracted"])


def test_adam_step_1(rates_in_float64):
    example = EXAMPLES["exercise_adam_t1"]
    theta = tf.Variable(example["theta"], dtype=tf.float64)
    optimizer = optimizers.Adam(0.001, epsilon=1e-8, epsilon_hat=False)
    optimizer.apply([tf.constant(example["gradient"], tf.float64)], [theta])
    _close(optimizer.variables[2], example["m1"])
    _close(optimizer.variables[3], example["v1"])
    _close(theta, example["theta_1"])


def test_momentum(rates_in_float64):
    example = EXAMPLES["exercise_momentum"]
    beta, averages = example["beta"], np.array(example["v"])
    # The gradients follow from the averages: (v - beta v_before) / (1 - beta).
    before = np.concatenate([np.zeros((1, 2)), averages[:-1]])
    theta = tf.Variable([0.0, 0.0], dtype=tf.float64)
    optimizer = optimizers.Momentum(0.01, beta=beta)
    for gradient, average in zip((averages - beta * before) / (1 - beta), averages, strict=True):
        theta_before = theta.numpy()
        optimizer.apply([tf.constant(gradient)], [theta])
        _close(optimizer.variables[2], average)
    _close(theta - theta_before, example["update_at_t3_alpha_0.01"])
