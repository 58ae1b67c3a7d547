"""Each layer of the package beside its Keras namesake, and what a call of a layer does."""

import keras
import numpy as np
import tensorflow as tf

from keras_bp import layers

# The layers of floating-point inputs that are drop-ins; those that take ids have a file of their
# own, test_layers_embedding.py; those of feedback alignment are tested in tests/feedback.
NAMES = [
    name
    for name in layers.__all__
    if hasattr(keras.layers, name) and not name.endswith("Embedding")
]

# What a plain instance needs; the seed makes two dropouts draw the same mask.
REQUIRED = {
    "BatchNormalization": {},
    "Dense": {"units": 4},
    "Dropout": {"rate": 0.4, "seed": 3},
    "GroupNormalization": {"groups": 2},
    "LayerNormalization": {},
}


# Options and input shapes, each compared with Keras in numbers: values, gradients and state.
OPTIONS = [
    *[
        ("Dense", {"activation": activation}, (3, 5))
        for activation in (None, "relu", "tanh", "sigmoid", "softmax", "gelu", "leaky_relu")
    ],
    ("Dense", {"use_bias": False}, (3, 5)),
    ("Dense", {"activation": "relu", "lora_rank": 2, "lora_alpha": 3}, (3, 5)),
    ("Dense", {"activation": "softmax"}, (2, 3, 5)),
    ("Dense", {"activation": "tanh"}, (2, 1, 3, 5)),
    ("Dense", {"activation": "relu", "use_bias": False}, (2, 1, 2, 3, 5)),
    *[("BatchNormalization", {}, (4, 3, 2, 2, 6)[-rank:]) for rank in (1, 2, 3, 4, 5)],
    *[("BatchNormalization", {"axis": axis}, (4, 3, 2, 6)) for axis in (0, 1, 2, -2, -3)],
    ("BatchNormalization", {"center": False, "momentum": 0.7, "epsilon": 0.1}, (5, 4)),
    ("BatchNormalization", {"scale": False, "momentum": 0.0}, (5, 4)),
    ("BatchNormalization", {"scale": False, "center": False, "momentum": 1.0}, (5, 4)),
    ("BatchNormalization", {"trainable": False}, (5, 4)),
    ("BatchNormalization", {"renorm": True, "renorm_clipping": {"rmax": 1.1}}, (5, 4)),
    ("BatchNormalization", {"synchronized": True, "axis": 1}, (5, 4, 3)),
    *[("LayerNormalization", {}, (4, 3, 2, 2, 6)[-rank:]) for rank in (1, 2, 3, 4, 5)],
    *[
        ("LayerNormalization", {"axis": axis}, (4, 3, 2, 6))
        for axis in (0, 1, -2, [3], [1, 2], (2, 3), [-1, -2], [3, 1], [1, -1], [0, 2], (1, 2, 3))
    ],
    ("LayerNormalization", {"center": False, "epsilon": 0.1}, (5, 4)),
    ("LayerNormalization", {"scale": False}, (5, 4)),
    ("LayerNormalization", {"scale": False, "center": False}, (5, 4)),
    *[("GroupNormalization", {"groups": groups}, (2, 3, 6)) for groups in (1, 3, 6, -1)],
    *[("GroupNormalization", {}, (4, 3, 2, 2, 6)[-rank:]) for rank in (2, 3, 4, 5)],
    *[("GroupNormalization", {"axis": axis}, (3, 4, 6, 2)) for axis in (1, 2, -2, -3)],
    ("GroupNormalization", {"center": False, "epsilon": 0.1}, (2, 3, 4)),
    ("GroupNormalization", {"scale": False}, (2, 3, 4)),
    ("GroupNormalization", {"scale": False, "center": False}, (2, 4)),
    ("Dropout", {}, (40,)),
    ("Dropout", {"rate": 0}, (4, 6)),
    ("Dropout", {"rate": 0.9}, (4, 3, 6)),
    ("Dropout", {"noise_shape": (None, 1, None)}, (4, 3, 6)),
    ("Dropout", {"noise_shape": [4, 1, 6]}, (4, 3, 6)),
    # Keras broadcasts a shorter mask from the right, as TensorFlow does.
    ("Dropout", {"noise_shape": (6,)}, (4, 3, 6)),
]


def calls(name):
    """The call arguments to try: in training and out of it where that makes a difference."""
    modes = name in ("BatchNormalization", "Dropout")
    return [{"training": True}, {"training": False}] if modes else [{}]


def pair(name, **options):
    """Return Keras's layer and ours, made of the same arguments."""
    options = {**REQUIRED[name], **options}
    return getattr(keras.layers, name)(**options), getattr(layers, name)(**options)


def built_pair(name, shape, seed=0, **options):
    """Return the pair, built for inputs of `shape`, with the same random weights."""
    theirs, ours = pair(name, **options)
    theirs.build(shape)
    ours.build(shape)
    share_random_weights(theirs, ours, seed)
    return theirs, ours


def share_random_weights(theirs, ours, seed=0):
    """Give two layers or models the same weights, of both signs but for variances."""
    generator = np.random.default_rng(seed)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        if not other.dtype.startswith(("float", "bfloat")):
            continue
        value = generator.normal(size=other.shape)
        positive = other.name.endswith(("variance", "stddev"))
        for weight in (mine, other):
            weight.assign(np.abs(value) + 0.5 if positive else value)


def observe(layer, x, **call):
    """Call a layer; return outputs, gradients (inputs first, then weights) and the state left."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.convert_to_tensor(layer(x, **call))
        weights = tf.reshape(tf.cos(tf.range(tf.size(outputs), dtype=tf.float64)), outputs.shape)
        total = tf.reduce_sum(tf.cast(outputs, tf.float64) * weights)
    sources = [x, *(w.value for w in layer.trainable_variables)]
    gradients = tape.gradient(total, sources, unconnected_gradients="zero")
    state = [w.numpy() for w in layer.non_trainable_variables]
    return [outputs.numpy(), *(g.numpy() for g in gradients), *state]


def assert_alike(theirs, ours, rtol, atol=None):
    """Compare what `observe` returned, array by array and with dtypes."""
    for index, (expected, value) in enumerate(zip(theirs, ours, strict=True)):
        assert value.dtype == expected.dtype, f"array {index}: {value.dtype}, {expected.dtype}"
        np.testing.assert_allclose(
            value.astype("float64"),
            expected.astype("float64"),
            rtol=rtol,
            atol=rtol if atol is None else atol,
            err_msg=f"array {index}",
        )
