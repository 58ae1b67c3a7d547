"""Arguments out of range are refused with a message that says so; those at the bounds are not."""

import re

import numpy as np
import pytest
from schedule_cases import CASES, make

import keras_bp.schedules as schedules

NAN, INF = float("nan"), float("inf")
NUMBERS = [
    (name, argument)
    for name, arguments in CASES.items()
    for argument, value in arguments.items()
    if isinstance(value, (int, float))
]
INTEGERS = [(name, argument) for name, argument in NUMBERS if type(CASES[name][argument]) is int]
RATES = {"initial_learning_rate", "peak_learning_rate", "minimum_learning_rate"}
# None stands for a tenth of the peak.
OPTIONAL = [("GPT3", "minimum_learning_rate")]


def refused(error, name, argument, wrong, expected=""):
    received = re.escape(f"Received: {argument}={wrong!r}") + "$"
    with pytest.raises(error, match=f"^`{re.escape(argument)}` .*{expected}.*{received}"):
        make(name, **{argument: wrong})


@pytest.mark.parametrize("name, argument", NUMBERS)
def test_every_number_is_checked(name, argument):
    for wrong in (True, np.True_, "1", None, [1], 1j):
        if wrong is not None or (name, argument) not in OPTIONAL:
            refused(TypeError, name, argument, wrong)
    refused(ValueError, name, argument, -1)
    if (name, argument) in INTEGERS:
        for wrong in (7.0, 7.5, NAN, np.float32(7.0)):
            refused(TypeError, name, argument, wrong, "an integer")
        refused(ValueError, name, argument, 0)
        refused(ValueError, name, argument, np.int64(0))
    else:
        for wrong in (NAN, INF, -INF, -1e-9, np.float32(-1.0)):
            refused(ValueError, name, argument, wrong, "a finite number")
        if argument not in RATES:
            refused(ValueError, name, argument, 0)


@pytest.mark.parametrize(
    "name, argument, inside, outside, expected",
    [
        ("StepDecay", "decay_steps", [1, np.int8(3)], [0], "1 or more"),
        ("StepDecay", "factor", [1, 1e-300], [0.0, 1.0000001], r"\(0, 1\]"),
        ("ExponentialDecay", "decay_rate", [1, 1e-300], [0.0, 1.0000001], r"\(0, 1\]"),
        ("CosineAnnealing", "minimum_learning_rate", [0, 0.8], [0.80001], r"\[0, 0.8\]"),
        ("CosineAnnealing", "initial_learning_rate", [0.2], [-0.2], r"\[0, inf\)"),
        ("LinearDecay", "minimum_learning_rate", [0, 0.8], [0.80001], r"\[0, 0.8\]"),
        ("CosineRestarts", "period_factor", [1, 1e6], [0.9999, 1.1e6], r"\[1, 1e\+06\]"),
        ("CosineRestarts", "peak_factor", [1, 1e-9], [0, 1.0001], r"\(0, 1\]"),
        ("CosineRestarts", "minimum_learning_rate", [0, 0.8], [0.80001], r"\[0, 0.8\]"),
        ("Cyclical", "minimum_learning_rate", [0, 0.9], [0.90001], r"\[0, 0.9\]"),
        ("Cyclical", "gamma", [1, 1e-9], [0.0, 1.0001], r"\(0, 1\]"),
        ("Cyclical", "mode", ["triangular", "triangular2"], ["Triangular", "", None], "one of"),
        ("OneCycle", "warmup_share", [1e-9, 0.9999], [0, 1, 1.1], r"\(0, 1\)"),
        ("OneCycle", "start_divisor", [1], [0.9999], r"\[1, inf\)"),
        ("OneCycle", "final_divisor", [1], [0.9999], r"\[1, inf\)"),
        ("WarmupCosine", "warmup_steps", [1, 109], [110, 111], "1 or more and under 110"),
        ("WarmupCosine", "total_steps", [11], [1], "2 or more"),
        ("WarmupCosine", "minimum_learning_rate", [0, 0.8], [0.80001], r"\[0, 0.8\]"),
        ("GPT3", "warmup_tokens", [1e-3, 1999.9], [0, 2000, 2001], r"\(0, 2000\)"),
        ("GPT3", "minimum_learning_rate", [0, 0.8], [0.80001], r"\[0, 0.8\]"),
        ("GPT3", "last_batch_tokens", [4], [3], "4 or more"),
        ("GPT3", "first_batch_tokens", [1, 40], [0], "1 or more"),
    ],
)
def test_both_sides_of_each_bound(name, argument, inside, outside, expected):
    for value in inside:
        schedule = make(name, **{argument: value})
        assert getattr(schedule, argument) == value
        assert np.isfinite(schedule([0, 1, 5, 10, 10**6, 10**12])).all()
    for wrong in outside:
        refused(ValueError, name, argument, wrong, expected)


