"""Time what GradientMonitor, TrainingHealth and TrainingDashboard cost a fit.

    python benchmarks/monitor.py [--model 4x512] [--execution 1] [--jit off|on|both] [--turns 8]
                                 [--steps 300] [--fits 7] [--curvature]

First epochs of an MLP, 4x512 for instance, with batch 128: without a callback, with the monitor's
default arguments, with histograms every 100 steps as well, and with TrainingHealth, each on a model
of its own, in turn, the tracing done before; `first` is the time of the first step, tracing
included. With `--curvature` instead what the monitor measures of noise and curvature every 50
steps, as a share of the rest of the same `fit`: median and minimum of the epochs. Then whole fits
of the quickstart's network on digits, tracing included, without a callback, with the monitor's
default arguments, and with a dashboard that is drawn to a file, in turn. The ratios are with /
without of the medians and of the minima; 1.05 is a cost of 5 %.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_bp.callbacks import GradientMonitor, TrainingDashboard, TrainingHealth

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import _shared  # noqa: E402
import quickstart  # noqa: E402

VARIANTS = {
    "without": lambda log_dir: [],
    "monitor": lambda log_dir: [GradientMonitor(log_dir)],
    "histograms every 100": lambda log_dir: [GradientMonitor(log_dir, histograms_every=100)],
    "health": lambda log_dir: [TrainingHealth(action=lambda finding: None)],
}
CURVATURE = {
    "noise scale": {"noise_scale_every": 50},
    "critical sharpness": {"sharpness_every": 50},
    "both": {"noise_scale_every": 50, "sharpness_every": 50},
    "Hessian": {"hessian_every": 50},
}


def epoch(callbacks, shape, execution, jit_compile):
    """Return a function of a number of steps that trains a model of its own."""
    keras.utils.set_random_seed(0)
    number, width = map(int, shape.split("x"))
    layers = [keras.Input([width])] + [keras.layers.Dense(width, "relu") for _ in range(number)]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"jit_compile": jit_compile, "steps_per_execution": execution}
    model.compile(keras.optimizers.Adam(1e-4), loss, **options)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * 128, width)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, rng.integers(10, size=len(x))))
    data = data.batch(128, drop_remainder=True).cache().repeat()
    return lambda steps: model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=callbacks)


def measure_curvature(shape, jit_compile, steps, turns):
    """Print the time that measuring noise and curvature takes by that of the rest of a fit."""
    for name, every in CURVATURE.items():
        with tempfile.TemporaryDirectory() as log_dir:
            monitor = GradientMonitor(log_dir, **every)
            meter, spent = monitor._curvature, []
            for method in ("start", "see_call", "stop"):
                setattr(meter, method, timed(getattr(meter, method), spent))
            fit = epoch([monitor], shape, 1, jit_compile)
            fit(60)  # traces
            shares = []
            for _ in range(turns):
                spent.clear()
                start = time.perf_counter()
                fit(steps)
                shares.append(sum(spent) / (time.perf_counter() - start - sum(spent)))
            about = f"{shape}, jit {'on' if jit_compile else 'off'}: {name}"
            print(f"{about:45} {np.median(shares):8.2%} {min(shares):8.2%}", flush=True)


def timed(function, spent):
    def call(*arguments):
        start = time.perf_counter()
        function(*arguments)
        spent.append(time.perf_counter() - start)

    return call


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


def report(name, times, base, first=""):
    ratio, least = np.median(times) / np.median(base), min(times) / min(base)
    print(f"{name:45} {np.median(times):8.3f} {ratio:8.3f} {least:7.3f} {first}", flush=True)


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
    parser.add_argument("--model", default="4x512", help="hidden layers x units")
    parser.add_argument("--execution", type=int, default=1, help="steps_per_execution")
    parser.add_argument("--steps", type=int, default=300, help="steps an epoch")
    parser.add_argument("--fits", type=int, default=7, help="fits of the quickstart's network")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each such fit")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    parser.add_argument("--curvature", action="store_true", help="noise and curvature instead")
    options = parser.parse_args()
    if options.curvature:
        for jit in {"off": [False], "on": [True], "both": [False, True]}[options.jit]:
            measure_curvature(options.model, jit, options.steps, options.turns)
        return
        print(f"{'':45} {'seconds':>8} {'medians':>8} {'minima':>7}   first")
    with tempfile.TemporaryDirectory() as log_dir:
        for jit in {"off": [False], "on": [True], "both": [False, True]}[options.jit]:
            fits = [
                epoch(callbacks(f"{log_dir}/{jit}/{name}"), options.model, options.execution, jit)
                for name, callbacks in VARIANTS.items()
            ]
            firsts = turns_of([lambda fit=fit: fit(options.execution) for fit in fits], 1)
            calls = [lambda fit=fit: fit(options.steps) for fit in fits]
            times = turns_of(calls, options.turns)
            about = f"{options.model}, {options.execution} a call, jit {'on' if jit else 'off'}"
            for name, own, [first] in zip(VARIANTS, times, firsts, strict=True):
                share = f"{first:6.2f} {first / firsts[0][0]:6.2f}"
                report(f"{about}: {name}", own, times[0], share)
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
