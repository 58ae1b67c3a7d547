"""Training without the transposed weights, by depth.

Run it with `python experiments/feedback_alignment.py` for scikit-learn's handwritten digits, or
with `--dataset mnist --data-dir DIR`, which reads DIR/mnist.npz; cifar10 is known too, and without
`--data-dir` Keras downloads either. Networks of tanh layers are trained from several seeds by
backpropagation, by feedback alignment through random matrices of three kinds, and by direct
feedback alignment; a table gives the accuracies and the angles between the gradients that the
layers are trained with and the true ones. It leaves a picture of both in
tb_logs/feedback_alignment, and the TensorBoard run of one network for each rule.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_bp.callbacks import GradientMonitor
from keras_bp.feedback import alignment, direct_feedback_model
from keras_bp.layers import Dense, FeedbackDense
from keras_bp.losses import CategoricalCrossentropy
from keras_bp.optimizers import Adam, Momentum
from keras_bp.schedules import CosineAnnealing

SEED = 0
# What a rule's matrices are drawn from: None for the default, uniform within 1 / sqrt(n), and then
# two that keep the errors' size from layer to layer.
RULES = {
    "BP": None,
    "FA": None,
    "FA scaled": lambda: keras.initializers.VarianceScaling(1, "fan_out", "uniform"),
    "FA orthogonal": keras.initializers.Orthogonal,
    "DFA": None,
}
# The optimizer, and its learning rate for backpropagation and for the others. Adam's steps do not
# depend on the gradients' size, and so not on the matrices' either; those of Momentum do.
OPTIMIZERS = {"adam": (Adam, 1e-3, 3e-3), "momentum": (Momentum, 0.3, 0.3)}
COLORS = dict(zip(RULES, ["black", "tab:orange", "tab:red", "tab:purple", "tab:blue"], strict=True))


def load_data(dataset, data_dir, images):
    """Return (train images, test images, train labels, test labels), a row each for an image."""
    if dataset == "digits":
        x, y = load_digits(return_X_y=True)
        x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.2, random_state=SEED)
    else:
        if data_dir is None:
            (x, y), (x_test, y_test) = getattr(keras.datasets, dataset).load_data()
        else:
            with np.load(data_dir / f"{dataset}.npz") as data:
                x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
        x, x_test = (data.reshape(len(data), -1) / 255 for data in (x, x_test))
    if dataset == "cifar10":
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    chosen = np.random.default_rng(SEED).permutation(len(x))[:images]
    x, x_test = x.astype("float32")[chosen], x_test.astype("float32")
    return x, x_test, np.eye(10)[y.ravel()[chosen]], np.eye(10)[y_test.ravel()]


def build(rule, inputs, depth, width, seed):
    """Return a network of `depth` hidden layers, of the same first kernels for every rule."""
    layers = [keras.Input((inputs,))]
    for number in range(1, depth + 2):
        units, activation, name = width, "tanh", f"hidden_{number}"
        if number > depth:
            units, activation, name = 10, None, "output"
        first = keras.initializers.GlorotUniform(seed=1000 * seed + number)
        options = {"kernel_initializer": first, "name": name}
        if rule.startswith("FA"):
            options["feedback_initializer"] = RULES[rule] and RULES[rule]()
        layers.append(
            (FeedbackDense if rule.startswith("FA") else Dense)(units, activation, **options)
        )
    model = keras.Sequential(layers)
    return direct_feedback_model(model) if rule == "DFA" else model


class Angles(keras.callbacks.Callback):
    """Keeps the mean angle of the hidden layers before the training and after each epoch."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.angles = x, y, []

    def on_train_begin(self, logs=None):  # noqa: D102
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        *hidden, _ = alignment(self.model, self.x, self.y).values()
        self.angles.append([layer.angle for layer in hidden])


