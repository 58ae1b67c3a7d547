"""The steps of `peers.py` in Keras, with its own or with this package's layers and optimizers."""

import argparse
import importlib

import keras
import tensorflow as tf
from peers import CLASSES, FILTERS, serve


def layers_of(library, workload):
    """Return a list of layers; those of `library` where it has them."""
    own, others = library.layers, keras.layers
    if workload.name == "embedding":
        return [keras.Input([], dtype="int32"), own.Embedding(workload.ids, 64), own.Dense(CLASSES)]
    layers = [keras.Input(workload.shape)]
    if workload.name == "mlp":
        layers += [own.Dense(512, "relu") for _ in range(4)]
    elif workload.name == "mlp_norm":
        for _ in range(4):
            layers += [own.Dense(512, use_bias=False), own.BatchNormalization()]
            layers += [others.Activation("relu")]
    elif workload.name == "conv":
        for filters in FILTERS:
            layers += [others.Conv2D(filters, 3, padding="same", use_bias=False)]
            layers += [own.BatchNormalization(), others.Activation("relu"), others.MaxPooling2D()]
        layers += [others.Flatten()]
    return [*layers, own.Dense(CLASSES)]


def transformer(library, workload):
    own = library.layers
    inputs = keras.Input(workload.shape)
    width = workload.shape[-1]
    normal = own.LayerNormalization()(inputs)
    x = inputs + keras.layers.MultiHeadAttention(4, width // 4)(normal, normal)
    hidden = own.Dense(4 * width, "gelu")(own.LayerNormalization()(x))
    return keras.Model(inputs, own.Dense(CLASSES)(x + own.Dense(width)(hidden)))


def make_step(library, jit_compile, workload):
    keras.backend.clear_session()
    if workload.name == "transformer":
        model = transformer(library, workload)
    else:
        model = keras.Sequential(layers_of(library, workload))
    if workload.name != "embedding":
        optimizer = library.optimizers.AdamW(1e-3, weight_decay=0.01)
    elif library is keras:
        optimizer = keras.optimizers.Adam(1e-3)
    else:
        optimizer = library.optimizers.LazyAdam(1e-3)
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    model.make_train_function()
    x, y = (a.reshape(-1, *a.shape[2:]) for a in workload.data())
    # As `fit` does, which is why a step does not know the batch's size.
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(workload.batch).cache()
    batches = iter(batches.repeat())

    def step(number):
        return float(model.train_function(batches)["loss"])

    return sum(int(tf.size(w)) for w in model.trainable_weights), step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["keras", "keras_bp"])
    parser.add_argument("--jit", action="store_true")
    arguments = parser.parse_args()
    library = importlib.import_module(arguments.library)
    serve(lambda workload: make_step(library, arguments.jit, workload))
