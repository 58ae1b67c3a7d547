"""The gradient check of a 3-layer network, and how wrong ones look.

Run it with `python examples/gradient_check.py`. The derivative of one layer's tanh is written by
hand, once right and three times wrong. The check's figure tells them apart, and the rows of its
table show from which layer down the gradient is wrong; the training does not, which goes on with
all four. It leaves a picture in tb_logs/gradient_check.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _shared import CommandLine, patients
from matplotlib.figure import Figure

from keras_bp import check_gradients
from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam

SEED = 0
EXAMPLES = 16  # that the gradients are checked with
ERRORS = np.geomspace(1e-12, 1.0, 7)  # of a derivative, relative
# The derivative of a = tanh(z), written with a.
DERIVATIVES = {
    "1 - a²": lambda a: 1 - a**2,
    "1.001 (1 - a²)": lambda a: 1.001 * (1 - a**2),
    "1 - a": lambda a: 1 - a,
    "1": lambda a: tf.ones_like(a),
}


def build_model(derivative):
    """Return a compiled network of three layers, the second with this derivative of tanh."""

    @tf.custom_gradient
    def tanh(z):
        a = tf.tanh(z)
        return a, lambda upstream: upstream * derivative(a)

    keras.utils.set_random_seed(SEED)  # the same first weights for all
    model = keras.Sequential(
        [
            keras.Input((30,)),
            Dense(16, activation="tanh", name="layer_1"),
            Dense(8, activation=tanh, name="layer_2"),
            Dense(1, activation="sigmoid", name="layer_3"),
        ],
        name="network",
    )
    model.compile(Adam(0.003), BinaryCrossentropy(), metrics=["accuracy"])
    return model


def draw(figures, reports, path):
    """Write a picture of the figure against a derivative's error, and of each variable's part."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot(ERRORS, figures, marker="o", color="black")
    left.set(xscale="log", yscale="log", xlabel="error δ of the derivative (1 + δ)(1 - a²) of tanh")
    left.set(title="The figure of the whole network", ylabel="relative difference")
    for number, (name, report) in enumerate(reports.items()):
        *rows, inputs = report.rows
        rows = [inputs, *rows]  # from the bottom up, as the layers are
        places = np.arange(len(rows)) + 0.12 * (number - 1.5)
        differences = [row.relative_difference for row in rows]
        right.plot(places, differences, "os^D"[number], label=f"tanh' = {name}")
    right.set(title="The figure of each variable alone", ylim=(1e-13, 10))
    names = [row.path.partition("/")[2] or row.path for row in rows]
    right.set_xticks(range(len(rows)), names, rotation=30, ha="right", rotation_mode="anchor")
    right.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for ax in (left, right):
        ax.axhspan(1e-13, 1e-7, color="tab:green", alpha=0.08, linewidth=0)
        ax.axhspan(1e-7, 1e-5, color="tab:orange", alpha=0.12, linewidth=0)
        ax.axhspan(1e-5, 10, color="tab:red", alpha=0.08, linewidth=0)
        ax.spines[["top", "right"]].set_visible(False)
    for height, verdict in ((1e-2, "wrong"), (1e-6, "suspicious"), (1e-8, "correct")):
        left.text(1e-12, height, verdict, va="center")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=40, of="passes over the training patients")
    options = parser.parse_args(arguments)

    x, x_test, y, y_test = patients(SEED)
    some_x, some_y = x[:EXAMPLES], y[:EXAMPLES]
    reports, accuracies = {}, {}
    for name, derivative in DERIVATIVES.items():
        model = build_model(derivative)
        reports[name] = check_gradients(model, some_x, some_y, model.loss)
        model.fit(x, y, epochs=options.epochs, verbose=0)
        _, accuracies[name] = model.evaluate(x_test, y_test, verbose=0)

    for name in ("1 - a²", "1 - a"):
        print(f"tanh' = {name}\n{reports[name]}\n")
    print(f"{'derivative':18}{'figure':>9}  {'verdict':12}test accuracy")
    for name, report in reports.items():
        figure = report.relative_difference
        print(f"{name:18}{figure:9.1e}  {report.verdict:12}{accuracies[name]:13.2%}")

    figures = []
    for error in ERRORS:
        model = build_model(lambda a, factor=1 + error: factor * (1 - a**2))
        report = check_gradients(model, some_x, some_y, model.loss, max_entries=10)
        figures.append(report.relative_difference)

    draw(figures, reports, options.folder / "figures.png")
    print(f"\npicture of the figures: {options.folder / 'figures.png'}")
    print(f"test accuracy: {accuracies['1 - a²']:.2%} of {len(x_test)} patients")


if __name__ == "__main__":
    main()
