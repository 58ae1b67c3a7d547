"""No restart or boundary a step off, and every digit of float32, up to ten million steps."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from schedule_cases import near

import keras_bp.schedules as schedules

FAR = 10**7
JITS = [False, True]


def rates(schedule, steps, jit=False):
    """Return the rates, eager or by XLA; a graph's are compared in test_schedules_steps.py."""
    steps = tf.constant(steps, tf.int64)
    call = tf.function(schedule.__call__, jit_compile=True, autograph=False) if jit else schedule
    return call(steps).numpy()


def float32(values):
    return np.array(list(values)).astype(np.float32)


def starts_of_periods(first, factor):
    """List (the first step of a period, its true start) up to FAR, in exact arithmetic."""
    start, period, starts = Fraction(0), Fraction(first), []
    while start <= FAR:
        starts.append((math.ceil(start), start, period))
        start, period = start + period, period * Fraction(str(factor))
    return starts


@pytest.mark.parametrize(
    "factor, first, jit",
    [
        *((factor, first, False) for factor in (1.1, 1.5, 2, 3, 10) for first in (1, 7, 999_999)),
        # Powers that are whole numbers, and those that are rounded.
        (1.1, 7, True),
        (3, 1, True),
    ],
)
def test_every_restart_comes_at_its_step(first, factor, jit):
    starts = starts_of_periods(first, factor)
    schedule = schedules.CosineRestarts(0.8, first, factor, minimum_learning_rate=0.1)
    steps, expected = [], []
    for i, (step, _, _) in enumerate(starts):
        for t in near(step):
            # With periods under 2 steps, a neighbour may lie in another period than expected.
            j = max(j for j in range(max(i - 2, 0), min(i + 3, len(starts))) if starts[j][0] <= t)
            share = (t - starts[j][1]) / starts[j][2]
            if t <= FAR:
                steps.append(t)
                expected.append(0.1 + 0.35 * (1 + math.cos(math.pi * share)))
    assert len(steps) > 20 or factor > 3 or first > 1000
    # Elsewhere a step further is some 1e-6 of the rate at most, at a restart it is nearly all.
    np.testing.assert_allclose(rates(schedule, steps, jit), expected, rtol=2e-7)


@pytest.mark.parametrize(
    "first, factor, jit",
    [(1, 2, False), (7, 3, False), (1, 10, False), (999_999, 2, False), (7, 3, True)],
)
def test_the_last_step_before_a_restart_keeps_its_digits(first, factor, jit):
    starts = starts_of_periods(first, factor)[1:]
    lasts = [(step - 1, first * factor**i) for i, (step, _, _) in enumerate(starts)]
    expected = float32(math.sin(math.pi / 2 / period) ** 2 for _, period in lasts)
    schedule = schedules.CosineRestarts(1.0, first, factor)
    ours = rates(schedule, [step for step, _ in lasts], jit)
    np.testing.assert_array_max_ulp(ours, expected, maxulp=1)


