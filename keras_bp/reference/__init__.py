"""The chapter in plain NumPy, float64: the independent twin that the tests compare with."""

from keras_bp.reference.activations import (
    linear,
    linear_derivative,
    relu,
    relu_derivative,
    sigmoid,
    sigmoid_derivative,
    softmax,
    softmax_backward,
    tanh,
    tanh_derivative,
)
from keras_bp.reference.adaptive_moments import LAMB, Adam, AdamW
from keras_bp.reference.batch_normalization import BatchNormalization, BatchNormalizationCache
from keras_bp.reference.cross_entropy import binary_cross_entropy, categorical_cross_entropy
from keras_bp.reference.datasets import spiral
from keras_bp.reference.gpt3 import gpt3_batch_size, gpt3_learning_rate
from keras_bp.reference.gradient_check import (
    gradient_check,
    numerical_gradients,
    relative_difference,
)
from keras_bp.reference.initialization import initialize
from keras_bp.reference.network import Cache, Gradients, Network
from keras_bp.reference.optimizers import NAG, SGD, Momentum, Optimizer, RMSprop
from keras_bp.reference.schedules import (
    cosine,
    cosine_restarts,
    cyclical,
    exponential_decay,
    step_decay,
    warmup,
    warmup_cosine,
)
from keras_bp.reference.training import mini_batches, train

__all__ = [
    "NAG",
    "LAMB",
    "SGD",
    "Adam",
    "AdamW",
    "BatchNormalization",
    "BatchNormalizationCache",
    "Cache",
    "Gradients",
    "Momentum",
    "Network",
    "Optimizer",
    "RMSprop",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "cosine",
    "cosine_restarts",
    "cyclical",
    "exponential_decay",
    "gpt3_batch_size",
    "gpt3_learning_rate",
    "gradient_check",
    "initialize",
    "linear",
    "linear_derivative",
    "mini_batches",
    "numerical_gradients",
    "relative_difference",
    "relu",
    "relu_derivative",
    "sigmoid",
    "sigmoid_derivative",
    "softmax",
    "softmax_backward",
    "spiral",
    "step_decay",
    "tanh",
    "tanh_derivative",
    "train",
    "warmup",
    "warmup_cosine",
]
