"""Time the package's layers and losses against Keras's: forward and backward, jit off and on.

    python benchmarks/layers.py [--only NAME] [--seconds 2] [--jit off|on|both]

Ours and Keras's run in one process, in turn; each line gives the milliseconds a call and the ratio
Keras / ours of the medians and of the minima (over 1: ours is faster). The batch size is unknown
when the step is traced, as in `fit`.
"""

import argparse

import _measure
import keras
import numpy as np
import tensorflow as tf

import keras_bp

NORMALIZATION_SHAPES = [
    (32, 64),
    (256, 128),
    (256, 512),
    (4096, 256),
    (32768, 64),
    (32, 32, 32, 64),
]


def layer_cases():
    """Yield (name, arguments of the layer, input shape)."""
    for shape in NORMALIZATION_SHAPES:
        yield "BatchNormalization", {}, shape
    for shape in NORMALIZATION_SHAPES:
        yield "LayerNormalization", {}, shape
    for shape in [(32, 64), (256, 512), (8, 16, 16, 64), (32, 32, 32, 64)]:
        yield "GroupNormalization", {"groups": 16}, shape
    for shape in [(32, 64), (256, 512), (4096, 256), (32768, 64)]:
        yield "Dropout", {"rate": 0.5, "seed": 1}, shape
    for batch in (64, 512, 4096):
        for units in (64, 512, 2048):
            yield "Dense", {"units": units, "activation": "relu"}, (batch, units)
    yield "Dense", {"units": 256, "activation": "relu"}, (32, 64, 256)


def layer_step(library, name, arguments, inputs, jit_compile):
    layer = getattr(library.layers, name)(**arguments)
    layer.build(inputs.shape)
    # Dense knows no training argument of its own; the others run as in fit.
    call = layer if name == "Dense" else (lambda x: layer(x, training=True))
    variables = [v.value for v in layer.trainable_variables]
    return _measure.forward_and_backward(call, variables, inputs, jit_compile)


def loss_cases():
    """Yield (name, arguments of the loss, labels, predictions)."""
    rng = np.random.default_rng(0)
    for batch, classes in [(32, 10), (512, 100), (4096, 1000)]:
        logits = rng.normal(size=(batch, classes)).astype("float32")
        labels = rng.integers(classes, size=batch)
        one_hot = np.eye(classes, dtype="float32")[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        for from_logits, outputs in ((True, logits), (False, probabilities)):
            arguments = {"from_logits": from_logits}
            yield "SparseCategoricalCrossentropy", arguments, labels, outputs
            yield "CategoricalCrossentropy", arguments, one_hot, outputs
            outputs = outputs if from_logits else 1 / (1 + np.exp(-logits))
            yield "BinaryCrossentropy", arguments, one_hot, outputs


def loss_step(library, name, arguments, labels, predictions, jit_compile):
    loss = getattr(library.losses, name)(**arguments)
    labels, predictions = tf.constant(labels), tf.constant(predictions)
    specs = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in (labels, predictions)]

    @tf.function(jit_compile=jit_compile, input_signature=specs)
    def step(labels, predictions):
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            value = loss(labels, predictions)
        return value, tape.gradient(value, predictions)

    concrete = step.get_concrete_function()
    return lambda: concrete(labels, predictions)


def cases():
    """Yield (name, what is measured, maker of a step of a library)."""
    for name, arguments, shape in layer_cases():
        inputs = tf.random.stateless_normal(shape, seed=[3, 4])
        yield (
            name,
            str(shape),
            lambda library, jit, n=name, a=arguments, i=inputs: layer_step(library, n, a, i, jit),
        )
    for name, arguments, labels, outputs in loss_cases():
        kind = "logits" if arguments["from_logits"] else "probabilities"
        yield (
            name,
            f"{outputs.shape} {kind}",
            lambda library, jit, n=name, a=arguments, y=labels, p=outputs: loss_step(
                library, n, a, y, p, jit
            ),
        )


def print_saved_bytes():
    print("\nBytes that the backward pass of Dense keeps, ours and Keras's:")
    for activation in (None, "relu", "tanh", "sigmoid", "softmax"):
        inputs = tf.zeros([64, 128])
        kept = []
        for library in (keras_bp, keras):
            layer = library.layers.Dense(256, activation=activation)
            layer.build(inputs.shape)
            kept.append(_measure.saved_bytes(layer, inputs))
        print(f"  {activation or 'linear':8} {kept[0]:9,} {kept[1]:9,}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="measure only names that contain this")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds a case")
    parser.add_argument("--jit", choices=["off", "on", "both"], default="both")
    arguments = parser.parse_args()
    print(f"{'':32} {'':30} {'jit':4} {'ours ms':>8} {'Keras ms':>9} {'medians':>8} {'minima':>7}")
    for name, case, make in cases():
        if arguments.only.lower() not in name.lower():
            continue
        for jit in {"off": [False], "on": [True], "both": [False, True]}[arguments.jit]:
            result = _measure.compare(make(keras_bp, jit), make(keras, jit), arguments.seconds)
            print(
                f"{name:32} {case:30} {'on' if jit else 'off':4} {result.ours * 1e3:8.3f} "
                f"{result.keras * 1e3:9.3f} {result.ratio_of_medians:8.2f} "
                f"{result.ratio_of_minima:7.2f}",
                flush=True,
            )
    if arguments.only.lower() in ("", "dense"):
        print_saved_bytes()


if __name__ == "__main__":
    main()