def test_rates_of_zero_are_allowed():
    for name in ("StepDecay", "ExponentialDecay"):
        assert float(make(name, initial_learning_rate=0)(5)) == 0.0
    assert float(schedules.Warmup(0, 5)(3)) == 0.0


class Function:
    def __call__(self, step):
        return 0.1


@pytest.mark.parametrize("wrong", [None, "cosine", True, Function, Function(), [0.1]])
def test_what_is_no_schedule(wrong):
    refused(TypeError, "Warmup", "schedule", wrong, "LearningRateSchedule")
    with pytest.raises(TypeError, match=r"^`schedules\[1\]` must be .* Received: schedules\[1\]="):
        schedules.Sequential([0.1, wrong], [3])


@pytest.mark.parametrize("wrong", [-0.1, NAN, INF])
def test_a_constant_rate_is_checked(wrong):
    refused(ValueError, "Warmup", "schedule", wrong)
    with pytest.raises(ValueError, match=rf"^`schedules\[0\]` .* Received: schedules\[0\]={wrong}"):
        schedules.Sequential([wrong], [])


@pytest.mark.parametrize(
    "schedules_, boundaries, error, message",
    [
        ([], [], ValueError, r"`schedules` must have one schedule or more.*schedules=\[\]"),
        (0.1, [], TypeError, r"`schedules` must be a list or a tuple.*schedules=0\.1"),
        ([0.1, 0.2], 5, TypeError, r"`boundaries` must be a list or a tuple.*boundaries=5"),
        ([0.1, 0.2], [], ValueError, r"`boundaries` .* one fewer.* 2\. .*boundaries=\[\]"),
        ([0.1, 0.2], [3, 4], ValueError, r"`boundaries` .* one fewer.* 2\. .*boundaries=\[3, 4\]"),
        ([0.1, 0.2, 0.3], [4, 4], ValueError, r"`boundaries` must increase.*boundaries=\[4, 4\]"),
        ([0.1, 0.2, 0.3], [4, 3], ValueError, r"`boundaries` must increase.*boundaries=\[4, 3\]"),
        ([0.1, 0.2], [0], ValueError, r"`boundaries\[0\]` .* 1 or more.*boundaries\[0\]=0"),
        ([0.1, 0.2], [3.0], TypeError, r"`boundaries\[0\]` .* integer.*boundaries\[0\]=3\.0"),
        ([0.1, 0.2], [True], TypeError, r"`boundaries\[0\]` .* integer.*boundaries\[0\]=True"),
    ],
)
def test_sequences_are_checked(schedules_, boundaries, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        schedules.Sequential(schedules_, boundaries)


def test_boundaries_one_apart_and_tuples_are_fine():
    schedule = schedules.Sequential((0.1, 0.2, 0.3), (1, 2))
    np.testing.assert_allclose(schedule([0, 1, 2, 3]), [0.1, 0.2, 0.3, 0.3])
    assert schedule.get_config() == {"schedules": [0.1, 0.2, 0.3], "boundaries": [1, 2]}
