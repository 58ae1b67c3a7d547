"""TrainingHealth in `fit`: what it tells, where, and that it changes nothing."""

import dataclasses
import doctest
import json
import pathlib
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_tags import SETTINGS

import keras_bp
from keras_bp.callbacks import GradientMonitor, TrainingHealth, health_checks

L = keras.layers
optimizers = keras.optimizers
NAMES = [
    "not_finite",
    "exploding",
    "vanishing",
    "dead_units",
    "saturation",
    "update_ratio",
    "unchanged_weights",
    "poor_initialization",
    "loss_not_falling",
    "overfitting",
]


def data(examples=60):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(examples, 4)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] + 0.5).astype("float32")


def build(*hidden, optimizer="sgd", **options):
    model = keras.Sequential([keras.Input((4,)), *hidden, L.Dense(1, name="out")])
    # Tracing takes longer than the few steps of these trainings.
    model.compile(optimizer, "mse", **(options or {"run_eagerly": True}))
    return model


def healthy(optimizer="sgd", **options):
    keras.utils.set_random_seed(0)  # layers take their seeds as they are created
    return build(L.Dense(16, "tanh", name="h0"), optimizer=optimizer, **options)


def saturated(optimizer="sgd", bias=9.0, **options):
    """Layer h1 gives 1 whatever comes in, from the first step on: a finding in step 10."""
    keras.utils.set_random_seed(0)
    stuck = L.Dense(8, "sigmoid", bias_initializer=keras.initializers.Constant(bias), name="h1")
    return build(L.Dense(8, "tanh", name="h0"), stuck, optimizer=optimizer, **options)


def fit(model, *callbacks, x=None, y=None, epochs=1, **options):
    """Train on 12 batches an epoch."""
    x, y = data() if x is None else (x, y)
    options = {"batch_size": 5, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def collect(checks=("saturation",), **options):
    """A TrainingHealth that only takes notes."""
    return TrainingHealth(list(checks), action=lambda finding: None, **options)


def named(health):
    return [(finding.check, finding.layer, finding.step) for finding in health.findings]


class At(keras.callbacks.Callback):
    """Does something after update number `step`."""

    def __init__(self, step, action):
        super().__init__()
        self._step, self._action = step, action

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self._step:
            self._action(self.model)


# What is given.


def test_all_checks_by_default():
    assert [check.name for check in TrainingHealth().checks] == NAMES
    # The two take passes of their own.
    names = set(health_checks.__all__) - {"Finding", "BatchSize", "EdgeOfStability"}
    classes = {getattr(health_checks, name) for name in names}
    assert {type(check) for check in TrainingHealth().checks} == classes


def test_checks_by_name_and_by_object():
    health = TrainingHealth(["vanishing", health_checks.Exploding(ratio=100)])
    assert health.checks == [health_checks.Vanishing(), health_checks.Exploding(100)]


@pytest.mark.parametrize(
    "checks, error, received",
    [
        (["exploded"], ValueError, "'exploded'"),
        (["exploding", health_checks.Exploding(9)], ValueError, "checks="),
        ([], ValueError, r"checks=\[\]"),
        ("vanishing", TypeError, "checks='vanishing'"),
        ([health_checks.Vanishing], TypeError, "class"),
        ([3], TypeError, "3"),
        (3, TypeError, "checks=3"),
    ],
)
def test_checks_that_are_none(checks, error, received):
    with pytest.raises(error, match=f"`checks` must be .*vanishing.*Received: .*{received}"):
        TrainingHealth(checks)


@pytest.mark.parametrize("action, error", [("halt", ValueError), (None, TypeError), (3, TypeError)])
def test_action_that_is_none(action, error):
    with pytest.raises(error, match=r"`action` must be .*Received: action="):
        TrainingHealth(action=action)


@pytest.mark.parametrize("log_dir, error", [(3, TypeError), (b"a", TypeError), ("", ValueError)])
def test_log_dir_that_is_none(log_dir, error):
    with pytest.raises(error, match=r"`log_dir` must .*Received: log_dir="):
        TrainingHealth(log_dir=log_dir)


def test_log_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    model = healthy()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`log_dir` must name.*Received: log_dir=.*file"):
        fit(model, TrainingHealth(log_dir=tmp_path / "file" / "below"))
    np.testing.assert_equal(model.get_weights(), before)
    fit(model)


def test_model_without_trainable_weights_or_optimizer():
    model = healthy()
    model.trainable = False
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"TrainingHealth needs .*trainable weights.*Received"):
        fit(model, TrainingHealth())
    model.compile(None, "mse")
    with pytest.raises(ValueError, match=r"TrainingHealth needs .*an optimizer.*Received"):
        fit(model, TrainingHealth())


