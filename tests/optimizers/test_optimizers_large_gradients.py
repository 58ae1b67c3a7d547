"""Finite gradients whose squares overflow float32, at which a single batch can explode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import OF_ANY_VARIABLE, make

from keras_bp import layers, optimizers

SEQUENCES = [(1e20, 1e-3, 1e20), (1e38, 1e-3, 1e38)]
VARIANTS = [
    *[(name, {}) for name in OF_ANY_VARIABLE if hasattr(keras.optimizers, name)],
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {"amsgrad": True}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.9}),
]


def run(optimizer, gradients):
    """The weights after each gradient, which may be larger in one entry than in the other."""
    weights = tf.Variable([1.0, -2.0])
    history = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)], [weights])
        history.append(weights.numpy())
    return np.array(history)


@pytest.mark.parametrize("bound", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("name", OF_ANY_VARIABLE)
def test_every_rule_clips_them_to_their_direction(name, bound):
    given = [[size, abs(size) / 2] for size in (1e20, 1e-3, -1e38)]
    norms = [np.linalg.norm(gradient) for gradient in given]
    clipped = [np.array(g) / max(norm, 1.0) for g, norm in zip(given, norms, strict=True)]
    # Two roundings of the clipped gradient, which some rules multiply by a rate of 1.
    np.testing.assert_allclose(
        run(make(name, **{bound: 1.0}), given), run(make(name), clipped), rtol=1e-6
    )


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("name, options", VARIANTS)
def test_weights_are_finite_where_those_of_keras_are(name, options, sequence):
    given = [[size, -size] for size in sequence]
    theirs = run(getattr(keras.optimizers, name)(0.1, **options), given)
    ours = run(getattr(optimizers, name)(0.1, **options), given)
    assert np.isfinite(ours)[np.isfinite(theirs)].all()
    if name == "RMSprop" and np.isfinite(theirs).all():
        np.testing.assert_array_equal(ours, theirs)


def test_the_distance_over_gradients():
    """Against the rule in float64; the squares of the first gradient are 1e40."""
    w, initial, r, squares = np.array([1.0, -2.0]), np.array([1.0, -2.0]), 0.0, 0.0
    given = [[1e20, -1e20], [1e-3, 1e20], [3e19, 0.0]]
    expected = []
    for gradient in np.array(given):
        squares += np.sum(gradient**2)
        r = max(r, np.linalg.norm(w - initial), 0.1 * (1 + np.linalg.norm(initial)))
        w = w - r / np.sqrt(squares + 1e-8) * gradient
        expected.append(w)
    ours = run(optimizers.DoG(r_epsilon=0.1), given)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


AVERAGING = ["Adam", "AdamW", "Lamb", "LazyAdam", "RMSprop", "ScheduleFreeAdamW"]
AVERAGING += ["DeferredAdam", "HypergradientAdam", "Adagrad", "Nadam"]


@pytest.mark.parametrize(
    "name, options", [*[(name, {}) for name in AVERAGING], ("Adam", {"amsgrad": True})]
)
def test_an_average_that_overflowed_stops_its_entry_and_no_other(name, options):
    """The steps of the first entry are 0; the second one goes on as if it were alone."""
    given = [[1e20, 1.0], [1e-3, -2.0], [1e20, 1.0], [1.0, 1.0]]
    ours = run(getattr(optimizers, name)(0.1, **options), given)
    assert np.isfinite(ours).all()
    if name not in ("Lamb", "HypergradientAdam"):  # whose rate depends on all entries
        alone = run(getattr(optimizers, name)(0.1, **options), [[0.0, g] for _, g in given])
        np.testing.assert_array_equal(ours[:, 1], alone[:, 1])
    if name not in ("AdamW", "ScheduleFreeAdamW"):  # which decay, and average the first weights
        np.testing.assert_array_equal(ours[:, 0], 1.0)


def test_a_factored_average_that_overflowed_stops_its_matrix():
    matrix, optimizer = tf.Variable(tf.ones((3, 2))), optimizers.Adafactor(0.1)
    for size in 1e20, 1.0:
        optimizer.apply([tf.constant([[size, 1.0], [1.0, -2.0], [0.0, 3.0]])], [matrix])
    np.testing.assert_array_equal(matrix, np.ones((3, 2)))


@pytest.mark.parametrize("name", ["LazyAdam", "DeferredAdam"])
def test_rows_whose_average_overflowed(name):
    layer = layers.DeferredEmbedding if name == "DeferredAdam" else layers.Embedding
    layer = layer(3, 2, embeddings_initializer="ones")
    layer.build()
    [table] = layer.trainable_weights
    for optimizer in (getattr(optimizers, name)(0.1) for _ in range(2)):  # the second takes over
        for size, row in (1e20, 1), (1e-3, 1), (1e20, 1), (0.0, 2):
            rows = tf.IndexedSlices(tf.constant([[size, 1.0]]), tf.constant([row]))
            optimizer.apply([rows], [table])
    weights = layer.get_weights()[0]
    assert np.isfinite(weights).all()
    np.testing.assert_array_equal(weights[:2, 0], 1.0)
    assert (weights[1:, 1] < 1.0).all()
