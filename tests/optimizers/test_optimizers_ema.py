"""use_ema: the average of the weights, counted in updates, equals one of NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import (
    FIT,
    KINDS,
    Problem,
    X,
    Y,
    assert_close,
    batches,
    make,
    model,
    weights,
)

# DeferredAdam averages no table of deferred rows, which is tested with it.
AVERAGING = [*(name for name in KINDS if name != "DeferredAdam"), "SGD", "ScheduleFreeAdamW"]
# Two float32 averages of weights of size 1 over six updates, each rounded by 6e-8 an update.
ROUNDING = 1e-6


def averages(optimizer):
    """The averages, in the order of the variables, found by the name that Keras gives them."""
    found = [v for v in optimizer.variables if v.path.endswith("_average")]
    return [v.numpy() for v in found if not v.path.endswith("at_average")]


def with_averages(name, overwrite, count=6, momentum=0.7):
    """Return the values and averages of a plain optimizer and an average in NumPy."""
    problem, optimizer = Problem(name), make(name, weight_decay=0.01)
    mean = None
    for update in range(1, count + 1):
        gradients = problem.gradients(update)
        optimizer.apply(gradients, problem.variables)
        values = [v.numpy().astype("float64") for v in problem.variables]
        mean = mean or values
        mean = [momentum * m + (1 - momentum) * v for m, v in zip(mean, values, strict=True)]
        if overwrite and update % overwrite == 0:
            for variable, average in zip(problem.variables, mean, strict=True):
                variable.assign(average)
    return problem.read(), mean


@pytest.mark.parametrize(
    "name, micro_steps, overwrite",
    [
        *((name, 2, 2) for name in AVERAGING),
        ("AdamW", 1, 2),
        ("AdamW", 2, None),
    ],
)
def test_the_average_is_that_of_numpy(name, micro_steps, overwrite):
    values, mean = with_averages(name, overwrite)
    problem = Problem(name)
    accumulation = {"gradient_accumulation_steps": micro_steps} if micro_steps > 1 else {}
    optimizer = make(
        name,
        weight_decay=0.01,
        use_ema=True,
        ema_momentum=0.7,
        ema_overwrite_frequency=overwrite,
        **accumulation,
    )
    for update in range(1, 7):
        for _ in range(micro_steps):
            optimizer.apply(problem.gradients(update), problem.variables)
    assert int(optimizer.iterations) == 6
    assert_close(problem.read(), values, ROUNDING)
    assert_close(averages(optimizer), mean, ROUNDING)


@pytest.mark.parametrize("name", ["AdamW", "LazyAdam"])
def test_fit_ends_at_the_average(name):
    net = model(name, make(name, use_ema=True, ema_momentum=0.7), run_eagerly=True)
    net.fit(X, Y, batch_size=4, **FIT)
    twin, mean = model(name, run_eagerly=True), None
    for x, y in batches(4):
        twin.train_on_batch(x, y)
        values = weights(twin)
        mean = mean or values
        mean = [0.7 * m + 0.3 * v for m, v in zip(mean, values, strict=True)]
    assert_close(weights(net), mean, ROUNDING)
    assert_close(averages(net.optimizer), mean, ROUNDING)


def test_the_average_of_a_variable_in_float16_is_in_float32():
    variable = tf.Variable([1.0], dtype=tf.float16)
    optimizer = make("SGD", 2.0**-12, use_ema=True, ema_momentum=0.5)
    for _ in range(4):
        optimizer.apply([tf.constant([1.0], tf.float16)], [variable])
    [average] = averages(optimizer)
    assert average.dtype == np.float32
    assert average != average.astype("float16")


def test_swap_ema_weights():
    """Keras's callback finds the averages, and evaluates with them."""
    net = model("Adam", make("Adam", use_ema=True, ema_momentum=0.7), run_eagerly=True)
    callback = keras.callbacks.SwapEMAWeights()
    callback.set_model(net)
    net.train_on_batch(X, Y)
    net.train_on_batch(X, Y)
    before, mean = weights(net), averages(net.optimizer)
    # It swaps by two sums and a difference, each rounded.
    callback.on_test_begin()
    assert_close(weights(net), mean, 3e-7)
    callback.on_test_end()
    assert_close(weights(net), before, 3e-7)
