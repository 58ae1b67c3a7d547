"""Decay: which variables it reaches, by preset and by path, and how much of them it takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import NAMES, OF_ANY_VARIABLE, Problem, assert_close, assert_same, make

from keras_bp import optimizers

L = keras.layers
RATE, DECAY = 0.1, 0.5
DECAYING = [name for name in NAMES if name != "DeferredAdam"]


def network():
    """Every kind of weight: kernels, a table, biases and the weights of normalization layers."""
    ids = keras.Input((4,), dtype="int32")
    x = L.Embedding(5, 3, name="table")(ids)
    x = L.GRU(3, name="gru")(x)
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(3, name="dense")(x)
    x = L.BatchNormalization(name="bn")(x)
    return keras.Model(ids, L.Dense(1, name="head", use_bias=False)(x))


@pytest.fixture(scope="module")
def net():
    return network()


def decayed(net, **options):
    """The paths of the variables that a step with gradients of zero makes smaller."""
    variables = net.trainable_variables
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    optimizer = optimizers.AdamW(RATE, weight_decay=DECAY, **options)
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    for variable in variables:
        assert np.all(variable.numpy() == 1) or np.allclose(variable.numpy(), 1 - RATE * DECAY)
    return {v.path for v in variables if np.all(v.numpy() < 1)}


KERNELS = {
    "table/embeddings",
    "gru/gru_cell/kernel",
    "gru/gru_cell/recurrent_kernel",
    "dense/kernel",
    "head/kernel",
}
REST = {"gru/gru_cell/bias", "norm/gamma", "norm/beta", "dense/bias", "bn/gamma", "bn/beta"}


@pytest.mark.parametrize(
    "patterns, out",
    [
        (None, set()),
        ([], set()),
        ("bias_and_normalization", REST),
        ("dense/", {"dense/kernel", "dense/bias"}),
        ("^gru/.*kernel$", {"gru/gru_cell/kernel", "gru/gru_cell/recurrent_kernel"}),
        (["bias_and_normalization", "embeddings$"], REST | {"table/embeddings"}),
        ((r"(^|/)bn/", "norm/"), {"bn/gamma", "bn/beta", "norm/gamma", "norm/beta"}),
    ],
)
def test_exclusion(patterns, out, net):
    assert decayed(net, exclude_from_decay=patterns) == (KERNELS | REST) - out


def test_the_preset_leaves_names_alone_that_only_hold_its_words():
    variables = [tf.Variable(1.0, name=name) for name in ("unbiased", "gamma_table", "scales")]
    optimizer = optimizers.AdamW(RATE, exclude_from_decay="bias_and_normalization")
    optimizer.apply([tf.constant(0.0)] * 3, variables)
    assert all(v.numpy() < 1 for v in variables)
    recurrent = tf.Variable(1.0, name="cell/recurrent_bias")
    optimizer = optimizers.AdamW(RATE, exclude_from_decay="bias_and_normalization")
    optimizer.apply([tf.constant(0.0)], [recurrent])
    assert recurrent.numpy() == 1


def test_the_method_of_keras(net):
    """By variable, which is found alone, and by pattern."""
    optimizer = optimizers.AdamW(RATE, weight_decay=DECAY)
    head, table = net.get_layer("head").kernel, net.get_layer("table").embeddings
    optimizer.exclude_from_weight_decay(var_list=[head, table], var_names=["bias_and_"])
    with pytest.raises(ValueError, match="'bias_and_'"):
        optimizer.build(net.trainable_variables)
    optimizer.exclude_from_weight_decay(var_list=[head, table], var_names=["gru_cell"])
    assert decayed(net, exclude_from_decay=optimizer.exclude_from_decay) == {
        "dense/kernel",
        *(REST - {"gru/gru_cell/bias"}),
    }


@pytest.mark.parametrize("inputs", [[keras.Input((2,))], []])
def test_a_variable_stays_excluded_where_loading_gives_it_another_path(inputs, tmp_path):
    """A Sequential's variables have its name in their path, but not once they are loaded."""
    inner = keras.Sequential([L.Dense(2, use_bias=False), L.Dense(2, name="second")], name="inner")
    net = keras.Sequential([*inputs, L.Dense(2, name="first"), inner], name="outer")
    net(np.ones((1, 2)))
    second = inner.get_layer("second").kernel
    optimizer = optimizers.AdamW(RATE, weight_decay=DECAY)
    optimizer.exclude_from_weight_decay(var_list=[second])
    net.compile(optimizer, "mse", run_eagerly=True)
    net.optimizer.build(net.trainable_variables)
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (net, loaded):
        before = [v.numpy() for v in each.trainable_variables]
        each.optimizer.apply([tf.zeros(v.shape) for v in each.trainable_variables])
        stays = [
            v.path
            for v, old in zip(each.trainable_variables, before, strict=True)
            if np.array_equal(v, old) and np.any(old != 0)
        ]
        assert len(stays) == 1 and stays[0].endswith("second/kernel")


@pytest.mark.parametrize("name", [name for name in DECAYING if name in OF_ANY_VARIABLE])
def test_how_much_decay_takes(name):
    """With a gradient of zero, w shrinks by a lambda w."""
    variable = tf.Variable([2.0, -1.0], dtype=tf.float64)
    excluded = tf.Variable([2.0, -1.0], dtype=tf.float64, name="bias")
    # 1/8 is exact in float32, in which the rate is held.
    optimizer = make(name, 0.125, weight_decay=0.5, exclude_from_decay="^bias$")
    optimizer.apply([tf.zeros(2, tf.float64)] * 2, [variable, excluded])
    # Lamb's direction is then lambda w, rescaled to a share `rate` of w. In schedule-free's first
    # update z takes the step, and x and y are z after it.
    share = 0.125 if name == "Lamb" else 0.125 * 0.5
    if name == "Prodigy":  # whose rate begins at d0
        share *= 0.02
    if name == "DoG":  # whose rate r / ||lambda w|| is that of w0's norm, which is sqrt(10)
        share *= 0.05 * (1 + np.sqrt(10)) / np.sqrt(0.25 * 5 + 1e-8)
    assert_close([variable], [np.array([2.0, -1.0]) * (1 - share)], 1e-12)
    assert_same([excluded], [[2.0, -1.0]])


@pytest.mark.parametrize("name", DECAYING)
def test_decay_of_zero_is_none(name):
    none, zero = Problem(name), Problem(name)
    none.steps(make(name, weight_decay=0.0 if name == "AdamW" else None), 2)
    zero.steps(make(name, weight_decay=0.0), 2)
    assert_same(none.read(), zero.read())
