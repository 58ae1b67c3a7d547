"""A wrong argument is named, with what came, on both sides of each bound; nothing is half built."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import NAMES, REQUIRED, calls

from keras_bp import layers

NORMALIZATIONS = ["BatchNormalization", "GroupNormalization", "LayerNormalization"]
NAN, INF = float("nan"), float("inf")

# (layer, argument, wrong value, error)
WRONG_ARGUMENTS = [
    *[(name, "epsilon", value, ValueError) for name in NORMALIZATIONS for value in (-1e-9, NAN)],
    *[
        (name, "epsilon", value, TypeError)
        for name in NORMALIZATIONS
        for value in ("1", None, True)
    ],
    *[
        (name, "axis", value, TypeError)
        for name in NORMALIZATIONS
        for value in (1.0, "1", None, True)
    ],
    ("BatchNormalization", "axis", [1], TypeError),
    ("GroupNormalization", "axis", [1], TypeError),
    ("LayerNormalization", "axis", [1, "2"], TypeError),
    *[("BatchNormalization", "momentum", value, ValueError) for value in (-1e-9, 1 + 1e-9, NAN)],
    *[("BatchNormalization", "momentum", value, TypeError) for value in ("0.9", None, True)],
    *[("Dropout", "rate", value, ValueError) for value in (-1e-9, 1 + 1e-9, NAN, INF)],
    *[("Dropout", "rate", value, TypeError) for value in ("0.5", None, True, [0.5])],
    *[("Dropout", "noise_shape", value, ValueError) for value in ("a", 3, (1, 0), (-1,), (1.5,))],
    *[("Dense", "units", value, ValueError) for value in (0, -1, 2.0, "3", None, True)],
    *[("Dense", "lora_rank", value, ValueError) for value in (-1, 2.5, "a")],
    *[("GroupNormalization", "groups", value, ValueError) for value in (0, -2, 2.0, "2", None)],
]

# (layer, options, wrong shape, what the message says, right shape): found at the first call.
WRONG_INPUTS = [
    ("Dense", {}, (6,), "ndim", (4, 6)),
    ("BatchNormalization", {"axis": 2}, (4, 6), "axis", (4, 3, 6)),
    ("BatchNormalization", {"axis": -3}, (4, 6), "axis", (4, 3, 6)),
    ("GroupNormalization", {}, (6,), "axis", (4, 6)),
    ("GroupNormalization", {"axis": 2}, (4, 6), "axis", (4, 3, 6)),
    ("GroupNormalization", {"axis": -3}, (4, 6), "axis", (3, 4, 2, 2)),
    ("GroupNormalization", {"axis": -2}, (4, 6), "axis", (3, 4, 6)),
    ("GroupNormalization", {"axis": 0}, (4, 6), "axis", None),
    ("GroupNormalization", {"groups": 4}, (4, 6), "groups", (4, 12)),
    ("GroupNormalization", {"groups": 12}, (4, 6), "groups", (4, 12)),
    ("LayerNormalization", {"axis": 2}, (4, 6), "axis", (4, 3, 6)),
    ("LayerNormalization", {"axis": -3}, (4, 6), "axis", (4, 3, 6)),
    ("LayerNormalization", {"axis": [1, -1]}, (4, 6), "axis", (4, 3, 6)),
    ("LayerNormalization", {"axis": [1, 1]}, (4, 6), "axis", None),
    ("LayerNormalization", {"axis": []}, (4, 6), "axis", None),
    ("Dropout", {"noise_shape": (4, 5)}, (4, 6), "noise_shape", (4, 5)),
    ("Dropout", {"noise_shape": (4, 1, 6)}, (4, 6), "noise_shape", (4, 3, 6)),
]

# (layer, options, input shape in which the axis has an unknown length)
UNKNOWN_LENGTHS = [
    ("Dense", {}, (None, None)),
    ("BatchNormalization", {}, (4, None)),
    ("BatchNormalization", {"axis": 1}, (4, None, 3)),
    ("GroupNormalization", {}, (4, None)),
    ("GroupNormalization", {"axis": 1}, (4, None, 3)),
    ("LayerNormalization", {}, (4, None)),
    ("LayerNormalization", {"axis": [1, 2]}, (4, None, 3)),
]


def test_every_argument_with_a_bound_is_tried():
    tried = {(name, argument) for name, argument, _, _ in WRONG_ARGUMENTS}
    assert {name for name, _ in tried} == set(NAMES)


@pytest.mark.parametrize("name, argument, value, error", WRONG_ARGUMENTS, ids=str)
def test_wrong_argument(name, argument, value, error):
    with pytest.raises(error, match=f"`?{argument}`?.*(Received|received)") as caught:
        getattr(layers, name)(**{**REQUIRED[name], argument: value})
    shown = value[-1] if isinstance(value, (list, tuple)) else value
    assert str(shown) in str(caught.value)


# Keras 3.16 refuses it for group normalization.
ZERO_EPSILON = [
    name for name in NORMALIZATIONS if name != "GroupNormalization" or keras.__version__ < "3.16"
]


@pytest.mark.parametrize(
    "name, argument, value",
    [
        *[(name, "epsilon", value) for name in NORMALIZATIONS for value in (1e-9, 5)],
        *[(name, "epsilon", value) for name in ZERO_EPSILON for value in (0, 0.0)],
        *[("BatchNormalization", "momentum", value) for value in (0, 0.0, 1, 1.0, np.float32(0.5))],
        *[("Dropout", "rate", value) for value in (0, 0.0, 1, 1.0, np.float32(0.5))],
        ("Dense", "units", 1),
        ("GroupNormalization", "groups", 1),
        ("GroupNormalization", "groups", -1),
        ("GroupNormalization", "groups", 6),
    ],
)
def test_right_argument_at_the_bound(name, argument, value):
    layer = getattr(layers, name)(**{**REQUIRED[name], argument: value})
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    assert np.all(np.isfinite(layer(x, **calls(name)[0])))


@pytest.mark.parametrize("name, options, wrong, part, right", WRONG_INPUTS, ids=str)
def test_wrong_input_leaves_nothing_half_built(name, options, wrong, part, right):
    layer = getattr(layers, name)(**{**REQUIRED[name], **options})
    call = calls(name)[0]
    with pytest.raises(ValueError, match=part) as caught:
        layer(np.ones(wrong, "float32"), **call)
    assert str(wrong) in str(caught.value)
    assert layer.weights == []
    if right is not None:
        x = np.random.default_rng(0).normal(size=right).astype("float32")
        assert np.all(np.isfinite(layer(x, **call)))


@pytest.mark.parametrize("name, options, shape", UNKNOWN_LENGTHS, ids=str)
def test_unknown_lengths(name, options, shape):
    layer = getattr(layers, name)(**{**REQUIRED[name], **options})
    with pytest.raises(ValueError, match="None"):
        layer(keras.Input(batch_shape=shape))
    assert layer.weights == []
    known = tuple(length or 4 for length in shape)
    assert layer(np.ones(known, "float32")).shape[0] == known[0]


@pytest.mark.parametrize("name", NAMES)
def test_unknown_dtype(name):
    with pytest.raises(ValueError, match="float31"):
        getattr(layers, name)(**REQUIRED[name], dtype="float31")


@pytest.mark.parametrize("name", NAMES)
def test_unknown_keyword(name):
    with pytest.raises(ValueError, match="unitz"):
        getattr(layers, name)(**REQUIRED[name], unitz=3)


def test_unknown_activation():
    with pytest.raises(ValueError, match="rellu"):
        layers.Dense(3, activation="rellu")


def test_another_number_of_features_than_at_the_build():
    layer = layers.Dense(3)
    layer.build((None, 5))
    with pytest.raises(ValueError, match=r"axis -1.*5.*\(2, 4\)"):
        layer(np.ones((2, 4), "float32"))
    assert layer(np.ones((2, 5), "float32")).shape == (2, 3)


@pytest.mark.parametrize("name", ["BatchNormalization", "GroupNormalization"])
def test_another_number_of_channels_than_at_the_build(name):
    layer = getattr(layers, name)(**REQUIRED[name], axis=1)
    layer.build((None, 4, 3))
    with pytest.raises(ValueError, match=r"axis 1.*4.*\(2, 6, 3\)"):
        layer(np.ones((2, 6, 3), "float32"))
    assert layer(np.ones((2, 4, 7), "float32")).shape == (2, 4, 7)


def test_a_mask_of_another_rank_or_length():
    layer = layers.BatchNormalization()
    for training in (True, False):
        with pytest.raises(ValueError, match=r"mask.*\(2,\).*\(2, 3, 4\)"):
            layer(np.ones((2, 3, 4), "float32"), training=training, mask=tf.ones((2,), tf.bool))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        layer(np.ones((2, 3, 4), "float32"), training=True, mask=tf.ones((2, 5), tf.bool))
    outputs = layer(np.ones((2, 3, 4), "float32"), training=True, mask=tf.ones((2, 3), tf.bool))
    assert outputs.shape == (2, 3, 4)


def test_a_low_rank_that_cannot_be_leaves_nothing_half_built():
    layer = layers.Dense(3)
    layer.build((None, 5))
    with pytest.raises(ValueError, match="-1"):
        layer.enable_lora(-1)
    assert [w.name for w in layer.weights] == ["kernel", "bias"]
    assert layer.kernel.trainable
    layer.enable_lora(2)
    assert [w.name for w in layer.trainable_weights] == ["bias", "lora_kernel_a", "lora_kernel_b"]
