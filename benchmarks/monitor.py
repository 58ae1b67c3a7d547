"""Time what GradientMonitor and TrainingDashboard cost a fit.

    python benchmarks/monitor.py [--turns 8] [--steps 300] [--fits 7] [--jit off|on|both]

First epochs of an MLP, 4x512 with batch 128: without a callback, with the norms of every step, and
with histograms every 100 steps as well, each on a model of its own, in turn, the tracing done
before. Then whole fits of the quickstart's network on digits, tracing included, without a callback,
with the monitor's default arguments, and with a dashboard that is drawn to a file, in turn. The
ratios are with / without of the medians and of the minima; 1.05 is a cost of 5 %.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_bp.callbacks import GradientMonitor, TrainingDashboard

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import _shared  # noqa: E402
import quickstart  # noqa: E402

VARIANTS = {"without": None, "norms": {}, "histograms every 100": {"histograms_every": 100}}


def epoch(arguments, log_dir, steps, jit_compile):
    """Return a callable that trains a model of its own for some steps."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input([512])] + [keras.layers.Dense(512, "relu") for _ in range(4)]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * 128, 512)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=len(x))))
    data = data.batch(128).cache().repeat()
    monitors = [] if arguments is None else [GradientMonitor(log_dir, **arguments)]
    return lambda: model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=monitors)


def digits(callbacks, data, epochs):
    """Return a callable that trains the quickstart's network, anew at each call."""
    x, x_test, y, y_test = data

    def fit():
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = quickstart.build_model(steps=epochs * -(-len(x) // quickstart.BATCH_SIZE))
        options = {"batch_size": quickstart.BATCH_SIZE, "epochs": epochs, "verbose": 0}
        model.fit(x, y, validation_data=(x_test, y_test), callbacks=callbacks(), **options)

    return fit


def report(name, times, base):
    ratio, least = np.median(times) / np.median(base), min(times) / min(base)
    print(f"{name:42} {np.median(times):8.3f} {ratio:8.3f} {least:7.3f}", flush=True)


def turns_of(calls, number):
    """Call functions in turn; return a list of seconds for each."""
    times = [[] for _ in calls]
    for turn in range(number):
        for i in range(len(calls))[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            calls[i]()
            times[i].append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=8, help="epochs of each variant")
    parser.add_argument("--steps", type=int, default=300, help="steps an epoch")
    parser.add_argument("--fits", type=int, default=7, help="fits of the quickstart's network")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each such fit")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    options = parser.parse_args()
    print(f"{'':42} {'seconds':>8} {'medians':>8} {'minima':>7}")
    with tempfile.TemporaryDirectory() as log_dir:
        for jit in {"off": [False], "on": [True], "both": [False, True]}[options.jit]:
            calls = [
                epoch(arguments, f"{log_dir}/{jit}/{name}", options.steps, jit)
                for name, arguments in VARIANTS.items()
            ]
            turns_of(calls, 1)  # the first one is traced
            times = turns_of(calls, options.turns)
            for name, own in zip(VARIANTS, times, strict=True):
                report(f"4x512, batch 128, jit {'on' if jit else 'off'}: {name}", own, times[0])
        if options.fits:
            data = _shared.digits(quickstart.SEED)
            with_each = {
                "without": lambda: [],
                "GradientMonitor()": lambda: [GradientMonitor(f"{log_dir}/digits")],
                "TrainingDashboard()": lambda: [TrainingDashboard(f"{log_dir}/digits.png")],
            }
            calls = [digits(callbacks, data, options.epochs) for callbacks in with_each.values()]
            turns_of(calls, 1)  # what a process does once
            times = turns_of(calls, options.fits)
            for name, own in zip(with_each, times, strict=True):
                report(f"digits quickstart, whole fit: {name}", own, times[0])


if __name__ == "__main__":
    main()
