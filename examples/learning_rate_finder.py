"""Find a learning rate for scikit-learn's handwritten digits by one short sweep, and train with it.

Run it with `python examples/learning_rate_finder.py`. The sweep takes a hundred update steps at
rates from 1e-7 to 10 and leaves the model as it was; four methods each read a rate off the curve.
It leaves a picture of the curve in tb_logs/learning_rate_finder.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits
from matplotlib.figure import Figure

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.tuning import find_learning_rate

METHODS = ("valley", "slide", "steep", "minimum")
SEED = 0


def build_model():
    """Return a compiled model; its optimizer's own rate plays no part in the sweep."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            Dense(128, activation="relu", kernel_initializer="he_normal", name="hidden_1"),
            Dense(64, activation="relu", kernel_initializer="he_normal", name="hidden_2"),
            Dense(10, name="output"),
        ]
    )
    model.compile("adam", SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def draw(curve, path):
    """Write a picture of the curve."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = curve.plot(figure.subplots())
    ax.set_title("Range test of an MLP on the digits: loss against learning rate")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=15)
    parser.add_argument("--steps", type=int, default=100, help="update steps of the sweep")
    options = parser.parse_args(arguments)
    if options.steps < 50:
        parser.error(f"--steps must be at least 50. Received: {options.steps}")

    keras.utils.set_random_seed(SEED)
    x, x_test, y, y_test = digits(SEED)
    model = build_model()

    curve = find_learning_rate(model, x, y, steps=options.steps)
    print(f"swept {len(curve.losses)} of {curve.steps} steps: {curve.stop_reason}")
    for method in METHODS:
        print(f"{method:8}{curve.suggest(method):.1e}")

    draw(curve, options.folder / "curve.png")

    model.optimizer.learning_rate = curve.suggest("valley")
    model.fit(x, y, epochs=options.epochs, verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"\nlearning rate: {curve.suggest('valley'):.1e} (valley)")
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} digits")
    print(f"picture of the curve: {options.folder / 'curve.png'}")


if __name__ == "__main__":
    main()
