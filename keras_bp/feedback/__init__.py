"""Feedback alignment: training without the transposed weights, and the angle to the gradient."""

from keras_bp.feedback.alignment import Alignment, alignment, alignment_sums
from keras_bp.feedback.layers import Detach, DirectFeedback, FeedbackConv2D, FeedbackDense
from keras_bp.feedback.model import direct_feedback_model
from keras_bp.feedback.ops import (
    broadcast_error,
    detach,
    exact_gradients,
    feedback_conv2d,
    feedback_dense,
)

__all__ = [
    "Alignment",
    "Detach",
    "DirectFeedback",
    "FeedbackConv2D",
    "FeedbackDense",
    "alignment",
    "alignment_sums",
    "broadcast_error",
    "detach",
    "direct_feedback_model",
    "exact_gradients",
    "feedback_conv2d",
    "feedback_dense",
]
