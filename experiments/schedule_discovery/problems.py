"""Four problems, their networks, and what trains them by any method from the same start."""

import functools

import keras
import numpy as np
import tensorflow as tf
from image_data import load_images

from keras_bp import find_learning_rate
from keras_bp.callbacks import DiscoveredSchedule
from keras_bp.layers import BatchNormalization, Dense, Embedding, LayerNormalization
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam, DoG, HypergradientAdam, Prodigy, ScheduleFreeAdamW
from keras_bp.schedules import CosineAnnealing, OneCycle
from tools.discovery import shape

CONTEXT = 32
RATE = 1e-3  # Adam's own
TEST = 2000  # images


def load_characters(windows):
    """Return windows of a text, those of held-out text, and the characters that come next."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    codes = np.frombuffer(text, "uint8").astype("int32") % 128
    inputs, targets = [], []
    for part, count in ((codes[:-40000], windows), (codes[-40000:], 400)):
        starts = np.random.default_rng(0).integers(len(part) - CONTEXT - 1, size=count)
        chosen = np.stack([part[start : start + CONTEXT + 1] for start in starts])
        inputs.append(chosen[:, :-1])
        targets.append(chosen[:, 1:])
    return *inputs, *targets


def build_mlp(shape):
    hidden = [Dense(64, activation="relu"), Dense(32, activation="relu")]
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *hidden, Dense(10)])


def build_normalized_mlp(shape):
    layers = [keras.Input(shape), keras.layers.Flatten()]
    for units in (64, 32):
        layers += [Dense(units, use_bias=False), BatchNormalization(momentum=0.9)]
        layers.append(keras.layers.ReLU())
    return keras.Sequential([*layers, Dense(10)])


def _convolutions(shape, widths):
    layers = [keras.Input(shape)]
    for filters in widths:
        layers.append(keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False))
        layers += [BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return layers


def build_convolutional(shape):
    return keras.Sequential([*_convolutions(shape, (8, 16)), keras.layers.Flatten(), Dense(10)])


def build_pooled(shape):
    pool = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential([*_convolutions(shape, (16, 32, 32)), pool, Dense(10)])


def build_transformer(shape):
    inputs = keras.Input(shape, dtype="int32")
    places = Embedding(CONTEXT, 32)(keras.ops.arange(CONTEXT))
    x = Embedding(128, 32)(inputs) + places
    y = LayerNormalization()(x)
    x = x + keras.layers.MultiHeadAttention(2, 16)(y, y, use_causal_mask=True)
    x = x + Dense(32)(Dense(64, activation="gelu")(LayerNormalization()(x)))
    return keras.Model(inputs, Dense(128)(LayerNormalization()(x)))


# Data, network, batch size, passes over the data, and images or windows.
PROBLEMS = {
    "digits": ("digits", build_mlp, 32, 10, None),
    "fashion_mnist": ("fashion_mnist", build_mlp, 64, 6, 4000),
    "cifar10": ("cifar10", build_convolutional, 64, 6, 4000),
    "characters": ("characters", build_transformer, 16, 2, 3000),
}
# Further networks with batch normalization.
NORMALIZED = {
    "digits, normalized": ("digits", build_normalized_mlp, 32, 10, None),
    "fashion_mnist, convolutions": ("fashion_mnist", build_convolutional, 64, 6, 4000),
    "cifar10, pooled": ("cifar10", build_pooled, 64, 6, 4000),
}


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """Rates in a variable, so that all schedules share one compiled step."""

    def __init__(self, steps):
        self.rates = tf.Variable(np.zeros(steps, "float32"), trainable=False)

    def __call__(self, step):
        """Return the rate of a step."""
        return tf.gather(self.rates, tf.cast(step, tf.int64))


@functools.cache
def bench(problem, examples, batch_size, epochs, data_dir):
    """Return the `Bench` of a problem, one for all trainings of a process."""
    source, build, *_ = (PROBLEMS | NORMALIZED)[problem]
    if source == "characters":
        data = load_characters(examples)
    else:
        x, x_test, y, y_test = load_images(source, data_dir, examples)
        data = x, x_test[:TEST], y, y_test[:TEST]
    return Bench(build, data, batch_size, epochs)


class Bench:
    """Trains a network by any method, from the same weights and on the same batches.

    Args:
        build: function of the inputs' shape that returns the network.
        data: train inputs, test inputs, train labels and test labels.
        batch_size: integer.
        epochs: integer.
    """

    def __init__(self, build, data, batch_size, epochs):
        self.build, self.batch_size = build, batch_size
        self.x, self.x_test, self.y, self.y_test = data
        self.steps = epochs * (len(self.x) // batch_size)
        self.table = Table(self.steps)
        self.model = self.compiled(Adam(self.table), 0)
        self.model.optimizer.build(self.model.trainable_variables)
        self.fresh = [v.numpy() for v in self.model.optimizer.variables]

    def compiled(self, optimizer, seed):
        """Return the network with a seed's weights."""
        keras.utils.set_random_seed(seed)
        model = self.build(self.x.shape[1:])
        loss = SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model

    def batches(self, seed):
        """Return a seed's batches."""
        data = tf.data.Dataset.from_tensor_slices((self.x, self.y)).shuffle(len(self.x), seed=seed)
        return data.batch(self.batch_size, drop_remainder=True)

    def fit(self, model, seed, steps, callbacks=()):
        """Train for a number of steps; return training loss and test accuracy."""
        if steps:
            batches = self.batches(seed).repeat().take(steps)
            model.fit(batches, shuffle=False, verbose=0, callbacks=list(callbacks))
        loss = model.evaluate(self.x, self.y, batch_size=500, verbose=0)[0]
        accuracy = model.evaluate(self.x_test, self.y_test, batch_size=500, verbose=0)[1]
        return {"loss": loss, "accuracy": accuracy}

    def start(self, seed):
        """Return the training loss of the first weights."""
        model = self.compiled(Adam(RATE), seed)
        return self.fit(model, seed, 0) | {"weights": model.count_params(), "steps": self.steps}

    def schedule(self, seed, rates):
        """Train by Adam at these rates, with the step that is compiled already."""
        self.model.set_weights(self.compiled(Adam(RATE), seed).get_weights())
        keras.utils.set_random_seed(seed)  # the order of the batches hangs on it too
        for variable, value in zip(self.model.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)
        self.table.rates.assign(np.pad(rates, (0, self.steps - len(rates))))
        return self.fit(self.model, seed, len(rates))

    def optimizer(self, seed, make):
        """Train by an optimizer that needs no rate."""
        return self.fit(self.compiled(make(self.steps), seed), seed, self.steps)

    def one_cycle(self, seed):
        """Train one cycle at the range test's rate, the test's steps taken off."""
        model = self.compiled(Adam(RATE), seed)
        test_steps = min(max(self.steps // 5, 20), 100)
        curve = find_learning_rate(model, self.batches(seed), steps=test_steps)
        left = self.steps - len(curve.losses)
        return self.schedule(seed, OneCycle(curve.suggest(), left)(np.arange(left)).numpy())

    def discovered(self, seed):
        """Train by Adam and the callback."""
        callback = DiscoveredSchedule(self.steps, verbose=0)
        result = self.fit(self.compiled(Adam(RATE), seed), seed, self.steps, [callback])
        found = callback.discovery
        return result | {"peak": found.peak_learning_rate, "schedule": str(found)}

    def train(self, method, seed):
        """Train by a method, a key of `METHODS`; return training loss and test accuracy."""
        if method in UNTUNED:
            return self.schedule(seed, RATE * shape(*UNTUNED[method], self.steps))
        if method in SELF_TUNING:
            return self.optimizer(seed, SELF_TUNING[method])
        return self.discovered(seed) if method == DISCOVERED else self.one_cycle(seed)


# Those whose peak is Adam's own rate: warm-up share and decay.
UNTUNED = {
    "constant": (0.0, "constant"),
    "cosine": (0.0, "cosine"),
    "warm-up, linear": (0.1, "linear"),
}
# Function of the number of steps -> an optimizer that needs no rate.
SELF_TUNING = {
    "ScheduleFreeAdamW": lambda steps: ScheduleFreeAdamW(),
    "Prodigy, cosine": lambda steps: Prodigy(CosineAnnealing(1.0, steps)),
    "DoG, averaged": lambda steps: DoG(use_ema=True),
    "HypergradientAdam": lambda steps: HypergradientAdam(),
}
RANGE_TEST, DISCOVERED = "one-cycle, range test", "DiscoveredSchedule"
METHODS = (*UNTUNED, RANGE_TEST, *SELF_TUNING, DISCOVERED)
