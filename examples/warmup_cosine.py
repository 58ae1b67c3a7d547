"""A custom loop whose learning rate warms up, then falls.

Run it with `python examples/warmup_cosine.py`, for scikit-learn's handwritten digits, or with
`python examples/warmup_cosine.py --dataset mnist --epochs 10`, which reads DIR/mnist.npz where
`--data-dir DIR` is given and else lets Keras download it. It leaves a picture of the learning
rate and the loss in tb_logs/warmup_cosine.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, digits, tidy
from matplotlib.figure import Figure

from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import AdamW
from keras_bp.schedules import WarmupCosine

BATCH_SIZE = {"digits": 32, "mnist": 128}
PEAK = 3e-3
SEED = 0


def load_data(dataset, data_dir):
    """Return (train images, test images, train labels, test labels), pixels in [0, 1], flat."""
    if dataset == "digits":
        return digits(SEED)
    if data_dir is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(data_dir / "mnist.npz") as data:
            x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (a.reshape(len(a), -1).astype("float32") / 255 for a in (x, x_test))
    return x, x_test, y.astype("int64"), y_test.astype("int64")


def build_model(inputs):
    layers = [keras.Input((inputs,))]
    for units in (256, 128):
        layers.append(Dense(units, activation="relu", kernel_initializer="he_normal"))
        layers += [BatchNormalization(), Dropout(0.3)]
    return keras.Sequential([*layers, Dense(10)])


def draw(rates, losses, steps_per_epoch, warmup, path):
    """Write a picture of the learning rate and the loss of every step."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(rates, color="tab:orange")
    top.axvspan(0, warmup, color="tab:orange", alpha=0.12, linewidth=0)
    top.set(title="Learning rate (warm-up shaded)", ylim=(0, None))
    top.ticklabel_format(axis="y", scilimits=(0, 0))
    bottom.plot(losses, color="tab:blue", alpha=0.3, linewidth=0.7)
    means = losses.reshape(-1, steps_per_epoch).mean(axis=1)
    ends = steps_per_epoch * np.arange(1, len(means) + 1)
    bottom.plot(ends, means, color="tab:blue", marker="o", markersize=3)
    bottom.set(title="Training loss: every step (faint) and every epoch", yscale="log")
    bottom.set(xlabel="update steps", xlim=(0, len(losses)))
    tidy(top, bottom)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=25)
    parser.add_argument("--dataset", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder that holds mnist.npz")
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = load_data(options.dataset, options.data_dir)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=SEED)
    batches = batches.batch(BATCH_SIZE[options.dataset], drop_remainder=True)
    total = options.epochs * len(batches)
    warmup = max(1, total // 10)

    model = build_model(x.shape[1])
    loss_function = SparseCategoricalCrossentropy(from_logits=True)
    schedule = WarmupCosine(PEAK, total_steps=total, warmup_steps=warmup)
    optimizer = AdamW(schedule, weight_decay=0.01, exclude_from_decay="bias_and_normalization")

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        rate = tf.identity(optimizer.learning_rate)  # of this step: `apply` goes on to the next
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss, rate

    print(f"{total} update steps, {warmup} of them warm-up")
    losses, rates, start = [], [], time.perf_counter()
    interval = max(1, options.epochs // 5)
    for epoch in range(1, options.epochs + 1):
        for batch in batches:
            loss, rate = train_step(*batch)
            losses.append(float(loss))
            rates.append(float(rate))
        if epoch % interval == 0 or epoch == options.epochs:
            mean = np.mean(losses[-len(batches) :])
            print(
                f"epoch {epoch:>{len(str(options.epochs))}}/{options.epochs}  loss {mean:.4f}  "
                f"learning rate {rate:.1e}"
            )
    print(f"{time.perf_counter() - start:.1f} seconds")

    picture = options.folder / f"{options.dataset}.png"
    draw(rates, np.array(losses), len(batches), warmup, picture)
    accuracy = np.mean(model.predict(x_test, 1000, verbose=0).argmax(axis=1) == y_test)
    print(f"\npicture of learning rate and loss: {picture}")
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} images")


if __name__ == "__main__":
    main()
