"""The learning rate: a number, a schedule or a callable, and settable on top of each."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import KINDS, NAMES, Problem, assert_same, make

schedules = keras.optimizers.schedules


def halving():
    return schedules.ExponentialDecay(0.5, 1, 0.5)


def test_a_number():
    optimizer = make("SGD", 0.25)
    assert float(optimizer.learning_rate) == 0.25
    optimizer.learning_rate = 0.5
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = np.float32(0.125)
    assert float(optimizer.learning_rate) == 0.125
    optimizer.learning_rate.assign(1.0)  # a variable, as callbacks of Keras expect
    assert float(optimizer.learning_rate) == 1.0


def test_a_schedule_keeps_its_shape_under_the_rate_that_is_set():
    variable, optimizer = tf.Variable(0.0), make("SGD", halving())
    moves = []
    for step in range(5):
        if step == 2:
            assert float(optimizer.learning_rate) == 0.125
            optimizer.learning_rate = 1.0
        before = variable.numpy()
        optimizer.apply([tf.constant(1.0)], [variable])
        moves.append(before - variable.numpy())
    # Powers of two: exact.
    assert moves == [0.5, 0.25, 1.0, 0.5, 0.25]


def test_a_schedule_can_be_set_to_zero_and_back():
    optimizer = make("SGD", halving())
    optimizer.learning_rate = 0.0
    assert float(optimizer.learning_rate) == 0.0
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == 0.25


@pytest.mark.parametrize("wrong", [[1e-3], schedules.ExponentialDecay, "0.1", None])
def test_what_is_no_rate_is_refused_when_it_is_set(wrong):
    optimizer = make("SGD", 0.5)
    with pytest.raises(TypeError, match="`learning_rate` must be .* a schedule or a function"):
        optimizer.learning_rate = wrong
    assert float(optimizer.learning_rate) == 0.5


def test_where_a_schedule_is_zero():
    """A callback that sets what it read does no harm; another rate is refused."""
    optimizer = make("SGD", schedules.PolynomialDecay(0.0, 4, 1.0))
    optimizer.learning_rate = 0.0
    optimizer.iterations.assign(2)
    assert float(optimizer.learning_rate) == 0.5
    optimizer.iterations.assign(0)
    with pytest.raises(
        ValueError, match=r"`learning_rate` cannot be set.*Received: .*=0.5 at step 0"
    ):
        optimizer.learning_rate = 0.5


def test_a_callable():
    rates = iter([0.5, 0.25])
    optimizer, variable = make("SGD", lambda: next(rates)), tf.Variable(1.0)
    optimizer.apply([tf.constant(1.0)], [variable])
    optimizer.apply([tf.constant(1.0)], [variable])
    assert variable.numpy() == 0.25


def test_a_schedule_in_the_place_of_another_and_of_a_number():
    for first in (0.5, halving(), lambda: 0.1):
        optimizer = make("SGD", first)
        optimizer.learning_rate = 0.75
        optimizer.learning_rate = halving()
        assert float(optimizer.learning_rate) == 0.5
        optimizer.iterations.assign(1)
        assert float(optimizer.learning_rate) == 0.25
        optimizer.learning_rate = 1.0
        assert float(optimizer.learning_rate) == 1.0
        # What the file holds has the same number of variables, however it came to its rate.
        assert len(optimizer.variables) == 2


@pytest.mark.parametrize("name", KINDS)
def test_setting_holds_inside_of_a_graph(name):
    """The trace reads the rate: it is not frozen into it."""
    problem, twin = Problem(name), Problem(name)
    optimizer, plain = make(name, halving()), make(name, 0.5)
    optimizer.build(problem.variables)
    rates = [0.5, 0.03125, 0.015625]

    @tf.function
    def step(gradients):
        optimizer.apply(gradients, problem.variables)

    for number, rate in enumerate(rates):
        if number == 1:
            optimizer.learning_rate = rate
        step(problem.gradients(number))
        plain.learning_rate = rate
        twin.steps(plain, 1, first=number)
    for array, other in zip(problem.read(), twin.read(), strict=True):
        # The graph may join products: a rounding of float32, of weights of size 1.
        np.testing.assert_allclose(array, other, atol=1e-6)


# What is assigned before each step but the first, and the rate of each step.
ASSIGNED = [halving(), 2.0, schedules.PolynomialDecay(1.0, 8, 0.0), lambda: 0.125, halving(), 4.0]
RATES = [0.001, 0.25, 2.0, 0.625, 0.125, 0.015625, 4.0]


@pytest.mark.parametrize("kind", ["plain", "xla", "loss scale, accumulation"])
def test_what_is_assigned_during_a_fit_holds_from_the_next_step(kind):
    """With a loss of w the weight moves by the rate: powers of two, exact but for the first."""
    steps = 2 if "accumulation" in kind else None
    optimizer = make("SGD", 0.001, gradient_accumulation_steps=steps)
    outer = keras.optimizers.LossScaleOptimizer(optimizer) if steps else optimizer
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    net = keras.Sequential([keras.Input((1,)), dense])
    net.compile(outer, lambda y, output: output, jit_compile=kind == "xla")
    weights, each = [0.0], steps or 1

    class Assign(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch and batch % each == 0:
                outer.learning_rate = ASSIGNED[batch // each - 1]

        def on_train_batch_end(self, batch, logs=None):
            if (batch + 1) % each == 0:
                weights.append(float(dense.kernel[0, 0]))

    ones = np.ones((len(RATES) * each, 1), "float32")
    net.fit(ones, ones, batch_size=1, verbose=0, callbacks=[Assign()])
    # Float32's rounding of weights of up to 8.
    np.testing.assert_allclose(-np.diff(weights), RATES, atol=1e-6)


def test_a_schedule_reaches_every_replica(replicas):
    with replicas.scope():
        variable, optimizer = tf.Variable(0.0), make("SGD", 0.5)
        optimizer.build([variable])

    @tf.function
    def step():
        replicas.run(lambda: optimizer.apply([tf.constant(0.5)], [variable]))

    for rate in 0.5, 0.25, 0.125:
        before = variable.numpy()
        step()
        assert before - variable.numpy() == rate
        optimizer.learning_rate = halving()


def test_a_trace_out_of_reach_fails_rather_than_keep_the_earlier_rate():
    variable, optimizer = tf.Variable(0.0), make("SGD", 0.5)
    optimizer.build([variable])
    inner = tf.function(lambda: optimizer.apply([tf.constant(1.0)], [variable]))
    inner()
    outer = tf.function(lambda: inner())
    outer()
    assert variable.numpy() == -1.0
    optimizer.learning_rate = halving()
    with pytest.raises(tf.errors.InvalidArgumentError):
        outer()
    assert variable.numpy() == -1.0
    rate = float(optimizer.learning_rate)  # the step that failed may have been counted
    inner()
    assert variable.numpy() == -1.0 - rate


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_zero_moves_nothing(name):
    problem = Problem(name).steps(make(name, 0.0, weight_decay=0.1), 3)
    assert_same(problem.read(), Problem(name).read())


def test_the_rate_is_logged_by_fit():
    """ReduceLROnPlateau and LearningRateScheduler write it to the logs: see beside_keras too."""
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile(make("Adam", halving()), "mse", run_eagerly=True)
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 4)
    history = net.fit(np.ones((2, 1)), np.ones((2, 1)), epochs=2, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(history.history["learning_rate"], [0.0625, 0.0078125], rtol=1e-6)
