"""Accumulation: N micro-batches make the step of one batch N times as large, and count as one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    KINDS,
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

# Means of means, rounded in another order: 6e-8 of a gradient of size 1, which a rule that
# divides by its size hands on to a step of 0.05; a few steps.
ROUNDING = 1e-6


def slots(optimizer):
    """The averages that a rule keeps: a factor on the gradient, which Adam forgives, shows here."""
    return [v for v in optimizer.variables if v.path.endswith(("momentum", "velocity"))]


def mean(problem, steps):
    """The mean of the gradients of some steps, the table's rows one behind the other."""
    matrices, scalars, tables = zip(*(problem.gradients(step) for step in steps), strict=True)
    table = tf.IndexedSlices(
        tf.concat([t.values for t in tables], axis=0) / len(steps),
        tf.concat([t.indices for t in tables], axis=0),
        tables[0].dense_shape,
    )
    return [tf.add_n(matrices) / len(steps), tf.add_n(scalars) / len(steps), table]


def loop(net, size):
    for x, y in batches(size, X[:8], Y[:8]):
        net.optimizer.apply(gradients_of(net, x, y), net.trainable_variables)


@pytest.mark.parametrize(
    "name, bound",
    [
        *((name, "clipnorm") for name in KINDS),
        ("AdamW", "clipvalue"),
        ("AdamW", "global_clipnorm"),
    ],
)
def test_four_micro_batches_are_one_batch(name, bound):
    """Dense layers and an embedding, eight examples: two updates of four micro-batches of one."""
    options = {bound: 0.1, "weight_decay": 0.05}
    net = model(name, make(name, gradient_accumulation_steps=4, **options), run_eagerly=True)
    twin = model(name, make(name, **options), run_eagerly=True)
    loop(net, 1)
    loop(twin, 4)
    assert int(net.optimizer.iterations) == int(twin.optimizer.iterations) == 2
    assert_close(weights(net), weights(twin), ROUNDING)
    assert_close(slots(net.optimizer), slots(twin.optimizer), ROUNDING)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_moves_inside_of_an_update(name):
    problem, optimizer = Problem(name), make(name, gradient_accumulation_steps=3, weight_decay=0.1)
    problem.steps(optimizer, 2)
    assert_same(problem.read(), Problem(name).read())
    assert int(optimizer.iterations) == 0
    problem.steps(optimizer, 1)
    assert int(optimizer.iterations) == 1
    assert all(np.any(a != b) for a, b in zip(problem.read(), Problem(name).read(), strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_flush_applies_the_rest_as_a_smaller_mean(name):
    problem, optimizer = Problem(name), make(name, gradient_accumulation_steps=4, weight_decay=0.1)
    optimizer.flush()  # not built yet: nothing to do
    problem.steps(optimizer, 2)
    optimizer.flush()
    assert int(optimizer.iterations) == 1
    twin, plain = Problem(name), make(name, weight_decay=0.1)
    plain.apply(mean(twin, range(2)), twin.variables)
    assert_close(problem.read(), twin.read(), ROUNDING)
    assert_close(slots(optimizer), slots(plain), ROUNDING)
    before = problem.read()
    optimizer.flush()  # nothing is left
    assert_same(problem.read(), before)
    assert int(optimizer.iterations) == 1
    # The next update starts from empty sums.
    problem.steps(optimizer, 4, first=2)
    plain.apply(mean(twin, range(2, 6)), twin.variables)
    assert_close(problem.read(), twin.read(), ROUNDING)
    assert_close(slots(optimizer), slots(plain), ROUNDING)


def test_flush_without_accumulation_does_nothing():
    problem, optimizer = Problem("Adam"), make("Adam")
    problem.steps(optimizer, 1)
    before = problem.read()
    optimizer.flush()
    assert_same(problem.read(), before)


@pytest.mark.parametrize("name", KINDS)
def test_schedules_count_updates(name):
    """A rate that falls from update to update, over two updates of three micro-steps."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01])
    problem, optimizer = Problem(name), make(name, schedule, gradient_accumulation_steps=3)
    twin, plain = Problem(name), make(name, 0.1)
    rates = []
    for micro_step in range(6):
        rates.append(round(float(optimizer.learning_rate), 6))
        problem.steps(optimizer, 1, first=micro_step // 3)
    assert rates == [0.1] * 3 + [0.01] * 3
    twin.steps(plain, 1)
    plain.learning_rate = 0.01
    twin.steps(plain, 1, first=1)
    assert_close(problem.read(), twin.read(), ROUNDING)


@pytest.mark.parametrize("by_rows", [True, False])
def test_a_micro_step_makes_no_table_dense(by_rows):
    """No tensor of the table's size is made before the update; by rows, not in it either."""
    name = "LazyAdam" if by_rows else "Adam"
    problem, optimizer = Problem(name), make(name, gradient_accumulation_steps=2)
    optimizer.build(problem.variables)

    @tf.function
    def step(gradients):
        optimizer.apply(gradients, problem.variables)

    graph = step.get_concrete_function(problem.gradients(0)).graph
    branches = [f for f in graph._functions.values()]
    outside = {op.type for op in graph.get_operations()}
    assert "ResourceScatterAdd" in outside and "UnsortedSegmentSum" in outside
    shapes = [tuple(o.shape) for op in graph.get_operations() for o in op.outputs if o.shape.rank]
    assert (7, 2) not in shapes
    assert branches


def test_fit_flushes_in_a_graph_and_goes_on():
    net = model("Adam", make("Adam", gradient_accumulation_steps=4))
    options = {"batch_size": 2, "shuffle": False, "verbose": 0}
    net.fit(X, Y, epochs=2, **options)  # 14 micro-steps: three updates of four, one of two
    assert int(net.optimizer.iterations) == 4
    net.fit(X[:4], Y[:4], **options)
    assert int(net.optimizer.iterations) == 5


def test_float8_scales_are_overwritten_not_summed():
    """The "gradient" of such a variable is its next value, from the first micro-step on."""
    scale, weight = tf.Variable(1.0), tf.Variable(1.0)
    scale.overwrite_with_gradient = True
    optimizer = make("Adam", gradient_accumulation_steps=2, global_clipnorm=0.1)
    optimizer.apply([tf.constant(5.0), tf.constant(1.0)], [scale, weight])
    assert scale.numpy() == 5.0 and weight.numpy() == 1.0
    optimizer.apply([tf.constant(7.0), tf.constant(1.0)], [scale, weight])
    assert scale.numpy() == 7.0 and weight.numpy() < 1.0
