"""Time whole training steps and the first step, as `fit` runs them, against Keras's.

    python benchmarks/training_step.py [--only NAME] [--seconds 4] [--jit off|on|both]
    python benchmarks/training_step.py --check-fit
    python benchmarks/training_step.py --options [--only NAME] [--seconds 4] [--jit off|on|both]

Each model has one library's layers, loss and AdamW. A step is a call of the function that `fit`
calls for each batch, on the same iterator of batches in memory. Ours and Keras's run in one
process, in turn; each line gives the milliseconds a step, the ratio Keras / ours of the medians and
of the minima (over 1: ours is faster), and the seconds from making a model to the end of its first
step, tracing included: the median of `--starts` fresh models of either library, in turn. There the
ratio is ours / Keras (under 1: ours is faster). `--check-fit` compares the time a step with that of
`fit` itself.
`--options` times our AdamW with an option of the optimizers beside itself without, in turn: the
ratio with / without of the medians and of the minima (1: the option costs nothing).
"""

import argparse
import time

import _measure
import keras
import numpy as np
import tensorflow as tf

import keras_bp

CLASSES = 10


def mlp(library, width, depth, batch_normalization=False):
    """Return the layers of a multilayer perceptron."""
    layers = [keras.Input([width])]
    for _ in range(depth):
        if batch_normalization:
            layers += [library.layers.Dense(width, use_bias=False)]
            layers += [library.layers.BatchNormalization(), keras.layers.Activation("relu")]
        else:
            layers += [library.layers.Dense(width, activation="relu")]
    return [*layers, library.layers.Dense(CLASSES)]


def convolutional(library):
    """Return the layers of a small convolutional net."""
    layers = [keras.Input([28, 28, 1])]
    for filters in (16, 32):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            library.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.Flatten(), library.layers.Dense(64, activation="relu")]
    return [*layers, library.layers.Dense(CLASSES)]


# Name, batch size and a function that makes a library's layers.
MODELS = [
    ("MLP 8x64", 32, lambda library: mlp(library, 64, 8)),
    ("MLP 4x256", 64, lambda library: mlp(library, 256, 4)),
    ("MLP 4x1024", 64, lambda library: mlp(library, 1024, 4)),
    ("MLP 4x512, batch norm", 512, lambda library: mlp(library, 512, 4, True)),
    ("Conv net, batch norm", 64, convolutional),
]


OPTIONS = [
    {"layer_decay": 0.75},
    {"learning_rate_multipliers": {"bias": 0.5}, "weight_decay_multipliers": {"bias": 0.0}},
    {"cautious": True},
    {"adaptive_clip": 0.01},
    {"update_clip": 1.0},
    {"clip_above_zscore": 2.5},
    {"skip_above_zscore": 6.0},
    {"use_ema": True},
    {"swa_start": 1},
    {"lookahead_steps": 5},
]


def make(library, layers, jit_compile, **options):
    """Return a compiled model."""
    model = keras.Sequential(layers(library))
    model.compile(
        optimizer=library.optimizers.AdamW(1e-4, **options),
        loss=library.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def dataset(model, batch, number=16):
    """Return a dataset of batches in memory that never ends."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(number * batch, *model.input_shape[1:])).astype("float32")
    y = rng.integers(CLASSES, size=number * batch)
    # Batched here, so that the batch size is unknown to the step, as in `fit` with arrays.
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).cache().repeat()


def training_step(library, layers, batch, jit_compile, **options):
    """Return a callable that makes one step with the next batch."""
    model = make(library, layers, jit_compile, **options)
    model.make_train_function()
    iterator = iter(dataset(model, batch))
    return lambda: model.train_function(iterator)


def seconds_to_first_step(library, layers, batch, jit_compile):
    keras.backend.clear_session()
    start = time.perf_counter()
    model = make(library, layers, jit_compile)
    made = time.perf_counter() - start
    data = dataset(model, batch)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    return made + time.perf_counter() - start


def compare_starts(layers, batch, jit_compile, starts):
    """Return the median seconds to the first step, ours and Keras's."""
    times = {keras_bp: [], keras: []}
    for turn in range(starts):
        for library in (keras_bp, keras) if turn % 2 else (keras, keras_bp):
            times[library].append(seconds_to_first_step(library, layers, batch, jit_compile))
    return np.median(times[keras_bp]), np.median(times[keras])


def check_fit():
    """Print the milliseconds a step here and in `fit`, for both libraries."""
    steps = 100
    for name, batch, layers in MODELS:
        for library in (keras_bp, keras):
            step = training_step(library, layers, batch, False)
            for _ in range(10):  # the first one is traced
                step()
            [times] = _measure.times_in_turn([step], 2)
            model = make(library, layers, False)
            data = dataset(model, batch)
            model.fit(data, steps_per_epoch=10, shuffle=False, verbose=0)
            start = time.perf_counter()
            model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
            in_fit = (time.perf_counter() - start) / steps
            print(
                f"{name:22} {library.__name__:9} {np.mean(times) * 1e3:8.3f} here, "
                f"{in_fit * 1e3:8.3f} in fit",
                flush=True,
            )


def compare_options(only, seconds, jits):
    """Print what each option adds to a step."""
    for jit in jits:
        for name, batch, layers in MODELS:
            for options in OPTIONS if only.lower() in name.lower() else ():
                keras.backend.clear_session()
                steps = [
                    training_step(keras_bp, layers, batch, jit, **each) for each in ({}, options)
                ]
                result = _measure.compare(*steps, seconds)
                print(
                    f"{name:22} {'on' if jit else 'off':4} {result.ratio_of_medians:6.3f} "
                    f"{result.ratio_of_minima:6.3f}  {options}",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="measure only models that contain this")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a case")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    parser.add_argument("--starts", type=int, default=7, help="fresh models of either library")
    parser.add_argument("--check-fit", action="store_true", help="compare with `fit` itself")
    parser.add_argument("--options", action="store_true", help="what the optimizer's options cost")
    arguments = parser.parse_args()
    jits = {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]
    if arguments.check_fit:
        return check_fit()
    if arguments.options:
        return compare_options(arguments.only, arguments.seconds, jits)
    # What a process does once, it does before the first start that is timed.
    for library in (keras_bp, keras):
        seconds_to_first_step(library, MODELS[0][2], MODELS[0][1], False)
    print(
        f"{'':22} {'jit':4} {'ours ms':>8} {'Keras ms':>9} {'medians':>8} {'minima':>7}   "
        f"{'first s':>7} {'Keras s':>8} {'ratio':>6}"
    )
    for jit in jits:
        ratios = []
        for name, batch, layers in MODELS:
            if arguments.only.lower() not in name.lower():
                continue
            keras.backend.clear_session()
            steps = [training_step(library, layers, batch, jit) for library in (keras_bp, keras)]
            result = _measure.compare(*steps, arguments.seconds)
            first = compare_starts(layers, batch, jit, arguments.starts)
            ratios.append(result.ratio_of_medians)
            print(
                f"{name:22} {'on' if jit else 'off':4} {result.ours * 1e3:8.3f} "
                f"{result.keras * 1e3:9.3f} {result.ratio_of_medians:8.2f} "
                f"{result.ratio_of_minima:7.2f}   {first[0]:7.2f} {first[1]:8.2f} "
                f"{first[0] / first[1]:6.2f}",
                flush=True,
            )
        if ratios:
            mean = np.exp(np.mean(np.log(ratios)))
            print(f"{'geometric mean':22} {'on' if jit else 'off':4} {mean:27.2f}")


if __name__ == "__main__":
    main()
