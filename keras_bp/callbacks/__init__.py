"""Callbacks for `model.fit` that show what the gradients do."""

from keras_bp.callbacks.gradient_monitor import GradientMonitor

__all__ = ["GradientMonitor"]
