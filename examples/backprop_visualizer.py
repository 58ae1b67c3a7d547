"""Networks drawn with the gradients of a backward pass.

Run it with `python examples/backprop_visualizer.py`. It draws the network that learns the two
spirals before and after the training, and a deep network of sigmoids, in which the gradient
vanishes on its way back. The pictures go to tb_logs/backprop_visualizer.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.reference import spiral
from keras_bp.visualization import plot_backprop

SEED = 0


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


def main(arguments=None):
    parser = CommandLine(__file__, __doc__, epochs=100, of="passes over the 400 points")
    options = parser.parse_args(arguments)

    x, y = (array.T for array in spiral())

    def draw(model, name):
        plot_backprop(model, x, y).savefig(options.folder / name, dpi=100)
        print(f"picture of the network: {options.folder / name}")

    keras.utils.set_random_seed(SEED)
    deep = sigmoid_network()
    deep.compile(Adam(0.01), BinaryCrossentropy())
    draw(deep, "vanishing.png")

    model = spiral_network()
    model.compile(Adam(0.01), BinaryCrossentropy(), metrics=["accuracy"])
    draw(model, "before.png")
    model.fit(x, y, batch_size=64, epochs=options.epochs, verbose=0)
    draw(model, "after.png")
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    print(f"training accuracy: {accuracy:.2%}")


if __name__ == "__main__":
    main()
