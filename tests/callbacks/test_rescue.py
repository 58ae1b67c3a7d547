"""Rescue: a step that goes wrong is taken back, bit for bit, and the training goes on."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from rescue_cases import BATCH, build, examples, fit, linear, state, without

from keras_bp.callbacks import GradientMonitor, Rescue, ResumableTraining
from keras_bp.callbacks.rescue._files import read_fault
from keras_bp.optimizers import SGD, Adam
from keras_bp.schedules import CosineAnnealing

GRAPH = {"run_eagerly": False, "jit_compile": False}


def harmed(batch=5, value=np.nan, data=None):
    x, y = data or examples()
    x[BATCH * batch + 2, 1] = value
    return x, y


@pytest.mark.parametrize(
    "options",
    [
        {**GRAPH, "steps_per_execution": 3},
        pytest.param({"run_eagerly": True}, marks=pytest.mark.long),
        pytest.param({"run_eagerly": False, "jit_compile": True}, marks=pytest.mark.long),
    ],
    ids=["graph", "eager", "jit"],
)
def test_a_training_without_faults_is_the_same(options, tmp_path):
    model, twin = build(**options), build(**options)
    rescue = Rescue(tmp_path)
    logs = fit(model, examples(), rescue, epochs=2)
    assert logs == fit(twin, examples(), epochs=2)
    np.testing.assert_equal(state(model), state(twin))
    assert rescue.rescues == [] and not any(tmp_path.iterdir())
    assert not isinstance(model.train_function, type(rescue._function))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[rows], self.y[rows]


def generator(x, y):
    batches = Batches(x, y)
    while True:
        yield from map(batches.__getitem__, range(len(batches)))


@pytest.mark.parametrize(
    "give, optimizer, options",
    [
        (lambda x, y: (x, y), "adam", {}),
        (Batches, lambda: Adam(0.01), {"steps_per_execution": 5}),
        pytest.param(generator, lambda: SGD(0.01, momentum=0.9), {}, marks=pytest.mark.long),
        (
            lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),
            # The batch is the second one of an update.
            lambda: Adam(0.01, gradient_accumulation_steps=3),
            {},
        ),
        pytest.param(
            lambda x, y: (x, y),
            lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
            {},
            marks=pytest.mark.long,
        ),
    ],
    ids=["arrays", "PyDataset", "generator", "Dataset", "accumulation"],
)
def test_the_training_is_that_without_the_batch(give, optimizer, options, tmp_path, capsys):
    """Weights, slots, batch statistics, seeds, metrics and the loss that is reported."""
    data = harmed(batch=4)
    model, twin = build(optimizer, **options), build(optimizer)
    given = give(*data)
    given = given if isinstance(given, tuple) else (given,)
    batch_size = BATCH if len(given) == 2 else None
    rescue = Rescue(tmp_path)
    logs = fit(model, given, rescue, batch_size=batch_size, steps_per_epoch=8)
    assert logs == fit(twin, without(data, 4))
    np.testing.assert_equal(state(model), state(twin))
    (rescued,) = rescue.rescues
    assert (rescued.epoch, rescued.batch, rescued.fault) == (0, 4, "not_finite")
    assert (rescued.action, rescued.layer, rescued.rate_factor) == ("skipped", None, 1.0)
    assert "`x` holds NaN or infinity in example 2" in rescued.description
    assert capsys.readouterr().out == f"Rescue: {rescued}\n"
    with np.load(f"{rescued.path}/batch.npz") as kept:
        np.testing.assert_equal(kept["x"], data[0][4 * BATCH : 5 * BATCH])
        np.testing.assert_equal(kept["y"], data[1][4 * BATCH : 5 * BATCH])


def test_what_is_kept_is_the_state_before_the_step(tmp_path):
    data = harmed(batch=4)
    model, twin = build(), build()
    rescue = Rescue(tmp_path, verbose=0)
    fit(model, data, rescue)
    fit(twin, [array[: 4 * BATCH] for array in data])
    expected = state(twin)
    loaded, _, report = read_fault(rescue.rescues[0].path)  # with the seeds, which Keras leaves out
    np.testing.assert_equal(state(loaded), expected)
    assert rescue.rescues[0].step == report["step"] == int(loaded.optimizer.iterations) + 1 == 5


def test_the_first_batch(tmp_path):
    """Before it there are neither slots nor metrics, and no batch to try again."""
    keras.utils.set_random_seed(0)
    model, data = keras.Sequential([keras.layers.Dense(1)]), harmed(batch=0)
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    rescue = Rescue(tmp_path, verbose=0)
    logs = fit(model, data, rescue)
    assert len(rescue.rescues) == 1 and rescue.rescues[0].batch == 0
    assert np.isfinite(logs["loss"]).all() and int(model.optimizer.iterations) == 7
    assert all(np.isfinite(array).all() for array in state(model))


@pytest.mark.parametrize(
    "make", [linear, pytest.param(build, marks=pytest.mark.long)], ids=["linear", "all"]
)
def test_replicas(make, replicas, tmp_path):
    """The batch of both is kept whole; the last one is shared unevenly."""
    x, y = (array[:-1] for array in harmed(batch=4))
    x = x[:, 1:2] if make is linear else x
    with replicas.scope():
        model, twin = (make("adam", **GRAPH) for _ in range(2))
    rescue = Rescue(tmp_path, verbose=0)
    logs = fit(model, (x, y), rescue)
    expected = fit(twin, without((x, y), 4))
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-6)
    for one, other in zip(model.weights, twin.weights, strict=True):
        pair = map(replicas.experimental_local_results, (one.value, other.value))
        for a, b in zip(*pair, strict=True):
            np.testing.assert_array_equal(a, b)
    with np.load(f"{rescue.rescues[0].path}/batch.npz") as kept:
        np.testing.assert_equal(kept["x"], x[4 * BATCH : 5 * BATCH])


def test_other_callbacks_see_no_fault(tmp_path, read_events):
    """The monitor's steps go on without a gap, TerminateOnNaN has nothing to end."""
    model, data = build(), harmed()
    fit(
        model,
        data,
        keras.callbacks.TerminateOnNaN(),
        GradientMonitor(tmp_path / "logs"),
        Rescue(tmp_path / "faults", log_dir=tmp_path / "logs", verbose=0),
    )
    events = read_events(tmp_path / "logs")
    assert list(events["loss/batch"]) == list(range(1, 8))
    assert np.isfinite([*events["gradient_norm/global"].values()]).all()
    ((step, text),) = events["rescue/not_finite"].items()
    assert step == 6 and b"the batch is skipped" in text.item()


