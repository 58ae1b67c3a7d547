"""Time training steps of several tasks against the step of the summed loss.

    python benchmarks/multitask.py [--combiners PCGrad UPGrad ...] [--seconds 5] [--jit off|on|both]

The models are a LeNet for two tasks, as in experiments/multi_task.py, and a multilayer perceptron
for 2, 4, 8 and 50 tasks. A step is a call of the function that `fit` calls for each batch, on
batches in memory. Keras's model of the same layers, whose step descends the sum of the losses, and
a `MultiTaskModel` for each combiner run in one process, in turn; each line gives the milliseconds a
step and the ratio to Keras's, of the medians and of the minima.
"""

import argparse

import _measure
import keras
import numpy as np
import tensorflow as tf

from keras_bp import multitask

TASKS = {"LeNet, 2 tasks": 2} | {f"MLP 3x256, {tasks} tasks": tasks for tasks in (2, 4, 8, 50)}
BATCH = 128


def network(name):
    """Return a functional model's inputs, and an output for each task."""
    keras.utils.set_random_seed(0)
    if name.startswith("LeNet"):
        x = inputs = keras.Input((28, 28, 1))
        for filters in (10, 20):
            x = keras.layers.Conv2D(filters, 5, activation="relu")(x)
            x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Dense(50, activation="relu")(keras.layers.Flatten()(x))
        hidden = [keras.layers.Dense(50, activation="relu")(x) for _ in range(TASKS[name])]
    else:
        x = inputs = keras.Input((256,))
        for _ in range(3):
            x = keras.layers.Dense(256, activation="relu")(x)
        hidden = [x] * TASKS[name]
    heads = [keras.layers.Dense(10, name=f"task_{i}") for i in range(TASKS[name])]
    return inputs, {head.name: head(x) for head, x in zip(heads, hidden, strict=True)}


def training_step(name, combiner, jit_compile):
    """Return a callable that makes one step; the summed loss's where `combiner` is None."""
    inputs, outputs = network(name)
    if combiner is None:
        model = keras.Model(inputs, outputs)
    else:
        model = multitask.MultiTaskModel(inputs, outputs, combiner=combiner)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = dict.fromkeys(outputs, loss)
    model.compile(keras.optimizers.Adam(1e-3), loss=losses, jit_compile=jit_compile)
    model.make_train_function()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * BATCH, *inputs.shape[1:])).astype("float32")
    y = {task: rng.integers(10, size=len(x)) for task in outputs}
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).cache().repeat()
    iterator = iter(data)
    return lambda: model.train_function(iterator)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bases = "Combiner", "LossWeighting", "MultiTaskModel"
    rules = [n for n in multitask.__all__ if n not in bases]
    parser.add_argument("--combiners", nargs="+", choices=rules, default=rules)
    parser.add_argument("--only", default="", help="measure only models that contain this")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds a model")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    arguments = parser.parse_args()
    print(f"{'':20} {'jit':3} {'combiner':20} {'ms':>8} {'medians':>8} {'minima':>7}")
    for name in TASKS:
        if arguments.only.lower() not in name.lower():
            continue
        for jit in {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]:
            rules = [None, *(getattr(multitask, rule)() for rule in arguments.combiners)]
            steps = [training_step(name, rule, jit) for rule in rules]
            for step in steps:
                for _ in range(3):  # the first one is traced
                    step()
            times = _measure.times_in_turn(steps, arguments.seconds)
            summed = times[0]
            for rule, own in zip(
                ["(summed loss, Keras)", *arguments.combiners], times, strict=True
            ):
                medians, minima = np.median(own) / np.median(summed), min(own) / min(summed)
                print(
                    f"{name:20} {'on' if jit else 'off':3} {rule:20} {np.median(own) * 1e3:8.3f} "
                    f"{medians:8.2f} {minima:7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
