"""Schedules: the formula at each boundary, one step to either side, and past the end."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from keras_bp import reference

PI = np.pi
# A few roundings; far out, t/s - 2 cycle cancels another digit or two of the cyclical schedule.
RTOL = 1e-13


def near(*boundaries):
    """List each boundary with the step before it and the step after it."""
    return [step for b in boundaries for step in (b - 1, b, b + 1) if step >= 0]


def check(schedule, formula, steps):
    for step in steps:
        # atol: where a cosine reaches 0, rounding leaves some 1e-17 of the peak.
        assert_allclose(schedule(step), formula(step), rtol=RTOL, atol=1e-16, err_msg=f"{step=}")


def test_step_decay():
    schedule = reference.step_decay(0.8, 0.5, 10)
    check(schedule, lambda t: 0.8 * 0.5 ** (t // 10), near(0, 10, 20, 1000))
    assert [schedule(t) for t in (9, 10, 11, 19, 20)] == [0.8, 0.4, 0.4, 0.4, 0.2]


def test_exponential_decay():
    schedule = reference.exponential_decay(0.8, 0.05)
    check(schedule, lambda t: 0.8 * np.exp(-0.05 * t), near(0, 20, 1000))
    assert schedule(0) == 0.8


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.8])
def test_cosine(floor):
    schedule = reference.cosine(0.8, 100, floor=floor)
    check(
        schedule,
        lambda t: floor + (0.8 - floor) * (1 + np.cos(PI * t / 100)) / 2,
        near(0, 50, 99),
    )
    assert schedule(0) == 0.8
    assert_allclose([schedule(t) for t in (100, 101, 199, 200, 10**9)], floor, atol=1e-16)


def test_warmup_then_any_schedule():
    after = reference.exponential_decay(0.8, 0.05)
    schedule = reference.warmup(after, 10)
    check(schedule, lambda t: 0.8 * t / 10, range(11))
    check(schedule, lambda t: 0.8 * np.exp(-0.05 * (t - 10)), [10, 11, 1000])
    assert schedule(0) == 0.0 and schedule(10) == 0.8


def test_warmup_of_a_constant_and_of_no_steps():
    schedule = reference.warmup(0.5, 4)
    assert [schedule(t) for t in (0, 1, 3, 4, 5, 999)] == [0.0, 0.125, 0.375, 0.5, 0.5, 0.5]
    assert reference.warmup(0.5, 0)(0) == 0.5


def test_warmup_cosine():
    schedule = reference.warmup_cosine(0.8, 10, 110, floor=0.2)

    def formula(t):
        if t < 10:
            return 0.8 * t / 10
        return 0.2 + 0.3 * (1 + np.cos(PI * min(t - 10, 100) / 100))

    check(schedule, formula, near(0, 10, 60, 110, 5000))
    assert schedule(0) == 0.0 and schedule(10) == 0.8
    assert_allclose(schedule(110), 0.2, rtol=RTOL)


@pytest.mark.parametrize("factor, starts", [(1, [0, 10, 20, 30]), (2, [0, 10, 30, 70])])
def test_cosine_restarts(factor, starts):
    schedule = reference.cosine_restarts(0.8, 10, period_factor=factor, floor=0.2)

    def formula(t):
        start = max(s for s in starts if s <= t)
        period = 10 * factor ** starts.index(start)
        return 0.2 + 0.3 * (1 + np.cos(PI * (t - start) / period))

    check(schedule, formula, near(*starts))
    assert [schedule(start) for start in starts] == [0.8] * 4
    assert all(schedule(start - 1) < 0.25 for start in starts[1:])


def test_cosine_restarts_never_end():
    # Period i lasts 10 * 2^i steps, so restart i comes after 10 (2^i - 1); with a factor of 1,
    # after each 10.
    growing = reference.cosine_restarts(0.8, 10, period_factor=2)
    assert growing(10 * (2**40 - 1)) == 0.8
    assert reference.cosine_restarts(0.8, 10)(10**15) == 0.8
    # A fractional factor: the second period begins at 10 and lasts 15, so 17.5 is its middle.
    assert_allclose(reference.cosine_restarts(0.8, 10, period_factor=1.5)(17.5), 0.4, rtol=RTOL)


def test_cyclical():
    schedule = reference.cyclical(0.1, 0.9, 10)

    def formula(t):  # the distance from the last valley, folded at the peak
        position = t % 20
        return 0.1 + 0.08 * (position if position <= 10 else 20 - position)

    check(schedule, formula, near(0, 10, 20, 30, 1000))
    assert_allclose([schedule(t) for t in (0, 10, 20, 1010)], [0.1, 0.9, 0.1, 0.9], rtol=RTOL)


def test_gpt3_learning_rate():
    rate = reference.gpt3_learning_rate(6e-5)
    warmup, end = 375_000_000, 260_000_000_000

    def formula(tokens):
        if tokens < warmup:
            return 6e-5 * tokens / warmup
        share = min((tokens - warmup) / (end - warmup), 1.0)
        return 6e-5 * (0.1 + 0.45 * (1 + np.cos(PI * share)))

    check(rate, formula, near(0, warmup, warmup + (end - warmup) // 2, end, 300_000_000_000))
    assert rate(0) == 0.0
    assert_allclose(rate(warmup), 6e-5, rtol=RTOL)
    assert_allclose([rate(end), rate(300_000_000_000)], 6e-6, rtol=RTOL)


def test_gpt3_batch_size():
    for ramp in (4_000_000_000, 12_000_000_000):
        batch_size = reference.gpt3_batch_size(ramp)

        def formula(tokens, ramp=ramp):
            return round(32_000 + 3_168_000 * min(tokens, ramp) / ramp)

        for tokens in near(0, ramp // 2, ramp, 300_000_000_000):
            assert batch_size(tokens) == formula(tokens)
        assert (batch_size(0), batch_size(ramp), batch_size(2 * ramp)) == (
            32_000,
            3_200_000,
            3_200_000,
        )
        assert isinstance(batch_size(ramp // 3), int)
    # A growth of one token per token shows each single step.
    small = reference.gpt3_batch_size(10, first=5, last=15)
    assert [small(tokens) for tokens in (0, 1, 9, 10, 11)] == [5, 6, 14, 15, 15]


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (
            reference.step_decay(0.8, 0.5, 10),
            keras.optimizers.schedules.ExponentialDecay(0.8, 10, 0.5, staircase=True),
        ),
        (
            reference.exponential_decay(0.8, 0.05),
            keras.optimizers.schedules.ExponentialDecay(0.8, 1, np.exp(-0.05)),
        ),
        (
            reference.cosine(0.8, 40, floor=0.08),
            keras.optimizers.schedules.CosineDecay(0.8, 40, alpha=0.1),
        ),
        (
            reference.warmup_cosine(0.8, 10, 50, floor=0.08),
            keras.optimizers.schedules.CosineDecay(
                0.0, 40, alpha=0.1, warmup_target=0.8, warmup_steps=10
            ),
        ),
        (
            reference.cosine_restarts(0.8, 10, period_factor=2, floor=0.08),
            keras.optimizers.schedules.CosineDecayRestarts(0.8, 10, t_mul=2.0, alpha=0.1),
        ),
    ],
    ids=["step", "exponential", "cosine", "warmup_cosine", "restarts"],
)
def test_keras_has_the_same_schedules(ours, theirs):
    for step in (0, 1, 5, 9, 11, 19, 25, 29, 31, 49, 50, 51, 69):
        # Keras computes in float32. Its restarts take a float32 logarithm, which may fall on
        # either side of a restart, so these very steps are left out.
        assert_allclose(ours(step), float(theirs(step)), rtol=1e-5, atol=1e-7)


SCHEDULES = {
    "step_decay": dict(initial=0.1, factor=0.5, period=10),
    "exponential_decay": dict(initial=0.1, decay=0.1),
    "cosine": dict(initial=0.1, total_steps=10, floor=0.0),
    "warmup": dict(schedule=0.1, steps=10),
    "warmup_cosine": dict(peak=0.1, warmup_steps=5, total_steps=10, floor=0.0),
    "cosine_restarts": dict(initial=0.1, first_period=10, period_factor=1.0, floor=0.0),
    "cyclical": dict(low=0.1, high=0.2, half_cycle=10),
    "gpt3_learning_rate": dict(peak=0.1, warmup_tokens=5, decay_tokens=10, floor_share=0.1),
    "gpt3_batch_size": dict(ramp_tokens=10, first=5, last=15),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_setting_and_step_is_checked(name):
    make, settings = getattr(reference, name), SCHEDULES[name]
    for setting in settings:
        for wrong in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="Received"):
                make(**(settings | {setting: wrong}))
        with pytest.raises(TypeError, match="Received"):
            make(**(settings | {setting: "1"}))
    schedule = make(**settings)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"`(step|tokens)`.*Received: .*={wrong}"):
            schedule(wrong)
    with pytest.raises(TypeError, match="Received"):
        schedule("1")


@pytest.mark.parametrize(
    "name, setting, wrong, message",
    [
        ("step_decay", "factor", 1.1, r"\(0, 1\]"),
        ("step_decay", "factor", 0.0, r"\(0, 1\]"),
        ("step_decay", "period", 0, r"\(0, inf\)"),
        ("cosine", "total_steps", 0, r"\(0, inf\)"),
        ("cosine", "floor", 0.11, r"\[0, 0.1\]"),
        ("warmup_cosine", "warmup_steps", 10, r"\[0, 10\)"),
        ("warmup_cosine", "floor", 0.11, r"\[0, 0.1\]"),
        ("cosine_restarts", "first_period", 0, r"\(0, inf\)"),
        ("cosine_restarts", "period_factor", 0.99, r"\[1, inf\)"),
        ("cosine_restarts", "floor", 0.11, r"\[0, 0.1\]"),
        ("cyclical", "high", 0.09, r"\[0.1, inf\)"),
        ("cyclical", "half_cycle", 0, r"\(0, inf\)"),
        ("gpt3_learning_rate", "floor_share", 1.1, r"\[0, 1\]"),
        ("gpt3_batch_size", "ramp_tokens", 0, r"\(0, inf\)"),
        ("gpt3_batch_size", "first", 0.5, r"\[1, inf\)"),
        ("gpt3_batch_size", "last", 4, r"\[5, inf\)"),
    ],
)
def test_bounds(name, setting, wrong, message):
    with pytest.raises(ValueError, match=f"`{setting}`.*{message}.*Received: {setting}={wrong}"):
        getattr(reference, name)(**(SCHEDULES[name] | {setting: wrong}))


def test_an_optimizer_takes_a_schedule():
    optimizer = reference.SGD(reference.warmup(0.5, 2))
    theta, rates = np.array([0.0]), []
    for _ in range(4):
        rates.append(optimizer.rate)
        [theta] = optimizer.step([theta], [[-1.0]])
    assert rates == [0.0, 0.25, 0.5, 0.5]
    assert theta == sum(rates)
