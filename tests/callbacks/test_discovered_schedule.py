"""DiscoveredSchedule probes in a plain fit, and leaves a training by the schedule that it found."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from discovered_cases import STEPS, build, data, fit
from switch_cases import state

import keras_bp
from keras_bp.callbacks import DiscoveredSchedule, GradientMonitor
from keras_bp.optimizers import SGD, Adam
from keras_bp.schedules import LinearDecay, Sequential
from keras_bp.tuning import discovery
from tools.discovery import networks, simulation, tasks

L = keras.layers
OPTIMIZERS = {
    "keras_adam": lambda rate: keras.optimizers.Adam(rate),
    "keras_sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": lambda rate: Adam(LinearDecay(rate, 10) if rate == 0.123 else rate),
    "sgd": lambda rate: SGD(rate),
}


@pytest.mark.parametrize(
    "name, options",
    [
        pytest.param("keras_adam", {}, marks=pytest.mark.long),
        pytest.param("keras_sgd", {"jit_compile": True}, marks=pytest.mark.long),
        ("adam", {}),
        pytest.param("adam", {"jit_compile": True}, marks=pytest.mark.long),
        pytest.param("sgd", {"run_eagerly": True}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_rest_is_a_training_by_the_schedule(name, options, capsys):
    """From the first weights, and moments of one step at the rate 0, by `callback.schedule`."""
    model, callback = build(OPTIMIZERS[name](0.123), **options), DiscoveredSchedule()
    first = model.evaluate(*data(), batch_size=40, verbose=0)
    fit(model, callback)
    assert callback.fallback_reason is None
    assert callback.steps_probed == len(callback.probe.rows) <= 20
    assert callback.probe.rates[0] == 0.0 and callback.probe.rates[-1] > callback.probe.unit
    assert callback.probe.rows[0][0] == pytest.approx(first, rel=1e-6)

    rest = STEPS - callback.steps_probed
    twin = build(OPTIMIZERS[name](Sequential([0.0, callback.schedule], [1])), **options)
    fit(twin, steps=1 + rest)
    for mine, its in zip(state(model), state(twin), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert int(model.optimizer.iterations) == 1 + rest

    # A rate or a schedule is replaced; the line and the attributes say by what.
    again = type(model.optimizer).from_config(model.optimizer.get_config())
    rates = [again._learning_rate(step).numpy() for step in (1, 60)]
    assert rates == [callback.schedule(step).numpy() for step in (0, 59)]
    found = callback.discovery
    assert capsys.readouterr().out == (
        f"DiscoveredSchedule, after {callback.steps_probed} steps of probe: found: peak rate "
        f"{found.peak_learning_rate:.3g}, warm-up {found.warmup_share:.0%}, {found.decay}\n"
    )
    assert set(found.features) == set(discovery.NAMES)
    assert 0.0 <= found.expected_regret < 1.0


def test_what_is_seen_is_what_the_simulation_sees():
    """The same rows as those of a network in NumPy, from the same weights on the same batch."""
    network = networks.Network([6, 16, 2], "tanh", "softmax")
    model = build(keras.optimizers.Adam())
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    callback = DiscoveredSchedule(verbose=0)
    fit(model, callback, steps=100)

    class Whole(tasks.Task):
        def gradients(self, weights, generator):
            return network.gradients(weights, *data())

    task = Whole("whole", "adam", 100, weights)
    seen, _ = simulation.probe(task, 20, 0)
    assert len(seen.rows) == len(callback.probe.rows)
    assert callback.probe.unit == pytest.approx(seen.unit, rel=1e-3)
    np.testing.assert_allclose(callback.probe.rates, seen.rates, rtol=1e-3)
    # Updates at the tiny rate are differences of float32 weights: 1e-7 of 1e-5.
    rows, expected = np.array(callback.probe.rows), np.array(seen.rows)
    np.testing.assert_allclose(rows[:, :7], expected[:, :7], rtol=0.02, atol=1e-9)
    features = [discovery.features(p, 100) for p in (callback.probe, seen)]
    np.testing.assert_allclose(features[0], features[1], rtol=0.02, atol=0.02)


def test_variables_that_are_orthogonal_to_their_gradients():
    """Kernels before a batch normalization: their share of the gradient's square, by hand."""
    keras.utils.set_random_seed(0)
    layers = [L.Dense(16, use_bias=False), L.BatchNormalization(), L.Activation("tanh"), L.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, jit_compile=False)
    (x, y), variables = data(), model.trainable_variables
    with tf.GradientTape() as tape:
        first = loss(y, model(x, training=True))
    squares = [float(tf.reduce_sum(g**2)) for g in tape.gradient(first, variables)]
    callback = DiscoveredSchedule(verbose=0)
    fit(model, callback, steps=100)
    shares = np.array(callback.probe.rows)[:, 7]
    assert shares[0] == pytest.approx(squares[0] / sum(squares), rel=1e-3) and shares[0] > 0.1
    assert np.all(shares[:5] > 0.1)

    plain = DiscoveredSchedule(verbose=0)
    fit(build(), plain, steps=100)
    # By chance a variable may be orthogonal in a step, but not in all of them.
    assert np.all(np.array(plain.probe.rows)[4:, 7] == 0.0)


