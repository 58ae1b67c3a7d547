"""Callbacks for `model.fit` that show what the gradients do."""

from keras_bp.callbacks.gradient_monitor import GradientMonitor
from keras_bp.callbacks.optimizer_switch import OptimizerSwitch
from keras_bp.callbacks.training_dashboard import TrainingDashboard

__all__ = ["GradientMonitor", "OptimizerSwitch", "TrainingDashboard"]
