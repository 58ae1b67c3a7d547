"""GradientMonitor changes nothing, survives what goes wrong, and says what it cannot do."""

import contextlib
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.callbacks import GradientMonitor, TrainingHealth

L = keras.layers
PACKAGE = str(pathlib.Path(keras_bp.__file__).parent)
optimizers = keras.optimizers


def small_model(optimizer="sgd", **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(3, "tanh", name="d1"), L.Dense(1, name="d2")]
    model = keras.Sequential(layers)
    # Tracing takes longer than the few steps of these trainings.
    model.compile(optimizer, "mse", **(options or {"run_eagerly": True}))
    return model


def fit(model, data, *callbacks, epochs=1):
    """Train on 5 batches an epoch."""
    options = {"batch_size": 5, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(*data, callbacks=list(callbacks), **options)


def steps(events, tag="loss/batch"):
    return list(events[tag])


class At(keras.callbacks.Callback):
    """Does something before or after batch number `batch` of every epoch."""

    def __init__(self, batch, action, before=False):
        super().__init__()
        self._batch, self._action, self._before = batch, action, before

    def on_train_batch_begin(self, batch, logs=None):
        if self._before and batch == self._batch:
            self._action(self.model)

    def on_train_batch_end(self, batch, logs=None):
        if not self._before and batch == self._batch:
            self._action(self.model)


def raise_(error):
    def action(model):
        raise error

    return action


def large_model(optimizer, **options):
    """Dense, normalization, dropout and a penalty: whatever rounding could tell apart."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(64, "gelu", kernel_regularizer="l2")]
    layers += [L.BatchNormalization(), L.Dropout(0.3)]
    if options == JIT:  # which takes seconds to compile a penalty, dropout and gelu
        layers = [keras.Input((4,)), L.Dense(64, "tanh"), L.BatchNormalization()]
    model = keras.Sequential([*layers, L.Dense(1)])
    model.compile(optimizer(), "mse", **options)
    return model


def convolution(optimizer, **options):
    """A convolution's gradient, which XLA fuses with what reads it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(128), L.Reshape((8, 8, 2)), L.Conv2D(4, 3)]
    model = keras.Sequential([*layers, L.ReLU(), L.Flatten(), L.Dense(1)])
    model.compile(optimizer(), "mse", **options)
    return model


EAGER, GRAPH, JIT = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}


@pytest.mark.parametrize(
    "network, optimizer, compiled",
    [
        # gamma's gradient is a product, which TensorFlow joins with the rate of SGD's step.
        (large_model, lambda: optimizers.SGD(0.01, momentum=0.9), GRAPH),
        # XLA joins none of the products that were tried (`own_product` broken shows in the graph
        # above alone): here a recording that adds to the optimizer's sums would show.
        (
            large_model,
            lambda: optimizers.SGD(0.01, clipnorm=0.1, gradient_accumulation_steps=2),
            JIT,
        ),
        # XLA rounds Keras's clipping differently if the recording has a tf.cond.
        (convolution, lambda: optimizers.SGD(0.01, clipnorm=0.1), JIT),
        (
            large_model,
            lambda: optimizers.LossScaleOptimizer(
                optimizers.RMSprop(0.01, clipnorm=0.1, gradient_accumulation_steps=2)
            ),
            GRAPH,
        ),
    ],
    ids=["sgd", "jit", "jit-convolution", "loss-scale"],
)
@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"histograms_every": 3, "activations": True}, marks=pytest.mark.long)],
    ids=str,
)
def test_training_is_the_same_to_the_bit(network, optimizer, compiled, options, data, tmp_path):
    data, results = [array[:20] for array in data], []
    for callbacks in [], [GradientMonitor(tmp_path, **options)]:
        model = network(optimizer, **compiled)
        history = fit(model, data, *callbacks, epochs=2)
        variables = model.weights + model.optimizer.variables
        results.append((history.history, [(v.path, v.numpy()) for v in variables]))
    np.testing.assert_equal(results[1], results[0])


