"""Keras layers on the package's ops: drop-in for their namesakes, weights and files included."""

from keras_bp.layers.dense import Dense
from keras_bp.layers.dropout import Dropout
from keras_bp.layers.embedding import Embedding
from keras_bp.layers.normalization import BatchNormalization, GroupNormalization, LayerNormalization

# isort: split
# Features that have their own room are found here too.
from keras_bp.deferred.embedding import DeferredEmbedding
from keras_bp.feedback import Detach, DirectFeedback, FeedbackConv2D, FeedbackDense

__all__ = [
    "BatchNormalization",
    "DeferredEmbedding",
    "Dense",
    "Detach",
    "DirectFeedback",
    "Dropout",
    "Embedding",
    "FeedbackConv2D",
    "FeedbackDense",
    "GroupNormalization",
    "LayerNormalization",
]
