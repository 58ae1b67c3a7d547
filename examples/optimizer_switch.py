"""From Adam to SGD with momentum, on a plateau, at a rate just found.

Run it with `python examples/optimizer_switch.py`. Adam trains a network on scikit-learn's digits at
a rate that makes it quick at first and restless later. Where the training loss comes to a plateau,
a range test finds a rate for SGD with momentum, which takes over with a warm-up. Adam that goes on,
and Adam at a tenth of its rate, stand beside. It leaves a picture in tb_logs/optimizer_switch.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _shared import CommandLine, digits, tidy
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from keras_bp import find_learning_rate
from keras_bp.callbacks import OptimizerSwitch
from keras_bp.layers import Dense, Dropout
from keras_bp.losses import SparseCategoricalCrossentropy
from keras_bp.optimizers import Adam

RATE = 0.02
# An epoch is better if its loss is lower by this: 0.01 of some 0.1 to 0.3.
MIN_DELTA = 0.01
SWEEP = 200  # steps of the range test


def build_model():
    layers = [keras.Input((64,))]
    for _ in range(2):
        layers += [Dense(64, activation="relu", kernel_initializer="he_normal"), Dropout(0.2)]
    model = keras.Sequential([*layers, Dense(10)])
    loss = SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(RATE), loss, metrics=["accuracy"])
    return model


def train(data, callback, epochs, seed):
    """Return the history of a training, from the same first weights on the same batches."""
    x, x_test, y, y_test = data
    keras.utils.set_random_seed(seed)
    fit = dict(epochs=epochs, validation_data=(x_test, y_test), callbacks=callback, verbose=0)
    return build_model().fit(x, y, **fit).history


def draw(histories, switch, curve, path):
    """Write a picture of the losses of each training, and of the range test at the switch."""
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    training, test, sweep = figure.subplots(1, 3)
    colors = dict(zip(histories, ("tab:gray", "tab:blue", "tab:red"), strict=True))
    for name, history in histories.items():
        epochs = range(1, len(history["loss"]) + 1)
        training.plot(epochs, history["loss"], color=colors[name], label=name)
        test.plot(epochs, history["val_loss"], color=colors[name])
    training.set_title("Training loss of run 1, dropout on")
    test.set_title("Test loss of run 1")
    for ax in (training, test):
        ax.set(yscale="log", xlabel="epochs")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
    tidy(training, test)
    training.legend(frameon=False)
    if curve is not None:
        for ax in (training, test):
            ax.axvline(switch.switched_at_epoch, color=colors["Adam, then SGD"], linestyle=":")
        curve.plot(sweep).set_title("Range test of SGD at the switch")
        sweep.legend(loc="lower left", edgecolor="white", framealpha=0.9)
    else:
        sweep.set_axis_off()
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=50)
    parser.add_argument("--patience", type=int, default=5, help="epochs that make a plateau")
    parser.add_argument("--runs", type=int, default=3, help="trainings of each kind to average")
    options = parser.parse_args(arguments)

    plateau = dict(monitor="loss", patience=options.patience, min_delta=MIN_DELTA)
    runs, switches, curves = [], [], []
    for run in range(options.runs):
        data = x, _, y, _ = digits(run, train_size=0.5)
        curves.append(None)

        def find_rate(model, x=x, y=y):
            curves[-1] = find_learning_rate(model, x, y, steps=SWEEP)
            return curves[-1].suggest()

        switches.append(OptimizerSwitch(find_rate, verbose=1, **plateau))
        callbacks = {
            "Adam": [],
            "Adam, then a tenth of its rate": [keras.callbacks.ReduceLROnPlateau(**plateau)],
            "Adam, then SGD": [switches[-1]],
        }
        print(f"run {run + 1} of {options.runs}", flush=True)
        runs.append({name: train(data, c, options.epochs, run) for name, c in callbacks.items()})

    last = min(5, options.epochs)
    print(f"\n{f'mean of the last {last} epochs':32}training loss  test loss  test accuracy")
    for name in runs[0]:
        loss, test_loss, accuracy = (
            np.mean([history[name][key][-last:] for history in runs])
            for key in ("loss", "val_loss", "val_accuracy")
        )
        print(f"{name:32}{loss:13.4f}{test_loss:11.4f}{accuracy:15.2%}")

    draw(runs[0], switches[0], curves[0], options.folder / "losses.png")
    print(f"\npicture of the losses: {options.folder / 'losses.png'}")
    print(f"test accuracy: {accuracy:.2%} with {name}")


if __name__ == "__main__":
    main()
