"""Time training steps of several tasks against the step of the summed loss.

    python benchmarks/multitask.py [--combiners PCGrad UPGrad ...] [--seconds 5] [--jit off|on|both]

The models are a LeNet for 2 and 50 tasks and a multilayer perceptron for 2, 4, 8 and 50 tasks, on
batches of 128; the perceptron with 50 tasks on batches of 512 too. A step is a call of the function
that `fit` calls for each batch, on batches in memory. Keras's model of the same layers, whose step
descends the sum of the losses, the same with one backward pass per task, and a `MultiTaskModel` for
each combiner run in one process, interleaved. Each line gives the seconds of the first step, which
traces and optimizes the graph, the milliseconds of a later one, and the ratios of the medians and
of the minima to both of Keras's models.
"""

import argparse
import time

import _measure
import keras
import numpy as np
import tensorflow as tf

from keras_bp import multitask

# Number of tasks and batch size.
MODELS = {
    "LeNet, 2 tasks": (2, 128),
    "LeNet, 50 tasks": (50, 128),
    "MLP 3x256, 2 tasks": (2, 128),
    "MLP 3x256, 4 tasks": (4, 128),
    "MLP 3x256, 8 tasks": (8, 128),
    "MLP 3x256, 50 tasks": (50, 128),
    "MLP 3x256, 50 tasks, batch 512": (50, 512),
}


def network(name):
    """Return a functional model's inputs, and an output for each task."""
    tasks, _ = MODELS[name]
    keras.utils.set_random_seed(0)
    if name.startswith("LeNet"):
        x = inputs = keras.Input((28, 28, 1))
        for filters in (10, 20):
            x = keras.layers.Conv2D(filters, 5, activation="relu")(x)
            x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Dense(50, activation="relu")(keras.layers.Flatten()(x))
        hidden = [keras.layers.Dense(50, activation="relu")(x) for _ in range(tasks)]
    else:
        x = inputs = keras.Input((256,))
        for _ in range(3):
            x = keras.layers.Dense(256, activation="relu")(x)
        hidden = [x] * tasks
    heads = [keras.layers.Dense(10, name=f"task_{i}") for i in range(tasks)]
    return inputs, {head.name: head(x) for head, x in zip(heads, hidden, strict=True)}


class OnePassPerTask(keras.Model):
    """Descends the sum of the losses by each task's own backward pass: nothing is combined."""

    def train_step(self, data):
        """Keras's hook: one step on a batch."""
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            y_pred = self(x, training=True)
            losses = [self.loss[task](y[task], y_pred[task]) for task in y]
        variables = self.trainable_variables
        tasks = [tape.gradient(loss, variables) for loss in losses]
        columns = [[g for g in column if g is not None] for column in zip(*tasks, strict=True)]
        self.optimizer.apply([tf.add_n(column) for column in columns], variables)
        return self.compute_metrics(x, y, y_pred)


def training_step(name, combiner, jit_compile):
    """Return a callable that makes one step of a combiner or of a subclass of `keras.Model`."""
    inputs, outputs = network(name)
    if isinstance(combiner, type):
        model = combiner(inputs, outputs)
    else:
        model = multitask.MultiTaskModel(inputs, outputs, combiner=combiner)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = dict.fromkeys(outputs, loss)
    model.compile(keras.optimizers.Adam(1e-3), loss=losses, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    batch = MODELS[name][1]
    x = rng.normal(size=(8 * batch, *inputs.shape[1:])).astype("float32")
    y = {task: rng.integers(10, size=len(x)) for task in outputs}
    # As `fit` does before the first step: one that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    part = x[:1], {task: labels[:1] for task, labels in y.items()}, model(x[:1])
    model.compute_loss(*part), model.compute_metrics(*part)
    model.make_train_function()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).cache().repeat()
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
    heads = "ms", "medians", "minima", "medians", "minima", "first"
    print(f"{'':30} {'':3} {'':20} {'':8} {'to the summed':>17} {'to a pass per task':>18}")
    print(f"{'':30} {'jit':3} {'combiner':20}", *(f"{head:>8}" for head in heads))
    for name in MODELS:
        if arguments.only.lower() not in name.lower():
            continue
        for jit in {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]:
            measure(name, jit, arguments)


def measure(name, jit, arguments):
    """Print a line for each of Keras's models and for each combiner."""
    combiners = [getattr(multitask, rule)() for rule in arguments.combiners]
    rules = ["(summed loss, Keras)", "(a pass per task)", *arguments.combiners]
    steps = [training_step(name, c, jit) for c in (keras.Model, OnePassPerTask, *combiners)]
    firsts = []
    for step in steps:
        start = time.perf_counter()
        step()
        firsts.append(time.perf_counter() - start)
        step(), step()
    times = _measure.times_in_turn(steps, arguments.seconds)
    for rule, own, first in zip(rules, times, firsts, strict=True):
        ratios = [f(own) / f(other) for other in times[:2] for f in (np.median, min)]
        print(
            f"{name:30} {'on' if jit else 'off':3} {rule:20} {np.median(own) * 1e3:8.3f}",
            *(f"{ratio:8.2f}" for ratio in ratios),
            f"{first:7.1f}s",
            flush=True,
        )


if __name__ == "__main__":
    main()
