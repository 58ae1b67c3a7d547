"""Every schedule over 200 epochs, and its effect on training.

Run it with `python examples/schedule_explorer.py`. A small network learns two spirals once with
each schedule of the package and at a constant rate, and another one scikit-learn's handwritten
digits at a constant rate and in one cycle. It leaves a picture of the rates and the losses in
tb_logs/schedule_explorer.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, digits

from keras_bp.layers import Dense
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Nesterov
from keras_bp.schedules import OneCycle
from keras_bp.visualization import plot_schedules, train_with_schedules

DIGITS_EPOCHS = 10
PEAK = 0.1


def train_on_digits(learning_rate):
    """Return the test accuracy that a learning rate, a number or a schedule, leads to."""
    x, x_test, y, y_test = digits()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), Dense(64, activation="relu"), Dense(10)])
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Nesterov(learning_rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=DIGITS_EPOCHS, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=200, of="passes over the spirals")
    options = parser.parse_args(arguments)

    losses = train_with_schedules(epochs=options.epochs)
    print(f"loss of the last of {options.epochs} epochs on the spirals, the best first")
    for name in sorted(losses, key=lambda name: losses[name][-1]):
        print(f"{name:16} {losses[name][-1]:.4f}")

    picture = options.folder / "schedules.png"
    figure = plot_schedules(epochs=options.epochs, losses=losses)
    figure.savefig(picture, dpi=100)
    print(f"\npicture of the schedules: {picture}")

    steps = DIGITS_EPOCHS * 45  # 1437 images in batches of 32
    constant = train_on_digits(PEAK)
    cycle = train_on_digits(OneCycle(PEAK, steps))
    print(f"digits, {DIGITS_EPOCHS} epochs at a constant rate of {PEAK}: {constant:.2%}")
    print(f"test accuracy: {cycle:.2%} in one cycle with the same peak")


if __name__ == "__main__":
    main()