@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.long), 8])
def test_steps_per_execution(steps):
    """Whole calls: those at rate 0 and at the tiny one, and the sweep."""
    model = build(steps_per_execution=steps)
    callback = DiscoveredSchedule(probe_steps=24, verbose=0)
    # Not shuffled: an order that makes the features odd ends in the safe schedule.
    fit = {"batch_size": 10, "epochs": 10, "shuffle": False, "verbose": 0}
    model.fit(*data(240), callbacks=[callback], **fit)
    rates = np.array(callback.probe.rates)
    start = callback.probe.sweep_start
    assert callback.fallback_reason is None
    assert callback.steps_probed % steps == 0 and start % steps == 0
    assert np.all(rates[:steps] == 0) and np.all(np.diff(rates[steps:start]) == 0)
    assert np.all(np.diff(rates[start:24]) > 0)  # a rate for each step, not for each call
    assert int(model.optimizer.iterations) == 240 - callback.steps_probed + steps


def test_calls_that_are_cut_short():
    """Nine batches an epoch in calls of 8 and of 1: what is made is what is counted."""
    model = build(steps_per_execution=8)
    callback = DiscoveredSchedule(probe_steps=36, verbose=0)
    model.fit(*data(90), batch_size=10, epochs=20, verbose=0, callbacks=[callback])
    assert callback.fallback_reason is None
    # 36 is the end of a call; the sweep may end sooner, where the loss rises.
    assert callback.probe.diverged or len(callback.probe.rows) == 36
    assert len(callback.probe.rows) <= callback.steps_probed < len(callback.probe.rows) + 8
    assert int(model.optimizer.iterations) == 180 - callback.steps_probed + 8


def test_the_total_of_a_fit_that_starts_later():
    """The schedule ends with the fit, whatever the number of its first epoch."""
    model, callback = build(), DiscoveredSchedule(verbose=0)
    options = {"batch_size": 10, "epochs": 6, "initial_epoch": 3, "verbose": 0}
    model.fit(*data(400), callbacks=[callback], **options)
    twin = callback.discovery.schedule(3 * 40 - callback.steps_probed)
    assert callback.schedule.get_config() == twin.get_config()
    assert callback.discovery.features["steps"] == np.log(120)


@pytest.mark.long
def test_replicas(replicas):
    with replicas.scope():
        model = build(keras.optimizers.Adam())
    alone = build(keras.optimizers.Adam())
    callbacks = [DiscoveredSchedule(verbose=0) for _ in range(2)]
    for trained, callback in zip((model, alone), callbacks, strict=True):
        fit(trained, callback, steps=100)
    rows = [np.array(callback.probe.rows)[:12] for callback in callbacks]
    # Two halves of a batch, summed: rounding, magnified by the differences of weights.
    np.testing.assert_allclose(rows[0], rows[1], rtol=0.02, atol=1e-9)
    mine, its = (callback.discovery for callback in callbacks)
    assert (mine.warmup_share, mine.decay) == (its.warmup_share, its.decay)
    # An update at the tiny rate is 1e-4 of weights in float32, so known to some 1e-3, and with it
    # the unit; features are logarithms and ratios of these. The peaks to choose from lie a factor
    # of 1.8 apart.
    names = list(discovery.NAMES)
    features = [[found.features[name] for name in names] for found in (mine, its)]
    np.testing.assert_allclose(features[0], features[1], rtol=0.01, atol=0.01)
    assert mine.peak_learning_rate == pytest.approx(its.peak_learning_rate, rel=0.01)


