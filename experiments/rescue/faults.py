"""Trainings that go well, and the faults that are planted in them."""

import functools
import typing

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_bp.optimizers import SGD, Adam, AdamW, RMSprop
from keras_bp.schedules import CosineAnnealing, Warmup

PLACE = 700  # the example that is harmed
L = keras.layers


# The trainings


class Training(typing.NamedTuple):
    """A training that goes well.

    Attributes:
        data: function that returns x and y.
        model: function that returns a model.
        optimizer: function of a factor on the rate that returns an optimizer.
        loss: the loss.
        epochs: passes over the data.
        batch_size: examples in a batch.
        policy: the dtype policy.
    """

    data: typing.Callable
    model: typing.Callable
    optimizer: typing.Callable
    loss: str
    epochs: int
    batch_size: int = 32
    policy: str = "float32"


@functools.cache
def digits(shape):
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32").reshape(-1, *shape), y.astype("int32")


@functools.cache
def curve():
    """10,000 points of a smooth function of four numbers, with noise."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(10_000, 4)).astype("float32")
    y = np.sin(x[:, :1] + x[:, 1:2] * x[:, 2:3]) + 0.1 * generator.normal(size=(10_000, 1))
    return x, y.astype("float32")


def dense(inputs, outputs, activation=None):
    layers = [
        L.Dense(64, "relu"),
        L.Dense(64, "relu"),
        L.Dense(outputs, activation, dtype="float32"),
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers])


def convolutional():
    layers = [L.Conv2D(16, 3, use_bias=False), L.BatchNormalization(), L.ReLU()]
    layers += [L.Conv2D(32, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Dropout(0.2)]
    layers += [L.GlobalAveragePooling2D(), L.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def recurrent():
    layers = [L.SimpleRNN(48), L.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((8, 8)), *layers])


def unit_length():
    """Examples are divided by their length; at a length of 0 its derivative is infinite."""

    def divided(x):
        return x / (1e-3 + keras.ops.sum(x * x, axis=-1, keepdims=True) ** 0.5)

    layers = [L.Dense(64, use_bias=False), L.Lambda(divided), L.Dense(64, "relu")]
    return keras.Sequential([keras.Input((64,)), *layers, L.Dense(10, "softmax")])


def with_schedule(rule, rate, steps, **options):
    def optimizer(factor=1.0):
        return rule(Warmup(CosineAnnealing(rate * factor, steps - 50), 50), **options)

    return optimizer


CLASSES = "sparse_categorical_crossentropy"
TRAININGS = {
    "dense, Adam": Training(
        lambda: digits((64,)),
        lambda: dense(64, 10, "softmax"),
        lambda factor=1.0: Adam(1e-3 * factor),
        CLASSES,
        10,
    ),
    "convolutional, SGD, cosine": Training(
        lambda: digits((8, 8, 1)),
        convolutional,
        with_schedule(SGD, 0.1, 57 * 8, momentum=0.9),
        CLASSES,
        8,
    ),
    "dense in float16, Adam": Training(
        lambda: digits((64,)),
        lambda: dense(64, 10, "softmax"),
        lambda factor=1.0: keras.optimizers.Adam(1e-3 * factor),
        CLASSES,
        10,
        policy="mixed_float16",
    ),
    "regression, AdamW, cosine": Training(
        curve, lambda: dense(4, 1), with_schedule(AdamW, 3e-3, 800), "mse", 8, batch_size=100
    ),
    "regression, SGD": Training(
        curve,
        lambda: dense(4, 1),
        lambda factor=1.0: keras.optimizers.SGD(0.02 * factor, momentum=0.9),
        "mse",
        8,
        batch_size=100,
    ),
    "recurrent, RMSprop": Training(
        lambda: digits((8, 8)),
        recurrent,
        lambda factor=1.0: RMSprop(1e-3 * factor),
        CLASSES,
        10,
    ),
    "divided by length, Adam": Training(
        lambda: digits((64,)),
        unit_length,
        lambda factor=1.0: Adam(1e-3 * factor),
        CLASSES,
        10,
    ),
}


# The faults


class Fault(typing.NamedTuple):
    """A fault that is planted.

    Attributes:
        training: the training's name.
        harm: function of x, y and the sample weights (all copies) that changes an example.
        rate: factor on the rate, from the beginning.
        jump: factor on it from the middle of the training on.
    """

    training: str
    harm: typing.Callable | None = None
    rate: float = 1.0
    jump: float = 1.0


def set_input(value):
    def harm(x, y, weights):
        x[PLACE].flat[3] = value

    return harm


def scale_input(factor):
    def harm(x, y, weights):
        x[PLACE] *= factor

    return harm


def set_target(value):
    def harm(x, y, weights):
        y[PLACE] = value

    return harm


def set_weight(value):
    def harm(x, y, weights):
        weights[PLACE] = value

    return harm


FAULTS = {
    "NaN in an input": Fault("dense, Adam", set_input(np.nan)),
    "infinity in an input": Fault("convolutional, SGD, cosine", set_input(np.inf)),
    "overflow in float16": Fault("dense in float16, Adam", scale_input(60_000.0)),
    "one target of 10,000 is 10,000": Fault("regression, AdamW, cosine", set_target(1e4)),
    "a missing target, NaN": Fault("regression, SGD", set_target(np.nan)),
    "a label outside of the classes": Fault("dense, Adam", set_target(10)),
    "a sample weight of 10 million": Fault("recurrent, RMSprop", set_weight(1e7)),
    "an input in another unit, times 10^6": Fault("regression, SGD", scale_input(1e6)),
    "an infinite derivative: an empty image": Fault("divided by length, Adam", scale_input(0.0)),
    "rate 30 times too high, SGD": Fault("regression, SGD", rate=30.0),
    "rate 1000 times too high, Adam": Fault("dense, Adam", rate=1000.0),
    "rate 100 times too high, Adam": Fault("dense, Adam", rate=100.0),
    "rate 30 times too high from the middle on": Fault("regression, SGD", jump=30.0),
}
