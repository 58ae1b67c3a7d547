"""GradientMonitor: every value in the event file equals that of an independent pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_tags import SETTINGS

from keras_bp.callbacks import GradientMonitor

L = keras.layers
optimizers = keras.optimizers


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights as they are before each call of the train function."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_train_batch_begin(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def always(layers):
    """The tags that a run with these layers has besides weights and epochs."""
    norms = [
        f"{tag}/{n}" for tag in ("update_ratio", "weight_norm", "gradient_norm") for n in layers
    ]
    more = ["gradient_norm/global", "learning_rate", "loss/batch", "epoch/loss"]
    return {*norms, *more, *SETTINGS, "gradient_flow", "custom_scalars__config__"}


def batches(x, y, size, epochs=1):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)] * epochs


def own_pass(model, weights, x, y):
    """Return the loss and the dense float64 gradients of one batch, by a tape of its own."""
    model.set_weights(weights)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    return float(loss), [tf.convert_to_tensor(g).numpy().astype("float64") for g in gradients]


def norm(gradients):
    return np.sqrt(sum(np.sum(np.square(g)) for g in gradients))


def assert_series(series, values, rtol=1e-6):
    """The tag's steps are 1, 2, ... and its values these."""
    assert list(series) == list(range(1, len(values) + 1))
    np.testing.assert_allclose(list(series.values()), values, rtol=rtol)


def small_model(optimizer, seed=0, **options):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((4,)), L.Dense(3, "tanh", name="d1"), L.Dense(1, name="d2")]
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse", **options)
    return model


def nested_model(optimizer, **options):
    """A model inside a model, a shared layer, batch normalization and a penalty."""
    x = keras.Input((4,))
    shared = L.Dense(4, "tanh", kernel_regularizer="l2", name="shared")
    layers = [L.Dense(3, name="conv"), L.BatchNormalization(name="bn")]
    block = keras.Sequential(layers, name="block")
    model = keras.Model(x, L.Dense(1, name="d1")(block(shared(shared(x)))), name="net")
    model.compile(optimizer, "mse", **options)
    return model


NESTED_LAYERS = {"shared": [0, 1], "block/conv": [2, 3], "block/bn": [4, 5], "d1": [6, 7]}


def schedule():
    return optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"run_eagerly": True},
        {"jit_compile": True, "steps_per_execution": 3},
    ],
    ids=str,
)
def test_every_value_of_a_nested_model(options, data, tmp_path, read_events):
    x, y = data
    model, snapshots = nested_model(optimizers.SGD(schedule()), **options), Snapshots()
    monitor = GradientMonitor(tmp_path)
    fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=2, callbacks=[snapshots, monitor], **fit)
    events = read_events(tmp_path)

    if "steps_per_execution" in options:  # the weights inside a call are those of single steps
        model.set_weights(snapshots.weights[0])
        model.compile(optimizers.SGD(schedule()), "mse", jit_compile=options["jit_compile"])
        model.fit(x, y, epochs=2, callbacks=[snapshots], **fit)

    variables = "/kernel /bias".split(), "/gamma /beta /moving_mean /moving_variance".split()
    weights = [layer + v for layer in NESTED_LAYERS for v in variables[layer == "block/bn"]]
    assert set(events) == always(NESTED_LAYERS) | {f"weights/{name}" for name in weights}
    for name, weight in zip(weights, model.get_weights(), strict=True):
        histograms = events[f"weights/{name}"]
        assert list(histograms) == [5, 10]
        assert [h[:, 2].sum() for h in histograms.values()] == [weight.size] * 2

    steps = zip(snapshots.weights, batches(x, y, 5, epochs=2), strict=True)
    passes = [own_pass(model, before, *batch) for before, batch in steps]
    assert_series(events["loss/batch"], [loss for loss, _ in passes])
    assert_series(events["learning_rate"], [0.05 * 0.5 ** (step / 2) for step in range(10)])
    assert_series(events["gradient_norm/global"], [norm(g) for _, g in passes])
    for layer, indices in NESTED_LAYERS.items():
        expected = [norm(g[i] for i in indices) for _, g in passes]
        assert_series(events[f"gradient_norm/{layer}"], expected)


