"""Time the backward pass against the forward pass, and against numerical gradients.

    python benchmarks/backward_pass.py [--only NAME] [--seconds 4]

For the models of `training_step.py` a call computes the loss of a batch, or the loss and its
gradient, both in `tf.function`; for the network in plain NumPy the two passes are called by
themselves. The columns are the CPU milliseconds of the forward pass, of the backward pass (for the
models the difference of the two calls), medians, and their ratio. The last line is the whole
gradient of a small network in plain NumPy by central differences.
"""

import argparse
import time

import _measure
import keras
import numpy as np
import tensorflow as tf
from training_step import CLASSES, MODELS

import keras_bp
from keras_bp import reference


def model_passes(batch, layers):
    """Return two functions that compute a batch's loss, and its loss and gradient."""
    model = keras.Sequential(layers(keras_bp))
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, *model.input_shape[1:])), tf.float32)
    y = tf.constant(rng.integers(CLASSES, size=batch))
    loss = keras_bp.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def forward():
        return loss(y, model(x, training=True))

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return value, tape.gradient(value, model.trainable_variables)

    return lambda: forward().numpy(), lambda: both()[0].numpy()


def numpy_passes(name, sizes, batch):
    """Return pairs of a name and a function: the forward pass, then what is compared with it."""
    network, rng = reference.Network(sizes), np.random.default_rng(0)
    X, Y = rng.normal(size=(sizes[0], batch)), np.eye(sizes[-1])[:, [1] * batch]
    cache = network.forward(X)

    def forward():
        return network.cost(network.forward(X), Y)

    yield "forward", forward
    yield name, lambda: network.backward(cache, Y)
    entries = sum(array.size for array in network.parameters)
    if entries < 200:
        label = f"by differences, {entries} entries"
        yield label, lambda: reference.numerical_gradients(forward, network.parameters)


def times(calls, seconds):
    """Return the median CPU seconds of each call; other programs do not stretch them."""
    return np.median(_measure.times_in_turn(calls, seconds, clock=time.process_time), axis=1)


def report(name, forward, backward):
    """Print a line of the table from seconds a call."""
    print(f"{name:24}{forward * 1e3:11.3f}{backward * 1e3:11.3f}{backward / forward:9.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="measure only names that contain this")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a case")
    options = parser.parse_args()
    print(f"{'':24}{'forward ms':>11}{'back ms':>11}{'ratio':>9}")
    for name, batch, layers in MODELS:
        if options.only in name:
            calls = model_passes(batch, layers)
            for call in calls:  # trace
                call()
            forward, both = times(calls, options.seconds)
            report(name, forward, both - forward)
    for sizes, batch in (([256, 256, 256, 256, 10], 256), ([8, 8, 4], 16)):
        name = "NumPy " + "-".join(map(str, sizes))
        if options.only in name:
            labels, calls = zip(*numpy_passes(name, sizes, batch), strict=True)
            forward, *others = times(calls, options.seconds)
            for label, other in zip(labels[1:], others, strict=True):
                report(label, forward, other)


if __name__ == "__main__":
    main()
