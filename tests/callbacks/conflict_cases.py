"""Models of several tasks, and each task's gradient by a tape of its own."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from keras_bp.multitask import MultiTaskModel, Sum

L = keras.layers

WEIGHTS = {"a": 1.0, "b": 3.0, "c": 0.5}
# Layer -> its variables' numbers, and the pairs of tasks that share it.
PAIRS = list(itertools.combinations("abc", 2))
SHARED = {
    "first": ([0, 1], PAIRS),
    "block/conv": ([2, 3], PAIRS[:1]),
    "block/bn": ([4, 5], PAIRS[:1]),
    "global": (range(6), PAIRS),
}
FIT = {"batch_size": 5, "shuffle": False, "verbose": 0}


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights as they are before each call of the train function."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_train_batch_begin(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


class NotFinite(keras.losses.Loss):
    """The mean square, and NaN in batches that hold a target of 9."""

    def call(self, y_true, y_pred):
        bad = keras.ops.any(y_true == 9.0)
        return keras.ops.where(bad, float("nan"), 1.0) * keras.ops.square(y_true - y_pred)


def targets(x):
    """Three tasks of which no two agree."""
    return {"a": x[:, :1] + x[:, 1:2], "b": x[:, :1] - x[:, 1:2], "c": np.abs(x[:, :1])}


def model_of_three(optimizer=None, combiner=None, **options):
    """Task c goes off after the first layer, a and b after a model inside the model."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    first = L.Dense(3, "tanh", name="first", kernel_regularizer="l2")(x)
    block = keras.Sequential(
        [L.Dense(3, name="conv"), L.BatchNormalization(name="bn")], name="block"
    )
    shared = block(first)
    outputs = {name: L.Dense(1, name=name)(shared if name in "ab" else first) for name in "abc"}
    model = MultiTaskModel(x, outputs, combiner=combiner or Sum(), name="net")
    compile_model(model, optimizer, **options)
    return model


def model_of_two(optimizer=None, combiner=None, names="ab", **options):
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    trunk = L.Dense(3, "tanh", name=f"trunk_{names}")(x)
    outputs = {name: L.Dense(1, name=name)(trunk) for name in names}
    model = MultiTaskModel(x, outputs, combiner=combiner or Sum())
    options = {"loss": "mse", "jit_compile": False, **options}
    model.compile(optimizer or keras.optimizers.SGD(0.1), **options)
    return model


def compile_model(model, optimizer=None, **options):
    options = {"loss": NotFinite(), "jit_compile": False, **options}
    if isinstance(options["loss"], NotFinite):
        options["loss"] = {name: NotFinite() for name in WEIGHTS}
    optimizer = optimizer or keras.optimizers.SGD(0.1)
    model.compile(optimizer, loss_weights=WEIGHTS, **options)


def batches(x, y, epochs=1):
    size = FIT["batch_size"]
    parts = [slice(i, i + size) for i in range(0, len(x), size)]
    return [(x[p], {name: values[p] for name, values in y.items()}) for p in parts] * epochs


def own_gradients(model, weights, x, y):
    """Return task -> flat float64 gradients of one batch, by variable; None where there is none."""
    model.set_weights(weights)
    gradients = {}
    for name, weight in WEIGHTS.items():
        with tf.GradientTape() as tape:
            loss = weight * tf.reduce_mean(tf.square(model(x, training=True)[name] - y[name]))
        gradients[name] = [
            None if g is None else np.ravel(tf.convert_to_tensor(g)).astype("float64")
            for g in tape.gradient(loss, model.trainable_variables)
        ]
    return gradients


def own_steps(model, weights, batches):
    return [own_gradients(model, w, *batch) for w, batch in zip(weights, batches, strict=True)]


def cosine_and_similarity(gradients, variables, tasks):
    """Return the two numbers for the variables that two tasks or more share."""
    flat = []
    for task in tasks:
        parts = gradients[task]
        zeros = [np.zeros_like(gradients["a"][i]) for i in variables]
        own = zip(zeros, (parts[i] for i in variables), strict=True)
        flat.append(np.concatenate([zero if part is None else part for zero, part in own]))
    s, t = flat
    norms = np.linalg.norm(s), np.linalg.norm(t)
    return s @ t / np.prod(norms), 2 * np.prod(norms) / np.sum(np.square(norms))


def expected(steps, layer, tasks):
    """Return cosines and similarities, one for each step."""
    variables, _ = SHARED[layer]
    return np.array([cosine_and_similarity(gradients, variables, tasks) for gradients in steps]).T
