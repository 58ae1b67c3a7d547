"""Loss scaling: what is not finite is skipped whole, also inside of an accumulated update."""

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
    make,
    model,
    weights,
)


def spoilt(gradients, which, value):
    """The gradients with one entry that is not finite."""
    gradients = list(gradients)
    gradient = gradients[which]
    if isinstance(gradient, tf.IndexedSlices):
        rows = tf.tensor_scatter_nd_update(gradient.values, [[0, 0]], [value])
        gradients[which] = tf.IndexedSlices(rows, gradient.indices, gradient.dense_shape)
    else:
        gradients[which] = gradient + value
    return gradients


def state(problem, optimizer):
    return [*problem.read(), *(v.numpy() for v in optimizer.variables)]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "use_ema": True}])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_that_is_not_finite_is_skipped_whole(name, options):
    problem = Problem(name)
    optimizer = make(name, loss_scale_factor=16.0, weight_decay=0.1, clipnorm=1.0, **options)
    problem.steps(optimizer, 3)
    before = state(problem, optimizer)
    for which, value in ((0, np.nan), (1, np.inf), (2, -np.inf)):
        optimizer.apply(spoilt(problem.gradients(3), which, value), problem.variables)
        assert_same(state(problem, optimizer), before)
    # What comes next is as if nothing had been in between.
    problem.steps(optimizer, 1, first=3)
    twin = Problem(name)
    twin.steps(make(name, loss_scale_factor=16.0, weight_decay=0.1, clipnorm=1.0, **options), 4)
    assert_same(problem.read(), twin.read())


@pytest.mark.parametrize("name", KINDS)
def test_the_factor_is_divided_out(name):
    """A power of two, which changes no digit; the embedding's gradient is sparse (K2)."""
    problem, twin = Problem(name), Problem(name)
    optimizer = make(name, loss_scale_factor=1024.0, global_clipnorm=1.0)
    plain = make(name, global_clipnorm=1.0)
    for step in range(3):
        gradients = problem.gradients(step)
        scaled = [
            tf.IndexedSlices(1024 * g.values, g.indices, g.dense_shape)
            if isinstance(g, tf.IndexedSlices)
            else 1024 * g
            for g in gradients
        ]
        optimizer.apply(scaled, problem.variables)
        plain.apply(gradients, twin.variables)
    assert_same(problem.read(), twin.read())
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 2048.0


@pytest.mark.parametrize(
    "name, graph",
    [
        *((name, False) for name in KINDS),
        ("LazyAdam", True),
    ],
)
def test_loss_scale_optimizer_around_accumulation(name, graph):
    """K12: a micro-batch that is not finite is left out of the sum, which goes on."""
    problem, twin = Problem(name), Problem(name)
    inner = make(name, gradient_accumulation_steps=3)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    plain = make(name, gradient_accumulation_steps=3)
    optimizer.build(problem.variables)

    def step(gradients):
        optimizer.apply(gradients, problem.variables)

    step = tf.function(step) if graph else step

    def scaled(gradients, scale):
        # Keras's wrapper asks each gradient whether it is finite, as dense tensors.
        return [scale * tf.convert_to_tensor(g) for g in gradients]

    scale = 4.0
    for number in range(6):
        if number in (1, 5):  # inside of an update, and where one would have been made
            step(spoilt(scaled(problem.gradients(9), scale), 0, np.nan))
            scale /= 2
        step(scaled(problem.gradients(number), scale))
        plain.apply([tf.convert_to_tensor(g) for g in twin.gradients(number)], twin.variables)
        assert float(optimizer.dynamic_scale) == scale
    assert int(inner.iterations) == 2
    # Scales are powers of two; a graph may join products.
    assert_close(problem.read(), twin.read(), 1e-6 if graph else 0)


def test_loss_scale_factor_with_an_embedding_in_fit():
    net = model("Adam", make("Adam", loss_scale_factor=64.0), run_eagerly=True)
    twin = model("Adam", run_eagerly=True)
    for each in (net, twin):
        each.train_on_batch(X, Y)
        each.train_on_batch(X, Y)
    # The rows' sum of the loss's gradient, times 64 and divided by it: exact.
    assert_close(weights(net), weights(twin), 1e-7)