def test_what_the_monitor_measures_leaves_the_fault_out(tmp_path, read_events):
    """Its batch is no part of a noise scale; after a fault in the first step there is none yet."""
    faulty = harmed(0, data=harmed(5))
    each = {"noise_scale_every": 1, "sharpness_every": 1, "updates_every": 1}
    model, monitor = build(), GradientMonitor(tmp_path / "logs", **each)
    fit(model, faulty, Rescue(tmp_path / "faults", spike=None, verbose=0), monitor)
    twin, plain = build(), GradientMonitor(tmp_path / "plain", **each)
    fit(twin, without(without(faulty, 5), 0), plain)
    measured, expected = read_events(tmp_path / "logs"), read_events(tmp_path / "plain")
    for tag in ("gradient_noise_scale", "critical_sharpness", "update_ratio/hidden"):
        assert len(measured[tag]) == 6 and measured[tag] == expected[tag], tag


# Where the rate is too high


def test_the_steps_of_other_callbacks_go_on_where_it_goes_back(tmp_path, read_events):
    """A fault after that is written at their step, and no update is measured across it."""
    ones = np.ones((BATCH * 70, 1), "float32")
    ones[60 * BATCH] = np.nan
    logs, rescue = tmp_path / "logs", Rescue(tmp_path, log_dir=tmp_path / "logs", verbose=0)
    set_rate = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            batch == 30 and rescue.model.optimizer.learning_rate.assign(2.0)
        )
    )
    y = np.random.default_rng(0).normal(1.0, 1.0, ones.shape)
    monitor = GradientMonitor(logs, updates_every=1)
    fit(linear(keras.optimizers.SGD(0.05), **GRAPH), (ones, y), set_rate, rescue, monitor)
    first, second = rescue.rescues
    assert (first.action, second.action) == ("lowered", "skipped")
    assert first.from_step < first.step - 1 and second.step < 60
    events = read_events(logs)
    # Of 70 batches two were faults: the monitor has written 68 steps, in one line.
    assert list(events["loss/batch"]) == list(range(1, 69))
    (step,) = events["rescue/not_finite"]
    assert step == 60  # the first of the two came before
    (ratios,) = (series for tag, series in events.items() if tag.startswith("update_ratio/"))
    assert len(ratios) == 68
    ((_, text),) = events["keras_bp/finding/rescue/not_finite"].items()
    assert json.loads(text.item())["step"] == 60


