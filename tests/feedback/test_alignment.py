"""The angle between the gradient of training and the true one: by function, and in a fit."""

import feedback_cases as cases
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, losses, optimizers
from keras_bp.callbacks import GradientMonitor
from keras_bp.feedback import Alignment, alignment, alignment_sums

X = np.float32(np.random.default_rng(3).normal(size=(48, cases.INPUTS)))
Y = np.argmax(X[:, : cases.CLASSES], axis=1)
KINDS = ("alignment_angle", "sign_concordance")
FIT = {"batch_size": 16, "shuffle": False, "verbose": 0}


def noisy(dtype="float32"):
    """A network with all that moves in a step: dropout's seed, batch statistics, metrics."""
    chain = cases.chain(dtype=dtype)
    parts = [chain.layers[0], keras.layers.Dropout(0.2, seed=1), layers.BatchNormalization()]
    return keras.Sequential([chain.inputs[0], *parts, *chain.layers[1:]])


MODELS = {"feedback": noisy, "direct": lambda dtype="float32": cases.direct(dtype=dtype)}
every_model = pytest.mark.parametrize("kind", MODELS)


def compiled(kind, optimizer=None, dtype="float32", **options):
    model = MODELS[kind](dtype)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"jit_compile": False, "metrics": ["accuracy"], **options}
    model.compile(optimizer or optimizers.Adam(0.02), loss, **options)
    return model


def by_hand(model, found, true):
    """Angle and concordance of each layer, in degrees and float64."""
    rows = {}
    for variable, *pair in zip(model.trainable_variables, found, true, strict=True):
        layer = next(x for x in model.layers if any(variable is w for w in x.weights))
        rows.setdefault(layer.name, []).append([np.float64(g).ravel() for g in pair])
    expected = {}
    for name, pairs in rows.items():
        a, b = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        a_hat, b_hat = a / np.linalg.norm(a), b / np.linalg.norm(b)
        angle = 2 * np.arctan2(np.linalg.norm(a_hat - b_hat), np.linalg.norm(a_hat + b_hat))
        some = (a != 0) | (b != 0)
        expected[name] = np.degrees(angle), np.mean(np.sign(a[some]) == np.sign(b[some]))
    return expected


def test_by_the_equations():
    """Both gradients from NumPy."""
    model = cases.chain(dtype="float64")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile("sgd", loss)
    weights = cases.weights_of(model)
    matrices = [layer.feedback_kernel.numpy() for layer in model.layers]
    found = cases.gradients(weights, lambda n, delta, e: delta @ matrices[n + 1].T)
    true = cases.gradients(weights, lambda n, delta, e: delta @ weights[n + 1][0].T)
    expected = by_hand(model, found, true)
    actual = alignment(model, cases.X, cases.LABELS)
    assert list(actual) == list(expected) == ["one", "two", "three", "head"]
    for name, (angle, concordance) in actual.items():
        # The arccosine of a cosine rounded by 1e-16: up to 1e-6 degrees near 0, 1e-13 elsewhere.
        np.testing.assert_allclose(angle, expected[name][0], atol=2e-6)
        np.testing.assert_allclose(concordance, expected[name][1])
    assert actual["one"].angle > 10 > actual["head"].angle
    assert actual["head"].sign_concordance == 1


def test_sums():
    sums = alignment_sums(
        [tf.constant([1.0, 0.0, 0.0, -2.0]), None, None, tf.IndexedSlices([[3.0]], [1], [2, 1])],
        [tf.constant([2.0, 1.0, 0.0, 3.0]), tf.constant([4.0]), None, tf.constant([[0.0], [1.0]])],
    )
    expected = [[-4, 5, 14, 1, 3], [0, 0, 16, 0, 1], [0, 0, 0, 0, 0], [3, 9, 1, 1, 1]]
    np.testing.assert_array_equal(sums, expected)
    assert Alignment.of_sums([[-1.0, 1.0, 1.0, 0.0, 1.0]]) == (180.0, 0.0)
    assert Alignment.of_sums([[1.0, 1.0, 1.0 - 1e-16, 1.0, 1.0]]) == (0.0, 1.0)
    for empty in (sums[1:2], sums[2:3]):
        assert np.isnan(Alignment.of_sums(empty).angle)
    assert np.isnan(Alignment.of_sums(sums[2:3]).sign_concordance)


