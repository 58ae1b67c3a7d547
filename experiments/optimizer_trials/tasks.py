"""The tasks of `optimizer_trials`: small problems, each of which breaks some optimizers.

A task's loss is a function of TensorFlow's variables, and draws its batches and noise from a seed
and the number of the step, so that all optimizers meet the same ones.
"""

import functools
import typing

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_bp.layers import DeferredEmbedding, Dense
from keras_bp.losses import SparseCategoricalCrossentropy

LOSS = SparseCategoricalCrossentropy(from_logits=True)


class Problem(typing.NamedTuple):
    """What is trained.

    Attributes:
        variables: list of the trainable variables.
        initial: function of a seed, an integer, that returns their first values.
        loss: function of a seed and a step, scalar integer tensors, that returns the loss.
        measure: function without arguments that returns the figure that is to fall to the target.
        model: the Keras model, or `None`.
    """

    variables: list
    initial: typing.Callable
    loss: typing.Callable
    measure: typing.Callable
    model: typing.Any = None


class Task(typing.NamedTuple):
    """A problem, and when it counts as solved.

    Attributes:
        make: function that returns the `Problem`.
        steps: update steps of an epoch; a training is at most 20 of them.
        target: the figure at which it is solved.
        figure: what the figure is.
        examples: the number of training examples, of a model, or `None`.
        batch: examples per step.
    """

    make: typing.Callable
    steps: int
    target: float
    figure: str
    examples: int | None = None
    batch: int = 32


def normal(seed, step, shape, stream=0):
    """Draw normal numbers that depend on the seed and the step."""
    return tf.random.stateless_normal(shape, seed=(seed + 1000 * stream, step))


def uniform(seed, step, shape, stream=0):
    return tf.random.stateless_uniform(shape, (seed + 1000 * stream, step), 1e-7, 1.0)


# Functions of one vector. Not solved at 0, where some rules end by themselves, as what decays does.
# The figure is an entry's typical distance to the solution, about 1 at the start.


def vector_problem(size, distance_loss):
    """Make a problem that is solved at ones, from normal numbers around them.

    Args:
        size: the number of entries.
        distance_loss: function of the distance to the solution, a vector, a seed and a step.
    """
    w = tf.Variable(tf.zeros([size]), name="w")

    def initial(seed):
        return [1 + np.random.default_rng(seed).normal(size=size).astype("float32")]

    def measure():
        return tf.sqrt(tf.reduce_mean((w - 1) ** 2))

    return Problem([w], initial, lambda seed, step: distance_loss(w - 1, seed, step), measure)


def valley(rotated, size=20, condition=5000.0):
    """A quadratic valley, along the axes or turned."""
    curvatures = tf.constant(np.geomspace(1.0, 1.0 / condition, size), tf.float32)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    turn = tf.constant(turn if rotated else np.eye(size), tf.float32)

    def loss(distance, seed, step):
        return 0.5 * tf.reduce_sum(curvatures * tf.linalg.matvec(turn, distance) ** 2)

    return vector_problem(size, loss)


def noise(size=50, scale=2.0):
    """A round bowl, with noise of infinite variance on the gradient (Student's t, 2 degrees)."""

    def loss(distance, seed, step):
        tail = tf.sqrt(-tf.math.log(uniform(seed, step, [size], 1)))
        noise = scale * normal(seed, step, [size]) / tail
        return 0.5 * tf.reduce_sum(distance**2) + tf.reduce_sum(noise * distance)

    return vector_problem(size, loss)


def sparse(size=200, batch=16):
    """Least squares on features that are 0 nearly always, each more rarely than the one before."""
    shares = tf.constant(np.geomspace(1.0, 0.002, size), tf.float32)

    def loss(distance, seed, step):
        x = tf.cast(uniform(seed, step, [batch, size]) < shares, tf.float32)
        return 0.5 * tf.reduce_mean(tf.linalg.matvec(x, distance) ** 2)

    return vector_problem(size, loss)


