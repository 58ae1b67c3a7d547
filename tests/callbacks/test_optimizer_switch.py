"""After OptimizerSwitch's switch a training is that of a model compiled with the new optimizer."""

import keras
import numpy as np
import pytest
from switch_cases import PLATEAU, SWITCHED, build, by_hand, fit, new_optimizer, state

import keras_bp
from keras_bp.callbacks import GradientMonitor, OptimizerSwitch
from keras_bp.optimizers import SGD, Adam, DeferredAdam, ScheduleFreeAdamW
from keras_bp.schedules import CosineAnnealing, Warmup

L = keras.layers


@pytest.mark.parametrize(
    "optimizer, options",
    [
        pytest.param(lambda: Adam(0.01), {"jit_compile": True}, marks=pytest.mark.long),
        pytest.param(
            lambda: Adam(0.01),
            {"jit_compile": False, "steps_per_execution": 2},
            marks=pytest.mark.long,
        ),
        # Four batches in micro-steps of three leave one over; averages take the weights' place.
        (lambda: Adam(0.01, gradient_accumulation_steps=3), {}),
        pytest.param(lambda: keras.optimizers.Adam(0.01, use_ema=True), {}, marks=pytest.mark.long),
        (lambda: ScheduleFreeAdamW(0.01), {}),
        (lambda: keras.optimizers.LossScaleOptimizer(Adam(0.01)), {}),
    ],
    ids=["jit", "executions", "accumulation", "ema", "schedule-free", "scaled"],
)
def test_weights_are_those_of_a_model_compiled_anew(optimizer, options, data):
    model, twin = build(optimizer, **options), build(optimizer, **options)
    wrap = keras.optimizers.LossScaleOptimizer
    scaled = isinstance(model.optimizer, wrap)
    switch = OptimizerSwitch(0.05, **PLATEAU)
    logs = fit(model, data, switch)
    new = (lambda: wrap(new_optimizer())) if scaled else new_optimizer
    expected = by_hand(twin, data, optimizer=new, **options)
    assert switch.switched_at_epoch == SWITCHED
    assert logs == expected
    np.testing.assert_equal(state(model), state(twin))
    assert int(model.optimizer.iterations) == 3 * 2


def test_the_loss_scale_that_was_reached_is_kept(data, tmp_path):
    """A first scale of 2^40 overflows float16; steps are skipped until it has come down."""
    keras.config.set_dtype_policy("mixed_float16")

    def scaled():
        return keras.optimizers.LossScaleOptimizer(Adam(0.01), 2.0**40, dynamic_growth_steps=900)

    model, scales = build(scaled), []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: scales.append(float(model.optimizer.dynamic_scale))
    )
    fit(model, data, OptimizerSwitch(0.05, **PLATEAU), note, epochs=12)
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    assert isinstance(model.optimizer.inner_optimizer, SGD)
    assert model.optimizer.initial_scale == 2.0**40
    assert model.optimizer.dynamic_growth_steps == 900
    # From 2^40 down by a half in each step that overflows, and no jump back at the switch.
    assert scales[SWITCHED * 2] in (scales[SWITCHED * 2 - 1], scales[SWITCHED * 2 - 1] / 2)
    assert scales[SWITCHED * 2] < 2.0**38 and scales == sorted(scales, reverse=True)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_equal(state(loaded), state(model))