@every_model
def test_the_function_leaves_no_trace(kind):
    model = compiled(kind, run_eagerly=True)
    model.fit(X, Y, **FIT)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [variable.numpy() for variable in variables]
    first, again = (alignment(model, X[:16], Y[:16]) for _ in range(2))
    np.testing.assert_equal(first, again)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_paths_and_weights_of_examples():
    block = keras.Sequential([layers.FeedbackDense(4, "tanh", name="b")], name="block")
    parts = [layers.Dense(4, name="a"), block, layers.FeedbackDense(1, name="c")]
    model = keras.Sequential([keras.Input((cases.INPUTS,)), *parts])
    model.compile("sgd", "mse")
    y = np.float32(Y)[:, None]
    assert list(alignment(model, X, y)) == ["a", "block/b", "c"]
    some = alignment(model, X, y, sample_weight=np.float32(np.arange(48) < 16))
    np.testing.assert_allclose(some["a"].angle, alignment(model, X[:16], y[:16])["a"].angle, 1e-4)


class Twins(keras.layers.Layer):
    """Two layers of one name inside a layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.parts = [layers.FeedbackDense(4, "tanh", name="same") for _ in range(2)]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        return self.parts[0](x) + self.parts[1](x)


def test_paths_are_those_of_the_monitor_where_names_meet_and_layers_are_shared():
    x, shared = keras.Input((4,)), layers.FeedbackDense(4, "tanh", name="shared")
    first = keras.Model(x, shared(x), name="first")
    second = keras.Model(x, layers.FeedbackDense(4, name="global")(shared(x)), name="second")
    hidden = Twins(name="twins")(second(first(x)))
    model = keras.Model(x, layers.FeedbackDense(1, name="global")(hidden))
    model.compile("sgd", "mse")
    found = alignment(model, X[:, :4], np.float32(Y)[:, None])
    # The two layers of one name are told apart, and no layer takes the name of the global norm.
    expected = ["first/shared", "second/global", "twins/same", "twins/same_1", "global_1"]
    assert list(found) == expected
    assert found["twins/same"] != found["twins/same_1"]


class Once(keras.Model):
    """A model whose layer is built though it has not been called itself."""

    def __init__(self):
        super().__init__()
        self.last = layers.FeedbackDense(1, name="last")
        self.last.build((None, 4))

    def call(self, x):
        return self.last(x)


def test_a_model_whose_layers_were_built_without_it():
    model = Once()
    model.compile("sgd", "mse")
    assert not model.built
    assert list(alignment(model, X[:, :4], np.float32(Y)[:, None])) == ["last"]


def test_what_the_function_refuses():
    unbuilt = keras.Sequential([layers.FeedbackDense(3)])
    with pytest.raises(ValueError, match="`model` must be built.*Received: "):
        alignment(unbuilt, X, Y)
    with pytest.raises(ValueError, match="`model` must be compiled with a loss.*Received: "):
        alignment(cases.chain(dtype="float32"), X, Y)


class Expected(keras.callbacks.Callback):
    """Measures each batch by the function, before its step; or those of some steps alone."""

    def __init__(self, steps=None):
        super().__init__()
        self.steps, self.angles = steps, []

    def on_train_batch_begin(self, batch, logs=None):
        step, rows = len(self.angles) + 1, slice(16 * batch, 16 * batch + 16)
        wanted = self.steps is None or step in self.steps
        self.angles.append(alignment(self.model, X[rows], Y[rows]) if wanted else None)


def monitored(kind, tmp_path, epochs=1, optimizer=None, dtype="float32", monitor=None, **options):
    model, expected = compiled(kind, optimizer, dtype, **options), Expected()
    monitor = GradientMonitor(tmp_path, updates_every=1, **(monitor or {}))
    model.fit(X, Y, epochs=epochs, callbacks=[expected, monitor], **FIT)
    return model, expected.angles


def assert_written(events, angles, steps=None, atol=0.01):
    """Angles of float32's gradients: two roundings of 1e-6 of a vector turn it by 1e-4 degrees."""
    for layer in angles[0]:
        for kind, place in zip(KINDS, (0, 1), strict=True):
            series = events[f"{kind}/{layer}"]
            assert list(series) == (steps or list(range(1, len(angles) + 1)))
            for step, value in series.items():
                np.testing.assert_allclose(value, angles[step - 1][layer][place], atol=atol)


