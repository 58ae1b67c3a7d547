"""The rules of `TrainingHealth`, with their thresholds."""

from keras_bp.callbacks.health.dead_units import DeadUnits
from keras_bp.callbacks.health.exploding import Exploding
from keras_bp.callbacks.health.finding import Finding
from keras_bp.callbacks.health.loss_not_falling import LossNotFalling
from keras_bp.callbacks.health.not_finite import NotFinite
from keras_bp.callbacks.health.overfitting import Overfitting
from keras_bp.callbacks.health.poor_initialization import PoorInitialization
from keras_bp.callbacks.health.saturation import Saturation
from keras_bp.callbacks.health.unchanged_weights import UnchangedWeights
from keras_bp.callbacks.health.update_ratio import UpdateRatio
from keras_bp.callbacks.health.vanishing import Vanishing

__all__ = [
    "DeadUnits",
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
