"""Schedules that a training finds in its first steps, beside untuned ones and a tuned grid.

Run it with `python experiments/schedule_discovery.py` for scikit-learn's handwritten digits, or
with `--problem fashion_mnist --data-dir DIR`, which reads DIR/fashion_mnist.npz; `cifar10`
likewise, `characters` trains a transformer on Python's help texts. Every method computes the same
number of update steps, probes and range tests included. The oracle is the best of a grid of 30
schedules, the six peak rates and five shapes of the discovered schedules. A regret is how far a
training loss is behind the oracle's, as a share of the fall from the first weights' loss to the
oracle's. It leaves a picture in tb_logs/schedule_discovery.
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_bp import find_learning_rate
from keras_bp.callbacks import DiscoveredSchedule
from keras_bp.layers import BatchNormalization, Dense, Embedding, LayerNormalization
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam, DoG, HypergradientAdam, Prodigy, ScheduleFreeAdamW
from keras_bp.schedules import CosineAnnealing, OneCycle
from keras_bp.tuning.discovery import SHAPES

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # where tools/ lies
from tools import discovery  # noqa: E402

CONTEXT = 32
RATE = 1e-3  # Adam's own
PEAKS = discovery.HAND_TUNED["adam"]  # of the grid
TICKS = [-5, -2, 0, 2, 5, 10, 20, 50, 100]


def load_images(name, data_dir, images):
    """Return x, y, test x, test y, the images standardized."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
    else:
        with np.load(data_dir / f"{name}.npz") as data:
            x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
        chosen = np.random.default_rng(0).permutation(len(x))[:images]
        x, y, x_test, y_test = x[chosen], y[chosen].ravel(), x_test[:2000], y_test[:2000].ravel()
    x, x_test = x.astype("float32"), x_test.astype("float32")
    return (x - x.mean()) / x.std(), y, (x_test - x.mean()) / x.std(), y_test


