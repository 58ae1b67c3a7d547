"""What test_layers_fresh_process.py runs in a process of its own: python fresh_process.py FOLDER.

Of the package it imports `keras_bp` and nothing else, and it hands results back as FOLDER/*.npz.
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_bp  # noqa: F401  (the import alone makes the files loadable)

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
folder = pathlib.Path(sys.argv[1])
data = np.load(folder / "data.npz")


def load_and_use():
    """Load a saved model with Keras's defaults, safe mode among them; predict and train on."""
    model = keras.saving.load_model(folder / "network.keras")
    results = {"predictions": model.predict(data["x"], verbose=0)}
    history = model.fit(data["x"], data["y"], batch_size=8, shuffle=False, verbose=0).history
    np.savez(folder / "loaded.npz", **results, losses=history["loss"])
    parts = [*model.layers, model.loss]
    names = [f"{type(part).__module__}.{type(part).__name__}" for part in parts]
    (folder / "classes.json").write_text(json.dumps(names))


def serve():
    """Load the SavedModel, run it and differentiate it."""
    served = tf.saved_model.load(folder / "exported")
    x = tf.constant(data["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = served.serve(x)
        total = tf.reduce_sum(outputs * tf.range(3.0))
    np.savez(folder / "served.npz", outputs=outputs, gradient=tape.gradient(total, x))


def train_on_two_replicas():
    """Train each saved model on two replicas, and hand back its losses and weights."""
    # One strategy for all: a second one in the same process would start its collective operations
    # at the first one's numbers, where TensorFlow expects the first one's shapes.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for path in sorted(folder.glob("replicas_*.keras")):
        with strategy.scope():
            model = keras.saving.load_model(path)
        x = data["sequences" if "masked" in path.name else "x"]
        fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
        losses = model.fit(x, data["y"], **fit).history["loss"]
        np.savez(path.with_suffix(".npz"), *model.get_weights(), losses=losses)


load_and_use()
serve()
train_on_two_replicas()
