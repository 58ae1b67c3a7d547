"""The computation graph's numbers are those of backpropagation, and its drawing can be read."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp import reference
from keras_bp.visualization import (
    ComputationGraph,
    plot_computation_graph,
    trace_computation_graph,
)
from keras_bp.visualization.computation_graph import Edge, Node, Parameter

L = keras.layers
# Two ways to sum up in float32.
CLOSE = dict(rel=2e-5, abs=1e-6)


def _edges(graph):
    return {(edge.source, edge.target): edge for edge in graph.edges}


def test_numbers_are_those_of_the_chapter():
    twin = reference.Network([4, 6, 5, 1], ["relu", "tanh", "sigmoid"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 4)).astype("float32")
    y = rng.integers(0, 2, size=(7, 1))
    model = keras.Sequential([keras.Input((4,), name="x")], name="network")
    for layer, activation in zip((1, 2, 3), twin.activations, strict=True):
        model.add(keras_bp.layers.Dense(len(twin.W[layer]), activation, name=f"d{layer}"))
        model.layers[-1].set_weights([twin.W[layer].T, twin.b[layer][:, 0]])
    model.compile(loss=keras_bp.losses.BinaryCrossentropy())
    caches = twin.forward(x.T)
    gradients = twin.backward(caches, y.T)

    graph = trace_computation_graph(model, x, y)

    assert graph.loss == pytest.approx(float(twin.cost(caches, y.T)), rel=1e-6)
    assert [node.name for node in graph.nodes] == "x y d1/Z d1/A d2/Z d2/A d3/Z d3/A loss".split()
    edges = _edges(graph)
    for k in (1, 2, 3):
        z = edges[f"d{k}/Z", f"d{k}/A" if k < 3 else "loss"]
        assert z.shape == (7, len(twin.W[k]))
        assert z.norm == pytest.approx(np.linalg.norm(caches.Z[k]), **CLOSE)
        # The chapter's dZ is of an example's own loss, this one of the mean.
        assert z.gradient_norm == pytest.approx(np.linalg.norm(gradients.dZ[k]) / 7, **CLOSE)
        for kind, own in (("kernel", gradients.dW[k]), ("bias", gradients.db[k])):
            parameter = graph.parameters[f"d{k}/{kind}"]
            assert parameter.gradient_norm == pytest.approx(np.linalg.norm(own), **CLOSE)
    for k in (1, 2):
        a, back = edges[f"d{k}/A", f"d{k + 1}/Z"], twin.W[k + 1].T @ gradients.dZ[k + 1] / 7
        assert a.norm == pytest.approx(np.linalg.norm(caches.A[k]), **CLOSE)
        assert a.gradient_norm == pytest.approx(np.linalg.norm(back), **CLOSE)
    # The loss takes the logits: A has no part in the backward pass.
    assert edges["d3/Z", "d3/A"].gradient_norm is None
    # Kept: the inputs of linear maps, which are the outputs of ReLU and tanh; not their inputs.
    kept = {pair for pair, edge in edges.items() if edge.kept}
    inputs = {("x", "d1/Z"), ("d1/A", "d2/Z"), ("d2/A", "d3/Z")}
    assert kept == inputs | {("d3/Z", "loss"), ("y", "loss")}


def _branched():
    """Branches, a sum, a concatenation, a product outside of layers, a shared layer, two losses."""
    a, b = keras.Input((6,), name="a"), keras.Input((5,), name="b")
    first = L.Dense(4, name="first")(a)
    norm = L.BatchNormalization(name="norm")(first)
    on = L.Activation("relu", name="on")(norm)
    shared = L.Dense(4, "tanh", name="shared")
    total = L.Add(name="total")([on, shared(shared(on))])
    tower = keras.Sequential([keras.Input((5,)), L.Dense(3, "relu"), L.Dense(2)], name="tower")
    joint = L.Concatenate(name="joint")([total, tower(b)])
    half = joint * 0.5
    outputs = [
        L.Dense(3, "softmax", name="kind", kernel_regularizer="l2")(half),
        L.Dense(1, name="score", activity_regularizer="l1")(joint),
    ]
    model = keras.Model([a, b], outputs)
    model.compile(loss=["sparse_categorical_crossentropy", "mean_squared_error"])
    rng = np.random.default_rng(1)
    x = [rng.normal(size=(6, 6)).astype("float32"), rng.normal(size=(6, 5)).astype("float32")]
    return model, x, [rng.integers(0, 3, size=6), rng.normal(size=(6, 1)).astype("float32")]


def test_branches_add_their_gradients():
    model, x, y = _branched()
    graph = trace_computation_graph(model, x, y)
    edges = _edges(graph)
    # Keras numbers the operations of a process: multiply, multiply_1, ...
    kinds = {re.sub(r"_\d+$", "", node.name): node.kind for node in graph.nodes}
    assert kinds["tower"] == "model" and kinds["multiply"] == "operation"
    names = [node.name for node in graph.nodes]
    for edge in graph.edges:
        assert names.index(edge.source) < names.index(edge.target)
    assert {pair for pair in edges if pair[1] == "total"} == {
        ("on", "total"),
        ("shared/A (2)", "total"),
    }
    # Each edge's own gradient, by a tape through that edge alone.
    layers = {layer.name: layer for layer in model.layers}
    with tf.GradientTape(persistent=True) as tape:
        on = layers["on"](layers["norm"](layers["first"](x[0]), training=True))
        copies = [tf.identity(on) for _ in range(2)]
        tape.watch(copies)
        total = copies[0] + layers["shared"](layers["shared"](copies[1]))
        joint = tf.concat([total, layers["tower"](x[1])], axis=1)
        outputs = [layers["kind"](0.5 * joint), layers["score"](joint)]
        loss = model.compute_loss(x, y, outputs)
    assert graph.loss == pytest.approx(float(loss), rel=1e-6)
    pairs = ("on", "total"), ("on", "shared/Z")
    for pair, gradient in zip(pairs, tape.gradient(loss, copies), strict=True):
        assert edges[pair].gradient_norm == pytest.approx(np.linalg.norm(gradient), **CLOSE)
        assert edges[pair].norm == pytest.approx(np.linalg.norm(on), **CLOSE)
    for variable, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss, [v.value for v in model.trainable_variables]),
        strict=True,
    ):
        (parameter,) = [
            p
            for p in graph.parameters.values()
            if variable.path.endswith(p.name) and p.shape == tuple(variable.shape)
        ]
        assert parameter.gradient_norm == pytest.approx(np.linalg.norm(gradient), **CLOSE)
    # The penalties: of the kernel, and of the output.
    nodes = {node.name: node for node in graph.nodes}
    assert nodes["loss"].parameters == ("kind/kernel",)
    assert ("score", "loss") in edges
    # A sum keeps nothing, a ReLU its output, a linear map its input, a mask's values are inside.
    assert nodes["total"].kept == nodes["joint"].kept == nodes["on"].kept == 0
    assert nodes["norm"].kept and nodes["tower"].kept == 6 * 3
    assert not edges["total", "joint"].kept and edges["on", "total"].kept
    assert edges["shared/A", "shared/Z (2)"].kept and not edges["norm", "on"].kept


class _Subclassed(keras.Model):
    def __init__(self, layers):
        super().__init__(name="own")
        self.blocks = layers
        self.scale = self.add_weight(shape=(4,), name="scale", initializer="ones")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return tf.reduce_sum(x * self.scale, axis=1, keepdims=True)


def test_subclassed_models_are_followed():
    layers = [L.Dense(4, "gelu", name="d1"), keras_bp.layers.Dropout(0.5, name="drop")]
    model = _Subclassed([*layers, keras_bp.layers.LayerNormalization(name="norm")])
    x = np.random.default_rng(0).normal(size=(5, 3))  # fit, too, takes float64
    model.compile(loss="mean_squared_error")
    model(x)
    before = [variable.numpy() for variable in model.variables]
    graph = trace_computation_graph(model, x, np.ones((5, 1)))
    chain = ["x", "d1/Z", "d1/A", "drop", "norm", "mul", "Sum", "loss"]
    assert [(edge.source, edge.target) for edge in graph.edges if edge.source != "y"] == list(
        zip(chain, chain[1:], strict=False)
    )
    nodes = {node.name: node for node in graph.nodes}
    assert nodes["mul"].parameters == ("(model)/scale",) or nodes["mul"].parameters == ("scale",)
    # The mask of the dropout, which the next step would draw, too: nothing was changed.
    assert nodes["drop"].kept == 5 * 4
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, np.ones((5, 1)), model(x, training=True))
    assert graph.loss == pytest.approx(float(loss), rel=1e-6)
    gradient = tape.gradient(loss, layers[0].kernel.value)
    expected = pytest.approx(np.linalg.norm(gradient), **CLOSE)
    assert graph.parameters["d1/kernel"].gradient_norm == expected


@tf.custom_gradient
def _reversed(x):
    return tf.sin(x), lambda d: -2.0 * d


def test_what_lies_between_layers_is_a_node():
    class Between(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = L.Embedding(9, 4, mask_zero=True, name="embed")
            self.recurrent = L.SimpleRNN(4, name="recurrent")
            self.out = L.Dense(1, dtype="float64", name="out")

        def call(self, x):
            x = self.recurrent(self.embed(x))
            return self.out(_reversed(x) + tf.stop_gradient(x))

    model, x = Between(), np.array([[1, 2, 0], [3, 3, 3]])
    model.compile(loss="mean_squared_error")
    model(x)
    graph = trace_computation_graph(model, x, np.ones((2, 1)))
    edges, nodes = _edges(graph), {node.name: node for node in graph.nodes}
    assert nodes["recurrent"].kept is None  # of a loop
    assert nodes["embed"].kept == 6 and edges["x", "embed"].norm is None
    assert ("recurrent", "StopGradient") in edges
    assert "Sin" not in nodes  # inside of it
    (custom,) = [node.name for node in graph.nodes if node.equation == "custom gradient"]
    back = edges["recurrent", custom].gradient_norm
    (after,) = [edge for edge in graph.edges if edge.source == custom]
    assert back == pytest.approx(2 * after.gradient_norm, rel=1e-6)
    assert edges["recurrent", "StopGradient"].gradient_norm is None
    assert edges["embed", "recurrent"].gradient_norm > 0


def test_the_drawing_has_no_overlaps(tmp_path):
    """Of 40 nodes, with shortcuts."""
    nodes, edges, parameters, before = [Node("x", "input", "", (), 0)], [], {}, "x"
    for i in range(13):
        name, other, add = f"a_layer_with_a_name_{i}", f"other_{i}", f"add_{i}"
        own = {f"{name}/{v}": Parameter(f"{name}/{v}", (8, 8), 1e-3, 0.1) for v in ("kernel", "b")}
        parameters |= own
        nodes += [
            Node(name, "linear", "Z = X W + b", tuple(own), 12 * (i % 2)),
            Node(other, "layer", "LayerNormalization", tuple(own), None),
            Node(add, "layer", "X + Y", (), 0),
        ]
        pairs = (before, name), (before, other), (name, add), (other, add), (before, add)
        edges += [Edge(*pair, (3, 8), 0.125, 1e-9 if i else None, i % 3 == 0) for pair in pairs]
        before = add
    edges.append(Edge("add_3", before, (3, 8), 1.0, 1.0, True))
    graph = ComputationGraph("deep", 0.5, 3, tuple(nodes), tuple(edges), parameters)
    assert len(graph.nodes) == 40
    path = tmp_path / "graph.svg"
    figure = graph.plot(path)
    assert path.read_text().startswith("<?xml")
    (ax,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts if text.get_text()]
    assert len(boxes) > 200
    overlaps = [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    assert not overlaps
    edge = figure.bbox
    assert all(edge.x0 <= b.x0 and b.x1 <= edge.x1 and edge.y0 <= b.y0 for b in boxes)


def test_half_precision_and_ours():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, "tanh", name="a")])
    model.add(keras_bp.layers.Dense(1, dtype="float32", name="b"))
    model.compile("adam", "mean_squared_error")
    graph = trace_computation_graph(model, np.ones((2, 4)), np.ones((2, 1)))
    edges = _edges(graph)
    assert edges["a/A", "b"].kept and not edges["a/Z", "a/A"].kept
    assert edges["a/A", "b"].gradient_norm > 0


X, Y = np.ones((2, 4)), np.ones((2, 1))


def _compiled(*layers):
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(loss="mean_squared_error")
    return model


class _Hidden(keras.Model):
    def __init__(self):
        super().__init__(name="hidden")
        self.dense = L.Dense(1)

    @tf.function
    def call(self, x):
        return self.dense(x)


def _hidden():
    model = _Hidden()
    model.compile(loss="mean_squared_error")
    model(X)
    return model


def test_a_model_that_only_runs_eagerly():
    class Eager(keras.Model):
        def call(self, x):
            return x if x.numpy().sum() else -x

    model = Eager()
    model.compile(loss="mean_squared_error", run_eagerly=True)
    model(X)
    with pytest.raises(AttributeError, match="numpy") as raised:
        trace_computation_graph(model, X, X)
    assert "without `run_eagerly`" in raised.value.__notes__[-1]


@pytest.mark.parametrize(
    "model, path, error, message",
    [
        (lambda: 3, None, TypeError, "`model` must be a keras.Model. Received: model=3"),
        (lambda: keras.Sequential([L.Dense(1)]), None, ValueError, "`model` must be built"),
        (lambda: _compiled(L.Dense(1)), "a.jpg", ValueError, "`path` must name .*'a.jpg'"),
        (lambda: _compiled(L.Dense(1)), 3, TypeError, "`path` must be a path"),
        (_hidden, None, ValueError, "`model` must call its layers itself.*model 'hidden'"),
    ],
)
def test_refusals(model, path, error, message):
    with pytest.raises(error, match=message):
        plot_computation_graph(model(), X, Y, path)
