"""A step in every form it may come in, in graphs and under XLA, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from schedule_cases import CASES, make, near

import keras_bp.schedules as schedules

STEPS = [*near(0, 5, 10, 30, 40, 100, 110, 10**6), 50]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_step_gives_the_same_rate(name):
    schedule = make(name)
    for step in (7, 40):
        expected = schedule(step)
        assert expected.dtype == tf.float32 and expected.shape == ()
        kinds = [float(step), np.int32(step), np.int64(step), np.uint8(step), np.float32(step)]
        kinds += [np.array(step), tf.Variable(step), keras.Variable(step, dtype="int32")]
        kinds += [tf.Variable(float(step)), keras.Variable(step, dtype="float32")]
        kinds += [tf.constant(step, dtype) for dtype in INTEGERS + FLOATS]
        for kind in kinds:
            assert schedule(kind) == expected, kind


@pytest.mark.parametrize("name", CASES)
def test_an_array_of_steps_gives_an_array_of_rates(name):
    schedule = make(name)
    expected = np.array([schedule(step) for step in STEPS])
    shape = (3, len(STEPS) // 3)
    for steps in (STEPS, tuple(STEPS), np.array(STEPS), np.array(STEPS, float), tf.constant(STEPS)):
        assert schedule(steps).dtype == tf.float32
        # Of the sequence's parts, Keras's computes in float32, in vectors a digit differently.
        np.testing.assert_allclose(schedule(steps), expected, rtol=2e-7)
        grid = schedule(tf.reshape(tf.constant(steps), shape))
        np.testing.assert_allclose(grid, expected.reshape(shape), rtol=2e-7)
    assert schedule(np.array([], int)).shape == (0,)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_graphs_and_xla_change_nothing(name, jit):
    schedule = make(name)
    compiled = tf.function(schedule.__call__, jit_compile=jit, autograph=False)
    # XLA's sine and power may differ from TensorFlow's in float64's last digits.
    np.testing.assert_array_max_ulp(compiled(tf.constant(STEPS)).numpy(), schedule(STEPS).numpy())
    for step in () if jit else (0, 10, 40):
        rate = compiled(tf.constant(step)).numpy()
        np.testing.assert_array_max_ulp(rate, schedule(step).numpy())


@pytest.mark.parametrize("name", CASES)
def test_a_shape_that_the_graph_does_not_know(name):
    schedule = make(name)
    signature = [tf.TensorSpec(None, tf.int64)]
    graph = tf.function(schedule.__call__, input_signature=signature, autograph=False)
    for steps in (7, STEPS):
        np.testing.assert_allclose(graph(tf.constant(steps, tf.int64)), schedule(steps), rtol=2e-7)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float64"])
def test_the_rate_is_in_floatx(name, floatx):
    schedule = make(name)
    expected = schedule(17).numpy()
    keras.config.set_floatx(floatx)
    try:
        rate = schedule(17)
        assert rate.dtype == floatx
        tolerance = {"float16": 1e-3, "bfloat16": 8e-3, "float64": 1e-7}[floatx]
        np.testing.assert_allclose(float(rate), expected, rtol=tolerance)
    finally:
        keras.config.set_floatx("float32")


def test_steps_between_two_steps():
    rate = schedules.LinearDecay(0.8, 10)
    np.testing.assert_allclose(rate([0.5, 9.75, 10.5]), [0.76, 0.02, 0.0], rtol=1e-6)
    assert float(schedules.StepDecay(1.0, 10)(9.99)) == 1.0
    np.testing.assert_allclose(schedules.Cyclical(0.0, 1.0, 10)([10.5, 20.5]), [0.95, 0.05])
    restarts = schedules.CosineRestarts(1.0, 10)
    np.testing.assert_allclose(restarts(10.5), restarts(0.5))
    sequence = schedules.Sequential([0.5, rate], [10])
    np.testing.assert_allclose(sequence([9.5, 10.5]), [0.5, 0.76], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_out_of_range_steps_count_as_the_first_or_the_last(name):
    schedule = make(name)
    for step in (-1, -0.5, -(10**9), float("-inf")):
        assert schedule(step) == schedule(0)
    assert np.isfinite(schedule([2.0**61, 1e30, float("inf")])).all()
    if name not in ("CosineRestarts", "Cyclical"):  # which have no end
        np.testing.assert_allclose(schedule(1e30), schedule(10**15), rtol=1e-6)


@pytest.mark.parametrize("step", [True, "7", None, 1j, [True, False], ["7"]])
def test_what_is_no_step(step):
    with pytest.raises(TypeError, match="`step` must be .* Received: step="):
        schedules.StepDecay(0.8, 10)(step)


@pytest.mark.parametrize("dtype", [tf.bool, tf.complex64])
def test_what_is_no_step_as_a_tensor(dtype):
    with pytest.raises(TypeError, match="`step` must be .* Received: step="):
        schedules.StepDecay(0.8, 10)(tf.zeros((), dtype))
