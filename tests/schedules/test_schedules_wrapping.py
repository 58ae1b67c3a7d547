"""Warmup and Sequential around Keras's schedules, a user's own, and each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp.schedules as schedules

keras_schedules = keras.optimizers.schedules


class Inverse(keras_schedules.LearningRateSchedule):
    """A user's schedule that handles one step at a time, with a Python branch in eager mode."""

    def __call__(self, step):
        assert step.shape == ()
        return 1.0 / (1.0 + tf.cast(step, tf.float32))


class Constant(keras_schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.25


KERAS = {
    "exponential": keras_schedules.ExponentialDecay(0.8, 10, 0.5),
    "inverse": keras_schedules.InverseTimeDecay(0.8, 10, 0.5),
    "polynomial": keras_schedules.PolynomialDecay(0.8, 40, 0.1, power=2.0),
    "cosine": keras_schedules.CosineDecay(0.8, 40),
    # Branches on the step with a scalar condition, and begins at 0.3.
    "warm cosine": keras_schedules.CosineDecay(0.3, 40, warmup_target=0.8, warmup_steps=10),
    "restarts": keras_schedules.CosineDecayRestarts(0.8, 10),
    "piecewise": keras_schedules.PiecewiseConstantDecay([10, 20], [0.8, 0.4, 0.1]),
    "own": Inverse(),
    "constant": Constant(),
}
STEPS = list(range(45))


# In graphs: one that takes an array, one that branches on a scalar, one that ignores the step.
TRACED = ["exponential", "warm cosine", "constant"]


@pytest.mark.parametrize(
    "name, mode",
    [
        *((name, "eager") for name in KERAS),
        *((name, "graph") for name in TRACED),
        ("warm cosine", "xla"),
    ],
)
def test_any_schedule_is_counted_from_its_own_start(name, mode):
    inner = KERAS[name]
    rates = np.array([float(inner(tf.constant(step, tf.int64))) for step in STEPS])
    warmed = schedules.Warmup(inner, 5)
    after = schedules.Sequential([0.5, inner], [5])
    expected_warmed = [*(rates[0] * np.arange(5) / 5), *rates[:40]]
    expected_after = [*[0.5] * 5, *rates[:40]]
    for schedule, expected in ((warmed, expected_warmed), (after, expected_after)):
        call = schedule
        if mode != "eager":
            call = tf.function(schedule.__call__, jit_compile=mode == "xla", autograph=False)
        # Keras computes in float32, in another order under XLA.
        np.testing.assert_allclose(call(tf.constant(STEPS)), expected, rtol=2e-6, atol=1e-7)
        single = [call(tf.constant(step)) for step in (0, 4, 5, 6, 44)]
        picked = np.array(expected)[[0, 4, 5, 6, 44]]
        np.testing.assert_allclose(single, picked, rtol=2e-6, atol=1e-7)
        if mode == "eager":
            floats = call(tf.constant(STEPS, tf.float32))
            np.testing.assert_allclose(floats, expected, rtol=2e-6, atol=1e-7)


def test_a_wrapped_schedule_gets_integers_where_the_steps_are():
    seen = []

    class Spy(keras_schedules.LearningRateSchedule):
        def __call__(self, step):
            seen.append((step.dtype, int(step)))
            return 0.5

    schedule = schedules.Sequential([0.1, Spy()], [10**9])
    schedule(10**9 + 2**24 + 1)
    schedule(3)
    assert seen == [(tf.int64, 2**24 + 1), (tf.int64, 0)]


def test_an_error_of_a_wrapped_schedule_is_not_hidden():
    class Broken(keras_schedules.LearningRateSchedule):
        def __call__(self, step):
            raise ValueError("out of order")

    for steps in (3, [3, 4]):
        with pytest.raises(ValueError, match="out of order"):
            schedules.Warmup(Broken(), 5)(steps)


def test_a_rate_that_ignores_the_step_still_has_the_steps_shape():
    alone = schedules.Sequential([Constant()], [])
    assert alone([[1, 2, 3]]).numpy().tolist() == [[0.25] * 3]


def test_schedules_nest():
    inner = schedules.Sequential([schedules.Warmup(0.8, 4), schedules.LinearDecay(0.8, 10)], [6])
    schedule = schedules.Warmup(schedules.Sequential([0.2, inner], [3]), 2)
    inner_rates = [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.72]
    expected = [0.0, 0.1, 0.2, 0.2, 0.2, *inner_rates]
    np.testing.assert_allclose(schedule(np.arange(13)), expected, rtol=1e-6)


def test_nested_schedules_keep_float64():
    keras.config.set_floatx("float64")
    try:
        schedule = schedules.Warmup(schedules.ExponentialDecay(0.1, 7, 0.3), 3)
        np.testing.assert_allclose(schedule(20), 0.1 * 0.3 ** (17 / 7), rtol=1e-15)
        np.testing.assert_allclose(schedules.Warmup(0.1, 3)(1), 0.1 / 3, rtol=1e-15)
    finally:
        keras.config.set_floatx("float32")
