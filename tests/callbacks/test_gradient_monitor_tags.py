"""What GradientMonitor writes beside the norms: updates, clipping, outputs, histograms, metrics."""

import contextlib
import re
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import ImageDraw
from run_tags import SETTINGS
from tensorboard.plugins.custom_scalar import layout_pb2

import keras_bp
from keras_bp.callbacks import GradientMonitor
from keras_bp.callbacks._charts import GradientFlowImage, layout

L = keras.layers


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights before and after each call of the train function."""

    def on_train_begin(self, logs=None):
        self.before, self.after = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before.append(self.model.get_weights())

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(self.model.get_weights())


def small_model(optimizer="sgd", **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(6, "relu", name="d1"), L.Dense(5, "sigmoid", name="d2")]
    model = keras.Sequential([*layers, L.Dense(1, name="d3")])
    # Tracing takes longer than the few steps of these trainings.
    model.compile(optimizer, "mse", **(options or {"run_eagerly": True}))
    return model


def fit(model, data, *callbacks, **options):
    options = {"batch_size": 5, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data, callbacks=list(callbacks), **options)


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(np.float64(a))) for a in arrays))


def gradients(model, weights, x, y):
    now = model.get_weights()
    model.set_weights(weights)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    result = tape.gradient(loss, model.trainable_variables)
    model.set_weights(now)
    return [g.numpy() for g in result]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One `fit` of two epochs that several monitors watch: its history, weights and folders."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(23, 4)).astype("float32")
    data = x, (x[:, :1] * x[:, 1:2] + 0.5).astype("float32")
    options = {
        "plain": {"updates_every": 4},
        "every": {"every": 3},
        "chosen": {"layers": ["d2"], "activations": True, "histograms_every": 1},
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in options}
    monitors = [GradientMonitor(folders[name], **chosen) for name, chosen in options.items()]
    model, snapshots = small_model("adam", metrics=["mae"], jit_compile=False), Snapshots()
    history = fit(model, data, snapshots, *monitors, epochs=2, validation_data=data)
    return types.SimpleNamespace(folders=folders, snapshots=snapshots, history=history.history)


def test_update_ratio_and_weight_norm(run, read_events):
    snapshots, events = run.snapshots, read_events(run.folders["plain"])
    for number, layer in enumerate(["d1", "d2", "d3"]):
        ratio, weight = events[f"update_ratio/{layer}"], events[f"weight_norm/{layer}"]
        assert list(ratio) == list(weight) == [1, 4, 8]
        for step in ratio:
            before, after = (
                weights[step - 1][2 * number : 2 * number + 2]
                for weights in (snapshots.before, snapshots.after)
            )
            change = norm([np.float64(a) - b for a, b in zip(after, before, strict=True)])
            np.testing.assert_allclose(ratio[step], change / norm(before), rtol=1e-6)
            np.testing.assert_allclose(weight[step], norm(after), rtol=1e-6)


def test_an_update_of_several_steps_is_their_mean(data, tmp_path, read_events):
    model, snapshots = small_model(steps_per_execution=3, jit_compile=False), Snapshots()
    fit(model, data, snapshots, GradientMonitor(tmp_path), batch_size=8)
    [(step, ratio)] = read_events(tmp_path)["update_ratio/d3"].items()
    before, after = snapshots.before[0][4:], snapshots.after[0][4:]
    change = norm([np.float64(a) - b for a, b in zip(after, before, strict=True)]) / 3
    assert step == 3
    np.testing.assert_allclose(ratio, change / norm(before), rtol=1e-6)


def test_an_update_from_micro_steps_is_measured_whole(data, tmp_path, read_events):
    optimizer = keras_bp.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model, snapshots = small_model(optimizer), Snapshots()
    fit(model, data, snapshots, GradientMonitor(tmp_path, updates_every=1))
    events = read_events(tmp_path)["update_ratio/d1"]
    assert list(events) == [1, 2]
    for step, call in {1: 0, 2: 2}.items():
        before, after = snapshots.before[call][:2], snapshots.after[call + 1][:2]
        change = norm([np.float64(a) - b for a, b in zip(after, before, strict=True)])
        np.testing.assert_allclose(events[step], change / norm(before), rtol=1e-5)


# Keras's optimizers clip by themselves, ours by one of three bounds.
CLIPPING = [
    (keras, {"clipnorm": 0.05}),
    (keras, {"global_clipnorm": 0.05, "gradient_accumulation_steps": 2}),
    (keras_bp, {"clipvalue": 0.01}),
    (keras_bp, {"clipnorm": 0.05}),
    (keras_bp, {"global_clipnorm": 0.05, "gradient_accumulation_steps": 2}),
]


@pytest.mark.parametrize(
    "library, options", CLIPPING, ids=lambda of: getattr(of, "__name__", None) or str(of)
)
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.long)])
def test_applied_norm_is_that_of_the_step(
    library, options, jit_compile, data, tmp_path, read_events
):
    """SGD with rate 1 moves by the gradient as its rule receives it."""
    optimizer = library.optimizers.SGD(1.0, **options)
    model, snapshots = (
        small_model(optimizer, jit_compile=jit_compile, run_eagerly=not jit_compile),
        Snapshots(),
    )
    fit(model, data, snapshots, GradientMonitor(tmp_path))
    events = read_events(tmp_path)
    calls = options.get("gradient_accumulation_steps", 1)
    assert list(events["gradient_norm_applied/global"]) == list(range(1, 5 // calls + 1))
    for step, applied in events["gradient_norm_applied/global"].items():
        before, after = snapshots.before[calls * (step - 1)], snapshots.after[calls * step - 1]
        change = norm([np.float64(a) - b for a, b in zip(after, before, strict=True)])
        # Weights of size 1 round at 6e-8 each, in changes of 0.05.
        np.testing.assert_allclose(applied, change, rtol=2e-5)
    received = np.array(list(events["gradient_norm/global"].values()))
    applied = np.array(list(events["gradient_norm_applied/global"].values()))
    share = np.cumsum(applied < received * (1 - 1e-5)) / np.arange(1, len(applied) + 1)
    assert share[-1] > 0
    np.testing.assert_allclose(list(events["clip_rate"].values()), share, rtol=1e-6)


@pytest.mark.parametrize("library", [keras, keras_bp], ids=lambda library: library.__name__)
def test_applied_norm_of_repeated_rows(library, tmp_path, read_events):
    """Keras clips the rows as they come, and leaves a gradient of norm 1.41 at clipnorm=1 (K2)."""
    ids, targets = np.array([[1, 1]]), np.array([[30.0]], "float32")
    model = keras.Sequential([keras.Input((2,)), L.Embedding(3, 1, name="e"), L.Flatten()])
    model.add(L.Dense(1, kernel_initializer="ones", trainable=False))
    model.compile(library.optimizers.SGD(1.0, clipnorm=1.0), "mse", run_eagerly=True)
    snapshots = Snapshots()
    fit(model, (ids, targets), snapshots, GradientMonitor(tmp_path))
    applied = read_events(tmp_path)["gradient_norm_applied/global"][1]
    change = norm([np.float64(snapshots.after[0][0]) - snapshots.before[0][0]])
    np.testing.assert_allclose(applied, change, rtol=1e-6)
    np.testing.assert_allclose(applied, 2**0.5 if library is keras else 1.0, rtol=1e-6)


@pytest.mark.parametrize("library", [keras, keras_bp], ids=lambda library: library.__name__)
def test_applied_norm_of_an_exploded_gradient(library, tmp_path, read_events):
    """Beside 1e18, the square of what is received, the 1 that is left is rounding in float64."""
    x, y = np.array([[0.6e9, 0.8e9]], "float32"), np.zeros((1, 1), "float32")
    model = keras.Sequential([keras.Input((2,)), L.Dense(1, use_bias=False, name="d")])
    optimizer = library.optimizers.SGD(1.0, global_clipnorm=1.0)
    model.compile(optimizer, lambda y, p: p, run_eagerly=True)
    fit(model, (x, y), GradientMonitor(tmp_path))
    events = read_events(tmp_path)
    np.testing.assert_allclose(events["gradient_norm/global"][1], 1e9, rtol=1e-6)
    np.testing.assert_allclose(events["gradient_norm_applied/global"][1], 1.0, rtol=1e-6)


class _Halves(L.Layer):
    """A dense layer whose weights' gradients are read in float64 and in float32 in a graph."""

    def build(self, shape):
        self.a, self.b = (self.add_weight(shape=(1, 1), name=name) for name in "ab")

    def call(self, x):
        # The gradient of `a` is a product, which the recorder computes again.
        return x[:, :1] @ (2.0 * self.a) / 2.0 + x[:, 1:] @ self.b


