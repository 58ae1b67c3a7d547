"""The drawn network shows the gradients and weights of the model, and leaves it as it is."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp import reference
from keras_bp.visualization import plot_backprop

# The drawing holds decimal logarithms of float32 gradients.
CLOSE = dict(rtol=1e-4, atol=1e-9)


def _data(inputs, classes, examples=7):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(examples, inputs)).astype("float32")
    return x, generator.integers(0, classes, size=examples)


def _weights_between(starts, ends, weights):
    """Return the drawn weights as a matrix, (starts, ends), NaN where there is no line."""
    return np.array([[weights.get((tuple(a), tuple(b)), np.nan) for b in ends] for a in starts])


@pytest.mark.parametrize(
    "dense, last, loss",
    [
        (keras.layers.Dense, "sigmoid", "binary_crossentropy"),
        (keras_bp.layers.Dense, "sigmoid", keras_bp.losses.BinaryCrossentropy()),
        (keras_bp.layers.Dense, "softmax", "sparse_categorical_crossentropy"),
        (keras.layers.Dense, "softmax", keras_bp.losses.SparseCategoricalCrossentropy()),
    ],
)
def test_gradients_are_those_of_the_chapter(dense, last, loss, read_network):
    classes = 2 if last == "sigmoid" else 3
    sizes = [4, 6, 5, 1 if last == "sigmoid" else classes]
    twin = reference.Network(sizes, ["relu", "tanh", last])
    twin.b[1][2] = -100.0  # a unit that is off for every example
    x, y = _data(sizes[0], classes)
    model = keras.Sequential([keras.Input((4,))])
    for layer, activation in zip((1, 2, 3), twin.activations, strict=True):
        model.add(dense(sizes[layer], activation=activation, name=f"layer_{layer}"))
        model.layers[-1].set_weights([twin.W[layer].T, twin.b[layer][:, 0]])
    model.compile(loss=loss)
    targets = y[np.newaxis] if last == "sigmoid" else np.eye(classes)[:, y]
    gradients = twin.backward(twin.forward(x.T), targets)

    drawn = read_network(plot_backprop(model, x, y[:, np.newaxis]))

    expected = np.concatenate([np.abs(gradients.dZ[layer]).mean(axis=1) for layer in (1, 2, 3)])
    assert expected[2] == 0.0
    np.testing.assert_allclose(drawn.dz, expected, **CLOSE)
    assert drawn.legend == ["dZ is 0"]
    norms = {f"layer_{layer}": np.linalg.norm(gradients.dW[layer]) for layer in (1, 2, 3)}
    assert drawn.dw == pytest.approx(norms, rel=1e-4)
    first, second = drawn.neurons[:6], drawn.neurons[6:11]
    for starts, ends, layer in ((drawn.inputs, first, 1), (first, second, 2)):
        weights = _weights_between(starts, ends, drawn.weights)
        np.testing.assert_allclose(weights, twin.W[layer].T, rtol=1e-6)


def test_batch_normalization_uses_the_batch(read_network):
    x, y = _data(4, 2)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, name="first"),
            keras.layers.BatchNormalization(epsilon=1e-5),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(1, "sigmoid", name="second"),
        ]
    )
    model.compile(loss="binary_crossentropy")
    drawn = read_network(plot_backprop(model, x, y))

    kernel, output = (model.get_layer(name).kernel.numpy() for name in ("first", "second"))
    norm = reference.BatchNormalization(5, epsilon=1e-5)
    normalized, cache = norm.forward((x @ kernel).T)
    hidden = np.tanh(normalized)
    probability = 1.0 / (1.0 + np.exp(-output.T @ hidden))
    dz_output = probability - y
    dz_first, _, _ = norm.backward(output @ dz_output * (1.0 - hidden**2), cache)
    expected = np.r_[np.abs(dz_first).mean(axis=1), np.abs(dz_output).mean()]
    np.testing.assert_allclose(drawn.dz, expected, **CLOSE)


def test_dropout_and_seed_are_those_of_the_next_training_step(read_network):
    # Of a single example |dZ| is the bias's gradient, up to the sign.
    x, y = _data(4, 2, examples=1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras_bp.layers.Dense(8, name="first"),
            keras_bp.layers.Dropout(0.5),
            keras_bp.layers.Dense(1, activation="sigmoid", name="second"),
        ]
    )
    model.compile(loss="binary_crossentropy")
    drawn = read_network(plot_backprop(model, x, y))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    biases = [model.get_layer(name).bias.value for name in ("first", "second")]
    expected = np.abs(np.concatenate(tape.gradient(loss, biases)))
    assert 0 < np.sum(expected == 0.0) < 8
    np.testing.assert_allclose(drawn.dz, expected, **CLOSE)


def test_penalties_count_in_dw(read_network):
    x, y = _data(4, 2)
    penalty = keras.regularizers.L2(0.3)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1, kernel_regularizer=penalty, name="only")]
    )
    model.compile(loss="mean_squared_error")
    drawn = read_network(plot_backprop(model, x, y))
    kernel = model.get_layer("only").kernel.numpy()
    error = x @ kernel - y[:, np.newaxis]
    expected = 2 * x.T @ error / len(x) + 0.6 * kernel
    assert drawn.dw["only"] == pytest.approx(np.linalg.norm(expected), rel=1e-4)


def test_penalties_of_outputs_count_too(read_network):
    x, y = _data(4, 2)
    only = keras.layers.Dense(1, activity_regularizer=keras.regularizers.L2(0.3), name="only")
    model = keras.Sequential([keras.Input((4,)), only])
    model.compile(loss="mean_squared_error")
    drawn = read_network(plot_backprop(model, x, y))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    expected = np.linalg.norm(tape.gradient(loss, only.kernel.value))
    assert drawn.dw["only"] == pytest.approx(expected, rel=1e-4)


def test_a_mismatched_loss_is_that_of_the_training(read_network):
    # keras_bp's layer tells keras_bp's loss that softmax's logits are none of a sigmoid.
    x, y = _data(4, 2, examples=1)
    model = keras.Sequential([keras.Input((4,)), keras_bp.layers.Dense(3, "softmax")])
    model.compile(loss=keras_bp.losses.BinaryCrossentropy())
    labels = np.array([[0.0, 1.0, 1.0]])
    drawn = read_network(plot_backprop(model, x, labels))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, labels, model(x, training=True))
    expected = np.abs(tape.gradient(loss, model.layers[-1].bias.value))
    np.testing.assert_allclose(drawn.dz, expected, **CLOSE)


def test_large_layers_are_drawn_in_part(read_network):
    x, y = _data(64, 2)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="pixels"),
            keras.layers.Flatten(),
            keras.layers.Dense(12, name="twelve"),
            keras.layers.Dense(13, name="thirteen"),
            keras.layers.Dense(1, name="output"),
        ]
    )
    model.compile(loss="mean_squared_error")
    drawn = read_network(plot_backprop(model, x.reshape(-1, 8, 8, 1), y))
    assert "pixels\n12 of 64 drawn" in drawn.texts
    assert "twelve" in drawn.texts and "output" in drawn.texts
    assert "thirteen\n12 of 13 drawn" in drawn.texts
    assert len(drawn.inputs) == 12 and len(drawn.neurons) == 12 + 12 + 1
    kept = np.r_[:6, -6:0]
    weights = _weights_between(drawn.inputs, drawn.neurons[:12], drawn.weights)
    np.testing.assert_allclose(weights, model.layers[1].kernel.numpy()[kept], rtol=1e-6)
    weights = _weights_between(drawn.neurons[:12], drawn.neurons[12:24], drawn.weights)
    np.testing.assert_allclose(weights, model.layers[2].kernel.numpy()[:, kept], rtol=1e-6)


def test_branches_are_drawn_by_depth(read_network):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    left = keras.layers.Dense(2, name="left")(a)
    right = keras.layers.Dense(2, name="right")(keras.layers.Activation("tanh")(b))
    total = keras.layers.Add()([left, right])
    joint = keras.layers.Concatenate()([total, a])
    deep = keras.layers.Dense(3, name="deep")(joint)
    outputs = [
        keras.layers.Dense(1, name="score")(deep),
        keras.layers.Dense(2, "softmax", name="kind")(left),
    ]
    model = keras.Model([a, b], outputs)
    model.compile(loss=["mean_squared_error", "sparse_categorical_crossentropy"])
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(5, 2)), generator.normal(size=(5, 3))]
    y = [generator.normal(size=(5, 1)), np.array([0, 1, 1, 0, 1])]
    drawn = read_network(plot_backprop(model, x, y))

    stages = {0.0: 5, 1.0: 4, 2.0: 5, 3.0: 1}  # inputs; left, right; deep, kind; score
    positions = np.concatenate([drawn.inputs, drawn.neurons])
    assert collections.Counter(positions[:, 0].tolist()) == stages

    kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if layer.weights}
    first = drawn.neurons[:4]  # left above right, as a above b
    weights = _weights_between(drawn.inputs, first, drawn.weights)
    expected = np.full((5, 4), np.nan)
    expected[:2, :2], expected[2:, 2:] = kernels["left"], kernels["right"]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    # The sum hands both branches to the first two rows, the concatenation `a` to the others.
    second = drawn.neurons[4:9]
    is_deep = [not np.isnan(drawn.weights.get((tuple(first[2]), tuple(p)), np.nan)) for p in second]
    deep = second[np.array(is_deep)]
    np.testing.assert_allclose(
        _weights_between([*first, *drawn.inputs[:2]], deep, drawn.weights),
        kernels["deep"][[0, 1, 0, 1, 2, 3]],
        rtol=1e-6,
    )
    assert len(drawn.weights) == 4 + 6 + 6 * 3 + 3 + 2 * 2


def test_branches_stand_beside_what_feeds_them(read_network):
    a, b = keras.Input((2,)), keras.Input((3,))
    of_a, of_b = keras.layers.Dense(1, name="of_a")(a), keras.layers.Dense(1, name="of_b")(b)
    model = keras.Model([a, b], [of_a, of_b])  # Keras's own order has of_b first
    model.compile(loss=["mean_squared_error"] * 2)
    drawn = read_network(plot_backprop(model, [np.ones((1, 2)), np.ones((1, 3))], [np.ones(1)] * 2))
    weights = _weights_between(drawn.inputs, drawn.neurons, drawn.weights)
    no_line = [[False, True]] * 2 + [[True, False]] * 3
    np.testing.assert_array_equal(np.isnan(weights), no_line)


KERAS_BETWEEN = [
    keras.layers.Activation("tanh"),
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.5),
    keras.layers.ELU(),
    keras.layers.GaussianDropout(0.5),
    keras.layers.GaussianNoise(0.1),
    keras.layers.GroupNormalization(2),
    keras.layers.Identity(),
    keras.layers.LayerNormalization(),
    keras.layers.LeakyReLU(),
    keras.layers.Normalization(mean=0.0, variance=1.0),
    keras.layers.PReLU(),
    keras.layers.ReLU(),
    keras.layers.Rescaling(0.5),
    keras.layers.Reshape((4,)),
    keras.layers.Softmax(),
]
OURS_BETWEEN = [
    keras_bp.layers.BatchNormalization(),
    keras_bp.layers.Dropout(0.5),
    keras_bp.layers.GroupNormalization(2),
    keras_bp.layers.LayerNormalization(),
]


@pytest.mark.parametrize("between", [KERAS_BETWEEN, OURS_BETWEEN], ids=["keras", "keras_bp"])
def test_layers_between_are_passed_through(between, read_network):
    x, y = _data(2, 2)
    before, after = keras.layers.Dense(4, name="before"), keras.layers.Dense(1, name="after")
    model = keras.Sequential([keras.Input((2,)), before, *between, after])
    model.compile(loss="mean_squared_error")
    drawn = read_network(plot_backprop(model, x, y))
    weights = _weights_between(drawn.neurons[:4], drawn.neurons[4:], drawn.weights)
    np.testing.assert_allclose(weights, after.kernel.numpy(), rtol=1e-6)


def _state(model):
    return [w.numpy() for w in (*model.variables, *model.optimizer.variables)]


def test_the_model_is_left_as_it_is():
    x, y = _data(4, 3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras_bp.layers.Dense(3, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
    model.fit(x, y, verbose=0)
    # Seeds are variables too; metrics keep what the training came to.
    before, activations = _state(model), [model.layers[i].activation for i in (0, 3)]
    assert len(before) > 20
    for targets in (y, np.zeros((7, 5, 5))):
        if targets is y:
            plot_backprop(model, x, y)
        else:
            with pytest.raises(Exception, match="shape|rank|size"):
                plot_backprop(model, x, targets)
        for value, earlier in zip(_state(model), before, strict=True):
            np.testing.assert_array_equal(value, earlier)
        assert [model.layers[i].activation for i in (0, 3)] == activations
    model.fit(x, y, verbose=0)


def test_metrics_of_several_outputs_are_left_as_they_are():
    x, y = _data(4, 2)
    a = keras.Input((4,))
    outputs = [keras.layers.Dense(1, name=name)(a) for name in ("one", "two")]
    model = keras.Model(a, outputs)
    model.compile("sgd", ["mean_squared_error", "mean_absolute_error"], run_eagerly=True)
    model.fit(x, [y, y], verbose=0)
    before = {metric.name: float(metric.result()) for metric in model.metrics}
    plot_backprop(model, x, [y, y + 5])
    assert {metric.name: float(metric.result()) for metric in model.metrics} == before


@pytest.mark.parametrize("layer, bad", [(0, np.nan), (1, np.inf)])
def test_what_is_not_finite_is_shown(layer, bad, read_network):
    x, y = _data(4, 2)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "sigmoid"), keras.layers.Dense(1)]
    )
    model.compile(loss="mean_squared_error")
    kernel = model.layers[layer].kernel
    kernel.assign(np.full(kernel.shape, bad))
    drawn = read_network(plot_backprop(model, x, y))
    assert drawn.legend[-1] == "dZ is not finite"
    assert np.isinf(drawn.dz).all()
    assert drawn.dw == dict.fromkeys(drawn.dw, 0.0)


def test_colours_of_the_smallest_gradients_are_shared(read_network):
    # Ten sigmoids with weights of 1e-3 take the gradient through some 30 decades.
    x, y = _data(4, 2)
    weak = keras.initializers.Constant(1e-2)
    hidden = [keras.layers.Dense(2, "sigmoid", kernel_initializer=weak) for _ in range(10)]
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
    model.compile(loss="mean_squared_error")
    figure = plot_backprop(model, x, y)
    drawn = read_network(figure)
    assert 1e7 < drawn.dz.max() / drawn.dz.min() <= 1e8
    labels = [t.get_text() for ax in figure.axes for t in ax.get_yticklabels()]
    assert any(label.startswith(r"$\leq$") for label in labels)


def test_float16_and_loss_scaling(read_network):
    keras.config.set_dtype_policy("mixed_float16")
    x, y = _data(4, 2)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1, dtype="float32")]
    )
    model.compile("adam", "mean_squared_error")
    drawn = read_network(plot_backprop(model, x, y))
    error = model(x, training=True).numpy()[:, 0] - y
    assert drawn.dz[-1] == pytest.approx(np.abs(2 * error).mean(), rel=1e-4)
