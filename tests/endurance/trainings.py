"""Small trainings that can be killed and started again: what each process of a test runs."""

import keras
import numpy as np
import tensorflow as tf

import keras_bp
from keras_bp.callbacks import ResumableTraining

EPOCHS = 12


def _model(optimizer, embedding=False):
    keras.utils.set_random_seed(3)
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


# Name: a function that makes an optimizer, and whether the data are tf.data by the epoch.
TRAININGS = {
    "adam": (lambda: keras.optimizers.Adam(1e-2), False),
    "lamb, schedule": (lambda: keras_bp.optimizers.Lamb(_rate()), True),
    "adamw, accumulation": (
        lambda: keras_bp.optimizers.AdamW(_rate(), gradient_accumulation_steps=3, use_ema=True),
        True,
    ),
    "deferred adam": (lambda: keras_bp.optimizers.DeferredAdam(1e-2), False),
}


def train(name, directory, epochs=EPOCHS):
    """Train from the newest checkpoint in a directory to the end; return the final state."""
    make, by_epoch = TRAININGS[name]
    embedding = name == "deferred adam"
    model = _model(make(), embedding)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (40, 6)) if embedding else rng.normal(size=(40, 6)).astype("float32")
    y = (x[:, :1] / 10).astype("float32")
    plateau = keras.callbacks.EarlyStopping("loss", patience=100, restore_best_weights=True)
    resumable = ResumableTraining(directory, callbacks=[plateau])
    options = {"epochs": epochs, "verbose": 0, "callbacks": [plateau, resumable]}
    if by_epoch:
        pairs = tf.data.Dataset.from_tensor_slices((x, y))
        batches = resumable.by_epoch(lambda epoch: pairs.shuffle(40, seed=epoch).batch(8))
        history = model.fit(batches, shuffle=False, **options)
    else:
        history = model.fit(x, y, batch_size=8, **options)
    state = {f"model{i}": v.numpy() for i, v in enumerate(model.variables)}
    state |= {f"optimizer{i}": v.numpy() for i, v in enumerate(model.optimizer.variables)}
    state |= {f"history {k}": np.array(v) for k, v in history.history.items()}
    return state | {"best": np.array(plateau.best), "epochs": np.array(history.epoch)}