def train(rule, depth, seed, data, options, log_dir):
    """Train one network; return the test accuracy of each epoch, and the angles."""
    x, x_test, y, y_test = data
    keras.utils.set_random_seed(seed)
    model = build(rule, x.shape[1], depth, options.width, seed)
    steps = options.epochs * -(-len(x) // options.batch_size)
    optimizer, *rates = OPTIMIZERS[options.optimizer]
    loss = CategoricalCrossentropy(from_logits=True, label_smoothing=options.label_smoothing)
    schedule = CosineAnnealing(rates[rule != "BP"], steps)
    model.compile(optimizer(schedule), loss, metrics=["accuracy"])
    callbacks = [angles := Angles(x[:512], y[:512])]
    if log_dir is not None:
        callbacks.append(GradientMonitor(log_dir, every=10, updates_every=10))
    history = model.fit(
        x,
        y,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=(x_test, y_test),
        validation_batch_size=1000,
        callbacks=callbacks,
        verbose=0,
    )
    return np.array(history.history["val_accuracy"]), np.array(angles.angles)


def draw(results, depths, title, path):
    """Write a picture: accuracy against depth, and at the largest depth against epochs; angles."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    by_depth, by_epoch, angles = figure.subplots(1, 3)
    for rule, color in COLORS.items():
        runs = {depth: results[depth, rule] for depth in depths if (depth, rule) in results}
        if not runs:
            continue
        last = [[accuracy[-1] for accuracy, _ in runs[depth]] for depth in runs]
        by_depth.plot(list(runs), np.mean(last, axis=1), "o-", color=color, label=rule)
        curves = np.mean([accuracy for accuracy, _ in runs[depths[-1]]], axis=0)
        by_epoch.plot(range(1, len(curves) + 1), curves, color=color)
        means = np.mean([angle.mean(axis=1) for _, angle in runs[depths[-1]]], axis=0)
        angles.plot(means, color=color)
    by_depth.set_xscale("log", base=2)
    by_depth.set_xticks(depths, depths)
    by_depth.minorticks_off()
    by_depth.set(title=title, xlabel="hidden layers", ylabel="test accuracy")
    by_epoch.set(title=f"{depths[-1]} hidden layers", xlabel="epoch", ylabel="test accuracy")
    angles.set(title="angle to the true gradient", xlabel="epoch", ylabel="degrees, hidden layers")
    angles.axhline(90, color="gray", linestyle=":")
    for ax in (by_depth, by_epoch):
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(*by_depth.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=["digits", "mnist", "cifar10"], default="digits")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds DATASET.npz")
    parser.add_argument("--images", type=int, help="training images, drawn at random, for all")
    parser.add_argument(
        "--rules", nargs="+", choices=RULES, default=[rule for rule in RULES if rule != "FA scaled"]
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--width", type=int, default=64, help="units of a hidden layer")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--log-dir", type=pathlib.Path, default="tb_logs")
    options = parser.parse_args(arguments)
    for name in ("epochs", "seeds", "width"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1. Received: {getattr(options, name)}")
    if min(options.depths) < 1:
        parser.error(f"--depths must be at least 1 each. Received: {options.depths}")

    data, depths = load_data(options.dataset, options.data_dir, options.images), options.depths
    print(
        f"{options.dataset}: {len(data[0])} training and {len(data[1])} test images, "
        f"{options.epochs} epochs of batches of {options.batch_size}, {options.seeds} seed(s), "
        f"layers of {options.width} units, {options.optimizer}"
    )
    print(f"{'depth':>5}  {'rule':14}{'test accuracy':>18}{'first':>8}{'last':>6}{'seconds':>9}")
    folder, results = options.log_dir / "feedback_alignment", {}
    folder.mkdir(parents=True, exist_ok=True)
    for depth in depths:
        for rule in options.rules:
            start = time.perf_counter()
            log_dirs = [folder / rule.lower().replace(" ", "_")] if depth == depths[-1] else []
            log_dirs += [None] * options.seeds
            runs = [
                train(rule, depth, seed, data, options, log_dirs[seed - 1])
                for seed in range(1, options.seeds + 1)
            ]
            results[depth, rule] = runs
            seconds = (time.perf_counter() - start) / options.seeds
            last = np.array([accuracy[-1] for accuracy, _ in runs])
            angle = np.mean([angles[-1] for _, angles in runs], axis=0)
            print(f"{depth:5}  {rule:14}{last.mean():11.2%} ± {100 * last.std():4.2f}", end="")
            print(f"{angle[0]:8.0f}{angle[-1]:6.0f}{seconds:9.1f}", flush=True)

    draw(results, depths, options.dataset, folder / f"{options.dataset}.png")
    print(
        f"angles in degrees, of the first and the last hidden layer, after the training\n"
        f"picture of accuracies and angles: {folder / options.dataset}.png"
    )
    worst = min(np.mean([accuracy[-1] for accuracy, _ in runs]) for runs in results.values())
    print(f"test accuracy: {worst:.2%} of {len(data[1])} images in the worst row")


if __name__ == "__main__":
    main()
