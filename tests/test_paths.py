"""Paths of variables: the names of the layers that hold one another, without the model's."""

import random

import keras
import pytest

from keras_bp._paths import short_names, variable_paths

L = keras.layers


def _layers(model):
    return list(dict.fromkeys(layer for layer, _ in variable_paths(model).values()))


def _variables(model):
    paths = variable_paths(model)
    assert sorted(paths) == sorted(id(weight) for weight in model.weights)
    return [path for _, path in paths.values()]


def test_functional_model_with_models_inside():
    innermost = keras.Sequential([L.Dense(3, name="conv")], name="innermost")
    x = keras.Input((4,))
    block = keras.Model(x, L.BatchNormalization(name="bn")(innermost(x)), name="block")
    model = keras.Model(x, L.Dense(1, name="d1")(block(x)), name="net")
    assert _variables(model) == [
        "block/innermost/conv/kernel",
        "block/innermost/conv/bias",
        *(f"block/bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
        "d1/kernel",
        "d1/bias",
    ]
    assert _layers(model) == ["block/innermost/conv", "block/bn", "d1"]


@pytest.mark.parametrize("given_input", [True, False])
def test_sequential_model_leaves_its_own_name_out(given_input):
    model = keras.Sequential([keras.Input((4,))] * given_input + [L.Dense(2, name="d1")])
    model.build((None, 4))
    assert _variables(model) == ["d1/kernel", "d1/bias"]


def test_layers_made_of_layers():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            L.Bidirectional(L.LSTM(2, return_sequences=True, name="lstm"), name="both"),
            L.TimeDistributed(L.Dense(2, use_bias=False, name="inner"), name="steps"),
            L.RNN([L.GRUCell(2, name="a"), L.GRUCell(2, name="b")], name="rnn"),
        ]
    )
    inside = model.get_layer("rnn").cell.name
    assert _layers(model) == [
        "both/forward_lstm/lstm_cell",
        "both/backward_lstm/lstm_cell",
        "steps/inner",
        f"rnn/{inside}/a",
        f"rnn/{inside}/b",
    ]
    x = keras.Input((3, 4))
    attention = keras.Model(x, L.MultiHeadAttention(2, 2, name="mha")(x, x))
    assert _layers(attention) == [f"mha/{n}" for n in ("query", "key", "value", "attention_output")]


def test_a_shared_layer_counts_once_where_it_comes_first():
    x = keras.Input((4,))
    shared = L.Dense(4, name="shared")
    first = keras.Model(x, shared(x), name="first")
    second = keras.Model(x, L.Dense(4, name="own")(shared(x)), name="second")
    model = keras.Model(x, second(first(x)))
    assert _layers(model) == ["first/shared", "second/own"]


class _Twins(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.one, self.two = L.Dense(2, name="same"), L.Dense(2, name="same")
        self.free = self.add_weight(name="w", shape=())
        self.other = self.add_weight(name="w", shape=())
        self.borrowed = None

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)
        self.borrowed = self.one.kernel

    def call(self, x):
        return self.one(x) + self.two(x) + self.free + self.other


def test_equal_names_are_told_apart_and_borrowed_variables_stay_at_home():
    model = keras.Sequential([keras.Input((3,)), _Twins(name="twins")])
    assert set(_variables(model)) == {
        "twins/w",
        "twins/w_1",
        "twins/same/kernel",
        "twins/same/bias",
        "twins/same_1/kernel",
        "twins/same_1/bias",
    }
    assert variable_paths(model)[id(model.layers[0].one.kernel)][0] == "twins/same"


class _WithOwnWeight(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.inner = L.Dense(1, name="global")
        self.scale = self.add_weight(name="scale", shape=())

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * self.scale


def test_the_models_own_weight_and_a_layer_called_global():
    model = _WithOwnWeight()
    model.build((None, 3))
    assert variable_paths(model)[id(model.scale)] == ("(model)", "scale")
    assert _layers(model) == ["(model)", "global_1"]


def test_short_names_stay_different():
    short = ["dense", "decoder/dense"]
    cells = [f"bidirectional/{way}_lstm/lstm_cell" for way in ("forward", "backward")]
    ends = ["an_encoder/of_many/blocks_1", "an_encoder/of_many/blocks_2"]
    assert short_names(short + cells + ends, 18) == [
        *short,
        "…nal/forward_lstm…",
        "…al/backward_lstm…",
        "…/of_many/blocks_1",
        "…/of_many/blocks_2",
    ]
    choose, names = random.Random(0).choice, set()
    while len(names) < 500:
        parts = ("block_" + choose("123"), "attention", "a" * 20, choose(["query", "key"]))
        names.add("/".join(choose(parts) for _ in range(5)))
    labels = short_names(sorted(names), 18)
    assert len(set(labels)) == 500 and max(map(len, labels)) <= 22