WAYS = [
    ("feedback", {}),
    ("direct", {"run_eagerly": True}),
    pytest.param("direct", {"jit_compile": True}, marks=pytest.mark.long),
]


@pytest.mark.parametrize("kind, options", WAYS, ids=str)
def test_the_monitor_writes_what_the_function_finds(kind, options, tmp_path, read_events):
    model, angles = monitored(kind, tmp_path, **options)
    assert_written(read_events(tmp_path), angles)
    # The same training as without the monitor, bit for bit.
    alone = compiled(kind, **options)
    alone.fit(X, Y, **FIT)
    for one, other in zip(alone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_now_and_then_and_only_the_chosen(tmp_path, read_events):
    model, expected = compiled("direct", run_eagerly=True), Expected([1, 4, 8])
    monitor = GradientMonitor(tmp_path, updates_every=4, histograms_every=3, layers=["two"])
    model.fit(X, Y, epochs=3, callbacks=[expected, monitor], **FIT)
    events = read_events(tmp_path)
    tags = {tag for tag in events if tag.startswith(KINDS)}
    assert tags == {"alignment_angle/two", "sign_concordance/two"}
    angles = [angle and {"two": angle["two"]} for angle in expected.angles]
    assert_written(events, angles, [1, 4, 8])
    assert {3, 6, 9} <= set(events["gradients/two/kernel"])


def test_accumulation_and_loss_scaling(tmp_path, read_events):
    """Of the last micro-batch of an update; half precision's scale turns no gradient."""
    optimizer = optimizers.SGD(0.05, gradient_accumulation_steps=3)
    options = {"run_eagerly": True}
    _, angles = monitored("direct", tmp_path / "sum", 2, optimizer, **options)
    assert_written(read_events(tmp_path / "sum"), [angles[2], angles[5]])

    optimizer = keras.optimizers.LossScaleOptimizer(optimizers.Adam(0.02), 2.0**10)
    half = {"dtype": "mixed_float16", **options}
    _, angles = monitored("direct", tmp_path / "half", optimizer=optimizer, **half)
    # Half precision rounds by 5e-4 in other places with the scale and without.
    assert_written(read_events(tmp_path / "half"), angles, atol=2)


def test_replicas(replicas, tmp_path, read_events):
    """The whole batch's gradients: the replicas' parts are summed before they are compared."""
    _, angles = monitored("direct", tmp_path / "one", run_eagerly=True)
    with replicas.scope():
        model = compiled("direct")
    model.fit(X, Y, callbacks=[GradientMonitor(tmp_path / "two", updates_every=1)], **FIT)
    assert_written(read_events(tmp_path / "two"), angles)


class Silent(keras.Sequential):
    """Its step does not show its loss to the optimizer."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_a_step_that_does_not_show_its_loss_has_no_angles(tmp_path, read_events):
    model = Silent([keras.Input((cases.INPUTS,)), layers.FeedbackDense(3)])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(X, Y, callbacks=[GradientMonitor(tmp_path, updates_every=1)], **FIT)
    events = read_events(tmp_path)
    assert not [tag for tag in events if tag.startswith(KINDS)]
    assert [tag for tag in events if tag.startswith("update_ratio/")]


def test_other_models_have_no_tags_and_no_recorder(tmp_path, read_events):
    model = cases.chain(layers.Dense, "float32")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    monitor = GradientMonitor(tmp_path, updates_every=1)
    model.fit(X, Y, callbacks=[monitor], **FIT)
    assert not [tag for tag in read_events(tmp_path) if tag.startswith(KINDS)]
    assert type(monitor._recorder).__name__ == "StepRecorder"
    assert "train_step" not in vars(model)