@pytest.mark.parametrize(
    "library, accumulation, options",
    [
        (keras, None, {"jit_compile": False}),
        (keras, 2, {"run_eagerly": True}),  # in a graph on replicas Keras cannot accumulate
        (keras_bp, 2, {"jit_compile": False}),
    ],
    ids=["keras", "keras-micro-steps", "keras_bp"],
)
@pytest.mark.parametrize("two", [True, False], ids=["replicas", "device"])
def test_applied_norm_over_replicas(
    library, accumulation, options, two, tmp_path, read_events, replicas
):
    """Keras accumulates and clips before it sums over the replicas (K4), this package after."""
    x = np.array([[3.0, 0.0], [0.0, 4.0]] * (accumulation or 1), "float32")
    with replicas.scope() if two else contextlib.nullcontext():
        model = keras.Sequential([keras.Input((2,)), _Halves(name="d")])
        optimizer = library.optimizers.SGD(
            1.0, global_clipnorm=1.0, gradient_accumulation_steps=accumulation
        )
        model.compile(optimizer, lambda y, p: p, **options)
    snapshots = Snapshots()
    fit(model, (x, x[:, :1]), snapshots, GradientMonitor(tmp_path), batch_size=2)
    events = read_events(tmp_path)
    np.testing.assert_allclose(events["gradient_norm/global"][1], 2.5, rtol=1e-6)  # of (1.5, 2)
    applied = events["gradient_norm_applied/global"][1]
    change = norm(np.subtract(snapshots.after[-1], snapshots.before[0]))
    np.testing.assert_allclose(applied, change, rtol=1e-5)
    np.testing.assert_allclose(applied, 2**0.5 if library is keras and two else 1.0, rtol=1e-5)