class CountedCalls(keras.callbacks.Callback):
    """Counts the calls of this package's Python functions from batch 4 to the end of batch 44."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def on_train_batch_end(self, batch, logs=None):
        if batch in (4, 44):
            sys.setprofile(self._count if batch == 4 else None)

    def _count(self, frame, event, argument):
        self.number += event == "call" and PACKAGE in frame.f_code.co_filename


def test_no_step_waits_for_python_code_of_each_layer(tmp_path):
    """Rows are read and updates measured several times in between."""
    counts = []
    for layers in 2, 8:
        keras.utils.set_random_seed(0)
        hidden = [L.Dense(4, "tanh", name=f"d{i}") for i in range(layers)]
        model = keras.Sequential([keras.Input((4,)), *hidden])
        model.compile("sgd", "mse", jit_compile=False)
        counter, x = CountedCalls(), np.random.default_rng(0).normal(size=(48, 4))
        monitor = GradientMonitor(tmp_path / str(layers), updates_every=10)
        health = TrainingHealth(["exploding", "unchanged_weights", "dead_units"])
        callbacks = [monitor, health, counter]
        # The first fit traces.
        for calls in [keras.callbacks.Callback()], [counter]:
            callbacks[2:] = calls
            model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=callbacks)
        counts.append(counter.number)
        assert not health.findings
    # In 40 steps, of both callbacks.
    assert counts[0] == counts[1] and 40 * 20 < counts[0] < 40 * 80


def test_a_recorded_step_is_traced_once(data, tmp_path):
    """TensorFlow repeats a trace in which it sees variables made, such as the rows."""

    class Counted(keras.Sequential):
        traces = 0

        def train_step(self, data):
            self.traces += 1
            return super().train_step(data)

    model = Counted([keras.Input((4,)), L.Dense(3, "tanh"), L.Dense(1)])
    model.compile(keras_bp.optimizers.Adam(), "mse", jit_compile=False)
    fit(model, data, GradientMonitor(tmp_path, histograms_every=100), TrainingHealth())
    assert model.traces == 1


def test_model_and_optimizer_are_as_they_were(data, tmp_path):
    model = small_model("adam")
    model.optimizer.scale_loss = model.optimizer.scale_loss  # somebody's own patch stays
    assert "scale_loss" in vars(model.optimizer)
    fit(model, data)
    function, attributes = model.train_function, dict(vars(model.optimizer))
    fit(model, data, GradientMonitor(tmp_path))
    assert model.train_function is function
    assert vars(model.optimizer) == attributes
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_equal(loaded.optimizer.variables[0].numpy(), 10)


def test_steps_go_on_in_a_second_fit_and_in_a_loaded_model(data, tmp_path, read_events):
    model, monitor = small_model(), GradientMonitor(tmp_path / "run")
    fit(model, data, monitor)
    fit(model, data)
    fit(model, data, monitor)
    events = read_events(tmp_path / "run")
    assert steps(events) == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15]
    assert steps(events, "weights/d1/kernel") == [5, 15]

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, data, GradientMonitor(tmp_path / "resumed"))
    assert steps(read_events(tmp_path / "resumed")) == [16, 17, 18, 19, 20]


def test_steps_go_on_with_a_new_optimizer(data, tmp_path, read_events):
    model, monitor = small_model(), GradientMonitor(tmp_path)
    fit(model, data, monitor)
    model.compile("adam", "mse", run_eagerly=True)
    fit(model, data, monitor)
    assert steps(read_events(tmp_path)) == list(range(1, 11))


def test_state_that_another_callback_restores(data, tmp_path, read_events):
    """The monitor's first on_train_begin comes before that of a callback that resumes."""

    class Resume(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.build(self.model.trainable_variables)
            self.model.optimizer.iterations.assign(100)

    back = At(2, lambda model: model.optimizer.iterations.assign(7))
    fit(small_model(), data, GradientMonitor(tmp_path), Resume(), back)
    assert steps(read_events(tmp_path)) == [101, 102, 103, 104, 105]


def test_an_optimizer_that_another_callback_puts_in(data, tmp_path, read_events):
    def switch(model):
        model.optimizer = optimizers.SGD(0.5)
        model.make_train_function(force=True)

    fit(small_model(), data, GradientMonitor(tmp_path), At(2, switch))
    events = read_events(tmp_path)
    rates = {1: 0.01, 2: 0.01, 3: 0.01, 4: 0.5, 5: 0.5}
    assert {s: round(float(v), 6) for s, v in events["learning_rate"].items()} == rates


@pytest.mark.parametrize(
    "error, before, options", [(RuntimeError, False, EAGER), (KeyboardInterrupt, True, GRAPH)]
)
def test_fit_that_is_stopped(error, before, options, data, tmp_path, read_events):
    model, monitor = small_model(**options), GradientMonitor(tmp_path)
    attributes = set(vars(model.optimizer))
    with pytest.raises(error):
        fit(model, data, monitor, At(2, raise_(error), before=before))
    # Stopped after the monitor has announced step 3, it records that step when it comes.
    assert not {"apply", "scale_loss"} & set(vars(model.optimizer))

    # What comes next is as without a monitor: nothing of it is recorded.
    twin = small_model(**options)
    with contextlib.suppress(error):
        fit(twin, data, At(2, raise_(error), before=before))
    for each in model, twin:
        fit(each, data)
        each.train_on_batch(*data)
    np.testing.assert_equal(model.get_weights(), twin.get_weights())
    assert set(vars(model.optimizer)) >= attributes

    fit(model, data, monitor)
    made = (2 if before else 3) + 6
    expected = [1, 2, 3, *range(made + 1, made + 6)]
    assert steps(read_events(tmp_path)) == expected


def test_interrupt_inside_the_step(data, tmp_path, read_events):
    """As when Ctrl-C comes while the train function runs: the steps before it are written."""
    model, monitor = small_model(), GradientMonitor(tmp_path)
    original = type(model.optimizer).update_step
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:

        def update_step(self, *args):
            if int(self.iterations) == 3:
                raise KeyboardInterrupt
            original(self, *args)

        patch.setattr(type(model.optimizer), "update_step", update_step)
        fit(model, data, monitor)
    assert not {"apply", "scale_loss"} & set(vars(model.optimizer))
    fit(model, data, monitor)
    assert steps(read_events(tmp_path)) == list(range(1, 9))


def test_train_on_batch_is_untouched(data, tmp_path, read_events):
    """Also inside a monitored fit, which goes on recording."""
    model = small_model()
    alone = At(2, lambda model: model.train_on_batch(*data))
    fit(model, data, GradientMonitor(tmp_path), alone)
    assert int(model.optimizer.iterations) == 6
    events = read_events(tmp_path)
    assert len(events["loss/batch"]) == 5
    twin = small_model()
    fit(twin, data, At(2, lambda model: model.train_on_batch(*data)))
    np.testing.assert_equal(model.get_weights(), twin.get_weights())


def test_two_monitors_record_the_same(data, tmp_path, read_events):
    model = small_model(jit_compile=False)
    model.make_train_function()
    function = model.train_function
    fit(model, data, GradientMonitor(tmp_path / "a"), GradientMonitor(tmp_path / "b"))
    assert model.train_function is function
    first, second = read_events(tmp_path / "a"), read_events(tmp_path / "b")
    assert steps(first) == [1, 2, 3, 4, 5]
    np.testing.assert_equal(second, first)


def test_a_monitor_of_a_stopped_fit_does_not_hinder_another(data, tmp_path, read_events):
    model = small_model()
    with pytest.raises(RuntimeError):
        fit(model, data, GradientMonitor(tmp_path / "a"), At(2, raise_(RuntimeError())))
    recorders = []
    look = At(0, lambda model: recorders.extend(model.train_function._recorders))
    fit(model, data, GradientMonitor(tmp_path / "b"), look)
    assert len(recorders) == 1
    assert steps(read_events(tmp_path / "b")) == [4, 5, 6, 7, 8]
    assert callable(model.train_function) and "Recording" not in repr(model.train_function)


def test_a_full_disk_costs_one_warning_and_no_training(data, tmp_path, read_events):
    """The system refuses to let the event file grow beyond a limit, as a full disk would."""
    resource = pytest.importorskip("resource")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(model):
        (path,) = tmp_path.iterdir()
        size = path.stat().st_size + 10_000  # the settings, and some steps
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited[1]))

    model = small_model()
    try:
        with pytest.warns(RuntimeWarning, match=r"training goes on.*File too large") as caught:
            history = fit(model, data, GradientMonitor(tmp_path), At(1, limit), epochs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert len(caught) == 1 and str(tmp_path) in str(caught[0].message)
    assert len(history.history["loss"]) == 2 and int(model.optimizer.iterations) == 10
    assert 1 <= len(read_events(tmp_path)["loss/batch"]) < 10
    twin = small_model()
    fit(twin, data, epochs=2)
    np.testing.assert_equal(model.get_weights(), twin.get_weights())


def test_weights_that_are_no_numbers_are_monitored_to_the_end(data, tmp_path, read_events):
    model = small_model(optimizers.SGD(1e38))
    fit(model, data, GradientMonitor(tmp_path), epochs=2)
    events = read_events(tmp_path)
    assert np.isnan(events["loss/batch"][10]) and np.isnan(events["gradient_norm/global"][10])
    assert events["weights/d2/kernel"][10][:, 2].sum() == 0


@pytest.mark.parametrize("log_dir", [None, 3, b"logs", ["a"]])
def test_log_dir_of_another_type(log_dir):
    with pytest.raises(TypeError, match=r"`log_dir` must be .*Received: log_dir="):
        GradientMonitor(log_dir)


def test_empty_log_dir():
    with pytest.raises(ValueError, match=r"`log_dir` must be a path.*Received: log_dir=''"):
        GradientMonitor("")


def test_default_log_dir():
    assert GradientMonitor().log_dir == "tb_logs"


def test_log_dir_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("")
    model = small_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`log_dir` must name.*Received: log_dir=.*file/below"):
        fit(model, data, GradientMonitor(pathlib.Path(tmp_path / "file" / "below")))
    np.testing.assert_equal(model.get_weights(), before)
    fit(model, data)


def test_model_without_trainable_weights(data, tmp_path):
    model = small_model()
    model.trainable = False
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"trainable weights.*Received: model 'sequential"):
        fit(model, data, GradientMonitor(tmp_path / "logs"))
    assert not (tmp_path / "logs").exists()