RATES = {
    "number": lambda rate: keras.optimizers.SGD(rate),
    "keras schedule": lambda rate: keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay([10**6], [rate, rate])
    ),
    "schedule": lambda rate: SGD(CosineAnnealing(rate, 10**9)),
    "callable": lambda rate: SGD(lambda: rate),
}


@pytest.mark.parametrize(
    "give",
    [
        pytest.param(give, id=name, marks=[pytest.mark.long] * (name not in ("number", "schedule")))
        for name, give in RATES.items()
    ],
)
def test_a_rate_that_is_too_high_is_lowered(give, tmp_path, capsys):
    """The weight is multiplied by 1 - 2 rate in each step: -19, then -1, then 0.8."""
    model = linear(give(10.0))
    rescue = Rescue(tmp_path)
    ones = np.ones((BATCH * 10, 1), "float32")
    fit(model, (ones, 0 * ones), rescue, epochs=2)
    *said, last = capsys.readouterr().out.splitlines()
    assert said == [f"Rescue: {rescued}" for rescued in rescue.rescues]
    plain = isinstance(model.optimizer.learning_rate, keras.Variable)
    lowered = f"`optimizer.learning_rate = {10.0 * rescue.rate_factor:.4g}`"
    assert last.endswith(f"set {lowered}." if plain else "times as much.")
    assert {r.action for r in rescue.rescues} == {"lowered"}
    assert rescue.rate_factor == pytest.approx(0.1 ** len(rescue.rescues))
    assert len(rescue.rescues) in (1, 2)
    assert abs(model.get_weights()[0].item()) <= 1.0
    assert float(model.optimizer.learning_rate) == pytest.approx(10.0)


def test_the_factor_ends_with_the_callback(tmp_path):
    """Also where another callback keeps the traced steps; they multiply by 1 - 2 rate."""
    model, rescue = linear(keras.optimizers.SGD(10.0)), Rescue(tmp_path, verbose=0)
    ones = np.ones((BATCH, 1), "float32")
    monitor = GradientMonitor(tmp_path / "logs")
    fit(model, (np.tile(ones, (10, 1)), np.zeros((BATCH * 10, 1))), monitor, rescue)
    rescued = len(rescue.rescues)
    for callbacks, rate in (([monitor], 10.0), ([monitor, rescue], 10.0 * rescue.rate_factor)):
        model.set_weights([ones[:1]])
        fit(model, (ones, 0 * ones), *callbacks)
        assert model.get_weights()[0].item() == pytest.approx(1 - 2 * rate, rel=1e-6)
    assert rescue.rate_factor < 1.0 and len(rescue.rescues) == rescued


