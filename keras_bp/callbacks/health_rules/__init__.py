"""The rules of `TrainingHealth`, with their thresholds."""

from keras_bp.callbacks.health_rules.dead_units import DeadUnits
from keras_bp.callbacks.health_rules.exploding import Exploding
from keras_bp.callbacks.health_rules.finding import Finding
from keras_bp.callbacks.health_rules.loss_not_falling import LossNotFalling
from keras_bp.callbacks.health_rules.not_finite import NotFinite
from keras_bp.callbacks.health_rules.overfitting import Overfitting
from keras_bp.callbacks.health_rules.poor_initialization import PoorInitialization
from keras_bp.callbacks.health_rules.saturation import Saturation
from keras_bp.callbacks.health_rules.unchanged_weights import UnchangedWeights
from keras_bp.callbacks.health_rules.update_ratio import UpdateRatio
from keras_bp.callbacks.health_rules.vanishing import Vanishing

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
