"""GPT-3's schedule against a loop over its recurrence, and against the NumPy reference."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import keras_bp.schedules as schedules
from keras_bp import reference


def loop(size, count):
    """Return the tokens seen before each of `count` steps, batch by batch."""
    tokens = [0]
    for _ in range(count):
        tokens.append(tokens[-1] + size(tokens[-1]))
    return np.array(tokens)


@pytest.mark.parametrize("ramp", [4e9, 12e9])
def test_tokens_as_in_a_loop(ramp):
    schedule = schedules.GPT3(ramp_tokens=ramp)
    size = reference.gpt3_batch_size(ramp)
    tokens = loop(size, 30_000)
    growth = (3_200_000 - 32_000) / ramp
    on_ramp = int(np.searchsorted(tokens, ramp))
    # The loop rounds each batch by half a token at most, and the growth then multiplies that.
    bound = 0.5 * np.expm1(np.minimum(np.arange(30_001), on_ramp) * np.log1p(growth)) / growth
    bound += 0.5 + 0.5 * (np.arange(30_001) - on_ramp).clip(0)
    ours = schedule.tokens(np.arange(30_001)).numpy()
    assert (abs(ours - tokens) <= bound).all()
    # The rounding's errors mostly cancel: a wrong growth would show here.
    assert_allclose(ours, tokens, rtol=2e-7, atol=20)
    rate = reference.gpt3_learning_rate(6e-5)
    steps = np.r_[0:30_000:97, on_ramp - 2 : on_ramp + 3]
    assert_allclose(schedule(steps), [rate(tokens[step]) for step in steps], rtol=3e-7, atol=2e-12)


def test_tokens_exactly_as_the_recurrence_without_rounding():
    for first, last, ramp in [(32_000, 3_200_000, 12e9), (5, 15, 10.0), (7, 8, 1000.0), (3, 99, 2)]:
        schedule = schedules.GPT3(
            ramp_tokens=ramp, first_batch_tokens=first, last_batch_tokens=last
        )
        tokens = loop(lambda n: first + (last - first) * min(n / ramp, 1.0), 20_000)  # noqa: B023
        assert (
            abs(schedule.tokens(np.arange(20_001)).numpy() - tokens) <= 0.5 + 1e-9 * tokens
        ).all()


def test_batch_sizes_add_up_to_the_tokens():
    schedule = schedules.GPT3()
    steps = np.arange(30_000)
    sizes, tokens = schedule.batch_size(steps).numpy(), schedule.tokens(steps).numpy()
    assert sizes[0] == 32_000 and sizes[-1] == 3_200_000
    assert (np.diff(sizes) >= -1).all()
    np.testing.assert_array_equal(np.cumsum(sizes)[:-1], tokens[1:])
    twin = reference.gpt3_batch_size()
    for step in range(0, 30_000, 997):
        assert abs(sizes[step] - twin(int(tokens[step]))) <= 1
    assert schedule.batch_size(3.7) == sizes[3] and schedule.batch_size(tf.constant(5)) == sizes[5]
    assert schedule.batch_size(-5) == 32_000


def test_gpt3s_own_numbers():
    schedule = schedules.GPT3()
    # Found by bisection: the steps at which the rise and the cosine end.
    peak = int(np.searchsorted(schedule.tokens(np.arange(20_000)), 375_000_000))
    assert_allclose(schedule([peak - 1, peak, peak + 1]), 6e-5, rtol=1e-3)
    assert schedule(0) == 0.0 and schedule(peak) == schedule(np.arange(20_000)).numpy().max()
    end = 90_000 + int(np.searchsorted(schedule.tokens(np.arange(90_000, 110_000)), 260 * 10**9))
    assert_allclose(schedule([end, end + 1, 10**6]), 6e-6, rtol=1e-7)
    assert float(schedule(end - 1000)) > 6.0001e-6


def test_the_last_rate_is_a_tenth_of_the_peak_by_default():
    assert float(schedules.GPT3(3e-4)(10**6)) == np.float32(3e-5)
    config = {**schedules.GPT3(3e-4).get_config(), "peak_learning_rate": 1.0}
    assert float(schedules.GPT3.from_config(config)(10**6)) == np.float32(0.1)
    assert float(schedules.GPT3(3e-4, minimum_learning_rate=0.0)(10**6)) == 0.0


def test_batches_of_one_size_are_counted_in_steps():
    schedule = schedules.GPT3(
        0.8,
        40,
        440,
        minimum_learning_rate=0.2,
        ramp_tokens=1,
        first_batch_tokens=4,
        last_batch_tokens=4,
    )
    twin = schedules.WarmupCosine(0.8, 110, 10, minimum_learning_rate=0.2)
    assert_allclose(schedule(range(200)), twin(range(200)), rtol=1e-6)
    assert (schedule.batch_size(range(50)).numpy() == 4).all()


@pytest.mark.parametrize("jit", [False, True])
def test_tokens_and_batch_sizes_in_graphs(jit):
    schedule = schedules.GPT3()
    steps = np.array([0, 1, 1000, 17_443, 17_444, 17_445, 10**6])
    for method in (schedule.tokens, schedule.batch_size):
        compiled = tf.function(method, jit_compile=jit, autograph=False)
        assert method(steps).dtype == tf.int64
        # XLA's exponential may round the other way.
        assert abs(compiled(tf.constant(steps)) - method(steps)).numpy().max() <= 1