def test_the_factor_is_on_what_another_callback_sets(tmp_path):
    model = linear(keras.optimizers.SGD(0.25), **GRAPH)
    rescue = Rescue(tmp_path, factor=0.05, verbose=0)
    ones = np.ones((BATCH * 30, 1), "float32")
    weights = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(model.get_weights()[0].item())
    )
    set_rate = keras.callbacks.LearningRateScheduler(lambda epoch: [0.25, 5.0, 2.0][epoch])
    y = np.random.default_rng(0).normal(1.0, 1.0, ones.shape)
    fit(model, (ones, y), set_rate, rescue, note, epochs=3)
    assert [r.action for r in rescue.rescues] == ["lowered"] and rescue.rate_factor == 0.05
    assert rescue.rescues[0].from_step < 30
    # With the rate that was set, not that of the state it went back to: w <- w - 0.5 (w - mean(y)).
    means = y.reshape(30, BATCH).mean(axis=1)
    expected = 0.5 * np.array(weights[54:59]) + 0.5 * means[25:]
    np.testing.assert_allclose(weights[55:60], expected, rtol=1e-5)
    # In the third epoch, w <- w - 2 * 0.05 * 2.0 * (w - mean(y)).
    expected = 0.8 * np.array(weights[-30:-1]) + 0.2 * means[1:]
    np.testing.assert_allclose(weights[-29:], expected, rtol=1e-5)


def test_it_stops_after_the_last_rescue_with_the_best_weights(tmp_path):
    """Which are those after 50 good steps; all later batches hold NaN."""
    ones = np.ones((BATCH * 60, 1), "float32")
    data = ones.copy(), 2 * ones
    data[0][52 * BATCH :] = np.nan
    model, twin = linear("sgd", **GRAPH), linear("sgd", **GRAPH)
    rescue = Rescue(tmp_path, max_rescues=2, verbose=0)
    logs = fit(model, data, rescue, epochs=5)
    fit(twin, [array[: 50 * BATCH] for array in data])
    assert [r.action for r in rescue.rescues] == ["skipped", "skipped", "stopped"]
    assert len(logs["loss"]) == 1 and np.isfinite(logs["loss"]).all()
    np.testing.assert_equal(model.get_weights(), twin.get_weights())
    assert rescue.rescues[-1].from_step == 50


def test_a_batch_that_comes_again_in_each_epoch_stops_nothing(tmp_path):
    ones = np.ones((22 * BATCH, 1), "float32")
    ones[22] = np.nan
    rescue = Rescue(tmp_path, max_rescues=1, verbose=0)
    fit(linear("sgd", **GRAPH), (ones, ones), rescue, epochs=2)
    assert [r.action for r in rescue.rescues] == ["skipped"] * 2


def test_a_spike(tmp_path):
    """A target of 10,000: finite, and ruin for what comes after it."""
    x, y = np.ones((2, BATCH * 40, 1), "float32")
    y[30 * BATCH + 1] = 1e4
    model, twin = linear("adam", **GRAPH), linear("adam", **GRAPH)
    rescue = Rescue(tmp_path, verbose=0)
    fit(model, (x, 2 * y), rescue)
    fit(twin, without((x, 2 * y), 30))
    ((fault, action, batch),) = [(r.fault, r.action, r.batch) for r in rescue.rescues]
    assert (fault, action, batch) == ("spike", "skipped", 30)
    assert "Example 1 has the largest loss" in rescue.rescues[0].description
    np.testing.assert_equal(state(model), state(twin))

    off = Rescue(tmp_path, spike=None, verbose=0)
    fit(model, (x[-15 * BATCH :], y[-15 * BATCH :]), off)
    assert off.rescues == []


def test_data_of_another_kind_are_no_fault(tmp_path):
    """Two batches are skipped until they are the usual."""
    ones = np.ones((40 * BATCH, 1), "float32")
    y = 0 * ones
    y[25 * BATCH :] = 300.0
    rescue = Rescue(tmp_path, verbose=0)
    model = linear(keras.optimizers.SGD(1e-5), **GRAPH)
    fit(model, (ones, y), rescue)
    assert [r.batch for r in rescue.rescues] == [25, 26]
    assert int(model.optimizer.iterations) == 38


