"""Learning-rate schedules, for `learning_rate` in any Keras optimizer.

A schedule is called with the step, the number of updates made before this one (0 at the first),
as an integer or a float, a tensor or a variable, or an array of steps for a plot. It computes in
float64 and returns the rate in `keras.config.floatx()`. After its end it stays at its last rate.

Steps are what `optimizer.iterations` counts: updates, or the micro-steps where an optimizer
accumulates gradients over several of them.
"""

from keras_bp.schedules.compose import Sequential, Warmup, WarmupCosine
from keras_bp.schedules.cycles import CosineRestarts, Cyclical, OneCycle
from keras_bp.schedules.decays import CosineAnnealing, ExponentialDecay, LinearDecay, StepDecay
from keras_bp.schedules.gpt3 import GPT3

__all__ = [
    "CosineAnnealing",
    "CosineRestarts",
    "Cyclical",
    "ExponentialDecay",
    "GPT3",
    "LinearDecay",
    "OneCycle",
    "Sequential",
    "StepDecay",
    "Warmup",
    "WarmupCosine",
]