def test_replicas(data, replicas):
    keras.utils.set_random_seed(0)
    with replicas.scope():
        model = keras.Sequential([keras.Input((4,)), L.Dense(3, "tanh"), L.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    switch, kept = OptimizerSwitch(0.05, **PLATEAU), []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(model.get_weights())
    )
    fit(model, data, switch, keep, batch_size=10)
    switched, optimizer = state(model), model.optimizer
    assert switch.switched_at_epoch == SWITCHED and isinstance(optimizer, SGD)
    model.set_weights(kept[SWITCHED - 1])
    with replicas.scope():
        model.compile(new_optimizer(), "mse", jit_compile=False)
    fit(model, data, epochs=5 - SWITCHED, batch_size=10)
    np.testing.assert_equal(switched, state(model))
    for variable in optimizer.variables:
        copies = replicas.experimental_local_results(variable.value)
        assert len(copies) == 2
        np.testing.assert_equal(copies[0].numpy(), copies[1].numpy())


@pytest.mark.long
def test_replicas_with_a_range_test_and_a_loss_scale(data, replicas):
    keras.config.set_dtype_policy("mixed_float16")
    data = [array[:20] for array in data]

    def rate(model):
        return keras_bp.find_learning_rate(model, *data, batch_size=10, steps=20).suggest("minimum")

    model = build(strategy=replicas, jit_compile=False)
    switch = OptimizerSwitch(rate, **PLATEAU)
    losses = fit(model, data, switch, batch_size=10)["loss"]
    assert switch.switched_at_epoch == SWITCHED and np.all(np.isfinite(losses))
    assert 0 < model.optimizer.iterations.numpy() <= 3 * 2  # the loss scale may skip steps


def test_tables_of_a_deferred_adam_are_brought_up_to_date():
    """Rows are owed steps by DeferredAdam, which SGD would not know of."""
    ids = np.random.default_rng(0).integers(0, 9, (20, 3))
    data = ids, np.float32(ids.sum(axis=1, keepdims=True) % 2)

    def embedding():
        keras.utils.set_random_seed(0)
        layers = [keras_bp.layers.DeferredEmbedding(9, 2), L.Flatten(), L.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(DeferredAdam(0.1), "mse", metrics=["mae"], run_eagerly=True)
        return model

    model, twin = embedding(), embedding()
    fit(model, data, OptimizerSwitch(0.05, **PLATEAU))
    by_hand(twin, data)
    np.testing.assert_equal(state(model), state(twin))


@pytest.mark.parametrize(
    "options", [{"jit_compile": False}, pytest.param({"jit_compile": True}, marks=pytest.mark.long)]
)
def test_gradient_monitors_beside_it(options, data, tmp_path, read_events):
    """One before it in the list and one after it."""
    model, twin = build(**options), build(**options)
    before, after = GradientMonitor(tmp_path / "before"), GradientMonitor(tmp_path / "after")
    logs = fit(model, data, before, OptimizerSwitch(0.07, **PLATEAU), after)
    assert logs == fit(twin, data, OptimizerSwitch(0.07, **PLATEAU))
    np.testing.assert_equal(state(model), state(twin))

    for place in "before", "after":
        events = read_events(tmp_path / place)
        assert list(events["loss/batch"]) == list(range(1, 11))
        rates = [float(rate) for rate in events["learning_rate"].values()]
        rise = [0.07 * min(step / 4, 1) for step in range(6)]
        np.testing.assert_allclose(rates, [0.001] * 4 + rise, rtol=1e-6)
        weights = [tag for tag in events if tag.startswith("weights/")]
        assert weights and all(list(events[tag]) == [2, 4, 6, 8, 10] for tag in weights)


def test_the_range_test_tries_the_new_rule_and_leaves_no_trace(data):
    """With validation, shuffling and dropout, which a training inside the training could move."""
    seen, options = [], {"shuffle": True, "validation_data": [array[:5] for array in data]}

    def rate(model):
        seen.append((type(model.optimizer), float(model.optimizer.learning_rate)))
        seen.append(keras_bp.find_learning_rate(model, *data, batch_size=5, steps=20).suggest())
        return seen[-1]

    model, twin = build(), build()
    switch = OptimizerSwitch(rate, **PLATEAU)
    logs = fit(model, data, switch, **options)
    (kind, rate_before), suggested = seen
    assert (kind, rate_before) == (SGD, 0.0)
    assert 1e-5 < suggested < 10.0
    assert logs == fit(twin, data, OptimizerSwitch(suggested, **PLATEAU), **options)
    np.testing.assert_equal(state(model), state(twin))


@pytest.mark.long
@pytest.mark.parametrize("give", [lambda rate: rate, lambda rate: lambda model: rate])
def test_a_schedule_after_the_warm_up(give, data):
    schedule = CosineAnnealing(0.2, total_steps=8, minimum_learning_rate=0.01)
    model, rates = build(), []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    fit(model, data, OptimizerSwitch(give(schedule), **PLATEAU), note, epochs=9)
    expected = Warmup(schedule, 4)(np.arange(14))
    np.testing.assert_allclose(rates[4:], expected, rtol=1e-6)


def test_no_warm_up(data):
    model, twin = build(), build()
    fit(model, data, OptimizerSwitch(0.05, **{**PLATEAU, "warmup_steps": 0}))
    by_hand(twin, data, optimizer=lambda: SGD(0.05, momentum=0.9))
    np.testing.assert_equal(state(model), state(twin))
    model.optimizer.learning_rate = 0.01
    assert float(model.optimizer.learning_rate) == np.float32(0.01)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", [keras.optimizers.RMSprop, lambda rate: SGD(rate, 0.5)])
def test_another_optimizer(optimizer, data):
    model, twin = build(), build()
    fit(model, data, OptimizerSwitch(0.05, optimizer, **PLATEAU))
    by_hand(twin, data, optimizer=lambda: optimizer(Warmup(0.05, 4)))
    np.testing.assert_equal(state(model), state(twin))


def test_what_is_printed(data, capsys):
    data = [array[:5] for array in data]
    fit(build(), data, OptimizerSwitch(0.05, **PLATEAU), epochs=3)
    assert capsys.readouterr().out == ""
    switch = OptimizerSwitch(lambda model: 0.0123456, verbose=1, **PLATEAU)
    fit(build(), data, switch, epochs=3)
    assert capsys.readouterr().out == (
        "Epoch 3: loss has not improved for 1 epoch(s). OptimizerSwitch goes from Adam to SGD, "
        "learning rate 0.01235 after 4 steps of warm-up.\n"
    )
    keras.config.set_dtype_policy("mixed_float16")
    schedule = CosineAnnealing(0.2, total_steps=8)
    fit(build(), data, OptimizerSwitch(schedule, verbose=1, **PLATEAU), epochs=3)
    assert f"from Adam to SGD, learning rate {schedule!r} after" in capsys.readouterr().out
