"""Learning-rate schedules.

Each function here takes a schedule's settings and returns the schedule: a function of the step t =
0, 1, 2, ... (the number of updates made before this one) that returns a float. A step may be any
finite number >= 0; a step or a setting out of bounds raises a TypeError or a ValueError. GPT-3's
rate and batch size are functions of the tokens seen so far instead.
"""

import math
from collections.abc import Callable

from keras_bp._arguments import check_number


def step_decay(initial: float, factor: float, period: float) -> Callable[[float], float]:
    """Multiply the rate by `factor` after every `period` steps: a0 f^floor(t/k).

    Args:
        initial: float >= 0, a0.
        factor: float in (0, 1], f.
        period: float > 0, k in steps.

    Example:
        >>> from keras_bp.reference import step_decay
        >>> schedule = step_decay(1.0, 0.5, 10)
        >>> [schedule(t) for t in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.25]
    """
    initial = check_number("initial", initial, 0.0)
    factor = check_number("factor", factor, 0.0, 1.0, low_open=True)
    period = check_number("period", period, 0.0, low_open=True)
    return lambda step: initial * factor ** math.floor(check_number("step", step, 0.0) / period)


def exponential_decay(initial: float, decay: float) -> Callable[[float], float]:
    """Let the rate fall by the same share in every step: a0 exp(-k t).

    Args:
        initial: float >= 0, a0.
        decay: float >= 0, k per step.

    Example:
        >>> from keras_bp.reference import exponential_decay
        >>> schedule = exponential_decay(1.0, 0.1)
        >>> [round(schedule(t), 4) for t in (0, 1, 10)]
        [1.0, 0.9048, 0.3679]
    """
    initial = check_number("initial", initial, 0.0)
    decay = check_number("decay", decay, 0.0)
    return lambda step: initial * math.exp(-decay * check_number("step", step, 0.0))


def cosine(initial: float, total_steps: float, floor: float = 0.0) -> Callable[[float], float]:
    """Follow half a cosine: floor + (a0 - floor)/2 (1 + cos(pi t/T)); `floor` from T on.

    Args:
        initial: float >= 0, a0.
        total_steps: float > 0, T.
        floor: float in [0, initial], the last rate. Defaults to 0.

    Example:
        >>> from keras_bp.reference import cosine
        >>> schedule = cosine(1.0, 100, floor=0.1)
        >>> [round(schedule(t), 4) for t in (0, 50, 100, 1000)]
        [1.0, 0.55, 0.1, 0.1]
    """
    initial = check_number("initial", initial, 0.0)
    total_steps = check_number("total_steps", total_steps, 0.0, low_open=True)
    floor = check_number("floor", floor, 0.0, initial)
    return lambda step: _half_cosine(check_number("step", step, 0.0) / total_steps, initial, floor)


def warmup(schedule: float | Callable[[float], float], steps: float) -> Callable[[float], float]:
    """Begin any schedule with a linear rise: its first rate times t/w for t < w, then it.

    The schedule starts at its own step 0 when the rise ends, so that the rate has no jump.

    Args:
        schedule: a schedule, or a float for a constant rate.
        steps: float >= 0, w; 0 leaves the schedule as it is.

    Example:
        >>> from keras_bp.reference import step_decay, warmup
        >>> schedule = warmup(step_decay(1.0, 0.5, 10), steps=4)
        >>> [schedule(t) for t in (0, 1, 4, 13, 14)]
        [0.0, 0.25, 1.0, 1.0, 0.5]
    """
    steps = check_number("steps", steps, 0.0)
    if not callable(schedule):
        constant = check_number("schedule", schedule, 0.0)

        def schedule(step):
            return constant

    def warmed(step):
        step = check_number("step", step, 0.0)
        return schedule(0) * step / steps if step < steps else schedule(step - steps)

    return warmed


