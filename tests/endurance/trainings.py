"""Small trainings that can be killed and started again: what each process of a test runs."""

import functools

import keras
import numpy as np
import tensorflow as tf

import keras_bp
from keras_bp.callbacks import ResumableTraining

EPOCHS = 12


def _model(optimizer, embedding=False, half=False):
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy("mixed_float16" if half else "float32")
    if embedding:
        first = [
            keras.Input((6,), dtype="int32"),
            keras_bp.layers.DeferredEmbedding(50, 4),
            keras.layers.Flatten(),
        ]
    else:
        first = [keras.Input((6,))]
    layers = [keras_bp.layers.Dense(16, "relu"), keras_bp.layers.BatchNormalization()]
    layers += [keras.layers.Dropout(0.4), keras_bp.layers.Dense(1)]
    model = keras.Sequential([*first, *layers])
    model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    return model


def _rate():
    return keras_bp.schedules.WarmupCosine(1e-2, 60, 10)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "lamb, schedule": lambda: keras_bp.optimizers.Lamb(_rate()),
    "adamw, accumulation": lambda: keras_bp.optimizers.AdamW(
        _rate(), gradient_accumulation_steps=3, use_ema=True
    ),
    "deferred adam": lambda: keras_bp.optimizers.DeferredAdam(1e-2),
    # Its scale overflows at first, and some steps are skipped.
    "half precision": lambda: keras.optimizers.LossScaleOptimizer(
        keras_bp.optimizers.SGD(1e-2, momentum=0.9), initial_scale=2.0**24
    ),
}


def _model_and_data(name):
    """Return a compiled model and 40 examples for it."""
    embedding = name == "deferred adam"
    model = _model(OPTIMIZERS[name](), embedding, half=name == "half precision")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (40, 6)) if embedding else rng.normal(size=(40, 6)).astype("float32")
    return model, x, (x[:, :1] / 10).astype("float32")


def _state(model):
    state = {f"model{i}": v.numpy() for i, v in enumerate(model.variables)}
    return state | {f"optimizer{i}": v.numpy() for i, v in enumerate(model.optimizer.variables)}


class _Count(keras.callbacks.Callback):
    """Adds a line to a file for each batch that this or an earlier process has trained."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def on_train_batch_end(self, batch, logs=None):
        with open(self._path, "a") as file:
            file.write("trained\n")


def in_fit(name, directory, epochs=EPOCHS):
    """Train by `fit` from the newest batch saved in a directory; return the final state."""
    model, x, y = _model_and_data(name)
    plateau = keras.callbacks.EarlyStopping("loss", patience=100, restore_best_weights=True)
    resumable = ResumableTraining(directory, callbacks=[plateau], save_freq=2)
    callbacks = [plateau, _Count(f"{directory}-count"), resumable]
    options = {"epochs": epochs, "verbose": 0, "callbacks": callbacks}
    if name in ("lamb, schedule", "adamw, accumulation", "half precision"):
        pairs = tf.data.Dataset.from_tensor_slices((x, y))
        history = model.fit(pairs.shuffle(40, seed=1).batch(8), shuffle=False, **options)
    else:
        history = model.fit(x, y, batch_size=8, **options)
    state = _state(model) | {f"history {k}": np.array(v) for k, v in history.history.items()}
    return state | {"best": np.array(plateau.best), "epochs": np.array(history.epoch)}


def in_a_loop(name, directory, steps=5 * EPOCHS):
    """Train by a loop from the newest step in a directory to the end; return the final state."""
    model, x, y = _model_and_data(name)
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    batches = iter(pairs.shuffle(40, seed=1).batch(8))
    done = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        done.assign_add(1)

    # Of Keras's objects as they are, `tf.train.Checkpoint` leaves out seeds and slots.
    values = {f"v{i}": v.value for i, v in enumerate(model.variables + optimizer.variables)}
    checkpoint = tf.train.Checkpoint(data=batches, done=done, **values)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=2)
    manager.restore_or_initialize()
    while int(done) < steps:
        step(*next(batches))
        if int(done) % 4 == 0:
            manager.save(checkpoint_number=int(done))
    optimizer.finalize_variable_values(model.trainable_variables)
    return _state(model)


# Name: a function of a directory that trains to the end.
TRAININGS = {
    f"{name}{where}": functools.partial(train, name)
    for where, train in {"": in_fit, ", loop": in_a_loop}.items()
    for name in OPTIMIZERS
    if train is in_fit or name != "half precision"
}