# Loss scaling


def scaled(scale=2.0**15):
    return keras.optimizers.LossScaleOptimizer(Adam(1e-3), scale)


def test_a_step_that_loss_scaling_skips_is_no_fault(tmp_path):
    """A first scale of 2^40 overflows until it has come down."""
    keras.config.set_dtype_policy("mixed_float16")
    model, rescue = linear(scaled(2.0**40), **GRAPH), Rescue(tmp_path, verbose=0)
    ones = np.ones((BATCH * 40, 1), "float32")
    fit(model, (ones, 100 * ones), rescue)
    assert rescue.rescues == [] and float(model.optimizer.dynamic_scale) < 2.0**30
    assert int(model.optimizer.iterations) > 0


def test_an_infinite_loss_does_not_lower_the_scale(tmp_path):
    model, rescue = linear(scaled()), Rescue(tmp_path, verbose=0)
    x, y = np.ones((2, BATCH * 8, 1), "float32")
    y[21] = np.inf
    fit(model, (x, y), rescue)
    assert [r.fault for r in rescue.rescues] == ["not_finite"]
    assert float(model.optimizer.dynamic_scale) == 2.0**15


@tf.custom_gradient
def infinite_backward(x):
    return tf.identity(x), lambda upstream: upstream * np.inf


def test_a_scale_that_falls_without_end(tmp_path):
    model, rescue = linear(scaled(2.0**3)), Rescue(tmp_path, max_rescues=1, verbose=0)
    ones = np.ones((BATCH * 60, 1), "float32")
    (layer,), broken = model.layers, []
    layer.activation = lambda z: infinite_backward(z) if broken else z
    broken_from = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: broken.append(1) if batch == 15 else None
    )
    fit(model, (ones, 2 * ones), broken_from, rescue)
    assert [r.fault for r in rescue.rescues] == ["loss_scale"] * 2
    assert [r.action for r in rescue.rescues] == ["lowered", "stopped"]
    assert rescue.rescues[0].layer == layer.name and "Backward" in rescue.rescues[0].description
    assert float(model.optimizer.dynamic_scale) == 2.0**3


# Labels


def classifier():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def test_a_label_outside_of_the_classes(tmp_path):
    x = examples()[0]
    y = np.arange(len(x)) % 3
    y[21] = 7
    model, twin, rescue = classifier(), classifier(), Rescue(tmp_path, verbose=0)
    fit(model, (x, y), rescue)
    fit(twin, without((x, y), 5))
    assert [(r.fault, r.batch) for r in rescue.rescues] == [("error", 5)]
    assert "a label value of 7" in rescue.rescues[0].description
    np.testing.assert_equal(state(model), state(twin))

    y[22:] = 7
    with pytest.raises(ValueError, match="label value of 7"):
        fit(model, (x, y), Rescue(tmp_path, max_rescues=2, verbose=0))
    y[:] = 7
    with pytest.raises(ValueError, match="label value of 7"):  # no batch was ever well
        fit(classifier(), (x, y), Rescue(tmp_path, verbose=0))


@pytest.mark.long
def test_a_resumed_training_keeps_the_factor(tmp_path):
    ones = np.ones((BATCH * 40, 1), "float32")
    data = ones, 0 * ones
    first, second = Rescue(tmp_path / "a", verbose=0), Rescue(tmp_path / "b", verbose=0)
    for rescue, epochs in ((first, 1), (second, 2)):
        resumable = ResumableTraining(tmp_path / "checkpoints", callbacks=[rescue])
        fit(linear(keras.optimizers.SGD(10.0)), data, rescue, resumable, epochs=epochs)
    assert first.rescues and first.rate_factor < 1.0
    assert second.rescues == [] and second.rate_factor == first.rate_factor
