"""Networks of feedback layers train in every way, and their fixed matrices stay as they are."""

import feedback_cases as cases
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import feedback, layers, losses, optimizers

X = np.float32(np.random.default_rng(3).normal(size=(96, cases.INPUTS)))
Y = np.argmax(X[:, : cases.CLASSES], axis=1)
RULES = {"feedback": cases.chain, "direct": cases.direct}
every_rule = pytest.mark.parametrize("rule", RULES)


def compiled(rule, optimizer=None, dtype="float32", **options):
    model = RULES[rule](dtype=dtype)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"jit_compile": False, **options}
    model.compile(optimizer or optimizers.Adam(0.02), loss, **options)
    return model


def fit(model, epochs=3, batch_size=32):
    options = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, epochs=epochs, **options).history["loss"]


def fixed(model):
    """The fixed matrices of all layers."""
    weights = [weight for layer in model.layers for weight in layer.non_trainable_weights]
    return [weight.numpy() for weight in weights if "feedback" in weight.name]


def assert_same(arrays, others):
    assert len(arrays) == len(others) > 0
    for one, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(one, other)


# No optimizer sees the fixed matrices: one that decays weights, one that holds two sets of them.
@pytest.mark.parametrize("name, rule", [("Lamb", "feedback"), ("ScheduleFreeAdamW", "direct")])
def test_fixed_matrices_stay_as_they_are(name, rule):
    model = compiled(rule, getattr(optimizers, name)(0.02), run_eagerly=True)
    before, loss = fixed(model), fit(model, epochs=2, batch_size=48)
    assert np.isfinite(loss).all() and loss[1] < loss[0]
    assert_same(fixed(model), before)


@pytest.mark.long  # a step's gradients are compiled in test_feedback_gradients.py
@every_rule
def test_compiled_by_xla(rule):
    """Loops and eager steps are tests/conformance's, for every class."""
    model, jit = compiled(rule), compiled(rule, jit_compile=True)
    # XLA sums in another order, and Adam divides by small gradients.
    np.testing.assert_allclose(fit(jit), fit(model), rtol=1e-4)
    for one, two in zip(jit.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


@every_rule
def test_mixed_precision(rule):
    model = compiled(rule, dtype="mixed_float16")
    wide = compiled(rule, run_eagerly=True)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizers.Adam(0.02), 1024.0)
    model.compile(optimizer, model.loss, run_eagerly=True)
    for one, two in zip(model.trainable_weights, wide.trainable_weights, strict=True):
        assert one.dtype == "float32"
        np.testing.assert_array_equal(one, two)
    assert model(X).dtype == tf.float16
    # Half precision rounds by 5e-4, in 3 steps.
    np.testing.assert_allclose(fit(model, epochs=1), fit(wide, epochs=1), rtol=0.02)


def test_the_matrices_of_half_precision_models_are_wide():
    for rule in RULES:
        assert {matrix.dtype for matrix in fixed(compiled(rule, dtype="mixed_float16"))} == {
            np.dtype("float32")
        }
    # A head in float32 keeps its logits in float32.
    parts = [layers.Dense(4, "tanh", dtype="mixed_float16"), layers.Dense(3, dtype="float32")]
    chain = keras.Sequential([keras.Input((cases.INPUTS,)), *parts])
    model = feedback.direct_feedback_model(chain)
    np.testing.assert_array_equal(model(X), chain(X))
    assert model(X).dtype == tf.float32


@every_rule
def test_a_saved_model_trains_on_to_the_bit(rule, tmp_path):
    model = compiled(rule, run_eagerly=True)
    fit(model, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    assert_same(fixed(loaded), fixed(model))
    assert fit(loaded, epochs=1) == fit(model, epochs=1)
    assert_same(loaded.get_weights(), model.get_weights())

    model.save_weights(tmp_path / "model.weights.h5")
    other = RULES[rule](seed=2)
    assert any(np.any(one != two) for one, two in zip(fixed(other), fixed(model), strict=True))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other.get_weights(), model.get_weights())


def test_it_learns_by_another_rule_than_backpropagation():
    """By feedback alignment; the other rule's gradients are in test_feedback_gradients.py."""
    model = compiled("feedback")
    plain = cases.chain(layers.Dense, "float32")
    plain.compile(optimizers.Adam(0.02), model.loss, run_eagerly=True)
    for one, two in zip(plain.trainable_weights, model.trainable_weights, strict=True):
        one.assign(two)
    losses_of_both = fit(model, epochs=30), fit(plain, epochs=1)
    assert abs(losses_of_both[0][0] - losses_of_both[1][0]) > 1e-4
    accuracy = np.mean(np.argmax(model(X), axis=1) == Y)
    assert accuracy > 0.7  # of three classes; seen 0.84 and 0.97