def warmup_cosine(
    peak: float, warmup_steps: float, total_steps: float, floor: float = 0.0
) -> Callable[[float], float]:
    """Rise to `peak` over w steps, then fall along half a cosine to `floor` at step T.

    Args:
        peak: float >= 0, the rate at step w.
        warmup_steps: float in [0, total_steps), w.
        total_steps: float > 0, T; the rise is counted in.
        floor: float in [0, peak], the rate from T on. Defaults to 0.

    Example:
        >>> from keras_bp.reference import warmup_cosine
        >>> schedule = warmup_cosine(1.0, 10, 110)
        >>> [round(schedule(t), 4) for t in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    total_steps = check_number("total_steps", total_steps, 0.0, low_open=True)
    warmup_steps = check_number("warmup_steps", warmup_steps, 0.0, total_steps, high_open=True)
    return warmup(cosine(peak, total_steps - warmup_steps, floor), warmup_steps)


def cosine_restarts(
    initial: float, first_period: float, period_factor: float = 1.0, floor: float = 0.0
) -> Callable[[float], float]:
    """Fall along half a cosine again and again (SGDR), each period a factor longer.

    floor + (a0 - floor)/2 (1 + cos(pi T_cur/T_i)), where T_cur counts the steps since the last
    restart and T_i = first_period * period_factor^i. The step at which a period ends is the
    next one's first: the rate there is a0.

    Args:
        initial: float >= 0, a0, the rate after each restart.
        first_period: float > 0, T_0 in steps.
        period_factor: float >= 1, T_mult. Defaults to 1.
        floor: float in [0, initial]. Defaults to 0.

    Example:
        >>> from keras_bp.reference import cosine_restarts
        >>> schedule = cosine_restarts(1.0, 10, period_factor=2)
        >>> [round(schedule(t), 4) for t in (0, 5, 10, 20, 30)]
        [1.0, 0.5, 1.0, 0.5, 1.0]

    References:
        Loshchilov and Hutter, 2017, "SGDR: stochastic gradient descent with warm restarts",
        equation 5.
    """
    initial = check_number("initial", initial, 0.0)
    first_period = check_number("first_period", first_period, 0.0, low_open=True)
    period_factor = check_number("period_factor", period_factor, 1.0)
    floor = check_number("floor", floor, 0.0, initial)

    def restarted(step):
        step, period = check_number("step", step, 0.0), first_period
        if period_factor == 1.0:
            step %= period
        while step >= period:
            step -= period
            period *= period_factor
        return _half_cosine(step / period, initial, floor)

    return restarted


def cyclical(low: float, high: float, half_cycle: float) -> Callable[[float], float]:
    """Go up and down in straight lines between two rates (Smith's triangular policy).

    cycle = floor(1 + t/2s);  x = |t/s - 2 cycle + 1|;  low + (high - low) max(0, 1 - x)

    Args:
        low: float >= 0, the rate at steps 0, 2s, 4s, ...
        high: float >= low, the rate at steps s, 3s, 5s, ...
        half_cycle: float > 0, s in steps.

    Example:
        >>> from keras_bp.reference import cyclical
        >>> schedule = cyclical(0.1, 1.1, 10)
        >>> [round(schedule(t), 4) for t in (0, 5, 10, 15, 20)]
        [0.1, 0.6, 1.1, 0.6, 0.1]

    References:
        Smith, 2017, "Cyclical learning rates for training neural networks", section 3.1.
    """
    low = check_number("low", low, 0.0)
    high = check_number("high", high, low)
    half_cycle = check_number("half_cycle", half_cycle, 0.0, low_open=True)

    def triangular(step):
        position = check_number("step", step, 0.0) / half_cycle
        cycle = math.floor(1.0 + position / 2.0)
        x = abs(position - 2 * cycle + 1)
        return low + (high - low) * max(0.0, 1.0 - x)

    return triangular


def gpt3_learning_rate(
    peak: float, warmup_tokens: float = 375e6, decay_tokens: float = 260e9, floor_share: float = 0.1
) -> Callable[[float], float]:
    """GPT-3's rate as a function of the tokens seen: linear rise, then a cosine to 10 %.

    The cosine ends when `decay_tokens` have been seen in all, the rise included; the rest of
    the training, up to 300 billion tokens there, continues at the floor.

    Args:
        peak: float >= 0, the highest rate (6e-5 for the model of 175 billion parameters).
        warmup_tokens: float in [0, decay_tokens). Defaults to 375 million.
        decay_tokens: float > 0. Defaults to 260 billion.
        floor_share: float in [0, 1], the last rate's share of the peak. Defaults to 0.1.

    Example:
        >>> from keras_bp.reference import gpt3_learning_rate
        >>> rate = gpt3_learning_rate(6e-5)
        >>> [f"{rate(tokens):.1e}" for tokens in (0, 375e6, 260e9, 300e9)]
        ['0.0e+00', '6.0e-05', '6.0e-06', '6.0e-06']

    References:
        Brown et al., 2020, "Language models are few-shot learners", appendix B.
    """
    peak = check_number("peak", peak, 0.0)
    floor_share = check_number("floor_share", floor_share, 0.0, 1.0)
    return warmup_cosine(peak, warmup_tokens, decay_tokens, floor_share * peak)


def gpt3_batch_size(
    ramp_tokens: float = 12e9, first: float = 32_000, last: float = 3_200_000
) -> Callable[[float], int]:
    """GPT-3's batch size, in tokens, as a function of the tokens seen: a linear growth.

    Args:
        ramp_tokens: float > 0, when the growth ends: 4 to 12 billion, by the model's size.
            Defaults to 12 billion.
        first: float >= 1, the first batch's tokens. Defaults to 32,000.
        last: float >= first, the tokens of a batch after the growth. Defaults to 3.2 million.

    Example:
        >>> from keras_bp.reference import gpt3_batch_size
        >>> batch_size = gpt3_batch_size()
        >>> [batch_size(tokens) for tokens in (0, 6e9, 12e9, 300e9)]
        [32000, 1616000, 3200000, 3200000]

    References:
        Brown et al., 2020, "Language models are few-shot learners", appendix B.
    """
    ramp_tokens = check_number("ramp_tokens", ramp_tokens, 0.0, low_open=True)
    first = check_number("first", first, 1.0)
    last = check_number("last", last, first)

    def batch_size(tokens):
        share = min(check_number("tokens", tokens, 0.0) / ramp_tokens, 1.0)
        return round(first + (last - first) * share)

    return batch_size


def _half_cosine(share, top, floor):
    return floor + (top - floor) / 2.0 * (1.0 + math.cos(math.pi * min(share, 1.0)))
