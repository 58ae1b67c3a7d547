"""Every schedule of the package, for trainings of one length."""

import math

from keras_bp import schedules

PEAK = 0.1
# With fewer, a phase of the schedules would have no step.
LEAST_STEPS = 10


def default_schedules(total_steps):
    """Return name -> schedule for a training of `total_steps` update steps, 10 or more.

    All start from, or rise to, the same rate of 0.1; those that have an end have it at the last
    step.
    """
    quarter, warmup = total_steps // 4, max(total_steps // 20, 1)
    # Periods of one, two and four sevenths.
    seventh = math.ceil(total_steps / 7)
    # GPT-3's 300 billion tokens made small: from batches of 10 tokens to batches of 100 within a
    # quarter of the steps, and the proportions of its warm-up, ramp and decay.
    tokens = 84 * total_steps
    return {
        "StepDecay": schedules.StepDecay(PEAK, quarter),
        "ExponentialDecay": schedules.ExponentialDecay(PEAK, quarter),
        "LinearDecay": schedules.LinearDecay(PEAK, total_steps),
        "CosineAnnealing": schedules.CosineAnnealing(PEAK, total_steps),
        "CosineRestarts": schedules.CosineRestarts(PEAK, seventh, 2, 0.7),
        "Cyclical": schedules.Cyclical(PEAK / 20, PEAK, total_steps // 10, mode="triangular2"),
        "OneCycle": schedules.OneCycle(PEAK, total_steps),
        "Warmup": schedules.Warmup(schedules.ExponentialDecay(PEAK, quarter), warmup),
        "WarmupCosine": schedules.WarmupCosine(PEAK, total_steps, warmup),
        "Sequential": schedules.Sequential(
            [schedules.Warmup(PEAK, warmup), schedules.LinearDecay(PEAK, quarter)],
            [total_steps - quarter],
        ),
        "GPT3": schedules.GPT3(
            PEAK,
            warmup_tokens=0.005 * tokens,
            decay_tokens=260 / 300 * tokens,
            ramp_tokens=12 / 300 * tokens * 3,
            first_batch_tokens=10,
            last_batch_tokens=100,
        ),
    }