def test_without_clipping_there_is_nothing_on_it(run, read_events):
    assert not {"clip_rate", "gradient_norm_applied/global"} & set(
        read_events(run.folders["plain"])
    )


def test_every(run, read_events):
    events = read_events(run.folders["every"])
    for tag in ("gradient_norm/d1", "gradient_norm/global", "learning_rate", "loss/batch"):
        assert list(events[tag]) == [3, 6, 9]


def counts_of(histogram, values):
    """The counts that NumPy finds in the buckets of a histogram."""
    assert len(histogram) == 30
    # The same numbers from another pass, in float32.
    edges = [values.min(), values.max()]
    np.testing.assert_allclose([histogram[0, 0], histogram[-1, 1]], edges, rtol=1e-5, atol=1e-7)
    return np.histogram(values, 30)[0]


@pytest.mark.parametrize(
    "options, steps, layers",
    [
        ({"jit_compile": True}, [2, 4], ["d2"]),  # one takes XLA long enough
        ({"steps_per_execution": 5, "jit_compile": False}, [5], ["d1", "d2", "d3"]),
    ],
    ids=str,
)
def test_histograms_of_gradients_and_outputs(options, steps, layers, data, tmp_path, read_events):
    model = small_model(**options)
    snapshots, single = Snapshots(), small_model()
    monitor = GradientMonitor(tmp_path, histograms_every=2, activations=True, layers=layers)
    fit(model, data, monitor)
    fit(single, data, snapshots)
    events = read_events(tmp_path)
    assert list(events["gradients/d2/kernel"]) == list(events["activations/d2"]) == steps
    assert list(events["weights/d2/kernel"]) == sorted({*steps, 5})
    for step in steps:
        x, y = (array[5 * (step - 1) : 5 * step] for array in data)
        single.set_weights(snapshots.before[step - 1])
        wanted = gradients(single, snapshots.before[step - 1], x, y)
        paths = [f"{d}/{v}" for d in ("d1", "d2", "d3") for v in ("kernel", "bias")]
        for path, gradient in zip(paths, wanted, strict=True):
            if path[:2] not in layers:
                continue
            histogram = events[f"gradients/{path}"][step]
            counts = counts_of(histogram, gradient)
            assert counts.sum() == histogram[:, 2].sum() == gradient.size
            # An entry on an edge may round to either side.
            assert np.abs(counts - histogram[:, 2]).sum() <= 2
        output = x
        for layer in single.layers:
            output = layer(output).numpy()
            if layer.name not in layers:
                continue
            histogram = events[f"activations/{layer.name}"][step]
            assert np.abs(counts_of(histogram, output) - histogram[:, 2]).sum() <= 2


