"""Optimizers side by side, through `model.fit`.

Run it with `python examples/optimizers.py`. Six optimizers train the same network from the same
weights on the same batches: one on two spirals, one on scikit-learn's handwritten
digits. It leaves a picture of the learning curves in tb_logs/optimizers.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits, tidy
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD, Adam, AdamW, Momentum, Nesterov, RMSprop
from keras_bp.reference import spiral

BATCH_SIZE = 32
SEED = 0
EPOCHS = {"spiral": 35, "digits": 8}
# Momentum averages the gradients and Nesterov sums them up: at a beta of 0.9 a rate ten times as
# large makes steps of the same size, so that what tells the two apart is the look ahead.
OPTIMIZERS = {
    "SGD": lambda: SGD(0.05),
    "Momentum": lambda: Momentum(0.5, beta=0.9),
    "Nesterov": lambda: Nesterov(0.05, beta=0.9),
    "RMSprop": lambda: RMSprop(0.005),
    "Adam": lambda: Adam(0.005),
    "AdamW": lambda: AdamW(0.005, exclude_from_decay="bias_and_normalization"),
}


def load_data(name):
    """Return (train inputs, test inputs, train labels, test labels)."""
    if name == "spiral":
        (x, y), (x_test, y_test) = spiral(seed=0), spiral(seed=1)  # the same arms, other noise
        return x.T, x_test.T, y.T, y_test.T
    return digits(SEED)


def build_model(inputs, classes):
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    return keras.Sequential(
        [keras.Input((inputs,)), Dense(32, **hidden), Dense(32, **hidden), Dense(classes)]
    )


def train(data, optimizer, epochs):
    """Return (history, training loss, test accuracy, seconds) of one optimizer."""
    x, x_test, y, y_test = data
    keras.utils.set_random_seed(SEED)  # the same first weights and the same batches for all
    model = build_model(x.shape[1], classes=int(y.max()) + 1)
    loss_function = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss_function, metrics=["accuracy"])
    start = time.perf_counter()
    history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0).history
    seconds = time.perf_counter() - start
    loss, _ = model.evaluate(x, y, verbose=0)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    return history, loss, accuracy, seconds


def draw(histories, path):
    """Write a picture of loss and accuracy: one row per data set, one line per optimizer."""
    figure = Figure(figsize=(11, 3.8 * len(histories)), layout="constrained")
    axes = figure.subplots(len(histories), 2, squeeze=False)
    for (dataset, runs), (loss, accuracy) in zip(histories.items(), axes, strict=True):
        for name, history in runs.items():
            epochs = range(1, len(history["loss"]) + 1)
            style = dict(label=name, linestyle="--" if name == "AdamW" else "-")  # close to Adam's
            loss.plot(epochs, history["loss"], **style)
            accuracy.plot(epochs, history["accuracy"], **style)
        loss.set(title=f"{dataset}: training loss", yscale="log")
        accuracy.set_title(f"{dataset}: training accuracy")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        accuracy.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        for ax in (loss, accuracy):
            ax.set_xlabel("epochs")
        tidy(loss, accuracy)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=None, of="for a default of each data set")
    parser.add_argument("--dataset", choices=["spiral", "digits", "both"], default="both")
    options = parser.parse_args(arguments)

    histories = {}
    for dataset in EPOCHS if options.dataset == "both" else [options.dataset]:
        data, epochs = load_data(dataset), options.epochs or EPOCHS[dataset]
        print(
            f"{dataset}, {epochs} epochs\n{'':10}{'training loss':>14}{'test accuracy':>15}", end=""
        )
        print(f"{'seconds':>9} (tracing included)")
        histories[dataset], accuracies = {}, {}
        for name, make in OPTIMIZERS.items():
            history, loss, accuracy, seconds = train(data, make(), epochs)
            histories[dataset][name], accuracies[name] = history, accuracy
            print(f"{name:10}{loss:14.4f}{accuracy:15.2%}{seconds:9.1f}", flush=True)
        print()

    draw(histories, options.folder / "curves.png")
    print(f"picture of the curves: {options.folder / 'curves.png'}")
    print(f"test accuracy: {accuracies['Adam']:.2%} with Adam on {dataset}")


if __name__ == "__main__":
    main()
