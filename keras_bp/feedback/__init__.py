"""Feedback alignment: networks trained without the transposed weights, and how far that is off."""

from keras_bp._exact_gradients import exact_gradients
from keras_bp.feedback.alignment import Alignment, alignment, alignment_sums
from keras_bp.feedback.direct_feedback_model import direct_feedback_model

__all__ = [
    "Alignment",
    "alignment",
    "alignment_sums",
    "direct_feedback_model",
    "exact_gradients",
]
