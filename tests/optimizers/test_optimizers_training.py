"""Every optimizer trains: fit, tape loops, eagerly, compiled, by single and by several steps."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    FIT,
    KINDS,
    NAMES,
    OF_ANY_VARIABLE,
    Problem,
    X,
    Y,
    assert_close,
    assert_same,
    batches,
    gradients_of,
    make,
    model,
    weights,
)

import keras_bp

# The same kernels run, but TensorFlow's graph optimizer and XLA reorder sums: each of a few
# steps moves a float32 weight of size 1 by its rounding, 6e-8, and the gradients by a few times
# that, which Adam's quotient hands on where a gradient is small.
SAME = 3e-6


@pytest.fixture(scope="module")
def fitted():
    """Return a function: the model after one epoch of fit, one of them two steps an execution."""
    models = {}

    def get(name):
        if name not in models:
            # Eagerly but for one: tests/conformance fit every rule in a graph.
            options = {"steps_per_execution": 2} if name == "AdamW" else {"run_eagerly": True}
            models[name] = model(name, **options)
            models[name].before = loss(models[name])
            models[name].fit(X, Y, batch_size=4, **FIT)
        return models[name]

    return get


def loss(net):
    return float(net.compute_loss(X, Y, net(X)))


@pytest.mark.parametrize("name", KINDS)
def test_fit_lowers_the_loss(name, fitted):
    net = fitted(name)
    assert loss(net) < 0.95 * net.before
    assert int(net.optimizer.iterations) == 4
    assert type(net.optimizer).__name__ == name


@pytest.mark.parametrize("name", KINDS)
def test_compiled_tape_loop_equals_fit(name, fitted):
    net = model(name)

    @tf.function(input_signature=[tf.TensorSpec((None, 3), "int32"), tf.TensorSpec((None, 1))])
    def step(x, y):
        net.optimizer.apply(gradients_of(net, x, y), net.trainable_variables)

    for x, y in batches(4):
        step(x, y)
    assert step.experimental_get_tracing_count() == 1
    net.optimizer.finalize_variable_values(net.trainable_variables)
    assert_close(weights(net), weights(fitted(name)), SAME)


@pytest.mark.parametrize("name", NAMES)
def test_eager_tape_loop_lowers_the_loss_as_fit_does(name, fitted):
    """By `apply_gradients`, whose pairs come from `zip`. All rules fit in tests/conformance."""
    net = model(name)
    before = loss(net)
    for x, y in batches(4):
        pairs = zip(gradients_of(net, x, y), net.trainable_variables, strict=True)
        made = net.optimizer.apply_gradients(pairs)
    assert int(made) == 4
    net.optimizer.finalize_variable_values(net.trainable_variables)
    assert loss(net) < 0.95 * before
    if name in KINDS:
        assert_close(weights(net), weights(fitted(name)), SAME)


@pytest.mark.parametrize("name", ["AdamW", "DeferredAdam"])
def test_fit_run_eagerly_in_micro_batches_equals_fit(name, fitted):
    """Two micro-batches an update; fit flushes the last one, of two examples, by itself."""
    net = model(name, make(name, gradient_accumulation_steps=2), run_eagerly=True)
    net.fit(X, Y, batch_size=2, **FIT)
    assert int(net.optimizer.iterations) == 4
    assert_close(weights(net), weights(fitted(name)), SAME)


class Counted(keras.Sequential):
    """A network that counts how often its step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


@pytest.mark.parametrize(
    "how, traces, updates",
    [
        ("accumulation and early weights", 1, 6),  # 1 was made, and a micro-step of the next
        ("jit", 1, 8),
        ("LossScaleOptimizer", 2, 4),  # it makes its own scale in the first trace
    ],
)
def test_fit_traces_its_step_once(how, traces, updates):
    """Slots are made outside of the trace: TensorFlow repeats one in which it sees variables."""
    optimizer = make("AdamW", use_ema=True, gradient_accumulation_steps=None if how == "jit" else 2)
    net = Counted([keras.Input((3,)), keras.layers.Dense(1)])
    given = optimizer
    if how == "LossScaleOptimizer":
        given = keras.optimizers.LossScaleOptimizer(optimizer)
    elif how != "jit":
        twin = optimizer.from_config(optimizer.get_config())
        twin.build(net.trainable_variables)
        optimizer.set_weights([v.numpy() + 1 for v in twin.variables])
    net.compile(given, "mse", jit_compile=how == "jit")
    # Batches of one size: Keras's nightly traces its step anew for another.
    net.fit(X[:12].astype("float32"), Y[:12], batch_size=3, epochs=2, **FIT)
    assert net.traces == traces
    assert int(optimizer.iterations) == updates


EVERYTHING = {
    "gradient_accumulation_steps": 2,
    "global_clipnorm": 2.0,
    "loss_scale_factor": 4.0,
    "weight_decay": 0.01,
    "exclude_from_decay": "^scalar$",
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
    "learning_rate_multipliers": {"matrix": 0.5},
    "cautious": True,
    "adaptive_clip": 0.5,
    "update_clip": 0.8,
    "skip_above_zscore": 100.0,
}