def test_last_histogram_is_that_of_the_weights(data, tmp_path, read_events):
    model = small_model("sgd", run_eagerly=True)
    model.fit(*data, batch_size=12, verbose=0, callbacks=[GradientMonitor(str(tmp_path))])
    counts, edges = np.histogram(model.get_weights()[0], 30)
    (histogram,) = read_events(tmp_path)["weights/d1/kernel"].values()
    np.testing.assert_allclose(histogram[:, 2], counts)
    np.testing.assert_allclose(histogram[:, 0], edges[:-1], atol=1e-6)


@pytest.mark.parametrize(
    "accumulation, options", [(None, {"run_eagerly": True}), (2, {"jit_compile": True})]
)
def test_repeated_ids_of_an_embedding(accumulation, options, tmp_path, read_events):
    ids = np.array([[1, 1, 1], [2, 1, 2], [0, 3, 0], [3, 3, 3]])
    targets = np.array([[1.0], [0.0], [2.0], [1.0]], "float32")
    model = keras.Sequential([keras.Input((3,)), L.Embedding(5, 2, name="e"), L.Flatten()])
    model.add(L.Dense(1, name="d"))
    optimizer = optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
    model.compile(optimizer, "mse", **options)
    snapshots = Snapshots()
    fit = {"batch_size": 2, "shuffle": False, "verbose": 0}
    model.fit(ids, targets, callbacks=[snapshots, GradientMonitor(tmp_path)], **fit)
    steps = zip(snapshots.weights, batches(ids, targets, 2), strict=True)
    tables = [own_pass(model, before, *batch)[1][0] for before, batch in steps]
    if accumulation:
        tables = [np.mean(tables, axis=0)]
    assert_series(read_events(tmp_path)["gradient_norm/e"], [norm([t]) for t in tables])


def test_accumulation_writes_the_mean_once_an_update(data, tmp_path, read_events):
    """5 micro-batches by 2: the one that is left over counts in the next fit."""
    optimizer = optimizers.SGD(schedule(), gradient_accumulation_steps=2, clipnorm=1e-3)
    model = small_model(optimizer, jit_compile=False)
    snapshots, passes = Snapshots(), []
    monitor = GradientMonitor(tmp_path)
    for _ in range(2):
        fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
        model.fit(*data, callbacks=[snapshots, monitor], **fit)
        after = model.get_weights()
        steps = zip(snapshots.weights, batches(*data, 5), strict=True)
        passes += [own_pass(model, before, *batch) for before, batch in steps]
        model.set_weights(after)
    events = read_events(tmp_path)
    means = [
        [np.mean(pair, axis=0) for pair in zip(passes[i][1], passes[i + 1][1], strict=True)]
        for i in range(0, 10, 2)
    ]
    assert_series(events["gradient_norm/global"], [norm(g) for g in means])
    assert_series(events["gradient_norm/d1"], [norm(g[:2]) for g in means])
    # Keras's schedules count micro-steps (K5); the update in the fit's step 2k sees 2k - 1.
    assert_series(events["learning_rate"], [0.05 * 0.5 ** (k / 2) for k in (1, 3, 5, 7, 9)])
    # Each fit has a recorder of its own, so update 3 has only the loss of its second micro-batch.
    losses = [loss for loss, _ in passes]
    losses = [np.mean(losses[0:2]), np.mean(losses[2:4]), losses[5]]
    losses += [np.mean([loss for loss, _ in passes[i : i + 2]]) for i in (6, 8)]
    assert_series(events["loss/batch"], losses)


def test_micro_steps_in_one_call_leave_the_updates_rows_alone(data, tmp_path, read_events):
    written = []
    for options in {"run_eagerly": True}, {"steps_per_execution": 5, "jit_compile": False}:
        optimizer = optimizers.SGD(0.05, gradient_accumulation_steps=2)
        model, log_dir = small_model(optimizer, **options), tmp_path / str(len(written))
        fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
        model.fit(*data, epochs=2, callbacks=[GradientMonitor(log_dir)], **fit)
        written.append(read_events(log_dir))
    for tag in "gradient_norm/global", "loss/batch":
        # The partial batch's sums may be taken in another order.
        assert_series(written[1][tag], list(written[0][tag].values()))
        assert len(written[1][tag]) == 5