def test_model_without_an_optimizer(data, tmp_path):
    model = small_model()
    model.compile(None, "mse")
    with pytest.raises(ValueError, match=r"compiled with an optimizer.*Received: model"):
        fit(model, data, GradientMonitor(tmp_path))


def test_a_fit_inside_a_fit(data, tmp_path, read_events):
    """The inner one ends the file, and the outer one goes on in a file of its own."""
    model, monitor = small_model(), GradientMonitor(tmp_path)
    inner = At(1, lambda model: fit(model, data, monitor))
    fit(model, data, inner, monitor)
    assert sorted(read_events(tmp_path)["gradient_norm/global"]) == list(range(1, 11))


def test_a_layer_that_is_frozen_between_fits(data, tmp_path, read_events):
    """Keras trains on with the step that it has traced until `compile` is called again."""
    model, monitor = small_model(jit_compile=False), GradientMonitor(tmp_path, updates_every=1)
    fit(model, data, monitor)
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    fit(model, data, monitor)
    assert (before[0] != model.layers[0].get_weights()[0]).any()
    assert steps(read_events(tmp_path), "update_ratio/d1") == list(range(1, 11))


class OwnUpdate(keras.Model):
    """Its train step leaves the optimizer out."""

    def train_step(self, data):
        self.optimizer.iterations.assign_add(1)
        return {"loss": keras.ops.mean(self(data[0]))}


@pytest.mark.parametrize("callback", [GradientMonitor, TrainingHealth])
def test_a_train_step_without_the_optimizer_is_told(callback, data, tmp_path):
    x = keras.Input((4,))
    model = OwnUpdate(x, L.Dense(1)(x), name="net")
    model.compile("sgd", "mse", run_eagerly=True)
    message = f"{callback.__name__} saw no update: .* 'net' does not call `apply`"
    with pytest.warns(RuntimeWarning, match=message):
        fit(model, data, callback(log_dir=tmp_path))
