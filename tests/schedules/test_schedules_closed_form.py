"""Each schedule against the NumPy reference, a formula of its own, and Keras's namesake."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from schedule_cases import near

import keras_bp.schedules as schedules
from keras_bp import reference

PI = np.pi
# Half a unit in float32's last place: the rates are computed in float64 and rounded once.
RTOL = 2.0**-24 * 1.001


def check(schedule, formula, steps):
    expected = [formula(step) for step in steps]
    # Past a cosine's end the reference leaves some 1e-17 of the peak; here it is 0.
    assert_allclose([schedule(step) for step in steps], expected, rtol=RTOL, atol=1e-16)
    assert_allclose(schedule(steps), expected, rtol=RTOL, atol=1e-16)


def test_step_decay():
    schedule = schedules.StepDecay(0.8, 10, 0.3)
    steps = near(0, 10, 20, 1000)
    check(schedule, reference.step_decay(0.8, 0.3, 10), steps)
    check(schedule, lambda t: 0.8 * 0.3 ** (t // 10), steps)
    assert_allclose(schedules.StepDecay(0.8, 10)([9, 10, 20]), [0.8, 0.4, 0.2], rtol=RTOL)


def test_exponential_decay():
    steps = near(0, 20, 1000)
    check(schedules.ExponentialDecay(0.8, 20), reference.exponential_decay(0.8, 1 / 20), steps)
    check(schedules.ExponentialDecay(0.8, 20, 0.3), lambda t: 0.8 * 0.3 ** (t / 20), steps)
    # Any k of a0 exp(-k t).
    rate = schedules.ExponentialDecay(0.8, 1, np.exp(-0.0123))
    check(rate, lambda t: 0.8 * np.exp(-0.0123 * t), steps)


@pytest.mark.parametrize("minimum", [0.0, 0.1, 0.8])
def test_cosine_annealing(minimum):
    schedule = schedules.CosineAnnealing(0.8, 100, minimum)
    check(schedule, reference.cosine(0.8, 100, minimum), near(0, 50, 100, 200, 10**9))
    check(
        schedule,
        lambda t: minimum + (0.8 - minimum) * (1 + np.cos(PI * min(t, 100) / 100)) / 2,
        near(0, 50, 100),
    )
    assert (schedule([100, 101, 200, 10**15]).numpy() == np.float32(minimum)).all()


@pytest.mark.parametrize("minimum", [0.0, 0.1, 0.8])
def test_linear_decay(minimum):
    schedule = schedules.LinearDecay(0.8, 100, minimum)
    steps = near(0, 50, 100, 1000)
    check(schedule, lambda t: np.interp(t, [0, 100], [0.8, minimum]), steps)
    assert (schedule([100, 101, 200, 10**15]).numpy() == np.float32(minimum)).all()


@pytest.mark.parametrize("factor, starts", [(1, [0, 10, 20, 30]), (2, [0, 10, 30, 70])])
def test_cosine_restarts(factor, starts):
    schedule = schedules.CosineRestarts(0.8, 10, factor, minimum_learning_rate=0.2)
    check(schedule, reference.cosine_restarts(0.8, 10, factor, 0.2), near(*starts, 5, 20, 50))
    lower = schedules.CosineRestarts(0.8, 10, factor, peak_factor=0.5, minimum_learning_rate=0.2)

    def formula(t):
        i = max(i for i, start in enumerate(starts) if start <= t)
        share = (t - starts[i]) / (10 * factor**i)
        return 0.2 + 0.6 * 0.5**i * (1 + np.cos(PI * share)) / 2

    check(lower, formula, near(*starts[:-1], 5, 20))


def test_cyclical():
    for half in (1, 7, 10):
        schedule = schedules.Cyclical(0.1, 0.9, half)
        steps = near(0, half, 2 * half, 3 * half, 100 * half)
        check(schedule, reference.cyclical(0.1, 0.9, half), steps)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclical_modes(mode):
    schedule = schedules.Cyclical(0.1, 0.9, 10, mode=mode, gamma=0.97)

    def smith(t):  # the paper's own formula
        cycle = np.floor(1 + t / 20)
        x = abs(t / 10 - 2 * cycle + 1)
        height = {"triangular": 1, "triangular2": 2.0 ** (1 - cycle), "exp_range": 0.97**t}[mode]
        return 0.1 + 0.8 * max(0, 1 - x) * height

    check(schedule, smith, near(0, 5, 10, 20, 30, 40, 50, 60, 210))


def test_one_cycle():
    schedule = schedules.OneCycle(0.8, 100, 0.3, start_divisor=10, final_divisor=1000)

    def cosine(start, end, share):
        return start + (1 + np.cos(PI * (1 - share))) * (end - start) / 2

    def formula(t):
        if t < 30:
            return cosine(0.08, 0.8, t / 30)
        return cosine(0.8, 0.0008, min((t - 30) / 70, 1))

    check(schedule, formula, near(0, 15, 30, 65, 100, 1000))
    # The top between two steps; the defaults.
    odd = schedules.OneCycle(1.0, 10)
    expected = [0.04, cosine(0.04, 1, 0.8), cosine(1, 1e-5, 0.5 / 7.5), 1e-5, 1e-5]
    assert_allclose(odd([0, 2, 3, 10, 11]), expected, rtol=RTOL)


def test_warmup():
    decay = schedules.StepDecay(0.8, 10, 0.5)
    twin = reference.warmup(reference.step_decay(0.8, 0.5, 10), 7)
    check(schedules.Warmup(decay, 7), twin, near(0, 7, 17, 27, 1000))
    check(schedules.Warmup(0.3, 4), reference.warmup(0.3, 4), near(0, 4, 1000))
    check(schedules.Warmup(0.3, 1), reference.warmup(0.3, 1), near(0, 1, 1000))
    check(
        schedules.Warmup(decay, 7, initial_learning_rate=0.1),
        lambda t: 0.1 + 0.7 * t / 7 if t < 7 else 0.8 * 0.5 ** ((t - 7) // 10),
        near(0, 7, 17, 27),
    )


@pytest.mark.parametrize("warmup", [1, 10, 109])
def test_warmup_cosine(warmup):
    schedule = schedules.WarmupCosine(0.8, 110, warmup, minimum_learning_rate=0.2)
    twin = reference.warmup_cosine(0.8, warmup, 110, 0.2)
    check(schedule, twin, near(0, warmup, 60, 110, 5000))
    parts = schedules.Warmup(schedules.CosineAnnealing(0.8, 110 - warmup, 0.2), warmup)
    assert_allclose(schedule(range(200)), parts(range(200)), rtol=1e-15)


def test_sequential():
    parts = [schedules.LinearDecay(1.0, 20), 0.25, schedules.StepDecay(0.8, 10)]
    schedule = schedules.Sequential(parts, [12, 30])

    def formula(t):
        if t < 12:
            return 1 - t / 20
        return 0.25 if t < 30 else 0.8 * 0.5 ** ((t - 30) // 10)

    check(schedule, formula, near(0, 12, 30, 40, 60))
    alone = schedules.Sequential([schedules.LinearDecay(1.0, 20)], [])
    check(alone, lambda t: max(0, 1 - t / 20), near(0, 20, 40))


keras_schedules = keras.optimizers.schedules


@pytest.mark.parametrize(
    "ours, theirs, jumps",
    [
        (
            schedules.StepDecay(0.8, 10, 0.5),
            keras_schedules.ExponentialDecay(0.8, 10, 0.5, staircase=True),
            [],
        ),
        (
            schedules.ExponentialDecay(0.8, 10, 0.6),
            keras_schedules.ExponentialDecay(0.8, 10, 0.6),
            [],
        ),
        (
            schedules.CosineAnnealing(0.8, 40, 0.08),
            keras_schedules.CosineDecay(0.8, 40, alpha=0.1),
            [],
        ),
        (
            schedules.LinearDecay(0.8, 40, 0.08),
            keras_schedules.PolynomialDecay(0.8, 40, 0.08),
            [],
        ),
        (
            schedules.WarmupCosine(0.8, 50, 10, 0.08),
            keras_schedules.CosineDecay(0.0, 40, alpha=0.1, warmup_target=0.8, warmup_steps=10),
            [],
        ),
        (
            schedules.CosineRestarts(0.8, 10, 2, 0.5, 0.08),
            keras_schedules.CosineDecayRestarts(0.8, 10, t_mul=2.0, m_mul=0.5, alpha=0.1),
            [10, 30, 70],
        ),
        (
            schedules.CosineRestarts(0.8, 10, 1.5, 0.9, 0.08),
            keras_schedules.CosineDecayRestarts(0.8, 10, t_mul=1.5, m_mul=0.9, alpha=0.1),
            [10, 25, 81],
        ),
    ],
)
def test_keras_has_the_same_shape(ours, theirs, jumps):
    # Keras's restarts take a float32 logarithm, which may fall on either side of a restart.
    steps = [step for step in range(100) if step not in jumps]
    # It computes in float32 throughout; the cosine's end is a difference of numbers near 1.
    expected = [float(theirs(step)) for step in steps]
    assert_allclose(ours(steps), expected, rtol=1e-5, atol=1e-6)
