"""Time `fit` over workers against the step of a hand-written loop.

    python benchmarks/multi_worker.py [--workers 2] [--turns 15] [--steps 100]

Every worker has copies of a model, trained by `model.fit` with arrays, and by a loop of
`strategy.run` over this worker's share of the same batches, which reads the loss after every step.
Epochs are run in turn, in the same processes; a time is that from the end of a
step to the end of the next, without what begins and ends an epoch. The first worker prints the
medians in milliseconds, and the ratio to the loop of the medians and of the minima: 1.1 is a cost
of 10 %. "fit, sum" is `fit` with the loss of the loop, which has no sum of the shares' sizes.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Name -> (width, hidden layers, global batch); inputs and classes are those of the digits.
NETWORKS = {"1x128": (128, 1, 64), "2x512": (512, 2, 256)}
INPUTS, CLASSES = 64, 10


def measure(turns, steps):
    """Be one of the workers of TF_CONFIG."""
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

    def by_fit(network, x, y, batch, reduction="sum_over_batch_size"):
        model, ends = make(*network, reduction), []
        end = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )

        def epoch():
            ends.clear()
            options = {"batch_size": batch, "shuffle": False, "verbose": 0}
            model.fit(x, y, callbacks=[end], **options)
            return np.diff(ends)

        return epoch

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

        def epoch():
            ends = []
            for rows in data:
                float(step(rows))
                ends.append(time.perf_counter())
            return np.diff(ends)

        return epoch

    for name, (width, depth, batch) in NETWORKS.items():
        generator = np.random.default_rng(0)
        x = generator.normal(size=(steps * batch, INPUTS)).astype("float32")
        y = generator.integers(CLASSES, size=len(x))
        arguments = (width, depth), x, y, batch
        epochs = {
            "fit": by_fit(*arguments),
            "fit, sum": by_fit(*arguments, "sum"),
            "loop": by_loop(*arguments),
        }
        times = {way: [] for way in epochs}
        # A number of turns, and not of seconds: the workers must agree. In the first all is traced.
        for turn in range(turns + 1):
            for way in list(epochs)[:: 1 if turn % 2 else -1]:
                own = epochs[way]()
                times[way] += list(own) if turn else []
        if index == 0:
            for way, own in times.items():
                loop = times["loop"]
                ratio, least = np.median(own) / np.median(loop), min(own) / min(loop)
                print(f"{name:8} {way:9} {np.median(own) * 1e3:8.3f} {ratio:8.3f} {least:7.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes to start here")
    parser.add_argument("--turns", type=int, default=15, help="epochs of either")
    parser.add_argument("--steps", type=int, default=100, help="steps of an epoch")
    arguments = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        return measure(arguments.turns, arguments.steps)
    print(f"    {'':18} {'ms':>8} {'medians':>8} {'minima':>7}", flush=True)
    own = ["--turns", str(arguments.turns), "--steps", str(arguments.steps)]
    start = [sys.executable, "-m", "keras_bp.workers", "--workers", str(arguments.workers)]
    sys.exit(subprocess.run([*start, str(pathlib.Path(__file__)), *own]).returncode)


if __name__ == "__main__":
    main()
