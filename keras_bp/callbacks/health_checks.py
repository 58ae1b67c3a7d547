"""The checks of `TrainingHealth`, with their thresholds."""

from keras_bp.callbacks.health._check import Finding
from keras_bp.callbacks.health.curvature import BatchSize, EdgeOfStability
from keras_bp.callbacks.health.gradients import Exploding, NotFinite, Vanishing
from keras_bp.callbacks.health.losses import LossNotFalling, Overfitting
from keras_bp.callbacks.health.outputs import DeadUnits, PoorInitialization, Saturation
from keras_bp.callbacks.health.updates import UnchangedWeights, UpdateRatio

__all__ = [
    "BatchSize",
    "DeadUnits",
    "EdgeOfStability",
    "Exploding",
    "Finding",
    "LossNotFalling",
    "NotFinite",
    "Overfitting",
    "PoorInitialization",
    "Saturation",
    "UnchangedWeights",
    "UpdateRatio",
    "Vanishing",
]
