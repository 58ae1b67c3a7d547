"""The mathematics: functions of tensors whose backward pass is written out.

No layer and no variable lives here. Every function takes and returns tensors, and the equation of
its gradient stands in its docstring beside the equation of its value.
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
