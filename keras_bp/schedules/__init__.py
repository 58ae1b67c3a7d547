"""Learning-rate schedules, for `learning_rate` in any Keras optimizer.

A schedule is called with the step, the number of updates made before this one (0 at the first),
as an integer or a float, a tensor or a variable, or an array of steps for a plot. It computes in
float64 and returns the rate in `keras.config.floatx()`. After its end it stays at its last rate.

Steps are what `optimizer.iterations` counts: updates, or the micro-steps where an optimizer
accumulates gradients over several of them.
"""

from keras_bp.schedules.cosine_annealing import CosineAnnealing
from keras_bp.schedules.cosine_restarts import CosineRestarts
from keras_bp.schedules.cyclical import Cyclical
from keras_bp.schedules.exponential_decay import ExponentialDecay
from keras_bp.schedules.gpt3 import GPT3
from keras_bp.schedules.linear_decay import LinearDecay
from keras_bp.schedules.one_cycle import OneCycle
from keras_bp.schedules.sequential import Sequential
from keras_bp.schedules.step_decay import StepDecay
from keras_bp.schedules.warmup import Warmup
from keras_bp.schedules.warmup_cosine import WarmupCosine

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
