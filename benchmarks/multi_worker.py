"""Time `fit` over workers against the step of a hand-written loop.

    python benchmarks/multi_worker.py [--workers 2] [--turns 15] [--steps 100]

Every worker has two copies of a model, of which one is trained by `model.fit` with arrays, the
other by the loop of examples/multi_worker.py: its step, over this worker's share of the same
batches, whose loss is read after every step. Epochs of either are run in turn, in the same
processes; the time is that of an epoch, divided by its steps. The first worker prints the
milliseconds a step, and the ratio fit / loop of the medians and of the minima: 1.1 is a cost of
10 %.
"""

import argparse
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Name -> (width, hidden layers, global batch); inputs and classes are those of the digits.
NETWORKS = {"1x128": (128, 1, 64), "2x512": (512, 2, 256)}
INPUTS, CLASSES = 64, 10


def measure(turns, steps):
    """Be one of the workers of TF_CONFIG."""
    import _measure
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_bp import layers, losses, optimizers, workers

    strategy = workers.multi_worker_strategy(seconds=60)
    number, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id

    def make(width, depth, reduction):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = keras.Sequential([keras.Input((INPUTS,))])
            for _ in range(depth):
                model.add(layers.Dense(width, "relu"))
                model.add(layers.BatchNormalization(synchronized=True))
                model.add(layers.Dropout(0.2, seed=0))
            model.add(layers.Dense(CLASSES))
            optimizer = optimizers.AdamW(1e-3, global_clipnorm=1.0)
            optimizer.build(model.trainable_variables)
            loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
            model.compile(optimizer, loss)
        return model

    def by_fit(network, x, y, batch):
        model = make(*network, "sum_over_batch_size")
        return lambda: model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)

    def by_loop(network, x, y, batch):
        model = make(*network, "sum")
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
        data = data.map(lambda x, y: (x[index::number], y[index::number]))

        @tf.function
        def step(rows):
            def on_replica(x, y):
                with tf.GradientTape() as tape:
                    loss = model.loss(y, model(x, training=True)) / batch
                gradients = tape.gradient(loss, model.trainable_variables)
                model.optimizer.apply(gradients, model.trainable_variables)
                return loss

            return strategy.reduce("SUM", strategy.run(on_replica, args=rows), axis=None)

        return lambda: [float(step(rows)) for rows in data]

    for name, (width, depth, batch) in NETWORKS.items():
        generator = np.random.default_rng(0)
        x = generator.normal(size=(steps * batch, INPUTS)).astype("float32")
        y = generator.integers(CLASSES, size=len(x))
        calls = [by((width, depth), x, y, batch) for by in (by_fit, by_loop)]
        for call in calls:  # traced
            call()
        # A number of turns, and not of seconds: the workers must agree.
        times = [[t / steps for t in own] for own in _measure.turns_of(calls, turns)]
        if index == 0:
            fit, loop = (np.median(own) for own in times)
            print(
                f"{name:8} {fit * 1e3:8.3f} {loop * 1e3:8.3f} {fit / loop:9.3f} "
                f"{min(times[0]) / min(times[1]):8.3f}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--turns", type=int, default=15, help="epochs of either")
    parser.add_argument("--steps", type=int, default=100, help="steps of an epoch")
    arguments = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        return measure(arguments.turns, arguments.steps)
    print(f"    {'':8} {'fit ms':>8} {'loop ms':>8} {'medians':>9} {'minima':>8}", flush=True)
    own = ["--turns", str(arguments.turns), "--steps", str(arguments.steps)]
    start = [sys.executable, "-m", "keras_bp.workers", "--workers", str(arguments.workers)]
    sys.exit(subprocess.run([*start, str(pathlib.Path(__file__)), *own]).returncode)


if __name__ == "__main__":
    main()