@pytest.mark.parametrize(
    "period, jit",
    [*((period, False) for period in (1, 2, 3, 49, 1000, 999_983)), (49, True)],
)
def test_every_equal_period_ends_at_its_step(period, jit):
    starts = np.arange(0, FAR + 1, period)[-50_000:]
    steps = np.concatenate([starts - 1, starts, starts + 1])
    steps = steps[steps >= 0]
    restarts = rates(schedules.CosineRestarts(1.0, period, 1.0), steps, jit)
    left = (period - steps % period) / period
    np.testing.assert_allclose(restarts, np.sin(np.pi / 2 * left) ** 2, rtol=1e-7)
    halvings = rates(schedules.StepDecay(1.0, period, 1.0 - 2.0**-20), steps, jit)
    np.testing.assert_allclose(halvings, (1.0 - 2.0**-20) ** (steps // period), rtol=1e-7)
    cycles = rates(schedules.Cyclical(0.0, 1.0, period), steps, jit)
    np.testing.assert_array_equal(cycles == 0.0, steps % (2 * period) == 0)
    np.testing.assert_array_equal(cycles == 1.0, (steps - period) % (2 * period) == 0)


NEAR_FAR = [*near(FAR // 2), *range(FAR - 5, FAR), FAR, FAR + 1, 2 * FAR]


@pytest.mark.parametrize("jit", JITS)
@pytest.mark.parametrize(
    "schedule, formula",
    [
        (schedules.StepDecay(0.8, FAR, 0.3), lambda t: 0.8 * 0.3 ** (t // FAR)),
        (schedules.ExponentialDecay(0.8, FAR), lambda t: 0.8 * math.exp(-t / FAR)),
        (
            schedules.CosineAnnealing(0.8, FAR),
            lambda t: 0.8 * math.sin(math.pi / 2 * max(FAR - t, 0) / FAR) ** 2,
        ),
        (schedules.LinearDecay(0.8, FAR), lambda t: 0.8 * max(FAR - t, 0) / FAR),
        (
            schedules.Cyclical(0.0, 0.8, FAR),
            lambda t: 0.8 * min(t, 2 * FAR - t) / FAR,
        ),
        (schedules.Warmup(0.8, FAR), lambda t: 0.8 * min(t, FAR) / FAR),
        (
            schedules.Sequential([0.3, schedules.LinearDecay(0.8, 5)], [FAR]),
            lambda t: 0.3 if t < FAR else 0.8 * max(5 - (t - FAR), 0) / 5,
        ),
        (
            schedules.WarmupCosine(0.8, FAR, FAR // 2),
            lambda t: (
                0.8 * t / (FAR // 2)
                if t < FAR // 2
                else 0.8 * math.sin(math.pi / 2 * max(FAR - t, 0) / (FAR // 2)) ** 2
            ),
        ),
        (
            schedules.OneCycle(0.8, FAR, 0.5),
            lambda t: (
                0.8 / 25 + 0.8 * 24 / 25 * math.sin(math.pi / 2 * t / (FAR // 2)) ** 2
                if t < FAR // 2
                else 8e-6 + (0.8 - 8e-6) * math.sin(math.pi / 2 * max(FAR - t, 0) / (FAR // 2)) ** 2
            ),
        ),
    ],
    ids=lambda item: type(item).__name__,
)
def test_all_digits_far_out(schedule, formula, jit):
    expected = float32(formula(t) for t in NEAR_FAR)
    # One unit in the last place: of two float64 results that differ in their last digits, one in
    # ten million is rounded to the other side.
    np.testing.assert_array_max_ulp(rates(schedule, NEAR_FAR, jit), expected, maxulp=1)
    assert np.mean(rates(schedule, NEAR_FAR, jit) == expected) > 0.9


def test_steps_beyond_float32_and_int32():
    far = 10**12
    schedule = schedules.Sequential([0.5, schedules.LinearDecay(0.8, 4)], [far])
    assert (schedule([far - 1, far]).numpy() == np.float32([0.5, 0.8])).all()
    # float32 holds no odd number up there, int32 none at all.
    assert float(schedule(far + 1)) == np.float32(0.6)
    period = 3
    restarts = schedules.CosineRestarts(1.0, period)(np.arange(far, far + 9)).numpy()
    assert ((restarts == 1.0) == (np.arange(far, far + 9) % period == 0)).all()


def test_float64_where_it_is_asked_for():
    step = 2**24 + 1  # float32 would make 2**24 of it
    keras.config.set_floatx("float64")
    try:
        warmup = schedules.Warmup(0.8, 2**25)(step)
        decay = schedules.ExponentialDecay(0.8, FAR)(step)
        cycle = schedules.Cyclical(0.0, 0.8, 2**25)(step)
    finally:
        keras.config.set_floatx("float32")
    np.testing.assert_allclose([warmup, cycle], 0.8 * step / 2**25, rtol=1e-15)
    np.testing.assert_allclose(decay, 0.8 * math.exp(-step / FAR), rtol=1e-15)


def test_no_end_comes_before_the_last_step():
    # The last update before the end still has a rate, however long the schedule.
    for name in ("CosineAnnealing", "LinearDecay"):
        schedule = getattr(schedules, name)(0.8, FAR)
        last = float(schedule(FAR - 1))
        assert last > 0.0 and float(schedule(FAR)) == 0.0
    assert last == np.float32(0.8 / FAR)