def saddle(size=8, start=1e-2):
    """A deep linear network that starts beside the saddle at 0: W3 W2 W1 is to become A."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    wanted = tf.constant(left * np.geomspace(2.0, 0.5, size) @ right, tf.float32)
    weights = [tf.Variable(tf.zeros([size, size]), name=f"kernel_{i}") for i in range(3)]

    def initial(seed):
        rng = np.random.default_rng(seed)
        return [start * rng.normal(size=(size, size)).astype("float32") for _ in weights]

    def loss(*_):
        return 0.5 * tf.reduce_sum((weights[2] @ weights[1] @ weights[0] - wanted) ** 2)

    def measure():
        return tf.sqrt(2 * loss() / tf.reduce_sum(wanted**2))

    return Problem(weights, initial, loss, measure)


# Models.


def model_problem(make, batches, test, loss=LOSS):
    """Make a problem of a Keras model; the measured figure is the share of errors in a test set.

    Args:
        make: function that returns the model.
        batches: function of a seed and a step that returns inputs and targets.
        test: inputs and targets.
        loss: loss function.
    """
    model = make()
    x, y = tf.nest.map_structure(tf.constant, test)

    def initial(seed):
        keras.utils.set_random_seed(seed)
        return [variable.numpy() for variable in make().trainable_variables]

    def batch_loss(seed, step):
        inputs, targets = batches(seed, step)
        return tf.cast(loss(targets, model(inputs, training=True)), tf.float32)

    def measure():
        wrong = tf.argmax(model(x), axis=-1, output_type=tf.int32) != tf.cast(y, tf.int32)
        return tf.reduce_mean(tf.cast(wrong, tf.float32))

    return Problem(model.trainable_variables, initial, batch_loss, measure, model)


def drawn(x, y, batch):
    """Return a function of a seed and a step that draws a batch."""
    x, y = tf.constant(x), tf.constant(y)

    def batches(seed, step):
        chosen = tf.random.stateless_uniform([batch], (seed, step), 0, len(x), tf.int32)
        return tf.gather(x, chosen), tf.gather(y, chosen)

    return batches


@functools.cache
def digits():
    x, y = load_digits(return_X_y=True)
    x = (x / 8 - 1).astype("float32").reshape(-1, 8, 8, 1)
    return train_test_split(x, y.astype("int32"), test_size=500, random_state=0, stratify=y)


def mlp(inputs, *widths, activation="relu", dtype=None):
    *hidden, outputs = widths
    options = dict(kernel_initializer="he_normal", dtype=dtype)
    layers = [keras.layers.Flatten(dtype=dtype)] if len(inputs) > 1 else []
    layers += [Dense(width, activation=activation, **options) for width in hidden]
    return keras.Sequential([keras.Input(inputs, dtype=dtype), *layers, Dense(outputs, **options)])


def exploding_rnn(length=24, units=24, gain=1.5):
    """A recurrent network whose gradients grow with each step back: is the inputs' sum above 0?"""

    def make():
        recurrent = keras.initializers.Orthogonal(gain, seed=np.random.randint(2**31))
        cell = keras.layers.SimpleRNN(
            units, activation="linear", recurrent_initializer=recurrent, unroll=True
        )
        return keras.Sequential([keras.Input((length, 1)), cell, Dense(2)])

    def batches(seed, step, batch=32):
        x = normal(seed, step, [batch, length, 1])
        return x, tf.cast(tf.reduce_sum(x, axis=(1, 2)) > 0, tf.int32)

    return model_problem(make, batches, batches(-1, 0, 256))


def transformer(places=8, words=64, width=32, heads=2):
    """A small transformer that looks up: pairs of a key and a word, then keys that ask for it.

    Most words are rare in training, as in a language; the test has them all alike.
    """
    frequency = tf.math.log(1 / tf.range(1.0, words + 1.0))

    def make():
        keys, values = (keras.Input((2 * places,), dtype="int32") for _ in range(2))
        x = keras.layers.Embedding(places, width)(keys)
        x = x + keras.layers.Embedding(words + 1, width)(values)  # the last one asks
        normal = keras.layers.LayerNormalization()(x)
        attention = keras.layers.MultiHeadAttention(heads, width // heads, use_bias=False)
        x = x + attention(normal, normal)
        normal = keras.layers.LayerNormalization()(x)
        x = x + Dense(width)(Dense(2 * width, activation="gelu")(normal))
        x = keras.layers.LayerNormalization()(x)
        return keras.Model([keys, values], Dense(words)(x[:, places:]))

    def batches(seed, step, batch=32, frequency=frequency):
        order = [tf.argsort(uniform(seed, step, [batch, places], i)) for i in range(2)]
        seeds = (seed + 5000, step)
        drawn = tf.random.stateless_categorical(
            frequency[None], batch * places, seeds, dtype=tf.int32
        )
        of_key = tf.reshape(drawn, [batch, places])
        values = tf.gather(of_key, order[0], batch_dims=1)
        asking = tf.fill([batch, places], words)
        inputs = tf.concat(order, axis=1), tf.concat([values, asking], axis=1)
        return inputs, tf.gather(of_key, order[1], batch_dims=1)

    test = batches(-1, 0, 128, tf.zeros([words]))
    return model_problem(make, batches, test)


def conv_net():
    """A convolutional network on the digits."""
    x, x_test, y, y_test = digits()

    def make():
        options = dict(activation="relu", kernel_initializer="he_normal")
        layers = [
            keras.layers.Conv2D(8, 3, **options),
            keras.layers.Conv2D(16, 3, strides=2, **options),
        ]
        return keras.Sequential(
            [keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), Dense(10)]
        )

    return model_problem(make, drawn(x, y, 32), (x_test, y_test))


