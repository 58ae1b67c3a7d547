"""Callbacks for `model.fit`: they show what the gradients do, and keep a training running."""

from keras_bp.callbacks import health_checks
from keras_bp.callbacks.dashboard.training_dashboard import TrainingDashboard
from keras_bp.callbacks.discovered_schedule import DiscoveredSchedule
from keras_bp.callbacks.gradient_conflict import GradientConflict
from keras_bp.callbacks.gradient_monitor import GradientMonitor
from keras_bp.callbacks.health.training_health import TrainingHealth
from keras_bp.callbacks.optimizer_switch import OptimizerSwitch
from keras_bp.callbacks.progress_line import ProgressLine
from keras_bp.callbacks.rescue.rescue import Rescue
from keras_bp.callbacks.resumable.resumable_training import ResumableTraining
from keras_bp.callbacks.swap_ema_weights import SwapEMAWeights

__all__ = [
    "DiscoveredSchedule",
    "GradientConflict",
    "GradientMonitor",
    "OptimizerSwitch",
    "ProgressLine",
    "Rescue",
    "ResumableTraining",
    "SwapEMAWeights",
    "TrainingDashboard",
    "TrainingHealth",
    "health_checks",
]
