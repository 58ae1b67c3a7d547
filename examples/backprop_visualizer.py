"""Networks drawn with the gradients of a backward pass.

Run it with `python examples/backprop_visualizer.py`. It draws the network that learns the two
spirals before and after the training, and a deep network of sigmoids, in which the gradient
vanishes on its way back. The pictures go to tb_logs/backprop_visualizer. `--interactive` opens a
window with a slider, which goes through the training: gradients and weights of each recorded epoch.
"""

import io
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine
from matplotlib import pyplot
from matplotlib.widgets import Slider

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.reference import spiral
from keras_bp.visualization import plot_backprop

SEED = 0
FRAMES = 20  # epochs that are recorded for the slider, about


def spiral_network():
    hidden = dict(activation="relu", kernel_initializer="he_normal")
    return keras.Sequential(
        [
            keras.Input((2,), name="point"),
            Dense(16, name="hidden_1", **hidden),
            Dense(8, name="hidden_2", **hidden),
            Dense(1, activation="sigmoid", name="arm"),
        ]
    )


def sigmoid_network(depth=6):
    hidden = [Dense(8, activation="sigmoid", name=f"sigmoid_{i + 1}") for i in range(depth)]
    output = Dense(1, activation="sigmoid", name="arm")
    return keras.Sequential([keras.Input((2,), name="point"), *hidden, output])


def picture(model, x, y):
    """Return the picture of a backward pass as an array of pixels."""
    figure, file = plot_backprop(model, x, y), io.BytesIO()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    file.seek(0)
    return pyplot.imread(file)


def explore(pictures):
    """Show one of the pictures, {epoch: array}, and return the slider that chooses it."""
    epochs = list(pictures)
    height, width, _ = pictures[0].shape
    figure = pyplot.figure(figsize=(width / 100, height / 100 + 0.5))
    ax = figure.add_axes((0, 0.07, 1, 0.93))
    ax.set_axis_off()
    image = ax.imshow(pictures[0])
    place = figure.add_axes((0.1, 0.02, 0.8, 0.04))
    slider = Slider(place, "epoch", 0, epochs[-1], valinit=0, valstep=epochs)
    slider.on_changed(lambda epoch: image.set_data(pictures[int(epoch)]))
    return slider


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=100, of="passes over the 400 points")
    parser.add_argument("--interactive", action="store_true", help="open a window with a slider")
    options = parser.parse_args(arguments)

    x, y = (array.T for array in spiral())

    def draw(model, name):
        figure = plot_backprop(model, x, y)
        figure.savefig(options.folder / name, dpi=100)
        pyplot.close(figure)  # the window is the slider's alone
        print(f"picture of the network: {options.folder / name}")

    keras.utils.set_random_seed(SEED)
    deep = sigmoid_network()
    deep.compile(Adam(0.01), BinaryCrossentropy())
    draw(deep, "vanishing.png")

    model = spiral_network()
    model.compile(Adam(0.01), BinaryCrossentropy(), metrics=["accuracy"])
    draw(model, "before.png")
    pictures, interval = {}, max(1, options.epochs // FRAMES)

    def record(epoch, logs):
        if options.interactive and (epoch + 1) % interval == 0:
            pictures[epoch + 1] = picture(model, x, y)

    record(-1, {})  # before the first epoch
    recorder = keras.callbacks.LambdaCallback(on_epoch_end=record)
    model.fit(x, y, batch_size=64, epochs=options.epochs, callbacks=[recorder], verbose=0)
    draw(model, "after.png")
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    print(f"training accuracy: {accuracy:.2%}")
    if options.interactive:
        slider = explore(pictures)  # it works as long as it has a name
        pyplot.show()
        print(f"last looked at: epoch {slider.val} of {list(pictures)}")


if __name__ == "__main__":
    main()