def test_mixed_float16():
    """A first scale of 2^20 overflows float16; the steps that are skipped say nothing."""
    keras.config.set_dtype_policy("mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), 2.0**20)
    model, callback = build(scaled), DiscoveredSchedule(probe_steps=40, verbose=0)
    fit(model, callback, steps=200)
    assert callback.fallback_reason is None
    assert np.isfinite(callback.probe.rows[:-1]).all()
    assert model.evaluate(*data(), verbose=0) < 0.5 * callback.probe.rows[0][0]


def test_a_saved_model_goes_on_without_the_callback(tmp_path):
    model, callback = build(), DiscoveredSchedule(verbose=0)
    fit(model, callback, keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"), epochs=2)
    loaded = keras.saving.load_model(tmp_path / "1.keras")
    fit(loaded, steps=STEPS // 2)
    np.testing.assert_equal(state(loaded), state(model))
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(callback.schedule)
    )
    assert copy.get_config() == callback.schedule.get_config()


@pytest.mark.long
def test_a_second_fit_goes_on():
    model, twin = build(), build()
    callback, its = DiscoveredSchedule(STEPS, verbose=0), DiscoveredSchedule(verbose=0)
    for steps in (50, 70):
        fit(model, callback, steps=steps)
    fit(twin, its)
    np.testing.assert_equal(state(model), state(twin))
    other = build(seed=1)
    fit(other, callback, steps=50)
    assert callback.discovery != its.discovery  # another model is probed anew


@pytest.mark.long
@pytest.mark.parametrize("first", [True, False])
def test_beside_a_monitor(first, tmp_path, read_events):
    model, twin, callback = build(), build(), DiscoveredSchedule(verbose=0)
    both = [callback, GradientMonitor(tmp_path)]
    fit(model, *(both if first else both[::-1]))
    fit(twin, DiscoveredSchedule(verbose=0))
    np.testing.assert_equal(state(model), state(twin))
    norms = read_events(tmp_path)["gradient_norm/global"]
    expected = [np.sqrt(row[1]) for row in callback.probe.rows[:10]]
    np.testing.assert_allclose([float(norms[step]) for step in range(1, 11)], expected, rtol=1e-5)


KERAS = ("Adafactor", "Adagrad", "Adam", "AdamW", "Lamb", "Lion", "Nadam", "RMSprop", "SGD")
EVERY = [f"keras {name}" for name in KERAS]
EVERY += [
    name
    for name, cls in vars(keras_bp.optimizers).items()
    if name in keras_bp.optimizers.__all__ and hasattr(cls, "_rule") and name != "Optimizer"
]
# The safe schedule at their own rate, which takes them longer than this.
OTHERS = {
    "Ftrl": "no step",
    "ScheduleFreeRAdam": "within five",
    "DoG": "rate",
    "Prodigy": "rate",
    "Lamb": "size of the weights",
    "keras Lamb": "size of",
}


@pytest.mark.filterwarnings("ignore:DiscoveredSchedule takes its safe schedule:RuntimeWarning")
@pytest.mark.long
@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer(name):
    """Beside a table with sparse gradients; it trains by the schedule, and the loss falls."""
    module = keras.optimizers if name.startswith("keras ") else keras_bp.optimizers
    optimizer = getattr(module, name.removeprefix("keras "))()
    keras.utils.set_random_seed(0)
    table = keras_bp.layers.DeferredEmbedding if name == "DeferredAdam" else L.Embedding
    model = keras.Sequential([keras.Input((3,)), table(9, 4), L.Flatten(), L.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    generator = np.random.default_rng(0)
    x = generator.integers(9, size=(4000, 3))
    y = np.where(generator.random(4000) < 0.1, generator.integers(2, size=4000), x[:, 0] // 5)
    callback = DiscoveredSchedule(verbose=0)
    model.fit(x, y, batch_size=20, verbose=0, callbacks=[callback])
    if name in OTHERS:
        assert OTHERS[name] in callback.fallback_reason or "within five" in callback.fallback_reason
    else:
        assert callback.fallback_reason is None
        assert model.evaluate(x, y, verbose=0) < 0.5 * callback.probe.rows[0][0]
    last = callback.schedule(200 - callback.steps_probed).numpy()
    assert float(optimizer.learning_rate) == pytest.approx(last, abs=1e-7)


def test_example_of_the_docstring():
    names = {"np": np, "keras": keras, "keras_bp": keras_bp}
    (example,) = doctest.DocTestFinder(recurse=False).find(DiscoveredSchedule, globs=names)
    assert doctest.DocTestRunner().run(example).failed == 0
