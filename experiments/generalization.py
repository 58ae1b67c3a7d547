"""Adam against SGD with momentum, which of the two generalizes better.

Run it with `python experiments/generalization.py` for scikit-learn's handwritten digits, or with
`--dataset cifar10 --data-dir DIR`, which reads DIR/cifar10.npz; mnist and fashion_mnist are known
too, and Keras downloads what is not there. Both optimizers train a multilayer perceptron and a
convolutional network, each at the best of a few learning rates, chosen on training images that are
held out, and from several seeds. It leaves a picture of the accuracies in tb_logs/generalization.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_bp.layers import BatchNormalization, Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam, Momentum
from keras_bp.schedules import CosineAnnealing

SEED = 0
# As many rates for the one as for the other, each about three times the one before. Momentum
# averages the gradients, and takes ten times the rate that a sum of them would.
OPTIMIZERS = {
    "Adam": (Adam, (3e-4, 1e-3, 3e-3, 1e-2)),
    "Momentum": (Momentum, (0.03, 0.1, 0.3, 1.0)),
}


def load_data(dataset, data_dir, images):
    """Return (train images, test images, train labels, test labels), images standardized."""
    if dataset == "digits":
        x, y = load_digits(return_X_y=True)
        split = train_test_split(x.reshape(-1, 8, 8), y, test_size=0.2, random_state=SEED)
        x, x_test, y, y_test = split
    elif data_dir is None:
        (x, y), (x_test, y_test) = getattr(keras.datasets, dataset).load_data()
    else:
        with np.load(data_dir / f"{dataset}.npz") as data:
            x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    chosen = np.random.default_rng(SEED).permutation(len(x))[:images]
    x, y = x[chosen].astype("float32"), y[chosen].ravel().astype("int64")
    x_test, y_test = x_test.astype("float32"), y_test.ravel().astype("int64")
    if x.ndim == 3:
        x, x_test = x[..., None], x_test[..., None]
    mean, deviation = x.mean((0, 1, 2)), x.std((0, 1, 2))  # of each colour
    return (x - mean) / deviation, (x_test - mean) / deviation, y, y_test


def build_mlp(shape):
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    layers = [keras.layers.Flatten(), Dense(256, **hidden), Dense(128, **hidden), Dense(10)]
    return keras.Sequential([keras.Input(shape), *layers])


def build_convolutional(shape):
    layers = [keras.Input(shape)]
    for filters in (16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
        layers += [BatchNormalization(momentum=0.9), keras.layers.ReLU()]
        layers.append(keras.layers.MaxPooling2D())
    dense = Dense(64, activation="relu", kernel_initializer="he_normal")
    return keras.Sequential([*layers, keras.layers.Flatten(), dense, Dense(10)])


NETWORKS = {"MLP": build_mlp, "convolutional": build_convolutional}


def train(build, optimizer, rate, seed, x, y, options):
    """Return a trained model; the rate falls to 0 along a cosine."""
    keras.utils.set_random_seed(seed)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    batches = batches.batch(options.batch_size, drop_remainder=True)
    model = build(x.shape[1:])
    schedule = CosineAnnealing(rate, options.epochs * len(batches))
    loss_function = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(schedule), loss_function, metrics=["accuracy"])
    model.fit(batches, epochs=options.epochs, shuffle=False, verbose=0)
    return model


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=1000, verbose=0)[1]


def draw(results, title, path):
    """Write a picture: one row per network and optimizer, one point per seed."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    colors = {"Adam": "tab:blue", "Momentum": "tab:orange"}
    for row, ((_, optimizer), accuracies) in enumerate(results.items()):
        color, rows = colors[optimizer], np.full(len(accuracies), row)
        training, test = accuracies.T
        ax.plot([training.mean(), test.mean()], [row, row], color=color, alpha=0.4, zorder=0)
        ax.scatter(training, rows, facecolor="white", edgecolor=color, label="training images")
        ax.scatter(test, rows, color=color, alpha=0.7, label="test images")
        if row == 0:
            ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_yticks(
        range(len(results)), [f"{network}\n{optimizer}" for network, optimizer in results]
    )
    ax.set(title=title, ylim=(len(results) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.locator_params(axis="x", nbins=6)  # room for two decimals
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2, axis="x")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["digits", "mnist", "fashion_mnist", "cifar10"]
    parser.add_argument("--dataset", choices=names, default="digits")
    parser.add_argument("--network", choices=NETWORKS, help="one of the two, for both")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds DATASET.npz")
    parser.add_argument("--images", type=int, help="training images, drawn at random, for all")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--log-dir",
        type=pathlib.Path,
        default="tb_logs",
        help="where the folder `generalization` goes",
    )
    options = parser.parse_args(arguments)
    for name in ("epochs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1. Received: {getattr(options, name)}")

    x, x_test, y, y_test = load_data(options.dataset, options.data_dir, options.images)
    held_out = len(x) // 5
    print(
        f"{options.dataset}: {len(x)} training images, {len(x_test)} test images, "
        f"{options.epochs} epochs of batches of {options.batch_size}, {options.seeds} seed(s); "
        f"rates chosen on {held_out} training images"
    )
    print(f"{'':24}{'rate':>7}{'training accuracy':>21}{'test accuracy':>21}{'seconds':>9}")
    results = {}
    for network in [options.network] if options.network else NETWORKS:
        for name, (optimizer, rates) in OPTIMIZERS.items():
            scores = {}
            for rate in rates:
                model = train(
                    NETWORKS[network], optimizer, rate, SEED, x[held_out:], y[held_out:], options
                )
                scores[rate] = accuracy(model, x[:held_out], y[:held_out])
            rate = max(scores, key=scores.get)
            accuracies, start = [], time.perf_counter()
            for seed in range(1, options.seeds + 1):
                model = train(NETWORKS[network], optimizer, rate, seed, x, y, options)
                accuracies.append((accuracy(model, x, y), accuracy(model, x_test, y_test)))
            seconds = (time.perf_counter() - start) / options.seeds
            results[network, name] = accuracies = np.array(accuracies)
            columns = (f"{a.mean():.2%} ± {100 * a.std():.2f}" for a in accuracies.T)
            print(f"{network:14}{name:10}{rate:7g}", end="")
            print("".join(f"{column:>21}" for column in columns) + f"{seconds:9.1f}", flush=True)

    folder = options.log_dir / "generalization"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{options.dataset}.png"
    draw(results, f"Accuracy on {options.dataset}, one point per seed", picture)
    print(f"\npicture of the accuracies: {picture}")
    worst = min(test.mean() for _, test in (a.T for a in results.values()))
    print(f"test accuracy: {worst:.2%} of {len(x_test)} images in the worst row")


if __name__ == "__main__":
    main()
