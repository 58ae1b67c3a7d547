"""ScheduleFreeAdamW: its authors' algorithm, and the way between y and x."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import FIT, X, Y, assert_close, assert_same, batches, model, weights

from keras_bp import schedules
from keras_bp.optimizers import ScheduleFreeAdamW

B1, B2, EPS = 0.9, 0.999, 1e-8
START = np.random.default_rng(0).normal(size=(4, 3))


def twin(gradients, rate, warmup_steps=0, decay=0.0, r=0.0):
    """The algorithm as its authors write it, on x, y and z apart; yields y and x."""
    x, z, v = START.copy(), START.copy(), np.zeros_like(START)
    y = x
    largest = total = 0.0
    for k, g in enumerate(gradients):
        a = rate(k) * min(1.0, (k + 1) / warmup_steps) if warmup_steps else rate(k)
        v = B2 * v + (1 - B2) * g**2
        d = g / (np.sqrt(v / (1 - B2 ** (k + 1))) + EPS) + decay * y
        largest = max(largest, a)
        weight = (k + 1) ** r * largest**2
        total += weight
        c = weight / total if total else 0.0
        z = z - a * d
        x = (1 - c) * x + c * z
        y = (1 - B1) * z + B1 * x
        yield y, x


@pytest.fixture
def float64():
    """Learning rates are of Keras's float type."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


CASES = [
    {},
    {"warmup_steps": 30},
    {"decay": 0.1},
    {"r": 1.0},
    {"warmup_steps": 7, "decay": 0.05, "r": 2.0, "falling": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hundred_steps_of_the_authors_algorithm(case, float64):
    """After every step y, and x at times, to 1e-12: rounding is 1e-16 a step."""
    falling = case.get("falling", False)
    rate = schedules.StepDecay(0.05, 20, 0.5) if falling else 0.05
    options = {key: case[key] for key in ("warmup_steps", "r") if key in case}
    optimizer = ScheduleFreeAdamW(rate, B1, B2, EPS, weight_decay=case.get("decay"), **options)
    generator = np.random.default_rng(1)
    gradients = generator.normal(size=(100, 4, 3)) + 0.2
    variable = tf.Variable(START)
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply([g], [variable]))
    own = {key: case[key] for key in ("warmup_steps", "decay", "r") if key in case}
    expected = twin(gradients, lambda k: 0.05 * 0.5 ** (k // 20) if falling else 0.05, **own)
    for number, (g, (y, x)) in enumerate(zip(gradients, expected, strict=True)):
        step(tf.constant(g))
        np.testing.assert_allclose(variable.numpy(), y, rtol=0, atol=1e-12)
        if number % 20 == 0 or number == 99:
            optimizer.use_average_weights()
            np.testing.assert_allclose(variable.numpy(), x, rtol=0, atol=1e-12)
            optimizer.use_training_weights()
            np.testing.assert_allclose(variable.numpy(), y, rtol=0, atol=1e-12)


def test_a_rate_of_zero_at_the_start_leaves_the_average_out():
    """The first weight in the average is 0: c is 0, not 0 / 0."""
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.1)
    variable, optimizer = tf.Variable([1.0]), ScheduleFreeAdamW(schedule)
    optimizer.apply([tf.constant([1.0])], [variable])
    assert variable.numpy() == 1.0
    optimizer.use_average_weights()
    assert variable.numpy() == 1.0
    optimizer.apply([tf.constant([1.0])], [variable])
    assert 0.9 < variable.numpy() < 1.0


def test_each_switch_is_the_others_inverse_and_does_nothing_twice():
    variables = [tf.Variable(START, dtype=dtype) for dtype in ("float32", "float64", "bfloat16")]
    optimizer = ScheduleFreeAdamW(0.1)
    optimizer.use_average_weights()  # not built: nothing to do
    optimizer.use_training_weights()
    for _ in range(3):
        optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)
    training = [v.numpy() for v in variables]
    optimizer.use_training_weights()
    assert_same(variables, training)
    optimizer.use_average_weights()
    average = [v.numpy() for v in variables]
    assert all(np.all(a != t) for a, t in zip(average, training, strict=True))
    optimizer.use_average_weights()
    assert_same(variables, average)
    optimizer.use_training_weights()
    # There and back: a rounding each of the variable's dtype; bfloat16 goes through its copy.
    for variable, old, rounding in zip(variables, training, (2e-7, 1e-15, 0), strict=True):
        assert_close([variable], [old], rounding)


def test_a_step_at_the_average_goes_back_first():
    first, second = tf.Variable(START), tf.Variable(START)
    one, other = ScheduleFreeAdamW(0.1), ScheduleFreeAdamW(0.1)
    for variable, optimizer in ((first, one), (second, other)):
        optimizer.apply([tf.constant(START)], [variable])
    one.use_average_weights()
    for variable, optimizer in ((first, one), (second, other)):
        optimizer.apply([tf.constant(START)], [variable])
    assert_close([first], [second], 1e-15)


def test_fit_ends_at_x_and_a_second_fit_goes_on_from_y(tmp_path):
    """Also when it goes on from a file that holds x, and that a third fit of another starts on."""
    net = model("ScheduleFreeAdamW", run_eagerly=True)
    net.fit(X, Y, batch_size=4, **FIT)
    twin_net = model("ScheduleFreeAdamW", run_eagerly=True)
    for x, y in batches(4):
        twin_net.train_on_batch(x, y)
    at_y = weights(twin_net)
    twin_net.optimizer.use_average_weights()
    assert_same(weights(net), weights(twin_net))
    assert np.any(weights(net)[0] != at_y[0])
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(weights(loaded), weights(net))
    loaded.compile(loaded.optimizer, loaded.loss, run_eagerly=True)
    for each in (net, loaded):
        each.fit(X, Y, batch_size=4, **FIT)
    assert_same(weights(loaded), weights(net))
    twin_net.optimizer.use_training_weights()
    for x, y in batches(4):
        twin_net.train_on_batch(x, y)
    twin_net.optimizer.use_average_weights()
    # The first gradient of the second fit was taken at x by `net`, at y by the twin.
    moved = max(np.max(np.abs(a - b)) for a, b in zip(weights(net), at_y, strict=True))
    apart = max(np.max(np.abs(a - b)) for a, b in zip(weights(net), weights(twin_net), strict=True))
    assert apart < 0.5 * moved


def test_validation_at_the_average_leaves_the_training_alone():
    """The callback of the docstring: the validation's loss is x's, the training goes on at y."""
    net = model("ScheduleFreeAdamW", run_eagerly=True)
    switch = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: net.optimizer.use_average_weights(),
        on_test_end=lambda logs: net.optimizer.use_training_weights(),
    )
    options = {"batch_size": 7, "epochs": 2, "validation_data": (X, Y), "validation_batch_size": 14}
    history = net.fit(X, Y, callbacks=[switch], **options, **FIT).history
    # fit ends at x too, so that the last validation is an evaluation.
    last = float(net.compute_loss(X, Y, net(X)))
    np.testing.assert_allclose(history["val_loss"][-1], last, rtol=1e-6)
    twin_net = model("ScheduleFreeAdamW", run_eagerly=True)
    twin_net.fit(X, Y, batch_size=7, epochs=2, **FIT)
    assert_close(weights(net), weights(twin_net), 1e-6)