def test_gradients_are_unscaled_and_not_clipped(data, tmp_path, read_events):
    optimizer = optimizers.SGD(0.1, loss_scale_factor=1000.0, clipnorm=1e-3)
    model, snapshots = small_model(optimizer, run_eagerly=True), Snapshots()
    fit = {"batch_size": 12, "shuffle": False, "verbose": 0}
    model.fit(*data, callbacks=[snapshots, GradientMonitor(tmp_path)], **fit)
    steps = zip(snapshots.weights, batches(*data, 12), strict=True)
    passes = [own_pass(model, before, *batch) for before, batch in steps]
    events = read_events(tmp_path)
    assert_series(events["gradient_norm/global"], [norm(g) for _, g in passes])
    assert_series(events["loss/batch"], [loss for loss, _ in passes])


@pytest.mark.parametrize("accumulation", [None, 2])
def test_mixed_float16_and_steps_that_loss_scaling_skips(accumulation, data, tmp_path, read_events):
    keras.config.set_dtype_policy("mixed_float16")
    # Small enough for 2^15 times the gradient to be a float16 number.
    x, y = 0.1 * data[0][:20], 0.1 * data[1][:20]
    x[5] = np.inf  # the second batch of 5 has a gradient that is not finite
    optimizer = optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
    model = small_model(optimizer, run_eagerly=not accumulation, jit_compile=False)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    snapshots = Snapshots()
    fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=[snapshots, GradientMonitor(tmp_path)], **fit)
    steps = zip(snapshots.weights, batches(x, y, 5), strict=True)
    passes = [own_pass(model, before, *batch) for before, batch in steps]
    kept = [passes[i] for i in (0, 2, 3)]
    if accumulation:  # the fourth batch is left over
        means = [np.mean(pair, axis=0) for pair in zip(kept[0][1], kept[1][1], strict=True)]
        kept = [(np.mean([kept[0][0], kept[1][0]]), means)]
    events = read_events(tmp_path)
    # The scale is a power of two and changes no digit, so float16 rounds alike on both sides.
    assert_series(events["gradient_norm/global"], [norm(g) for _, g in kept])
    assert_series(events["loss/batch"], [loss for loss, _ in kept])
    assert_series(events["learning_rate"], [0.1] * len(kept))


def multi_optimizer(**first):
    mapped = {"d1.*": optimizers.SGD(0.5, **first)}
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.Adam(schedule()), mapped))


def test_a_composite_has_a_learning_rate_for_each_optimizer(data, tmp_path, read_events):
    optimizer = optimizers.LossScaleOptimizer(multi_optimizer())
    model, snapshots = small_model(optimizer, run_eagerly=True), Snapshots()
    fit = {"batch_size": 12, "shuffle": False, "verbose": 0}
    model.fit(*data, callbacks=[snapshots, GradientMonitor(tmp_path)], **fit)
    steps = zip(snapshots.weights, batches(*data, 12), strict=True)
    passes = [own_pass(model, before, *batch) for before, batch in steps]
    events = read_events(tmp_path)
    assert {tag for tag in events if tag.startswith("l")} == {
        "learning_rate/0",
        "learning_rate/1",
        "loss/batch",
    }
    assert_series(events["learning_rate/0"], [0.5, 0.5])
    assert_series(events["learning_rate/1"], [0.05, 0.05 * 0.5**0.5])
    assert_series(events["gradient_norm/d2"], [norm(g[2:]) for _, g in passes])


