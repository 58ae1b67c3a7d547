"""Train on scikit-learn's handwritten digits, check the gradients and watch them while it learns.

Run it with `python examples/quickstart.py`. The model, the loss and the callback are this
package's; `compile`, `fit`, the optimizer and its schedule are Keras's. It leaves a TensorBoard
run and a picture of it in tb_logs/quickstart.
"""

import argparse
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_bp import check_gradients
from keras_bp.callbacks import GradientMonitor
from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy

BATCH_SIZE = 32
SEED = 0


def load_data():
    """Return (training images, test images, training labels, test labels), pixels in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=SEED)


def build_model(steps):
    """Return a compiled model whose learning rate falls to 0 over `steps` update steps."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            Dense(256, activation="relu", kernel_initializer="he_normal", name="hidden_1"),
            BatchNormalization(name="norm_1"),
            Dropout(0.4, name="dropout_1"),
            Dense(128, activation="relu", kernel_initializer="he_normal", name="hidden_2"),
            BatchNormalization(name="norm_2"),
            Dropout(0.4, name="dropout_2"),
            Dense(10, name="logits"),
        ],
        name="digits",
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss=SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def read_scalars(run):
    """Read back what the monitor wrote: tag -> (update steps, values)."""
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    scalars = {}
    for tag in events.PluginTagToContent("scalars"):
        points = events.Tensors(tag)
        values = [point.tensor_proto.float_val[0] for point in points]
        scalars[tag] = [point.step for point in points], values
    return scalars


def smooth(values, keep=0.95):
    """Return the exponential moving average of a list of numbers, corrected for its start."""
    mean, averages = 0.0, []
    for step, value in enumerate(values, 1):
        mean = keep * mean + (1 - keep) * value
        averages.append(mean / (1 - keep**step))
    return averages


def draw(scalars, history, path):
    """Write a picture of the loss, the accuracy and the gradient norm of each layer."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "accuracy"], ["norms", "norms"]])

    steps, losses = scalars["loss/batch"]
    axes["loss"].plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.7)
    epochs = len(history["loss"])
    epoch_ends = [steps[-1] * (epoch + 1) / epochs for epoch in range(epochs)]
    for name in ("loss", "accuracy"):
        axes[name].plot(epoch_ends, history[name], color="tab:blue", label="training (dropout on)")
        axes[name].plot(epoch_ends, history[f"val_{name}"], color="tab:orange", label="test")
        axes[name].legend(frameon=False)
    axes["loss"].set(title="Loss: every batch (faint) and every epoch", yscale="log")
    axes["accuracy"].set_title("Accuracy")
    axes["accuracy"].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    layers = [tag for tag in scalars if tag.startswith("gradient_norm/")]
    layers.remove("gradient_norm/global")
    lines = []
    for depth, tag in enumerate(layers):
        steps, values = scalars[tag]
        color = colormaps["viridis"](0.9 * depth / (len(layers) - 1))
        axes["norms"].plot(steps, values, color=color, alpha=0.15, linewidth=0.7)
        lines += axes["norms"].plot(steps, smooth(values), color=color, label=tag.partition("/")[2])
    # In the order in which the lines end, from the top down, and beside their ends.
    lines.sort(key=lambda line: line.get_ydata()[-1], reverse=True)
    axes["norms"].legend(handles=lines, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes["norms"].set(title="Gradient norm of each layer (faint) and its average", yscale="log")

    for ax in axes.values():
        ax.set_xlabel("update steps")
        ax.set_xlim(0, steps[-1])
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument(
        "--log-dir", type=pathlib.Path, default="tb_logs", help="where the run `quickstart` goes"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = load_data()
    model = build_model(steps=options.epochs * math.ceil(len(x) / BATCH_SIZE))

    report = check_gradients(model, x[:16], y[:16], model.loss, max_entries=20)
    print(report, end="\n\n")

    run = options.log_dir / "quickstart"
    for earlier in run.glob("events.out.tfevents.*"):
        earlier.unlink()  # TensorBoard would join the old run and the new one into one line
    training = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=options.epochs,
        # Only watched: nothing is chosen by what the test images show.
        validation_data=(x_test, y_test),
        callbacks=[GradientMonitor(log_dir=run)],
    )
    picture = run / "training.png"
    draw(read_scalars(run), training.history, picture)

    print(
        f"\ngradient check: {report.verdict}, relative difference {report.relative_difference:.1e}"
    )
    print(f"test accuracy: {training.history['val_accuracy'][-1]:.2%} of {len(x_test)} digits")
    print(f"picture of the run: {picture}")
    print(f"look inside: tensorboard --logdir {options.log_dir}")


if __name__ == "__main__":
    main()