def wrapped():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=4.0)


def composite():
    chosen = {"d2": keras.optimizers.Adam(), "": keras_bp.optimizers.SGD(momentum=0.5)}
    of = lambda variable: chosen["d2" if "d2" in variable.path else ""]  # noqa: E731
    return keras.optimizers.MultiOptimizer(of)


def accumulating():
    return keras_bp.optimizers.Adam(gradient_accumulation_steps=2, use_ema=True)


ADAM = {"momentum", "velocity"}
SLOTS = {
    wrapped: dict.fromkeys(("d1", "d2", "d3"), ADAM),
    composite: {"d1": {"momentum"}, "d2": ADAM, "d3": {"momentum"}},
    accumulating: dict.fromkeys(("d1", "d2"), ADAM | {"average"}),
}


@pytest.mark.parametrize("make", SLOTS, ids=lambda make: make.__name__)
def test_histograms_of_the_optimizers_state(make, data, tmp_path, read_events):
    model, slots = small_model(make()), SLOTS[make]
    layers = list(slots)
    seen = {}

    def read(batch, logs):
        step = int(model.optimizer.iterations.numpy())
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        for optimizer in getattr(inner, "optimizers", [inner]):
            for layer, names in slots.items():
                for kind, name in ((kind, name) for kind in ("kernel", "bias") for name in names):
                    ends = f"_{layer}_{kind}_{name}"
                    for slot in optimizer.variables:
                        if slot.path.endswith(ends):  # as the update left it
                            tag = f"optimizer/{layer}/{kind}/{name}"
                            seen.setdefault((tag, step), slot.numpy())

    reader = keras.callbacks.LambdaCallback(on_train_batch_end=read)
    fit(model, data, GradientMonitor(tmp_path, histograms_every=2, layers=layers), reader)
    events = {
        tag: steps for tag, steps in read_events(tmp_path).items() if tag.startswith("optimizer/")
    }
    assert set(events) == {tag for tag, _ in seen}
    for tag, steps in events.items():
        assert list(steps) == [2] if make is accumulating else [2, 4]
        for step, histogram in steps.items():
            counts = counts_of(histogram, seen[tag, step])
            # An entry on an edge may round to either side.
            assert np.abs(counts - histogram[:, 2]).sum() <= 2


@pytest.mark.parametrize(
    "options, layers",
    [({"run_eagerly": True}, L), ({"jit_compile": False}, keras_bp.layers)],
    ids=["keras", "keras_bp"],
)
def test_dead_and_saturated_units(options, layers, tmp_path, read_events):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, "relu", name="r")])
    model.add(layers.Dense(4, "sigmoid", name="s"))
    model.add(layers.Dense(2, "tanh", name="t"))
    model.add(layers.Dense(1, name="linear"))
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    biases = [np.array([-99.0, 99, -99, -99]), np.array([99.0, -99, 0, 0]), np.array([99.0, 0])]
    for layer, bias in zip(model.layers, biases, strict=False):
        layer.bias.assign(bias)
        layer.kernel.assign(0.01 * layer.kernel)
    fit(model, (x, x[:, :1]), GradientMonitor(tmp_path, activations=True), batch_size=16)
    events = read_events(tmp_path)
    shares = {tag: values[1] for tag, values in events.items() if "_units/" in tag}
    assert shares == {"dead_units/r": 0.75, "saturated_units/s": 0.5, "saturated_units/t": 0.5}


