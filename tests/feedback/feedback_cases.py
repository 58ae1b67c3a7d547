"""Small networks of feedback layers, and their equations in NumPy."""

import keras
import numpy as np

from keras_bp.feedback import direct_feedback_model
from keras_bp.layers import Dense, FeedbackConv2D, FeedbackDense

INPUTS, CLASSES = 5, 3
WIDTHS = (6, 4, 7)
ACTIVATIONS = ("tanh", "relu", "sigmoid")
_generator = np.random.default_rng(2)
X = _generator.normal(size=(12, INPUTS))
LABELS = _generator.integers(0, CLASSES, 12)
IMAGES = _generator.normal(size=(12, 5, 4, 2))

SLOPES = {  # in terms of the activation's value
    "tanh": lambda a: 1 - a**2,
    "relu": lambda a: (a > 0).astype(a.dtype),
    "sigmoid": lambda a: a * (1 - a),
}
VALUES = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


def chain(layer=FeedbackDense, dtype="float64", seed=1, output=None, **options):
    """Return a Sequential of three hidden layers of different widths and activations."""
    keras.utils.set_random_seed(seed)
    hidden = zip(WIDTHS, ACTIVATIONS, ("one", "two", "three"), strict=True)
    layers = [
        layer(n, activation, bias_initializer="normal", dtype=dtype, name=name, **options)
        for n, activation, name in hidden
    ]
    head = layer(CLASSES, output, dtype=dtype, name="head", **options)
    inputs = keras.Input((INPUTS,), dtype=keras.DTypePolicy(dtype).variable_dtype)
    return keras.Sequential([inputs, *layers, head])


def convolutional(layer=FeedbackConv2D, dense=FeedbackDense, dtype="float64"):
    """Return a Sequential of two convolutions, pooling and two dense layers."""
    keras.utils.set_random_seed(1)
    layers = [
        layer(3, 2, activation="tanh", dtype=dtype, name="one"),
        layer(4, 2, padding="same", activation="tanh", dtype=dtype, name="two"),
        keras.layers.AveragePooling2D(2, dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        dense(6, "tanh", dtype=dtype, name="three"),
        dense(CLASSES, dtype=dtype, name="head"),
    ]
    return keras.Sequential([keras.Input(IMAGES.shape[1:], dtype=dtype), *layers])


def direct(dtype="float64", seed=1, output=None, **options):
    """Return `chain` of ordinary layers, trained by direct feedback."""
    return direct_feedback_model(chain(Dense, dtype, seed, output), **options)


def error(logits, labels=LABELS):
    """The gradient of the batch's mean cross-entropy in the logits."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return (p - np.eye(CLASSES)[labels]) / len(labels)


def forward(weights, x=X):
    """The outputs of each layer, the input first; `weights` as (kernel, bias) of each layer."""
    outputs = [x]
    for (kernel, bias), activation in zip(weights, (*ACTIVATIONS, None), strict=True):
        z = outputs[-1] @ kernel + bias
        outputs.append(z if activation is None else VALUES[activation](z))
    return outputs


def loss(weights, x=X, labels=LABELS):
    logits = forward(weights, x)[-1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen)


def gradients(weights, backward):
    """The gradients, kernel and bias of each layer in turn.

    `backward` is a function of (the number of a hidden layer, delta of the layer after it, e) that
    returns what comes to the layer's output.
    """
    outputs = forward(weights)
    e = delta = error(outputs[-1])
    found = []
    for layer in reversed(range(len(weights))):
        if layer < len(weights) - 1:
            slope = SLOPES[ACTIVATIONS[layer]](outputs[layer + 1])
            delta = backward(layer, delta, e) * slope
        found = [outputs[layer].T @ delta, delta.sum(axis=0), *found]
    return found


def weights_of(model):
    """(kernel, bias) of each layer, in NumPy."""
    layers = [model.get_layer(name) for name in ("one", "two", "three", "head")]
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in layers]
