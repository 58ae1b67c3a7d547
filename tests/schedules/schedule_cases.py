"""One schedule of each class, and the steps worth looking at."""

import keras

import keras_bp.schedules as schedules

CASES = {
    "StepDecay": dict(initial_learning_rate=0.8, decay_steps=10, factor=0.5),
    "ExponentialDecay": dict(initial_learning_rate=0.8, decay_steps=10, decay_rate=0.6),
    "CosineAnnealing": dict(initial_learning_rate=0.8, total_steps=100, minimum_learning_rate=0.2),
    "CosineRestarts": dict(
        initial_learning_rate=0.8,
        first_period_steps=10,
        period_factor=2.0,
        peak_factor=0.9,
        minimum_learning_rate=0.2,
    ),
    "LinearDecay": dict(initial_learning_rate=0.8, total_steps=100, minimum_learning_rate=0.2),
    "Cyclical": dict(
        minimum_learning_rate=0.1,
        peak_learning_rate=0.9,
        half_cycle_steps=10,
        mode="exp_range",
        gamma=0.99,
    ),
    "OneCycle": dict(
        peak_learning_rate=0.8,
        total_steps=100,
        warmup_share=0.3,
        start_divisor=10.0,
        final_divisor=1000.0,
    ),
    "Warmup": dict(
        schedule=schedules.StepDecay(0.8, decay_steps=10, factor=0.5),
        warmup_steps=5,
        initial_learning_rate=0.1,
    ),
    "Sequential": dict(
        schedules=[
            0.3,
            schedules.Warmup(keras.optimizers.schedules.ExponentialDecay(0.8, 10, 0.5), 4),
            schedules.LinearDecay(0.5, total_steps=20, minimum_learning_rate=0.1),
        ],
        boundaries=[10, 40],
    ),
    "WarmupCosine": dict(
        peak_learning_rate=0.8, total_steps=110, warmup_steps=10, minimum_learning_rate=0.2
    ),
    "GPT3": dict(
        peak_learning_rate=0.8,
        warmup_tokens=50.0,
        decay_tokens=2000.0,
        minimum_learning_rate=0.08,
        ramp_tokens=500.0,
        first_batch_tokens=4,
        last_batch_tokens=40,
    ),
}


def make(name, **changes):
    """Create the case of a class, with some of its arguments changed."""
    return getattr(schedules, name)(**(CASES[name] | changes))


def near(*boundaries):
    """List each boundary with the step before it and the step after it."""
    return [step for b in boundaries for step in (b - 1, b, b + 1) if step >= 0]
