"""The computation graph of one training step, forward and backward, with every node and edge.

Run it with `python examples/computation_graph.py`. It draws two networks that learn the two
spirals: three layers, and one with a shortcut, two branches and a model inside. Beside each line
stand the tensor's shape and norm, and the norm of the gradient that comes back; what is kept for
the backward pass is tinted. The pictures go to tb_logs/computation_graph.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _shared import CommandLine
from matplotlib import pyplot

from keras_bp.layers import BatchNormalization, Dense, Dropout
from keras_bp.losses import BinaryCrossentropy
from keras_bp.optimizers import Adam
from keras_bp.reference import spiral
from keras_bp.visualization import trace_computation_graph

SEED = 0
HIDDEN = dict(activation="relu", kernel_initializer="he_normal")


def three_layers():
    return keras.Sequential(
        [
            keras.Input((2,), name="point"),
            Dense(16, name="hidden_1", **HIDDEN),
            Dense(8, name="hidden_2", **HIDDEN),
            Dense(1, activation="sigmoid", name="arm"),
        ],
        name="three_layers",
    )


def branches():
    point = keras.Input((2,), name="point")
    first = Dense(16, name="first", **HIDDEN)(point)
    second = BatchNormalization(name="norm")(Dense(16, name="second")(first))
    total = keras.layers.Add(name="shortcut")([first, second])
    tower = [keras.Input((2,)), Dense(8, **HIDDEN), Dropout(0.2), Dense(4, **HIDDEN)]
    other = keras.Sequential(tower, name="tower")(point)
    joint = keras.layers.Concatenate(name="joint")([total, other])
    return keras.Model(point, Dense(1, activation="sigmoid", name="arm")(joint), name="branches")


def main(arguments=None):
    options = CommandLine(__file__, __doc__, epochs=100, of="passes over the 400 points")
    options = options.parse_args(arguments)

    x, y = (array.T for array in spiral())
    for make in (branches, three_layers):
        keras.utils.set_random_seed(SEED)
        model = make()
        model.compile(Adam(0.01), BinaryCrossentropy(), metrics=["accuracy"])
        model.fit(x, y, batch_size=64, epochs=options.epochs, verbose=0)
        graph = trace_computation_graph(model, x[::8], y[::8])
        path = options.folder / f"{model.name}.png"
        pyplot.close(graph.plot(path))
        kept = {(edge.source, edge.shape) for edge in graph.edges if edge.kept}
        print(f"{model.name}: {len(graph.nodes)} nodes, {len(kept)} tensors kept; picture: {path}")
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    print(f"training accuracy: {accuracy:.2%}")


if __name__ == "__main__":
    main()
