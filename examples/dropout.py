"""Dropout of 0, 0.2, 0.5 and 0.8 in a 4-layer network.

Run it with `python examples/dropout.py`. Of 500 handwritten digits some have a random label, which
a network of 150,000 weights can learn by heart, and does. Dropout keeps it from that: what it loses
on the training images it gains on the test images; too much of it loses on both. It leaves
a picture in tb_logs/dropout.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, digits, tidy
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_bp.layers import Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam

RATES = (0.0, 0.2, 0.5, 0.8)
UNITS = 256
TRAINING_IMAGES = 500
RANDOM_LABELS = 0.3  # the share of the training labels that are drawn by lot


def load_data(seed):
    """Return (train images, test images, train labels, test labels, share of right labels)."""
    x, x_test, y, y_test = digits(seed, train_size=TRAINING_IMAGES)
    generator = np.random.default_rng(seed)
    drawn = generator.random(len(y)) < RANDOM_LABELS
    labels = np.where(drawn, generator.integers(0, 10, len(y)), y)
    return x, x_test, labels, y_test, np.mean(labels == y)


def build_model(rate):
    """Return a compiled network of four layers, with dropout after all but the last."""
    layers = [keras.Input((64,))]
    for _ in range(3):
        layers += [Dense(UNITS, activation="relu", kernel_initializer="he_normal"), Dropout(rate)]
    model = keras.Sequential([*layers, Dense(10)])
    model.compile(Adam(0.001), SparseCategoricalCrossentropy(from_logits=True))
    return model


def train(data, rate, epochs, seed):
    """Return an array of (training accuracy, test accuracy), a row an epoch, without dropout."""
    x, x_test, y, y_test = data
    keras.utils.set_random_seed(seed)  # the same first weights and the same batches for all
    model, accuracies = build_model(rate), []

    def measure(epoch, logs):
        classes = [model.predict_on_batch(images).argmax(axis=1) for images in (x, x_test)]
        accuracies.append([np.mean(classes[0] == y), np.mean(classes[1] == y_test)])

    callback = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    model.fit(x, y, batch_size=32, epochs=epochs, callbacks=[callback], verbose=0)
    return np.array(accuracies)


def draw(runs, right_labels, path):
    """Write a picture of the accuracies over the epochs: each run faint, and their mean."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for rate, curves in runs.items():
        for column, ax in enumerate(axes):
            epochs = range(1, curves.shape[1] + 1)
            [line] = ax.plot(epochs, curves[:, :, column].mean(axis=0), label=f"dropout {rate:g}")
            ax.plot(
                epochs, curves[:, :, column].T, color=line.get_color(), alpha=0.25, linewidth=0.7
            )
    axes[0].set(title="Training images, some with a wrong label", ylim=(0, 1.02))
    axes[1].set_title("Test images, all labels right")
    axes[0].axhline(right_labels, color="gray", linestyle=":")
    at_the_end = dict(ha="right", va="top", color="gray")
    axes[0].text(curves.shape[1], right_labels - 0.01, "share of right labels", **at_the_end)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("accuracy, dropout off")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for ax in axes:
        ax.set_xlabel("epochs")
    tidy(*axes)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=60)
    parser.add_argument("--runs", type=int, default=3, help="trainings with each rate to average")
    options = parser.parse_args(arguments)

    sets = [load_data(run) for run in range(options.runs)]
    right_labels = np.mean([share for *_, share in sets])
    print(f"{TRAINING_IMAGES} training images, {right_labels:.1%} of their labels right")
    print(f"{'dropout':8}{'training accuracy':>19}{'test accuracy':>15}{'best test accuracy':>20}")
    runs = {}
    for rate in RATES:
        curves = [train(data, rate, options.epochs, seed) for seed, (*data, _) in enumerate(sets)]
        runs[rate] = np.array(curves)
        mean = runs[rate].mean(axis=0)
        training, test = mean[-1]
        print(f"{rate:<8g}{training:19.2%}{test:15.2%}{mean[:, 1].max():20.2%}", flush=True)

    draw(runs, right_labels, options.folder / "accuracies.png")
    print(f"\npicture of the accuracies: {options.folder / 'accuracies.png'}")
    print(f"test accuracy: {runs[0.5][:, -1, 1].mean():.2%} with dropout 0.5")


if __name__ == "__main__":
    main()
