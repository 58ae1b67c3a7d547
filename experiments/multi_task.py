"""Two tasks on one trunk: the combiners of keras_bp.multitask, and where gradients conflict.

Run it with `python experiments/multi_task.py` for MultiDigits: two of scikit-learn's handwritten
digits in one image, overlapping, of which one head reads the left and one the right. `--dataset
mnist` or `fashion_mnist` makes such images of 28 x 28 pixels from these sets, `--dataset mixed`
with a digit on the left and a garment on the right; `--data-dir DIR` reads DIR/mnist.npz and
DIR/fashion_mnist.npz, and Keras downloads what is not there.

It trains a LeNet with each combiner from several seeds, shows which layers' gradients conflict
most, and compares normalizations on batches of 1 to 32 images, in which the statistics of a batch
are not reliable. Pictures and events are left in tb_logs/multi_task.
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
from sklearn.datasets import load_digits

from keras_bp import layers, multitask
from keras_bp.callbacks import GradientConflict
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam, AdamW
from keras_bp.schedules import WarmupCosine
from keras_bp.visualization import plot_gradient_conflict

BASES = "Combiner", "LossWeighting", "MultiTaskModel"
COMBINERS = [name for name in multitask.__all__ if name not in BASES]
# The corner of the right image, the canvas's and the image's height and width: as Sener and Koltun
# (2018) put MNIST's digits on 36 x 36 pixels, and scale them down to 28 x 28.
LAYOUTS = {8: (3, 11, 11), 28: (6, 36, 28)}
BATCHES = 100  # an epoch, of the normalizations
NORMALIZATIONS = {
    "BatchNormalization": lambda: layers.BatchNormalization(momentum=0.9),
    "LayerNormalization": lambda: layers.LayerNormalization(axis=(1, 2, 3)),
    "GroupNormalization": lambda: layers.GroupNormalization(groups=5),
}


def load_images(name, data_dir):
    """Return (train images, train labels, test images, test labels), pixels from 0 to 1."""
    if name == "digits":
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.images))
        x, y = data.images[order].astype("float32") / 16.0, data.target[order]
        return x[:1437], y[:1437], x[1437:], y[1437:]
    if data_dir is None:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    else:
        with np.load(data_dir / f"{name}.npz") as data:
            x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    return x.astype("float32") / 255.0, y, x_test.astype("float32") / 255.0, y_test


def overlay(left, right, repeats, rng):
    """Lay images of the left and of the right on one canvas, the brighter pixel on top."""
    (x_left, y_left), (x_right, y_right) = left, right
    one = np.tile(np.arange(len(x_left)), repeats)
    other = rng.permutation(np.resize(np.arange(len(x_right)), len(one)))
    height = x_left.shape[1]
    corner, canvas, size = LAYOUTS[height]
    images = np.zeros((len(one), canvas, canvas), "float32")
    images[:, :height, :height] = x_left[one]
    below = images[:, corner : corner + height, corner : corner + height]
    np.maximum(below, x_right[other], out=below)
    kept = ((np.arange(size) + 0.5) * canvas / size).astype(int)
    images = images[:, kept][:, :, kept, None]
    return images, {"left": y_left[one].astype("int64"), "right": y_right[other].astype("int64")}


def load_pairs(dataset, data_dir, images):
    """Return ((train images, labels), (test images, labels)), the labels by task."""
    names = ("mnist", "fashion_mnist") if dataset == "mixed" else (dataset, dataset)
    left, right = (load_images(name, data_dir) for name in names)
    rng, repeats = np.random.default_rng(0), 4 if dataset == "digits" else 1
    x, y = overlay(left[:2], right[:2], repeats, rng)
    chosen = rng.permutation(len(x))[:images]
    train = x[chosen], {task: labels[chosen] for task, labels in y.items()}
    return train, overlay(left[2:], right[2:], repeats, rng)


def make_optimizer(name, steps):
    """Return Adam at a constant rate, or AdamW with warm-up and a cosine over so many steps."""
    if name == "Adam":
        return Adam(1e-3)
    rate = WarmupCosine(3e-3, total_steps=steps, warmup_steps=max(1, steps // 10))
    return AdamW(rate, weight_decay=0.01, exclude_from_decay="bias_and_normalization")


def build(combine, size, seed, normalization=None, optimizer=None):
    """Return LeNet with two heads: 27,450 parameters where images have 28 x 28 pixels."""
    keras.utils.set_random_seed(seed)
    kernel, padding = (5, "valid") if size == 28 else (3, "same")
    x = inputs = keras.Input((size, size, 1))
    for number, filters in enumerate((10, 20), 1):
        x = keras.layers.Conv2D(filters, kernel, padding=padding, name=f"conv_{number}")(x)
        x = normalization()(x) if normalization else x
        x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(x))
    x = layers.Dense(50, "relu", name="shared")(keras.layers.Flatten()(x))
    heads = {}
    for task in ("left", "right"):
        hidden = layers.Dense(50, "relu", name=f"{task}_hidden")(x)
        heads[task] = layers.Dense(10, name=task)(hidden)
    model = multitask.MultiTaskModel(inputs, heads, combiner=combine)
    losses = {task: SparseCategoricalCrossentropy(from_logits=True) for task in heads}
    metrics = dict.fromkeys(heads, "accuracy")
    # Without XLA, whose convolutions are slow on a CPU.
    optimizer = optimizer or make_optimizer("Adam", None)
    model.compile(optimizer, loss=losses, metrics=metrics, jit_compile=False)
    return model


def accuracies(model, test):
    """Return the accuracy of the left and of the right task, in percent."""
    found = model.evaluate(*test, batch_size=1000, verbose=0, return_dict=True)
    return [100.0 * found[f"{task}_accuracy"] for task in ("left", "right")]


def row(name, runs):
    """Print the mean of the seeds' accuracies, and return their means over the tasks."""
    means = runs.mean(axis=1)
    left, right = runs.mean(axis=0)
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    print(f"{name:<21} {left:6.2f}% {right:6.2f}% {means.mean():6.2f}% +- {spread:.2f}", end="")
    return means


