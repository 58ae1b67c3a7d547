"""He, Xavier and plain random initialization compared.

Run it with `python examples/initialization.py`. Networks of ten hidden layers, with ReLU and with
tanh, start from the three kinds of first weights and learn scikit-learn's handwritten digits. How
signals and gradients grow or shrink from layer to layer before the first step shows which will
learn. Then a network of a hundred layers: from He's weights it learns if its gradients are clipped,
and from random ones it does not. It leaves a picture in tb_logs/initialization.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, digits, standardize, tidy
from matplotlib.figure import Figure

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import SGD

BATCH_SIZE = 32
HIDDEN = 10
DEEP = 100
UNITS = 100
RATE = 0.02
SEED = 0
ACTIVATIONS = ("relu", "tanh")
# The variance of a weight from n inputs to m units.
INITIALIZERS = {
    "He: 2 / n": lambda: keras.initializers.HeNormal(),
    "Xavier: 2 / (n + m)": lambda: keras.initializers.GlorotNormal(),
    "random: 0.01²": lambda: keras.initializers.RandomNormal(stddev=0.01),
}
# The network of a hundred layers: first weights, and the bound of the gradients' global norm.
DEEP_RUNS = [("He: 2 / n", 1.0), ("He: 2 / n", None), ("random: 0.01²", 1.0)]


def build_model(activation, initializer, hidden, bound=None):
    keras.utils.set_random_seed(SEED)
    layers = [
        Dense(UNITS, activation=activation, kernel_initializer=initializer()) for _ in range(hidden)
    ]
    layers.append(Dense(10, kernel_initializer=initializer()))
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(RATE, momentum=0.9, global_clipnorm=bound), loss, metrics=["accuracy"])
    return model


def variances(model, x, y):
    """Return each hidden layer's variance of activations, and of the loss's gradient in them."""
    a, activations = tf.constant(x, tf.float32), []
    with tf.GradientTape() as tape:
        for layer in model.layers:
            a = layer(a)
            activations.append(a)
        loss = model.loss(y, a)
    del activations[-1]  # the logits
    gradients = tape.gradient(loss, activations)
    # In float64: a gradient of 1e-24 has no square in float32.
    return [[np.var(t.numpy().astype("float64")) for t in ts] for ts in (activations, gradients)]


def draw(runs, path):
    """Write a picture: one row per activation, one line per kind of first weights."""
    figure = Figure(figsize=(12, 6.8), layout="constrained")
    axes = figure.subplots(len(ACTIVATIONS), 3, sharey="col")
    for (activation, name), (forward, backward, losses) in runs.items():
        row = axes[ACTIVATIONS.index(activation)]
        layers = range(1, len(forward) + 1)
        style = dict(label=name, marker="o", markersize=3.5)
        row[0].plot(layers, forward, **style)
        row[1].plot(layers, backward, **style)
        row[2].plot(range(1, len(losses) + 1), losses, label=name)
    for activation, row in zip(ACTIVATIONS, axes, strict=True):
        label = {"relu": "ReLU", "tanh": "tanh"}[activation]
        row[0].set(title=f"{label}: variance of the activations", yscale="log")
        row[1].set(title=f"{label}: variance of their gradients", yscale="log")
        row[2].set(title=f"{label}: training loss", xlabel="epochs")
        for ax in row[:2]:
            ax.set(xlabel="hidden layer", xticks=range(1, HIDDEN + 1))
        tidy(*row)
        row[2].axhline(np.log(10), color="gray", linestyle=":")
        row[2].text(len(losses), np.log(10), "chance, ln 10", ha="right", va="bottom", color="gray")
        row[2].set_ylim(0, 2.6)
    axes[0, 0].legend(frameon=False, title="variance of a weight", alignment="left")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=15).parse_args(arguments)

    x, x_test, y, y_test = digits(SEED)
    x, x_test = standardize(x.astype("float64"), x_test.astype("float64"))
    print(f"{'':26}{'variance of activations':>24}{'of their gradients':>24}")
    print(f"{'':26}{'layer 1':>12}{'layer ' + str(HIDDEN):>12}", end="")
    print(f"{'layer 1':>12}{'layer ' + str(HIDDEN):>12}{'last loss':>11}{'test accuracy':>15}")
    runs, accuracies = {}, {}
    for activation in ACTIVATIONS:
        for name, initializer in INITIALIZERS.items():
            model = build_model(activation, initializer, HIDDEN)
            forward, backward = variances(model, x, y)
            history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=0)
            losses = history.history["loss"]
            _, accuracy = model.evaluate(x_test, y_test, verbose=0)
            runs[activation, name], accuracies[activation, name] = (
                (forward, backward, losses),
                accuracy,
            )
            figures = (forward[0], forward[-1], backward[0], backward[-1])
            print(f"{activation:6}{name:20}" + "".join(f"{v:12.1e}" for v in figures), end="")
            print(f"{losses[-1]:11.4f}{accuracy:15.2%}", flush=True)

    print(f"\n{DEEP} hidden layers of ReLU{'':5}{'clipped at':>12}{'last loss':>11}", end="")
    print(f"{'test accuracy':>15}")
    for name, bound in DEEP_RUNS:
        model = build_model("relu", INITIALIZERS[name], DEEP, bound)
        history = model.fit(x, y, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=0)
        _, accuracy = model.evaluate(x_test, y_test, verbose=0)
        print(f"{name:28}{bound or 'never':>12}{history.history['loss'][-1]:11.4f}", end="")
        print(f"{accuracy:15.2%}", flush=True)

    draw(runs, options.folder / "variances.png")
    print(f"\npicture of the variances: {options.folder / 'variances.png'}")
    best = accuracies["relu", "He: 2 / n"]
    print(f"test accuracy: {best:.2%} of {len(x_test)} digits with He and ReLU")


if __name__ == "__main__":
    main()