def test_example_of_the_docstring():
    names = {"keras": keras, "keras_bp": keras_bp, "np": np}
    (example,) = doctest.DocTestFinder(recurse=False).find(TrainingHealth, globs=names)
    assert doctest.DocTestRunner().run(example).failed == 0


# What is told.


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One training that four callbacks watch: a warning, a function, a folder, all checks."""
    found, folder = [], tmp_path_factory.mktemp("told")
    checks = ["saturation", "unchanged_weights"]
    told = types.SimpleNamespace(
        found=found,
        folder=folder,
        warning=TrainingHealth(["saturation", "not_finite"]),
        function=TrainingHealth(["saturation"], action=found.append),
        directory=collect(checks, log_dir=folder),
    )
    callbacks = told.warning, told.function, told.directory
    with pytest.warns(UserWarning) as caught, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("current"))
        fit(saturated(optimizers.SGD(0.0)), *callbacks, epochs=2)
        told.files = list(pathlib.Path().iterdir())
    told.warnings = [str(warning.message) for warning in caught]
    return told


def test_a_warning_for_each_finding(told):
    health = told.warning
    assert told.warnings == [str(finding) for finding in health.findings]
    (finding,) = health.findings
    assert (finding.check, finding.layer, finding.step) == ("saturation", "h1", 10)
    assert (finding.value, finding.threshold) == (1.0, 0.5)
    text = str(finding)
    assert text.startswith("Saturation in layer `h1` at step 10: 100% of its outputs")
    assert text.endswith(finding.advice) and "Glorot" in finding.advice


def test_stop():
    model, health = saturated(), TrainingHealth(["saturation"], action="stop")
    history = fit(model, health, epochs=3)
    assert int(model.optimizer.iterations) == 10 and len(history.history["loss"]) == 1
    assert named(health) == [("saturation", "h1", 10)]


def test_a_fault_between_two_readings_names_its_step():
    """Updates are read every tenth step, and two steps are not, as an epoch ends."""
    x, y = data(120)
    x[5 * 13] = np.nan
    model, health = healthy(), TrainingHealth(["not_finite"], action="stop")
    fit(model, health, x=x, y=y, epochs=2)
    assert named(health) == [("not_finite", "h0", 14)]
    assert int(model.optimizer.iterations) == 20


def test_findings_are_a_list_that_a_notebook_shows_as_a_table():
    health = TrainingHealth()
    assert health.findings == [] and "no findings" in health.findings._repr_html_()
    finding = health_checks.Finding("exploding", "<b>", 3, 123.456, 70.0, "a < b", "Clip & see")
    health._watch.findings.append(finding)
    findings = health.findings
    findings.append(dataclasses.replace(finding, layer=None))  # the caller's own
    assert isinstance(findings, list) and len(findings) == 2 and health.findings == [finding]
    assert repr(health.findings) == repr([finding])
    shown = findings._repr_html_()
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr.*?</tr>", shown)]
    about = ["123", "70", "a &lt; b", "Clip &amp; see"]
    assert rows[1:] == [["3", "exploding", layer, *about] for layer in ("&lt;b&gt;", "(model)")]
    assert "TrainingHealth: 2 findings" in shown


def test_a_function_gets_the_findings_and_may_raise(told):
    assert told.found == told.function.findings and len(told.found) == 1

    def refuse(finding):
        raise RuntimeError(finding.layer)

    model = saturated()
    with pytest.raises(RuntimeError, match="h1"):
        fit(model, TrainingHealth(["saturation"], action=refuse))
    assert int(model.optimizer.iterations) == 10


def test_report(told, capsys):
    health = collect(NAMES)
    fit(healthy(), health, verbose=2)
    assert health.report == "TrainingHealth: nothing found in 12 update steps"
    assert capsys.readouterr().out.endswith(f"\n{health.report}\n")
    lines = told.warning.report.splitlines()
    assert lines[0] == "TrainingHealth: 1 finding in 24 update steps"
    assert lines[1:] == [f"- {told.warning.findings[0]}"]
    assert told.files == []  # no file without a `log_dir`


def test_nothing_is_printed_where_fit_is_silent(capsys):
    health, (x, y) = collect(["not_finite"]), data(5)
    fit(healthy(), health, x=x, y=y)
    assert health.report and capsys.readouterr().out == ""


def test_tensorboard(told, read_events):
    health = told.directory
    assert named(health) == [("unchanged_weights", "h0", 3), ("saturation", "h1", 10)]
    written = {
        tag: {s: str(v.item(), "utf-8") for s, v in e.items()}
        for tag, e in read_events(told.folder).items()
        if tag not in SETTINGS
    }
    found = [written.pop(f"keras_bp/finding/{f.check}/{f.layer}") for f in health.findings]
    told_again = [{f.step: json.dumps(dataclasses.asdict(f))} for f in health.findings]
    assert found == told_again
    assert written == {
        "training_health/unchanged_weights/h0": {3: str(health.findings[0])},
        "training_health/saturation/h1": {10: str(health.findings[1])},
        "training_health/report": {24: health.report},
    }


# Where it works.


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"jit_compile": False, "steps_per_execution": 5},
    ],
    ids=str,
)
def test_ways_to_run(options):
    x, y = data()
    x[53] = np.nan  # in the eleventh batch
    health = collect(NAMES)
    fit(saturated(**options), health, x=x, y=y)
    assert named(health) == [("saturation", "h1", 10), ("not_finite", "h0", 11)]


def composite():
    mapped = {"out.*": optimizers.SGD(0.01)}
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.Adam(), mapped))


@pytest.mark.parametrize(
    "optimizer, epochs",
    [
        (lambda: optimizers.LossScaleOptimizer(composite()), 1),
        (lambda: keras_bp.optimizers.AdamW(0.01, gradient_accumulation_steps=2), 2),
    ],
    ids=["loss scale, composite", "accumulation"],
)
def test_optimizers(optimizer, epochs):
    health = collect([check for check in NAMES if check != "loss_not_falling"])
    fit(saturated(optimizer()), health, epochs=epochs)
    assert named(health) == [("saturation", "h1", 10)]


def test_replicas(replicas):
    with replicas.scope():
        model = saturated(jit_compile=False)
    x, y = data(66)
    x[64] = np.nan  # in the eleventh batch, on the second replica
    health = collect(NAMES)
    fit(model, health, batch_size=6, x=x, y=y)
    assert named(health) == [("saturation", "h1", 10), ("not_finite", "h0", 11)]


@tf.custom_gradient
def no_derivative(x):
    return tf.identity(x), lambda upstream: upstream * np.nan


@tf.custom_gradient
def amplified(x):
    return tf.identity(x), lambda upstream: upstream * 1e4


class Subclassed(keras.Model):
    """Layers created in another order than called, a layer never called, one inside another."""

    def __init__(self, function):
        super().__init__()
        self.last = L.Dense(1, name="last")
        self.unused = L.Dense(1, name="unused")
        self.operation = L.Lambda(function, name="operation")
        self.second = L.Dense(8, "relu", name="second")
        self.block = keras.Sequential([L.Dense(8, "sigmoid", name="first")], name="block")

    def build(self, shape):
        self.unused.build(shape)
        super().build(shape)

    def call(self, x):
        x = self.operation(self.block(x))
        return self.last(self.second(x))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: keras.ops.log(x - 9), {("not_finite", "operation")}),
        # The first batch has built the model, and was not measured.
        (amplified, {("exploding", "block/first"), ("unchanged_weights", "unused", 4)}),
    ],
    ids=["log", "exploding"],
)
def test_subclassed_model(function, expected):
    keras.utils.set_random_seed(0)
    model = Subclassed(function)
    model.build((None, 4))
    model.compile("sgd", "mse", jit_compile=False)
    health = collect(["not_finite", "vanishing", "exploding", "unchanged_weights"])
    fit(model, health)
    found = named(health)
    assert expected <= {*found, *(finding[:2] for finding in found)}


class NoScaling(keras.Model):
    """A train step that does not show its loss."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
        return {"mean": loss}


