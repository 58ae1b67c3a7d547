"""Gradients checked against central differences in float64."""

from keras_bp.gradient_check.check import check_gradients
from keras_bp.gradient_check.report import GradientCheckReport, GradientCheckRow

__all__ = ["GradientCheckReport", "GradientCheckRow", "check_gradients"]
