"""Backpropagation through a small network, as a page to click through.

Run it with `python examples/backprop_page.py`, and open tb_logs/backprop_page/moons.html in a
browser: sliders for the training steps, the examples and the pass, forward and backward; a click on
a neuron or a weight shows its numbers and its equation. sigmoids.html beside it has six layers of
sigmoids, through which the gradient vanishes. The pages need no network, and can be sent around.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine, standardize
from sklearn.datasets import make_moons

from keras_bp.layers import Dense
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.visualization import backprop_page

SEED = 0


def network(name, *hidden):
    """Return a network of hidden layers, each given by its units and its activation."""
    layers = [
        Dense(units, activation=activation, name=f"{activation}_{i + 1}")
        for i, (units, activation) in enumerate(hidden)
    ]
    output = Dense(1, activation="sigmoid", name="moon")
    model = keras.Sequential([keras.Input((2,), name="point"), *layers, output], name=name)
    model.compile(Adam(0.05), BinaryCrossentropy(), metrics=["accuracy"])
    return model


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=100, of="steps, each on all 200 points")
    options = options.parse_args(arguments)
    keras.utils.set_random_seed(SEED)
    x, y = make_moons(200, noise=0.2, random_state=SEED)
    x, y = standardize(x, x)[0], y[:, None]

    sigmoids = network("sigmoids", *[(4, "sigmoid")] * 6)
    moons = network("moons", (6, "tanh"), (4, "relu"))
    for model in (sigmoids, moons):
        path = options.folder / f"{model.name}.html"
        backprop_page(model, x, y, path, steps=options.epochs, examples=4)
        print(f"page of backpropagation: {path}")

    # The page has left the model as it was. This trains it, as the page did.
    moons.fit(x, y, batch_size=len(x), epochs=options.epochs, verbose=0)
    accuracy = moons.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    print(f"training accuracy: {accuracy:.2%}")


if __name__ == "__main__":
    main()