def test_a_composite_whose_optimizers_are_made_as_it_is_built(data, tmp_path, read_events):
    one, two = optimizers.SGD(0.5), optimizers.SGD(0.25)
    optimizer = optimizers.MultiOptimizer(lambda variable: one if "d2" in variable.path else two)
    model = small_model(optimizer, run_eagerly=True)
    model.fit(*data, batch_size=12, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    events = read_events(tmp_path)
    assert_series(events["learning_rate/0"], [0.25, 0.25])
    assert_series(events["learning_rate/1"], [0.5, 0.5])


def test_optimizers_that_accumulate_differently_have_no_common_step(data, tmp_path):
    model = small_model(multi_optimizer(gradient_accumulation_steps=2))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"same number of micro-steps.*Received: .*\[1, 2\]"):
        model.fit(*data, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    np.testing.assert_equal(model.get_weights(), before)


class _Rare(L.Layer):
    """Holds a variable that the loss does not depend on."""

    def build(self, shape):
        self.unused = self.add_weight(name="unused", shape=(3,))

    def call(self, x):
        return x


def test_a_variable_without_a_gradient_counts_as_zero(data, tmp_path, read_events):
    model = keras.Sequential([keras.Input((4,)), _Rare(name="rare"), L.Dense(1, name="d")])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(*data, batch_size=23, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    events = read_events(tmp_path)
    assert events["gradient_norm/rare"] == {1: 0.0}
    assert events["gradient_norm/d"] == events["gradient_norm/global"]


def test_a_value_handed_over_as_gradient_is_none(data, tmp_path, read_events):
    """Keras's float8 layers hand the optimizer the next value of a scale in a gradient's place."""
    model = small_model("sgd", run_eagerly=True)
    model.layers[1].bias.overwrite_with_gradient = True
    weights = model.get_weights()
    model.fit(*data, batch_size=23, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    _, gradients = own_pass(model, weights, *data)
    assert_series(read_events(tmp_path)["gradient_norm/d2"], [norm(gradients[2:3])])


def test_float64_model(data, tmp_path, read_events):
    keras.config.set_dtype_policy("float64")
    model = small_model("sgd", run_eagerly=True)
    weights = model.get_weights()
    model.fit(*data, batch_size=23, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    _, gradients = own_pass(model, weights, *data)
    # The event file holds float32.
    assert_series(read_events(tmp_path)["gradient_norm/global"], [norm(gradients)], rtol=1e-7)


def test_a_model_that_is_built_by_the_first_batch(data, tmp_path, read_events):
    model = keras.Sequential([L.Dense(2, name="d1"), L.Dense(1, name="d2")], name="net")
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(*data, batch_size=12, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    weights = {f"weights/{d}/{v}" for d in ("d1", "d2") for v in ("kernel", "bias")}
    assert set(read_events(tmp_path)) == always(["d1", "d2"]) | weights


class _NoScaling(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.own_loss(x, y)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients)
        return {"loss": loss}


# What a train step without `scale_loss` computes, and whether it shows: a value inside a function
# that the step calls cannot be read outside.
OWN_LOSSES = {
    "compute_loss": (lambda model, x, y: model.compute_loss(x, y, model(x)), True),
    "formula": (lambda model, x, y: tf.reduce_mean((model(x) - y) ** 2), False),
    "function": (tf.function(lambda model, x, y: model.compute_loss(x, y, model(x))), False),
}


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("own_loss", OWN_LOSSES)
def test_a_train_step_that_scales_no_loss(own_loss, run_eagerly, data, tmp_path, read_events):
    x = keras.Input((4,))
    model = _NoScaling(x, L.Dense(1, name="d")(x), name="net")
    model.compile("sgd", "mse", run_eagerly=run_eagerly, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    loss, shown = OWN_LOSSES[own_loss]
    model.own_loss = lambda x, y: loss(model, x, y)
    weights = model.get_weights()
    model.fit(*data, batch_size=23, verbose=0, callbacks=[GradientMonitor(tmp_path)])
    events = read_events(tmp_path)
    loss, gradients = own_pass(model, weights, *data)
    assert_series(events["gradient_norm/d"], [norm(gradients)])
    assert ("loss/batch" in events) == shown
    if shown:
        assert_series(events["loss/batch"], [loss])
    assert "compute_loss" not in vars(model)


def test_replicas_are_summed(tmp_path, read_events, replicas):
    """Two replicas with half a batch each show the gradient and the loss of the whole batch."""
    ids = np.random.default_rng(0).integers(0, 5, (16, 3))
    targets = ids[:, :1].astype("float32")
    assert replicas.num_replicas_in_sync == 2
    with replicas.scope():
        model = keras.Sequential([keras.Input((3,)), L.Embedding(5, 2, name="e"), L.Flatten()])
        model.add(L.Dense(1, name="d"))
        model.compile(optimizers.SGD(0.1), "mse", jit_compile=False)
    snapshots = Snapshots()
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(ids, targets, callbacks=[snapshots, GradientMonitor(tmp_path)], **fit)

    events = read_events(tmp_path)
    twin = keras.Sequential([keras.Input((3,)), L.Embedding(5, 2), L.Flatten(), L.Dense(1)])
    twin.compile("sgd", "mse")
    steps = zip(snapshots.weights, batches(ids, targets, 8), strict=True)
    passes = [own_pass(twin, before, *batch) for before, batch in steps]
    assert_series(events["loss/batch"], [loss for loss, _ in passes])
    assert_series(events["gradient_norm/e"], [norm(g[:1]) for _, g in passes])
    assert_series(events["gradient_norm/global"], [norm(g) for _, g in passes])
