"""Large batches out of small ones, by accumulating gradients.

Run it with `python examples/gradient_accumulation.py`. First it trains for an epoch on whole
batches of N * 32, and on N micro-batches of 32 an update, and prints how far apart the weights end.
Then it trains with effective batches of 32, 128, 512 and 2048 for the same number of epochs, all of
them from micro-batches of 32. It leaves a picture of the losses in tb_logs/gradient_accumulation.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, tidy
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD

MICRO_BATCH = 32
MICRO_BATCHES = (1, 4, 16, 64)
RATE = 0.05
SEED = 0


def load_data():
    """Return (train inputs, test inputs, train labels, test labels): 4096 and 1024 examples."""
    x, y = make_classification(
        5120, 20, n_informative=12, n_classes=4, n_clusters_per_class=2, random_state=SEED
    )
    x = x.astype("float32") / x.std()
    return train_test_split(x, y, test_size=1024, stratify=y, random_state=SEED)


def build_model(inputs, micro_batches):
    """Return a compiled model, the same first weights in every call."""
    keras.utils.set_random_seed(SEED)
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    model = keras.Sequential([keras.Input((inputs,)), Dense(64, **hidden), Dense(4)])
    accumulation = None if micro_batches == 1 else micro_batches
    model.compile(
        SGD(RATE, momentum=0.9, gradient_accumulation_steps=accumulation),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def weights(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def compare(x, y, micro_batches):
    """Return (updates, largest difference of a weight): accumulating against whole batches."""
    one_epoch = dict(epochs=1, shuffle=False, verbose=0)
    whole = build_model(x.shape[1], 1)
    whole.fit(x, y, batch_size=micro_batches * MICRO_BATCH, **one_epoch)
    accumulated = build_model(x.shape[1], micro_batches)
    accumulated.fit(x, y, batch_size=MICRO_BATCH, **one_epoch)
    updates = int(accumulated.optimizer.iterations)  # micro-steps do not count
    return updates, np.abs(weights(whole) - weights(accumulated)).max()


def draw(histories, path):
    """Write a picture of the training loss by epoch, a line an effective batch."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for micro_batches, losses in histories.items():
        label = f"{micro_batches * MICRO_BATCH} = {micro_batches} x {MICRO_BATCH}"
        color = colormaps["viridis"](0.9 * np.log(micro_batches) / np.log(MICRO_BATCHES[-1]))
        ax.plot(
            range(1, len(losses) + 1), losses, color=color, marker="o", markersize=3, label=label
        )
    ax.set(title="Training loss, the same examples in larger and larger effective batches")
    ax.set(xlabel="epochs", ylim=(0, None))
    ax.legend(title="effective batch", frameon=False)
    tidy(ax)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=10, of="passes over the 4096 examples")
    options = parser.parse_args(arguments)

    x, x_test, y, y_test = load_data()
    print("N micro-batches of 32 against one batch of N * 32, after an epoch:")
    for micro_batches in MICRO_BATCHES[1:]:
        updates, apart = compare(x, y, micro_batches)
        print(f"N = {micro_batches:2}  {updates:2} updates, weights differ by {apart:.1e} at most")

    print(f"\n{options.epochs} epochs at a learning rate of {RATE:g}:")
    print(f"{'effective batch':>15}{'updates':>9}{'training loss':>15}", end="")
    print(f"{'test accuracy':>15}{'seconds':>9}")
    histories, accuracies = {}, {}
    for micro_batches in MICRO_BATCHES:
        model = build_model(x.shape[1], micro_batches)
        start = time.perf_counter()
        history = model.fit(x, y, batch_size=MICRO_BATCH, epochs=options.epochs, verbose=0).history
        seconds = time.perf_counter() - start
        histories[micro_batches] = history["loss"]
        loss, _ = model.evaluate(x, y, verbose=0)
        _, accuracies[micro_batches] = model.evaluate(x_test, y_test, verbose=0)
        print(
            f"{micro_batches * MICRO_BATCH:15}{int(model.optimizer.iterations):9}{loss:15.4f}"
            f"{accuracies[micro_batches]:15.2%}{seconds:9.1f}"
        )

    draw(histories, options.folder / "losses.png")
    print(f"\npicture of the losses: {options.folder / 'losses.png'}")
    print(
        f"test accuracy: {accuracies[1]:.2%} of {len(x_test)} examples at a batch of {MICRO_BATCH}"
    )


if __name__ == "__main__":
    main()