def test_a_train_step_of_ones_own():
    inputs = keras.Input((4,))
    model = NoScaling(inputs, L.Dense(1, name="out")(L.Dense(8, "tanh", name="h0")(inputs)))
    model.compile("sgd", "mse", jit_compile=False)
    health = collect(NAMES)
    fit(model, health, epochs=12)
    assert health.findings == []
    x, y = data()
    fit(model, health, x=np.where(x == x[10], np.nan, x), y=y)
    assert named(health) == [("not_finite", "h0", 12 * 12 + 3)]


def test_beside_other_callbacks(tmp_path, read_events):
    health, stopping = collect(), keras.callbacks.EarlyStopping("loss", patience=5)
    monitor = GradientMonitor(tmp_path, histograms_every=3, activations=True)
    fit(saturated(), monitor, health, stopping, collect(["vanishing"]))
    assert named(health) == [("saturation", "h1", 10)] and health.findings[0].value == 1.0
    assert list(read_events(tmp_path)["loss/batch"]) == list(range(1, 13))


# That nothing is changed.


def every_kind_of_layer():
    """Whatever TensorFlow computes in one kernel with what is beside it."""
    x = inputs = keras.Input((4,))
    for activation in "tanh", "sigmoid", "elu", "relu", "gelu":
        x = L.Activation(activation)(L.Dense(16)(x))
    x = L.Add()([x, L.LayerNormalization()(L.Dense(16, "relu")(x))])
    x = L.Dropout(0.2)(L.BatchNormalization()(L.Dense(16)(x)))
    sequence = L.SimpleRNN(16)(L.Embedding(9, 4)(inputs))
    return keras.Model(inputs, L.Dense(1)(L.Add()([x, sequence])))


