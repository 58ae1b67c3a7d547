"""Time what a save of ResumableTraining inside an epoch costs a fit.

    python benchmarks/resumable_training.py [--turns 4] [--seconds 30]

Epochs of an MLP of 50 MB of weights under Adam (150 MB with its slots), each `--seconds` long:
without the callback, and with one that saves once inside it, in turn, each on a model of its own,
the tracing done before. What comes at an epoch's end, the checkpoint there, is not timed. The ratio
is with / without, of the medians and of the minima: 1.03 is a cost of 3 %. "stall" is the time of
the save itself in the training's thread, its longest.
"""

import argparse
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_bp.callbacks import ResumableTraining


class Clock(keras.callbacks.Callback):
    """The seconds of an epoch's batches, from the first one's beginning to the last one's end."""

    def on_epoch_begin(self, epoch, logs=None):
        """Begin."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Note the seconds so far."""
        self.seconds = time.perf_counter() - self.began


class Timed(ResumableTraining):
    """One that times its hook."""

    stall = 0.0

    def on_train_batch_end(self, batch, logs=None):
        """Save, if it is time."""
        began = time.perf_counter()
        super().on_train_batch_end(batch, logs)
        self.stall = max(self.stall, time.perf_counter() - began)


def trained(saves, folder):
    """Return a function of a number of steps that trains an epoch, its clock, and its saves."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input([1024])] + [keras.layers.Dense(2048, "relu") for _ in range(3)]
    model = keras.Sequential([*layers, keras.layers.Dense(1000), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * 64, 1024)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=len(x))))
    data, clock, stalls, epochs = data.batch(64).repeat(), Clock(), [], [0]

    def epoch(steps):
        callbacks = [clock]
        if saves:
            directory = f"{folder}/{epochs[0]}"
            callbacks.append(Timed(directory, save_freq=max(1, steps // 2 + 1)))
        epochs[0] += 1
        model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
        stalls.append(getattr(callbacks[-1], "stall", 0.0))

    megabytes = sum(int(np.prod(v.shape)) for v in model.weights) * 4 / 2**20
    return epoch, clock, stalls, megabytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4, help="epochs of each")
    parser.add_argument("--seconds", type=float, default=30.0, help="of an epoch, with one save")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = [trained(saves, folder) for saves in (False, True)]
        for epoch, *_ in kinds:
            epoch(20)
        steps = max(2, int(options.seconds / (kinds[0][1].seconds / 20)))
        times = [[], []]
        for turn in range(options.turns):
            for kind in (0, 1)[:: 1 if turn % 2 else -1]:
                epoch, clock, stalls, megabytes = kinds[kind]
                if kind == 1:
                    stalls.clear()
                epoch(steps)
                times[kind].append(clock.seconds)
        without, saved = times
        print(
            f"{megabytes:.0f} MB of weights, {steps} steps of {1e3 * min(without) / steps:.1f} ms"
        )
        print(f"seconds without {np.median(without):.2f}, with a save {np.median(saved):.2f}")
        ratios = np.median(saved) / np.median(without), min(saved) / min(without)
        print(f"ratio of medians {ratios[0]:.3f}, of minima {ratios[1]:.3f}")
        print(f"stall {1e3 * max(kinds[1][2]):.0f} ms")


if __name__ == "__main__":
    main()
