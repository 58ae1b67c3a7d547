"""The mathematics: functions of tensors whose backward pass is written out.

There are no layers and no variables here. Every function takes and returns tensors, and its
docstring has the equations of its value and of its gradient.
"""

from keras_bp.ops.activations import relu, sigmoid, softmax, tanh
from keras_bp.ops.batch_normalization import batch_normalization
from keras_bp.ops.crossentropy import (
    binary_crossentropy,
    categorical_crossentropy,
    sparse_categorical_crossentropy,
)
from keras_bp.ops.dense import dense
from keras_bp.ops.dropout import dropout
from keras_bp.ops.group_normalization import group_normalization
from keras_bp.ops.layer_normalization import layer_normalization

__all__ = [
    "batch_normalization",
    "binary_crossentropy",
    "categorical_crossentropy",
    "dense",
    "dropout",
    "group_normalization",
    "layer_normalization",
    "relu",
    "sigmoid",
    "softmax",
    "sparse_categorical_crossentropy",
    "tanh",
]