def image_model():
    layers = [L.Reshape((2, 2, 1)), L.Conv2D(8, 2, padding="same"), L.ReLU(), L.MaxPooling2D()]
    return keras.Sequential([keras.Input((4,)), *layers, L.Flatten(), L.Dense(1)])


def dense_model():
    layers = [L.Dense(8, "gelu"), L.LayerNormalization(), L.Activation("tanh")]
    return keras.Sequential([keras.Input((4,)), *layers, L.Dense(1)])


@pytest.mark.parametrize(
    "model, jit_compile",
    [
        (every_kind_of_layer, False),
        pytest.param(image_model, False, marks=pytest.mark.long),
        (dense_model, True),
    ],
)
def test_training_is_the_same_to_the_bit(model, jit_compile):
    results = []
    for callbacks in [], [collect(NAMES)]:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        trained = model()
        trained.compile(optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=jit_compile)
        history = fit(trained, *callbacks)
        variables = trained.weights + trained.optimizer.variables
        results.append((history.history, [v.numpy() for v in variables]))
    np.testing.assert_equal(results[1], results[0])


# Over several fits.


def test_a_second_fit_goes_on():
    health, model = TrainingHealth(["saturation"]), saturated()
    fit(model, health, x=data(40)[0], y=data(40)[1])
    assert health.findings == []
    with pytest.warns(UserWarning, match="Saturation") as caught:
        fit(model, health)  # the check is asked in step 10, and again in step 20
    assert named(health) == [("saturation", "h1", 10)] and len(caught) == 1
    assert health.report.startswith("TrainingHealth: 1 finding in 20 update steps")


def test_epochs_of_several_fits():
    health, model = collect(["loss_not_falling"]), healthy(optimizers.SGD(0.0))
    x, y = data(5)
    for _ in range(11):
        assert health.findings == []
        fit(model, health, x=x, y=y)
    assert named(health) == [("loss_not_falling", None, 11)]


def test_another_optimizer_or_model_begins_anew():
    health, model = collect(["saturation", "poor_initialization"]), saturated()
    fit(model, health)
    assert named(health) == [("saturation", "h1", 10)]
    model.compile("adam", "mse", run_eagerly=True)
    fit(model, health)
    # The count of the steps goes on: these are not the first of the weights.
    assert named(health) == [("saturation", "h1", 22)]
    fit(healthy(), health)
    assert health.findings == []


def test_an_exception_in_the_middle(tmp_path, read_events):
    def fail(model):
        raise KeyboardInterrupt

    health, model = collect(log_dir=tmp_path), saturated()
    with pytest.raises(KeyboardInterrupt):
        fit(model, health, At(11, fail))
    assert named(health) == [("saturation", "h1", 10)]
    # Written as it was found.
    written = {"training_health/saturation/h1", "keras_bp/finding/saturation/h1"}
    assert set(read_events(tmp_path)) == written | SETTINGS
    fit(model, health)
    assert named(health) == [("saturation", "h1", 10)]
    assert list(read_events(tmp_path)["training_health/report"]) == [11, 23]
    assert {"apply", "scale_loss"}.isdisjoint(vars(model.optimizer))


# What needs care.


def test_updates_are_measured_in_the_first_ten_and_every_tenth():
    """The rate falls to 0 with update 25: nothing moves in the measured updates 30, 40 and 50."""
    model = healthy(optimizers.SGD(0.01), jit_compile=False)
    health = collect(["unchanged_weights"])
    stop = At(24, lambda model: model.optimizer.learning_rate.assign(0.0))
    fit(model, health, stop, epochs=5)
    assert named(health) == [("unchanged_weights", "h0", 50)]