def embedding(words=2000, length=8):
    """Texts of words, most of them rare; each word has a meaning, and the text their sum's sign."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(10, words + 10)
    texts = rng.choice(words, (20_000, length), p=frequency / frequency.sum()).astype("int32")
    labels = (rng.normal(size=words)[texts].sum(axis=1) > 0).astype("int32")

    def make():
        table = DeferredEmbedding(words, 8)
        return keras.Sequential(
            [
                keras.Input((length,), dtype="int32"),
                table,
                keras.layers.GlobalAveragePooling1D(),
                Dense(2),
            ]
        )

    test = texts[19_000:], labels[19_000:]
    return model_problem(make, drawn(texts[:19_000], labels[:19_000], 64), test)


def low_precision(dtype="bfloat16"):
    """The digits by a network whose weights, activations and gradients are in half precision."""
    x, x_test, y, y_test = digits()
    make = functools.partial(mlp, (8, 8, 1), 32, 32, 10, dtype=dtype)
    return model_problem(make, drawn(x, y, 32), (x_test, y_test))


def label_noise(share=0.5):
    """The digits, with a random label on half of the training images."""
    x, x_test, y, y_test = digits()
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < share, rng.integers(0, 10, len(y)), y).astype("int32")
    make = functools.partial(mlp, (8, 8, 1), 64, 64, 10)
    return model_problem(make, drawn(x, y, 32), (x_test, y_test))


def spikes(every=16, first=47, size=300.0):
    """The digits, with inputs that are 300 times too large in each 16th batch, from the 48th on."""
    x, x_test, y, y_test = digits()
    clean = drawn(x, y, 32)

    def batches(seed, step):
        inputs, targets = clean(seed, step)
        is_spike = (step >= first) & ((step - first) % every == 0)
        return tf.where(is_spike, size * inputs, inputs), targets

    make = functools.partial(mlp, (8, 8, 1), 32, 32, 10)
    return model_problem(make, batches, (x_test, y_test))


def batch_4096():
    """A network that is to learn another one's classes in few steps of 4096 examples."""
    keras.utils.set_random_seed(0)
    teacher = mlp((16,), 16, 4, activation="tanh")
    x = np.random.default_rng(0).normal(size=(34_000, 16)).astype("float32")
    y = teacher(x).numpy().argmax(axis=1).astype("int32")
    make = functools.partial(mlp, (16,), 32, 32, 4)
    test = x[32_768:], y[32_768:]
    return model_problem(make, drawn(x[:32_768], y[:32_768], 4096), test)


DISTANCE, ERRORS = "distance", "errors"
TASKS = {
    "valley": Task(functools.partial(valley, rotated=False), 25, 0.1, DISTANCE),
    "rotated valley": Task(functools.partial(valley, rotated=True), 25, 0.1, DISTANCE),
    "noise": Task(noise, 50, 0.25, DISTANCE),
    "sparse": Task(sparse, 25, 0.1, DISTANCE),
    "saddle": Task(saddle, 50, 0.05, DISTANCE),
    "exploding RNN": Task(exploding_rnn, 10, 0.05, ERRORS),
    "transformer": Task(transformer, 20, 0.05, ERRORS),
    "conv net": Task(conv_net, 10, 0.05, ERRORS, 1297),
    "embedding": Task(embedding, 10, 0.15, ERRORS, 19_000, 64),
    "low precision": Task(low_precision, 10, 0.05, ERRORS, 1297),
    "label noise": Task(label_noise, 10, 0.11, ERRORS, 1297),
    "spikes": Task(spikes, 10, 0.06, ERRORS, 1297),
    "batch of 4096": Task(batch_4096, 2, 0.15, ERRORS, 32_768, 4096),
}