def compare(names, train, test, arguments):
    """Train with each combiner from each seed; return the accuracies' means by combiner."""
    print(f"{'combiner':<21} {'left':>7} {'right':>7} {'mean':>7}           s a run")
    means = {}
    for name in names:
        runs, start = [], time.perf_counter()
        for seed in range(arguments.seeds):
            steps = arguments.epochs * -(-len(train[0]) // arguments.batch_size)
            optimizer = make_optimizer(arguments.optimizer, steps)
            combiner, size = getattr(multitask, name)(), train[0].shape[1]
            model = build(combiner, size, seed, optimizer=optimizer)
            fit = dict(batch_size=arguments.batch_size, epochs=arguments.epochs, verbose=0)
            model.fit(*train, **fit)
            runs.append(accuracies(model, test))
        means[name] = row(name, np.array(runs))
        print(f" {(time.perf_counter() - start) / arguments.seeds:9.1f}", flush=True)
    return means


def show_conflicts(train, arguments):
    """Train once on the summed losses; draw and print where the two tasks' gradients conflict."""
    conflict = GradientConflict(arguments.out)
    model = build(multitask.Sum(), train[0].shape[1], seed=0)
    fit = dict(batch_size=arguments.batch_size, epochs=arguments.epochs, verbose=0)
    model.fit(*train, callbacks=[conflict], **fit)
    plot_gradient_conflict(conflict).savefig(arguments.out / "conflicts.png", dpi=150)
    print("\nlayer      cosine  conflicting steps  magnitude similarity")
    for found in conflict.table():
        print(
            f"{found['layer']:<10} {found['cosine']:6.3f} {100.0 * found['conflicting']:17.1f}% "
            f"{found['magnitude_similarity']:21.2f}"
        )
    *by_layer, _ = conflict.table()
    most = max(by_layer, key=lambda found: found["conflicting"])
    print(f"conflicts most: {most['layer']}", flush=True)


def varying_batches(train):
    """Yield batches of 1 to 32 images, without end."""
    x, y = train
    rng = np.random.default_rng(0)
    while True:
        chosen = rng.integers(len(x), size=rng.integers(1, 33))
        yield x[chosen], {task: labels[chosen] for task, labels in y.items()}


def compare_normalizations(train, test, arguments):
    """Train with each normalization on batches of varying length, on the mean of the gradients."""
    shape = (None, *train[0].shape[1:])
    signature = (
        tf.TensorSpec(shape, tf.float32),
        {task: tf.TensorSpec((None,), tf.int64) for task in train[1]},
    )
    batches = tf.data.Dataset.from_generator(
        lambda: varying_batches(train), output_signature=signature
    )
    fit = dict(epochs=arguments.epochs, steps_per_epoch=BATCHES, shuffle=False, verbose=0)
    print(f"\n{BATCHES * arguments.epochs} batches of 1 to 32 images")
    for name, normalization in NORMALIZATIONS.items():
        runs = []
        for seed in range(arguments.seeds):
            model = build(multitask.Mean(), shape[1], seed, normalization)
            model.fit(batches, **fit)
            runs.append(accuracies(model, test))
        row(name, np.array(runs))
        print(flush=True)


def draw(means, path):
    """Draw each seed's accuracy, and their mean, for each combiner."""
    figure = Figure(figsize=(7.0, 0.4 * len(means) + 1.2), layout="constrained")
    axes = figure.add_subplot(xlabel="mean accuracy of the two tasks, %")
    order = sorted(means, key=lambda name: means[name].mean())
    for place, name in enumerate(order):
        axes.plot(means[name], [place] * len(means[name]), "o", color="tab:blue", alpha=0.4)
        axes.plot(means[name].mean(), place, "|", color="black", markersize=16)
    axes.set_yticks(range(len(order)), order)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    """Compare the combiners, show the conflicts, and compare normalizations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choices = ("digits", "mnist", "fashion_mnist", "mixed")
    parser.add_argument("--dataset", choices=choices, default="digits")
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--images", type=int, help="training images (default: all)")
    parser.add_argument("--combiners", nargs="+", choices=COMBINERS, default=COMBINERS)
    parser.add_argument(
        "--optimizer",
        choices=["Adam", "AdamW"],
        default="Adam",
        help="of the combiners' comparison; AdamW with warm-up and a cosine",
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tb_logs/multi_task"))
    arguments = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "seeds"):
        if (value := getattr(arguments, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {value}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    train, test = load_pairs(arguments.dataset, arguments.data_dir, arguments.images)
    print(f"{arguments.dataset}: {len(train[0])} training and {len(test[0])} test images")
    print(f"combiners with {arguments.optimizer}")
    means = compare(arguments.combiners, train, test, arguments)
    draw(means, arguments.out / "accuracies.png")
    show_conflicts(train, arguments)
    compare_normalizations(train, test, arguments)
    print(f"\ntest accuracy: {min(runs.mean() for runs in means.values()):.2f}% (the lowest mean)")
    print(f"pictures: {arguments.out}/accuracies.png and conflicts.png")


if __name__ == "__main__":
    main()