def made_steps(name, jit_compile, options, count=5):
    """Return the values after some steps: eagerly with None, else in a `tf.function`."""
    problem, optimizer = Problem(name), make(name, **options)

    def step(gradients):
        optimizer.apply(gradients, problem.variables)

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    for number in range(count):
        step(problem.gradients(number))
    if jit_compile is not None:
        assert step.experimental_get_tracing_count() == 1
    micro_steps = options.get("gradient_accumulation_steps", 1)
    assert int(optimizer.iterations) == count // micro_steps
    optimizer.flush()
    assert int(optimizer.iterations) == -(-count // micro_steps)
    return problem.read()


@pytest.mark.parametrize("name", KINDS)
def test_a_graph_makes_the_eager_steps_with_every_option(name):
    graph, eager = (made_steps(name, how, EVERYTHING, count=7) for how in (False, None))
    assert_close(graph, eager, SAME)


@pytest.mark.parametrize("name", ["AdamW", "Prodigy"])
def test_xla_makes_the_eager_steps(name):
    results = []
    for jit_compile in (True, None):
        variables = [tf.Variable([[1.0, -2.0], [0.3, 0.7]]), tf.Variable(0.5)]
        optimizer = make(name, clipnorm=1.5, weight_decay=0.01)
        optimizer.build(variables)

        def step(g, optimizer=optimizer, variables=variables):
            optimizer.apply([g, tf.reduce_sum(g)], variables)

        if jit_compile:
            step = tf.function(step, jit_compile=True)
        for number in range(4):
            step(tf.constant([[0.3, 1.0 - number], [number / 2, -3.0]]))
        results.append([v.numpy() for v in variables])
    assert_close(*results, SAME)


# Compiling sums by rows takes seconds: the others share them with the class tested here.
@pytest.mark.parametrize(
    "name, options",
    [
        ("LazyAdam", EVERYTHING),
        ("DeferredAdam", {"global_clipnorm": 2.0}),
        *(pytest.param(name, EVERYTHING, marks=pytest.mark.long) for name in NAMES),
    ],
)
def test_xla_sums_rows_as_eagerly(name, options):
    """Compiled, tf.unique takes the padding of another tf.unique for ids: no id is found twice."""
    compiled, eager = (made_steps(name, how, options) for how in (True, None))
    assert_close(compiled, eager, SAME)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_fit_compiled_by_xla_equals_fit(name, fitted):
    net = model(name, jit_compile=True)
    net.fit(X, Y, batch_size=4, **FIT)
    assert_close(weights(net), weights(fitted(name)), SAME)


@pytest.mark.parametrize("name", OF_ANY_VARIABLE)
def test_constraints_hold_after_every_update(name):
    variable = keras.Variable([1.0, 0.1, 0.3])
    variable.constraint = keras.constraints.NonNeg()
    optimizer = make(name)
    for _ in range(3):
        optimizer.apply([tf.constant([-1.0, 1.0, 3.0])], [variable])
        assert np.all(variable.numpy() >= 0)
    assert variable.numpy()[0] > 1 and variable.numpy()[2] < 0.3


@pytest.mark.parametrize("name", KINDS)
def test_a_variable_without_gradient_stays(name):
    problem, optimizer = Problem(name), make(name, weight_decay=0.1)
    with pytest.warns(UserWarning, match="Gradients do not exist for variables .*scalar"):
        for step in range(2):
            matrix, _, table = problem.gradients(step)
            optimizer.apply([matrix, None, table], problem.variables)
    values, initial = problem.read(), Problem(name).read()
    assert_same(values[1:2], initial[1:2])
    assert np.all(values[0] != initial[0])
    # It takes part once it has one.
    problem.steps(optimizer, 1)
    assert problem.read()[1] != initial[1]


@pytest.mark.parametrize("name", KINDS)
def test_a_variable_without_gradient_in_some_micro_steps(name):
    """It is updated where any micro-step had a gradient of it: with the mean over all steps."""
    options = {"gradient_accumulation_steps": 2, "weight_decay": 0.1}
    problem, optimizer = Problem(name), make(name, **options)
    matrix, scalar, table = problem.gradients(0)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([matrix, scalar, table], problem.variables)
        optimizer.apply([matrix, None, table], problem.variables)
    twin, plain = Problem(name), make(name, weight_decay=0.1)
    plain.apply([matrix, scalar / 2, table], twin.variables)
    assert_close(problem.read(), twin.read(), 1e-7)
    before = problem.read()[1]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        for _ in range(2):
            optimizer.apply([matrix, None, table], problem.variables)
    assert problem.read()[1] == before


@pytest.mark.parametrize("name", KINDS)
def test_frozen_layers_stay(name):
    net = model(name, run_eagerly=True)
    net.get_layer("hidden").trainable = False
    net.compile(make(name), "mse", run_eagerly=True)
    frozen, free = net.get_layer("hidden").get_weights(), net.get_layer("head").get_weights()
    net.train_on_batch(X, Y)
    assert_same(net.get_layer("hidden").get_weights(), frozen)
    assert np.all(net.get_layer("head").get_weights()[0] != free[0])


@pytest.mark.parametrize("name", NAMES)
def test_no_gradients_are_no_step(name):
    optimizer = make(name)
    optimizer.apply([], [])
    assert not optimizer.built and int(optimizer.iterations) == 0


@pytest.mark.parametrize("name", NAMES)
def test_example_of_the_docstring(name):
    names = {"keras_bp": keras_bp, "np": np, "tf": tf}
    rule = getattr(keras_bp.optimizers, name)
    for example in doctest.DocTestFinder(recurse=False).find(rule, name, globs=names):
        assert doctest.DocTestRunner().run(example).failed == 0