def overflowing(layer, **options):
    """A model in float16 whose gradients are scaled by 2^15 at first."""
    keras.config.set_dtype_policy("mixed_float16")
    hidden, optimizer = L.Dense(8, "tanh", name="h0"), optimizers.SGD(1e-3)
    model = build(hidden, layer, optimizer=optimizer, **options)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    return model


def test_steps_that_loss_scaling_skips_are_no_finding():
    x, y = data()
    x[7] = np.inf
    health = collect(NAMES)
    fit(overflowing(L.Dropout(0.0)), health, x=x, y=100 * y, epochs=2)
    assert health.findings == []
    assert int(health.report.split()[-3]) < 22


def test_steps_that_loss_scaling_skips_for_ever():
    health, model = collect(NAMES), overflowing(L.Lambda(no_derivative), jit_compile=False)
    fit(model, health, epochs=1)
    assert health.findings == []
    fit(model, health, epochs=4)
    assert [finding[:2] for finding in named(health)] == [("not_finite", "h0")]
    log = L.Lambda(lambda x: keras.ops.log(x - 9), name="log")
    health = collect(NAMES)
    fit(overflowing(log), health, epochs=2)
    assert named(health) == [("not_finite", "log", 1)]


def test_masks_of_minus_infinity_are_healthy():
    inputs = keras.Input((4,))
    mask = L.Lambda(lambda x: keras.ops.where(x > 0, x, -np.inf), name="mask")
    x = L.Softmax()(mask(L.Dense(64, name="h0")(inputs)))
    model = keras.Model(inputs, L.Dense(1, name="out")(x))
    model.compile("sgd", "mse", jit_compile=False)
    health, (x, y) = collect(NAMES), data()
    fit(model, health, x=x, y=y)
    assert health.findings == []
    x[7] = np.nan
    fit(model, health, x=x, y=y)
    assert named(health) == [("not_finite", "h0", 14)]


def test_initializations_that_are_healthy():
    """Branches that begin at 0 before a sum, and any weights before normalization."""
    large, zero = keras.initializers.RandomNormal(stddev=9.0), "zeros"
    inputs = keras.Input((4,))
    x = L.Dense(16, "relu", name="stem")(inputs)
    for _ in range(2):
        branch = L.Dropout(0.1)(L.Dense(16, kernel_initializer=zero)(L.Dense(16, "relu")(x)))
        x = L.Add()([x, branch])
    x = L.LayerNormalization()(L.Dense(16, kernel_initializer=large)(x))
    model = keras.Model(inputs, L.Dense(1, name="out")(x))
    # Eagerly all outputs are recorded: nothing is computed in one kernel with what comes next.
    model.compile(optimizers.SGD(1e-4), "mse", run_eagerly=True)
    health, (x, y) = collect(["poor_initialization"]), data(15)
    fit(model, health, x=x, y=y)
    assert health.findings == []


def test_clipping_mends_an_explosion():
    for options, findings in ({}, 1), ({"global_clipnorm": 1.0}, 0):
        layers = [L.Dense(8, name="h0"), L.Lambda(amplified), L.Dense(8, name="h1")]
        health = collect(["exploding"])
        fit(build(*layers, optimizer=optimizers.SGD(1e-9, **options)), health)
        assert len(health.findings) == findings


def test_a_model_that_is_built_by_the_first_batch():
    model = keras.Sequential([L.Dense(8, "relu", name="h0"), L.Dense(1, name="out")])
    model.compile(optimizers.SGD(0.0), "mse", jit_compile=False)
    health = collect(NAMES)
    fit(model, health)
    assert named(health) == [("unchanged_weights", "h0", 4)]


def test_a_layer_that_is_frozen_between_fits_is_measured_on():
    """The step is the one traced before, which still updates it."""
    layers = [L.Dense(8, "tanh", name="h0"), L.Dense(1, name="out")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizers.SGD(1e-3), "mse", jit_compile=False)
    health = collect(["update_ratio"])
    fit(model, health)
    assert health.findings == []
    layers[0].trainable = False
    model.optimizer.learning_rate = 1e4
    fit(model, health)
    assert ("update_ratio", "h0") in [finding[:2] for finding in named(health)]


def test_frozen_layers_are_no_finding():
    model = build(L.Dense(8, "tanh", name="h0"), L.Dense(8, "tanh", name="h1"))
    model.layers[0].trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    health = collect(NAMES)
    fit(model, health)
    assert health.findings == []
