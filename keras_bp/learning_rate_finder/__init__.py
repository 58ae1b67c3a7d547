"""The learning rate range test: one short sweep that shows which rates a model trains at."""

from keras_bp.learning_rate_finder.curve import LearningRateCurve
from keras_bp.learning_rate_finder.finder import find_learning_rate

__all__ = ["LearningRateCurve", "find_learning_rate"]
