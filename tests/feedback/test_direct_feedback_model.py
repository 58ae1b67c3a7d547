"""What direct_feedback_model makes of which models, and what it refuses."""

import re

import feedback_cases as cases
import keras
import numpy as np
import pytest

import keras_bp
from keras_bp import layers
from keras_bp.feedback import direct_feedback_model

L = keras.layers


def matrices(model):
    return [weight.numpy() for weight in model.get_layer("direct_feedback").weights]


def functional():
    x = keras.Input((6, 6, 1), name="image")
    h = layers.BatchNormalization()(L.Conv2D(2, 3, name="one")(x))
    h = L.Flatten()(L.Activation("relu")(h))
    block = keras.Sequential([layers.Dense(5, "tanh"), layers.Dense(4)], name="block")
    return keras.Model(x, layers.Dense(3, "softmax", name="head")(block(h)))


@pytest.mark.parametrize("make", [cases.chain, functional])
def test_the_layers_are_shared(make):
    chain = make()
    x = np.random.default_rng(0).normal(size=(4, *chain.input_shape[1:]))
    model = direct_feedback_model(chain, name="direct")
    assert model.name == "direct" and chain.layers[-1] in model.layers
    np.testing.assert_array_equal(model(x), chain(x))
    model.get_layer("head").bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(model(x), chain(x))
    assert len(model.trainable_weights) == len(chain.trainable_weights)


def test_blocks():
    """Normalization, activation and flattening go with the kernel before; a model is one block."""
    model = direct_feedback_model(functional())
    names = [layer.name for layer in model.layers]
    assert names.index("detach_1") == names.index("block") - 1
    assert names.index("detach_2") == names.index("head") - 1
    assert [b.shape for b in matrices(model)] == [(3, 32), (3, 4)]


def test_activations_with_weights_and_frozen_layers_begin_no_block():
    layers = [L.Conv2D(2, 3), L.PReLU(), L.LayerNormalization((1, 2, 3)), L.Flatten()]
    frozen = L.Dense(5, trainable=False)
    chain = keras.Sequential([keras.Input((4, 4, 1)), *layers, frozen, L.Dense(3)])
    model = direct_feedback_model(chain)
    names = [layer.name for layer in model.layers]
    assert sum(name.startswith("detach") for name in names) == 1
    assert [b.shape for b in matrices(model)] == [(3, 5)]


def test_a_generator_draws_other_matrices_each_time():
    wide = keras.Sequential([keras.Input((4,)), L.Dense(5), L.Dense(5), L.Dense(9)])
    uniform = keras.initializers.RandomUniform(seed=keras.random.SeedGenerator(3))
    one, two = matrices(direct_feedback_model(wide, uniform))
    assert not np.array_equal(one, two)


def test_bounds_and_seeds():
    wide = keras.Sequential([keras.Input((4,)), L.Dense(500), L.Dense(500), L.Dense(9)])
    one, two = matrices(direct_feedback_model(wide, seed=3))
    # Uniform within 1 / sqrt(9): of 4500 numbers the largest comes near.
    for matrix in (one, two):
        assert 0.33 < np.abs(matrix).max() <= 1 / 3
        assert np.isclose(matrix.std(), 1 / 3 / np.sqrt(3), rtol=0.05)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1  # not the same numbers twice
    for other, again in zip((one, two), matrices(direct_feedback_model(wide, seed=3)), strict=True):
        np.testing.assert_array_equal(again, other)
    for seed in (4, None):
        matrix = matrices(direct_feedback_model(wide, seed=seed))[0]
        assert np.any(matrix != one) and 0.33 < np.abs(matrix).max() <= 1 / 3
    initializer = keras.initializers.RandomNormal(stddev=7.0, seed=1)
    one, two = matrices(direct_feedback_model(wide, initializer))
    assert np.isclose(one.std(), 7, rtol=0.05) and np.any(one != two)
    for matrix in matrices(direct_feedback_model(wide, "ones")):
        assert np.all(matrix == 1)


def test_a_model_that_was_built_by_a_call():
    chain = keras.Sequential([L.Embedding(7, 3), L.Flatten(), L.Dense(4, "tanh"), L.Dense(2)])
    ids = np.array([[1, 2], [3, 4], [5, 6]])
    chain(ids)
    np.testing.assert_array_equal(direct_feedback_model(chain)(ids[:1]), chain(ids[:1]))


def branched():
    x = keras.Input((4,))
    h = L.Dense(4)(x)
    return keras.Model(x, L.Dense(2)(L.Add()([h, L.Dense(4)(h)])))


def skipping():
    x = keras.Input((4,))
    L.Dense(4)(x)
    h = L.Dense(4)(x)
    return keras.Model(x, L.Concatenate()([L.Dense(2)(h), L.Dense(2)(h)]))


def two_outputs():
    x = keras.Input((4,))
    h = L.Dense(4)(x)
    return keras.Model(x, [L.Dense(2)(h), h])


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "make, options, error, says",
    [
        (branched, {}, ValueError, "`model` must be a chain"),
        (skipping, {}, ValueError, "`model` must be a chain"),
        (two_outputs, {}, ValueError, "`model` must be a chain"),
        (Subclassed, {}, TypeError, "`model` must be a keras.Sequential or"),
        (lambda: L.Dense(3), {}, TypeError, "`model` must be a keras.Sequential or"),
        (lambda: keras.Sequential([L.Dense(3), L.Dense(2)]), {}, ValueError, "`model` .* built"),
        (
            lambda: keras.Sequential([keras.Input((4,)), L.Dense(3), L.ReLU()]),
            {},
            ValueError,
            "`model` must have two layers or more with a kernel",
        ),
        (
            lambda: keras.Sequential([keras.Input((5, 4)), L.Dense(3), L.Dense(2)]),
            {},
            ValueError,
            r"`model` must have an output of shape \(batch, outputs\)",
        ),
        (cases.chain, {"seed": 1, "feedback_initializer": "ones"}, ValueError, "`seed`"),
    ],
)
def test_what_is_refused(make, options, error, says):
    with pytest.raises(error) as raised:
        direct_feedback_model(make(), **options)
    assert re.search(f"{says}.*Received: .", str(raised.value), re.DOTALL), raised.value


def test_a_direct_feedback_layer_refuses_other_inputs():
    for shapes in ((2, 3), [(2, 3)], [(2, 3, 4), (2, 5)], [(2, 3), (2, None)], [(2, 3), ()]):
        with pytest.raises(ValueError, match="`inputs` must be a list.*Received: "):
            keras_bp.layers.DirectFeedback().build(shapes)
