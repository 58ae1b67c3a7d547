"""Tuning the learning rate: the range test, and schedules found in the first steps of a training.

`find_learning_rate` trains a model for some steps at rising rates and records the loss. `discovery`
predicts a whole schedule from the first steps of a training; in `fit`,
`keras_bp.callbacks.DiscoveredSchedule` does that.
"""

from keras_bp.tuning import discovery as discovery
from keras_bp.tuning.curve import LearningRateCurve
from keras_bp.tuning.range_test import find_learning_rate

__all__ = ["LearningRateCurve", "find_learning_rate"]
