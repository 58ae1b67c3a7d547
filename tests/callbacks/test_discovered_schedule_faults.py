"""Where DiscoveredSchedule takes its safe schedule, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from discovered_cases import STEPS, build, data, fit

import keras_bp
from keras_bp.callbacks import DiscoveredSchedule, GradientMonitor
from keras_bp.optimizers import Adam
from keras_bp.schedules import CosineAnnealing, Warmup
from keras_bp.tuning import discovery

SAFE = "DiscoveredSchedule takes its safe schedule, a warm-up and a cosine from "


def check_safe(callback, peak, steps):
    """The safe schedule: a tenth of the steps up to the peak, then a cosine."""
    assert callback.discovery.peak_learning_rate == peak
    warmup = steps // 10
    expected = Warmup(CosineAnnealing(peak, steps - warmup), warmup)
    assert callback.schedule.get_config() == expected.get_config()


def test_too_few_steps():
    callback, model = DiscoveredSchedule(), build(Adam(0.02))
    with pytest.warns(RuntimeWarning, match=f"{SAFE}0.02: 79 steps are too few"):
        fit(model, callback, steps=79)
    assert callback.probe is None and callback.steps_probed == 0
    check_safe(callback, float(np.float32(0.02)), 79)
    callback = DiscoveredSchedule(verbose=0)
    fit(build(), callback, steps=80)
    assert callback.fallback_reason is None


def test_a_range_test_as_fallback():
    seen = []

    def rate(model):
        curve = keras_bp.find_learning_rate(model, *data(), batch_size=10, steps=40)
        seen.append(curve.suggest())
        return seen[-1]

    callback, model = DiscoveredSchedule(fallback=rate), build()
    with pytest.warns(RuntimeWarning, match="too few"):
        fit(model, callback, steps=30)
    check_safe(callback, *seen, 30)
    callback = DiscoveredSchedule(fallback=0.5)
    with pytest.warns(RuntimeWarning, match="too few"):
        fit(model, callback, steps=30)
    check_safe(callback, 0.5, 30)


def test_features_far_outside(monkeypatch):
    """A tenth of the rate that led to the lowest loss of the sweep, the rule "minimum"."""
    monkeypatch.setattr(discovery.MetaLearner, "outside", lambda self, features: [3])
    callback = DiscoveredSchedule()
    with pytest.warns(RuntimeWarning, match="far outside of the training tasks' range: depth 0"):
        fit(build(), callback)
    rates, rows = np.array(callback.probe.rates), np.array(callback.probe.rows)
    start = callback.probe.sweep_start
    lowest = rates[start:-1][rows[start + 1 :, 0].argmin()]
    # Smoothed, the lowest may be a neighbour, a factor of 2.
    assert 0.04 * lowest < callback.discovery.peak_learning_rate < 0.25 * lowest
    check_safe(callback, callback.discovery.peak_learning_rate, STEPS - callback.steps_probed)


def test_a_loss_that_is_not_finite():
    model, callback = build(Adam(0.02)), DiscoveredSchedule()
    x, y = (np.concatenate([array] * 100) for array in data())
    x[0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="the loss of the first step is not finite"):
        model.fit(x, y, batch_size=40, shuffle=False, verbose=0, callbacks=[callback])
    check_safe(callback, float(np.float32(0.02)), 99)


def test_a_loss_that_rises_at_once():
    """A loss that no step lowers, -g . d < 0: an optimizer that goes uphill."""

    class Uphill(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(-gradient, variable, learning_rate)

    callback = DiscoveredSchedule()
    with pytest.warns(RuntimeWarning, match="sweep ended|first order"):
        fit(build(Uphill(0.02)), callback)
    assert callback.schedule is not None


def test_a_sweep_that_overflows_within_a_call():
    """The steps of a call go on after the one that diverged, and say nothing."""
    keras.utils.set_random_seed(0)
    L = keras.layers
    model = keras.Sequential([keras.Input((6,)), L.Dense(32, "relu"), L.Dense(32, "relu")])
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, "mse", jit_compile=False, steps_per_execution=16)
    callback, (x, _) = DiscoveredSchedule(verbose=0), data(320)
    fit = {"batch_size": 10, "epochs": 10, "shuffle": False, "verbose": 0}
    model.fit(x, x[:, :1] * x[:, 1:2], callbacks=[callback], **fit)
    assert callback.fallback_reason is None and callback.probe.diverged
    assert len(callback.probe.rows) < callback.steps_probed == 64
    assert np.isfinite(model.evaluate(x, x[:, :1] * x[:, 1:2], verbose=0))


class Silent(keras.Model):
    """A train step that hands the optimizer no gradients, or does not let it scale the loss."""

    def __init__(self, applies):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.applies = applies

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(self(data[0]) ** 2)
        if self.applies:
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("applies, method", [(False, "apply"), (True, "scale_loss")])
def test_a_train_step_that_says_nothing(applies, method):
    model, callback = Silent(applies), DiscoveredSchedule(verbose=0)
    model.compile(keras.optimizers.SGD(0.25), jit_compile=False)
    with pytest.warns(RuntimeWarning, match=f"{SAFE}0.25: the train step calls no `{method}`"):
        model.fit(*data(1000), batch_size=10, verbose=0, callbacks=[callback])
    # Where there are no rows, it takes all steps of the probe to know.
    assert (len(callback.probe.rows), callback.steps_probed) == ((1, 1) if applies else (0, 20))


def test_a_fit_that_ends_in_the_probe():
    model, callback = build(), DiscoveredSchedule(total_steps=1000, probe_steps=30)
    first = model.get_weights()
    with pytest.warns(RuntimeWarning, match="the sweep ended within five steps"):
        fit(model, callback, steps=8)
    np.testing.assert_equal(model.get_weights(), first)
    check_safe(callback, callback.discovery.peak_learning_rate, 992)


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 7:
            raise KeyboardInterrupt


def test_an_exception_in_the_probe(tmp_path):
    """The optimizer has its own rate again, trains at it, and the next fit probes anew."""
    model, callback = build(keras.optimizers.SGD(0.0123)), DiscoveredSchedule(verbose=0)
    # It keeps the traced functions for a next fit.
    monitors = [GradientMonitor(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, *monitors, Stop())
    assert callback.probe.rates[-1] > 0.0 and callback.schedule is None
    own = np.float32(0.0123)
    assert model.optimizer.get_config()["learning_rate"] == own == model.optimizer.learning_rate
    twin = build(keras.optimizers.SGD(0.0123))
    twin.set_weights(model.get_weights())
    for trained in (model, twin):
        fit(trained, *monitors, steps=5)
    np.testing.assert_equal(model.get_weights(), twin.get_weights())
    fit(model, callback)
    assert callback.fallback_reason is None and callback.probe.rates[0] == 0.0


def test_another_callback_after_an_exception():
    """Of the interrupted probe nothing is left, not even its recorder."""
    model, callback = build(), DiscoveredSchedule(verbose=0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, DiscoveredSchedule(verbose=0), Stop())
    fit(model, callback)
    assert callback.fallback_reason is None and len(callback.probe.rows) > 12


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"total_steps": 0}, ValueError, "total_steps"),
        ({"total_steps": 10.0}, TypeError, "total_steps"),
        ({"probe_steps": 11}, ValueError, "probe_steps"),
        ({"probe_steps": "12"}, TypeError, "probe_steps"),
        ({"fallback": 0.0}, ValueError, "fallback"),
        ({"fallback": "0.1"}, TypeError, "fallback"),
        ({"verbose": -1}, ValueError, "verbose"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=rf"`{message}` must .*Received: "):
        DiscoveredSchedule(**options)


def test_least_arguments():
    DiscoveredSchedule(1, 12, fallback=1e-9, verbose=0)


def test_what_fit_refuses():
    with pytest.raises(
        ValueError, match="less than the total of 30 steps. Received: probe_steps=30"
    ):
        fit(build(), DiscoveredSchedule(probe_steps=30), steps=30)
    with pytest.raises(
        ValueError,
        match="total of 100 steps, and is 108 at least with steps_per_execution=32. Received: "
        "probe_steps=24",
    ):
        fit(build(steps_per_execution=32), DiscoveredSchedule(probe_steps=24), steps=100)
    with pytest.raises(ValueError, match=r"in every step. Received: gradient_accumulation_steps=2"):
        fit(build(Adam(gradient_accumulation_steps=2)), DiscoveredSchedule())
    with pytest.raises(ValueError, match="`total_steps` must be given .* total_steps=None"):
        batches = ((x[None], y[None]) for x, y in zip(*data(), strict=True))
        build().fit(batches, shuffle=False, verbose=0, callbacks=[DiscoveredSchedule()])
    model = build()
    model.optimizer = None
    with pytest.raises(ValueError, match="compiled with an optimizer. Received: "):
        callback = DiscoveredSchedule()
        callback.set_model(model)
        callback.on_train_begin()
