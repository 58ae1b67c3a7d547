"""Choosing an optimizer, and tuning its rate: the range test, and schedules found while training.

`suggest_optimizer` returns an optimizer for a model, and says why.
`find_learning_rate` trains a model for some steps at rising rates and records the loss. `discovery`
predicts a whole schedule from the first steps of a training; in `fit`,
`keras_bp.callbacks.DiscoveredSchedule` does that.
"""

from keras_bp.tuning import discovery as discovery
from keras_bp.tuning.curve import LearningRateCurve
from keras_bp.tuning.range_test import find_learning_rate
from keras_bp.tuning.suggestion import Suggestion, suggest_optimizer

__all__ = ["LearningRateCurve", "Suggestion", "find_learning_rate", "suggest_optimizer"]