def load_characters(windows):
    """Return windows of a text, the characters that come next, and the same of held-out text."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    codes = np.frombuffer(text, "uint8").astype("int32") % 128
    parts = []
    for part, count in ((codes[:-40000], windows), (codes[-40000:], 400)):
        starts = np.random.default_rng(0).integers(len(part) - CONTEXT - 1, size=count)
        chosen = np.stack([part[start : start + CONTEXT + 1] for start in starts])
        parts += [chosen[:, :-1], chosen[:, 1:]]
    return parts


def build_mlp(shape):
    hidden = [Dense(64, activation="relu"), Dense(32, activation="relu")]
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *hidden, Dense(10)])


def build_convolutional(shape):
    layers = [keras.Input(shape)]
    for filters in (8, 16):
        layers.append(keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False))
        layers += [BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Flatten(), Dense(10)])


def build_transformer(shape):
    inputs = keras.Input(shape, dtype="int32")
    places = Embedding(CONTEXT, 32)(keras.ops.arange(CONTEXT))
    x = Embedding(128, 32)(inputs) + places
    y = LayerNormalization()(x)
    x = x + keras.layers.MultiHeadAttention(2, 16)(y, y, use_causal_mask=True)
    x = x + Dense(32)(Dense(64, activation="gelu")(LayerNormalization()(x)))
    return keras.Model(inputs, Dense(128)(LayerNormalization()(x)))


# Network, batch size and passes over the data.
PROBLEMS = {
    "digits": (build_mlp, 32, 10),
    "fashion_mnist": (build_mlp, 64, 6),
    "cifar10": (build_convolutional, 64, 6),
    "characters": (build_transformer, 16, 2),
}


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """Rates in a variable, so that all schedules share one compiled step."""

    def __init__(self, steps):
        self.rates = tf.Variable(np.zeros(steps, "float32"), trainable=False)

    def __call__(self, step):
        """Return the rate of a step."""
        return tf.gather(self.rates, tf.cast(step, tf.int64))


class Bench:
    """Trains a problem's network by any method, from the same weights and on the same batches."""

    def __init__(self, problem, data, epochs):
        self.build, self.batch_size, _ = PROBLEMS[problem]
        self.x, self.y, self.x_test, self.y_test = data
        self.epochs = epochs
        self.steps = epochs * (len(self.x) // self.batch_size)
        self.table = Table(self.steps)
        self.model = self.compiled(Adam(self.table), 0)
        self.model.optimizer.build(self.model.trainable_variables)
        self.fresh = [v.numpy() for v in self.model.optimizer.variables]
        self.first_weights = {}

    def compiled(self, optimizer, seed):
        """Return the network with a seed's weights."""
        keras.utils.set_random_seed(seed)
        model = self.build(self.x.shape[1:])
        loss = SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model

    def batches(self, seed):
        """Return a seed's batches."""
        data = tf.data.Dataset.from_tensor_slices((self.x, self.y)).shuffle(len(self.x), seed=seed)
        return data.batch(self.batch_size, drop_remainder=True)

    def fit(self, model, seed, steps=None, callbacks=()):
        """Train for a number of steps; return training loss and test accuracy."""
        steps = self.steps if steps is None else steps
        batches = self.batches(seed).repeat().take(steps)
        if steps:
            model.fit(batches, shuffle=False, verbose=0, callbacks=list(callbacks))
        loss = model.evaluate(self.x, self.y, batch_size=500, verbose=0)[0]
        return loss, model.evaluate(self.x_test, self.y_test, batch_size=500, verbose=0)[1]

    def start(self, seed):
        """Return the training loss of the first weights."""
        return self.fit(self.compiled(Adam(RATE), seed), seed, 0)[0]

    def schedule(self, seed, rates):
        """Train by Adam at these rates, with the step that is compiled already."""
        if seed not in self.first_weights:
            self.first_weights[seed] = self.compiled(Adam(), seed).get_weights()
        keras.utils.set_random_seed(seed)  # the order of the batches hangs on it too
        self.model.set_weights(self.first_weights[seed])
        for variable, value in zip(self.model.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)
        self.table.rates.assign(np.pad(rates, (0, self.steps - len(rates))))
        return self.fit(self.model, seed, len(rates))

    def optimizer(self, seed, make):
        """Train by an optimizer that needs no rate."""
        return self.fit(self.compiled(make(), seed), seed)

    def one_cycle(self, seed):
        """Train one cycle at the range test's rate, the test's steps taken off."""
        model = self.compiled(Adam(RATE), seed)
        test_steps = min(max(self.steps // 5, 20), 100)
        curve = find_learning_rate(model, self.batches(seed), steps=test_steps)
        left = self.steps - len(curve.losses)
        return self.schedule(seed, OneCycle(curve.suggest(), left)(np.arange(left)).numpy())

    def discovered(self, seed):
        """Train by Adam and the callback."""
        callback = DiscoveredSchedule(self.steps)
        return self.fit(self.compiled(Adam(RATE), seed), seed, callbacks=[callback])


def untuned(steps):
    """Return name -> rates of the schedules that take Adam's default rate for their peak."""
    return {
        "constant": RATE * discovery.shape(0.0, "constant", steps),
        "cosine": RATE * discovery.shape(0.0, "cosine", steps),
        "warm-up, linear": RATE * discovery.shape(0.1, "linear", steps),
    }


def self_tuning(steps):
    """Return name -> function that makes an optimizer that needs no rate."""
    return {
        "ScheduleFreeAdamW": ScheduleFreeAdamW,
        "Prodigy, cosine": lambda: Prodigy(CosineAnnealing(1.0, steps)),
        "DoG, averaged": lambda: DoG(use_ema=True),
        "HypergradientAdam": HypergradientAdam,
    }


def methods(bench):
    """Return name -> method of the bench, which takes a seed, and its further arguments."""
    found = {name: (bench.schedule, rates) for name, rates in untuned(bench.steps).items()}
    found["one-cycle, range test"] = (bench.one_cycle,)
    found |= {name: (bench.optimizer, make) for name, make in self_tuning(bench.steps).items()}
    found["DiscoveredSchedule"] = (bench.discovered,)
    return found


def oracle(bench, seeds):
    """Return the (30, seeds) training losses of the hand-tuned grid, and its test accuracies."""
    rates = discovery.schedules(PEAKS, bench.steps)
    results = np.array([[bench.schedule(seed, column) for seed in seeds] for column in rates.T])
    return np.nan_to_num(results[..., 0], nan=np.inf), results[..., 1]


def draw(results, regrets, title, path):
    """Write a picture: the regret of each method, one point per seed."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    for row, name in enumerate(results):
        color = "tab:orange" if name == "DiscoveredSchedule" else "tab:blue"
        ax.scatter(100 * regrets[name], np.full(len(regrets[name]), row), color=color, alpha=0.7)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.axvline(5, color="gray", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(results)), results)
    ax.set_xscale("symlog", linthresh=5)
    ax.set_xticks(TICKS, TICKS)
    ax.minorticks_off()
    ax.set(title=title, xlabel="regret, % of the oracle's fall", ylim=(len(results), -1))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2, axis="x")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="digits")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds PROBLEM.npz")
    parser.add_argument("--images", type=int, default=4000, help="training images or windows")
    parser.add_argument("--epochs", type=int, help="passes over the data")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--grid-seeds", type=int, default=2, help="trainings of each in the grid")
    parser.add_argument("--methods", nargs="+", help="those to compare, the discovery among them")
    parser.add_argument(
        "--log-dir",
        type=pathlib.Path,
        default="tb_logs",
        help="where the folder `schedule_discovery` goes",
    )
    options = parser.parse_args(arguments)
    for name in ("epochs", "seeds", "grid_seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} must be at least 1. Received: {value}")
    seeds = range(1, options.seeds + 1)

    if options.problem == "characters":
        data = load_characters(options.images)
    else:
        data = load_images(options.problem, options.data_dir, options.images)
    bench = Bench(options.problem, data, options.epochs or PROBLEMS[options.problem][2])
    began = time.process_time()
    start = np.mean([bench.start(seed) for seed in seeds])
    losses, accuracies = oracle(bench, seeds[: options.grid_seeds])
    best = losses.mean(axis=1).argmin()
    tuned = losses[best].mean()
    results = {
        name: np.array([train(seed, *arguments) for seed in seeds])
        for name, (train, *arguments) in methods(bench).items()
        if name in (options.methods or [name])
    }
    peak = PEAKS[best // len(SHAPES)]
    print(
        f"{options.problem}: {bench.model.count_params():,} weights, {bench.steps} update steps; "
        f"loss of the first weights {start:.4f}\noracle: peak {peak:g}, "
        f"{SHAPES[best % len(SHAPES)]}, training loss {tuned:.4f}, test "
        f"accuracy {accuracies[best].mean():.2%}\n"
    )
    print(f"{'':24}{'training loss':>18}{'test accuracy':>18}{'regret':>18}")
    regrets = {}
    for name, values in results.items():
        loss, accuracy = values.T
        regrets[name] = (loss - tuned) / (start - tuned)
        columns = [
            f"{loss.mean():.4f} ± {loss.std():.4f}",
            f"{100 * accuracy.mean():.2f} ± {100 * accuracy.std():.2f}",
            f"{100 * regrets[name].mean():.2f} ± {100 * regrets[name].std():.2f}",
        ]
        print(f"{name:24}" + "".join(f"{column:>18}" for column in columns))

    folder = options.log_dir / "schedule_discovery"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{options.problem}.png"
    draw(results, regrets, f"{options.problem}, one point per seed", picture)
    print(f"\n{time.process_time() - began:.0f} CPU seconds; picture: {picture}")
    accuracy = results["DiscoveredSchedule"][:, 1].mean()
    print(f"test accuracy: {accuracy:.2%} with the discovered schedule")


if __name__ == "__main__":
    main()