def test_outputs_of_models_in_models_of_recurrent_and_of_shared_layers(tmp_path, read_events):
    x = keras.Input((6, 3))
    block = keras.Sequential([L.Dense(3, "relu", name="shared")], name="block")
    h = L.LSTM(4, return_sequences=True, name="lstm")(block(block(x)))
    h = L.TimeDistributed(L.Dense(2, "relu"), name="each")(h)
    model = keras.Model(x, L.Activation("tanh", name="act")(L.Flatten()(h)))
    model.compile("sgd", "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype("float32")
    monitor = GradientMonitor(tmp_path, activations=True, histograms_every=1)
    fit(model, (x, x[:, :4].reshape(8, 12)), monitor, batch_size=8)
    events = read_events(tmp_path)
    sizes = {"block/shared": 8 * 6 * 3, "lstm": 8 * 6 * 4, "each": 8 * 6 * 2, "act": 8 * 12}
    found = {t.partition("/")[2]: h[1][:, 2].sum() for t, h in events.items() if t[:5] == "activ"}
    assert found == sizes
    assert set(vars(model.get_layer("lstm"))).isdisjoint({"call"})


def test_chosen_layers(run, read_events):
    events = read_events(run.folders["chosen"])
    tags = (tag for tag in set(events) - SETTINGS if "/" in tag and tag[:5] != "epoch")
    layers = {tag.split("/")[1] for tag in tags}
    assert layers == {"d2", "global", "batch"}


@pytest.mark.parametrize("built", [True, False])
def test_a_layer_that_does_not_exist(built, data, tmp_path):
    model = small_model()
    if not built:
        model = keras.Sequential([L.Dense(1, name="d1")])
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`layers` must name .*'d1'.*Received: layers='d9'"):
        fit(model, data, GradientMonitor(tmp_path, layers=["d1", "d9"]))


def test_metrics_of_epochs(run, read_events):
    events = read_events(run.folders["plain"])
    for name, values in run.history.items():
        assert list(events[f"epoch/{name}"]) == [5, 10]
        np.testing.assert_allclose(list(events[f"epoch/{name}"].values()), values, rtol=1e-6)
    assert "val_mae" in run.history


def test_gradient_flow_is_a_picture_of_the_norms(run, read_events):
    events = read_events(run.folders["plain"])
    assert list(events["gradient_flow"]) == [5, 10]
    width, height, png = events["gradient_flow"][10]
    image = tf.io.decode_png(png).numpy().astype(int)
    assert image.shape == (int(height), int(width), 3)
    image = image[24:-40, -96 - 512 : -96]  # without names, axes and colour bar
    assert image.shape == (192, 512, 3)
    norms = np.array([list(events[f"gradient_norm/d{i}"].values()) for i in (1, 2, 3)])
    # The palette brightens from end to end, so brightness orders as the norms do.
    brightness = image[32::64, 512 // 20 :: 512 // 10].sum(axis=2)
    order = np.argsort(norms.ravel())
    assert (np.diff(brightness.ravel()[order]) >= -2).all()
    # One range for all images: what the first shows of the first epoch the last shows too.
    first = tf.io.decode_png(events["gradient_flow"][5][2]).numpy().astype(int)
    first = first[24:-40, -96 - 512 : -96][32::64, 512 // 10 :: 512 // 5].sum(axis=2)
    np.testing.assert_array_equal(brightness[:, :5], first)


def test_layout_holds_every_scalar(data, tmp_path, read_events):
    optimizer = keras_bp.optimizers.SGD(0.1, clipnorm=1.0)
    monitor = GradientMonitor(tmp_path, activations=True)
    fit(small_model(optimizer), data, monitor)
    fit(small_model(optimizer="adam"), data, monitor)
    events = read_events(tmp_path)  # the layout stands there once, or it would raise
    [config] = events.pop("custom_scalars__config__").values()
    layout = layout_pb2.Layout.FromString(config.item())
    charts = {c.title: [r for r in c.multiline.tag] for c in layout.category[0].chart}
    assert len(layout.category) == 1
    written = {tag: values for tag, values in events.items() if tag not in SETTINGS}
    scalars = {tag for tag, values in written.items() if next(iter(values.values())).ndim == 0}
    shown = [
        (title, tag)
        for title, expressions in charts.items()
        for tag in scalars
        if any(re.match(expression, tag) for expression in expressions)
    ]
    assert {tag for _, tag in shown} == scalars
    assert {title for title, _ in shown} == set(charts)
    assert {t for title, t in shown if "of each layer" in title and t.startswith("gradient")} == {
        "gradient_norm/d1",
        "gradient_norm/d2",
        "gradient_norm/d3",
    }


def test_many_layers_have_charts_by_block():
    layers = [f"block_{i // 7}/dense_{i}" for i in range(60)] + ["head", "(model)"]
    units = [f"dead_units/{path}" for path in layers[:20]]
    tags = [f"gradient_norm/{path}" for path in [*layers, "global"]] + units
    summary = layout([*tags, "update_ratio/", "learning_rate", "epoch/"], layers)
    config = layout_pb2.Layout.FromString(summary.value[0].tensor.string_val[0])
    overview, *kinds = config.category
    assert not overview.closed and all(category.closed for category in kinds)
    shown = [re.compile(e) for c in overview.chart for e in c.multiline.tag]
    assert [t for t in tags if any(e.match(t) for e in shown)] == ["gradient_norm/global"]
    for category, kind, paths in zip(
        kinds,
        ("gradient_norm", "update_ratio", "dead_units"),
        (layers, layers, layers[:20]),
        strict=True,
    ):
        charts = [re.compile(chart.multiline.tag[0]) for chart in category.chart]
        found = [[p for p in layers if e.match(f"{kind}/{p}")] for e in charts]
        assert [path for chart in found for path in chart] == paths
        assert len(found) <= (3 if kind == "dead_units" else 9) and max(map(len, found)) <= 10
        assert not any(e.match(f"{kind}/global") for e in charts)
        for block in {path.partition("/")[0] for path in paths}:
            assert sum(any(p.startswith(f"{block}/") for p in chart) for chart in found) <= 1


@pytest.mark.parametrize("layers", [1, 30, 60, 400])
def test_gradient_flow_of_many_layers_is_named_and_fits_a_screen(layers, monkeypatch):
    texts = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, *a: (texts.append(a[:2]), draw(self, *a))
    )
    names, flow = (
        [f"a_long_name_of_many_layers/dense_{i}" for i in range(layers)],
        GradientFlowImage(),
    )
    norms = 10.0 ** np.random.default_rng(0).uniform(-3, -1, (20, layers))
    if layers > 30:
        norms[:, 20:30] *= 10.0 ** np.repeat([-3, 3], 5)
    flow.add(norms, 25)
    image, description = flow.draw(names, 25)
    height, width, _ = image.shape
    assert height <= 900 and width <= 900 and len(description) < 400
    rows = range(layers) if layers <= 30 else [0, *range(20, 30), layers - 1]
    labels = [(text, y) for (_, y), text in texts if "dense" in text]
    assert [int(text.rpartition("_")[2]) for text, _ in labels] == list(rows)
    assert all(len(text) <= 32 for text, _ in labels)
    heights = np.array([y for _, y in labels])
    assert (np.diff(heights) >= 14 - 1e-9).all()
    assert heights[0] >= 0 and heights[-1] <= height
    others = {text for _, text in texts} - {text for text, _ in labels}
    assert {"update steps", "6", "25", "gradient norm of each layer"} <= others
    low, high = np.floor(np.log10(norms.min())) - 1, np.ceil(np.log10(norms.max())) + 1
    assert f"1e{low:.0f}" in others and len(others) - 4 <= high - low + 1
    again = flow.draw(names, 25)[0]
    np.testing.assert_array_equal(again, image)
    flow.add(norms * 1e-9, 45)
    # Below the range, in its darkest colour.
    darkest = flow.draw(names, 45)[0][24 + 1 : -40, -96 - 1]
    assert (darkest == [68, 1, 84]).all(axis=1).mean() > 0.9


def test_a_second_fit_traces_nothing_anew(data, tmp_path):
    traces = []

    class Counting(keras.Sequential):
        def train_step(self, batch):
            traces.append(1)
            return super().train_step(batch)

    model = Counting([keras.Input((4,)), L.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    monitor = GradientMonitor(tmp_path)
    data = [array[:20] for array in data]
    fit(model, data, monitor)
    first = len(traces)
    fit(model, data, monitor)
    assert first and len(traces) == first


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"every": 0}, ValueError, r"`every`.*0"),
        ({"every": 1.5}, TypeError, r"`every`.*1.5"),
        ({"updates_every": 0}, ValueError, r"`updates_every`.*0"),
        ({"histograms_every": -1}, ValueError, r"`histograms_every`.*-1"),
        ({"layers": "d1"}, TypeError, r"`layers` must be a list.*Received: layers='d1'"),
        ({"layers": []}, ValueError, r"`layers` must name a layer.*Received: layers=\[\]"),
        ({"layers": 5}, TypeError, r"`layers` must be a list.*Received: layers=5"),
        ({"layers": [1]}, TypeError, r"`layers` must be a list.*Received: layers=\[1\]"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        GradientMonitor("logs", **arguments)


def test_a_monitor_that_was_left_out_of_a_fit_invents_nothing(data, tmp_path, read_events):
    model, data = small_model(), [array[:20] for array in data]
    first, second = GradientMonitor(tmp_path / "a"), GradientMonitor(tmp_path / "b")
    for monitors in ([first, second], [first], [first, second]):
        fit(model, data, *monitors)
    a, b = read_events(tmp_path / "a"), read_events(tmp_path / "b")
    assert list(a["loss/batch"]) == list(range(1, 13))
    assert list(b["loss/batch"]) == [1, 2, 3, 4, 9, 10, 11, 12]
    for tag in ("loss/batch", "gradient_norm/global"):
        assert all(b[tag][step] == a[tag][step] for step in b[tag])


def test_layers_that_thaw_between_two_fits(data, tmp_path, read_events):
    model, monitor = small_model(), GradientMonitor(tmp_path)
    for frozen in (True, False):
        model.layers[0].trainable = not frozen
        model.compile("sgd", "mse", run_eagerly=True)
        fit(model, data, monitor)
    events = read_events(tmp_path)
    assert list(events["gradient_norm/d1"]) == [6, 7, 8, 9, 10]
    assert list(events["gradient_norm/d2"]) == list(range(1, 11))


def test_only_a_layer_without_weights(data, tmp_path, read_events):
    layers = [keras.Input((4,)), L.Dense(3), L.ReLU(name="relu"), L.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, data, GradientMonitor(tmp_path, activations=True, layers=["relu"]))
    assert list(read_events(tmp_path)["dead_units/relu"]) == [1, 2, 3, 4, 5]


def test_close_after_an_interruption_writes_what_was_recorded(data, tmp_path, read_events):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    monitor = GradientMonitor(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), data, monitor, Stop())
    monitor.close()
    assert list(read_events(tmp_path)["loss/batch"]) == [1, 2, 3, 4]


def test_a_unit_that_is_active_on_one_replica_is_not_dead(tmp_path, read_events, replicas):
    x = np.eye(2, dtype="float32").repeat(4, axis=0)
    with replicas.scope():
        layers = [L.Dense(3, "relu", kernel_initializer="zeros", name="r"), L.Dense(1)]
        model = keras.Sequential([keras.Input((2,)), *layers])
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    model.layers[0].kernel.assign([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    monitor = GradientMonitor(tmp_path, activations=True)
    fit(model, (x, x[:, :1]), monitor, batch_size=8)
    assert read_events(tmp_path)["dead_units/r"][1] == pytest.approx(1 / 3)


def test_only_weights_that_are_written_are_counted(tmp_path, monkeypatch):
    counted = []
    module = "keras_bp.callbacks.gradient_monitor"
    count = sys.modules[module].count_variable
    monkeypatch.setattr(f"{module}.count_variable", lambda v: counted.append(v.shape) or count(v))
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = GradientMonitor(tmp_path, layers=["head"])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[monitor])
    assert counted == [(3, 1), (1,)]
