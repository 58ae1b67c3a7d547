"""Two replicas train as one device with the global batch: every layer, every loss, 50 steps."""

import keras
import numpy as np
import tensorflow as tf
from distribution_cases import (
    BOUND,
    IDS,
    LABELS,
    WORDS,
    X,
    by_fit,
    by_loop,
    difference,
    sgd,
    small,
    with_option,
)

from keras_bp import layers, losses, optimizers

FEEDBACK = {"Detach", "DirectFeedback", "FeedbackConv2D", "FeedbackDense"}


def every_layer():
    """A network of all layers but those of feedback alignment, and one output for each loss."""
    keras.utils.set_random_seed(1)
    x, words = keras.Input((6,), name="x"), keras.Input((3,), dtype="int32", name="words")
    hidden = layers.Dense(8, "tanh", name="hidden")(x)
    # Replicas draw masks of their own, which one device cannot; see the test of them.
    dropped = layers.Dropout(0.0, name="dropout")(hidden)
    parts = [
        layers.BatchNormalization(synchronized=True, name="batch")(hidden),
        layers.LayerNormalization(name="layer")(dropped),
        layers.GroupNormalization(2, name="group")(hidden),
        keras.layers.Flatten()(layers.Embedding(IDS, 2, name="embedding")(words)),
        keras.layers.Flatten()(layers.DeferredEmbedding(IDS, 2, name="deferred")(words)),
    ]
    joined = keras.layers.Concatenate()(parts)
    outputs = {
        "binary": layers.Dense(3, "sigmoid", name="binary")(joined),
        "categorical": layers.Dense(3, "softmax", name="categorical")(joined),
        "sparse": layers.Dense(3, name="sparse")(joined),
    }
    return keras.Model({"x": x, "words": words}, outputs)


def every_loss():
    return {
        "binary": losses.BinaryCrossentropy(),
        "categorical": losses.CategoricalCrossentropy(label_smoothing=0.1),
        "sparse": losses.SparseCategoricalCrossentropy(from_logits=True),
    }


def test_every_layer_and_loss(replicas):
    hot = keras.utils.to_categorical(LABELS).astype("float32")
    data = {"x": X, "words": WORDS}, {"binary": hot, "categorical": hot, "sparse": LABELS}
    two, one = (
        by_fit(strategy, every_layer, lambda: optimizers.Adam(0.01), *data, every_loss)
        for strategy in (replicas, None)
    )
    assert {type(layer).__name__ for layer in two[2].layers} >= set(layers.__all__) - FEEDBACK
    assert {type(loss).__name__ for loss in every_loss().values()} == set(losses.__all__)
    assert sum(one[0][-10:]) < 0.7 * sum(one[0][:10])
    assert difference(two, one) < BOUND


def test_feedback_alignment(replicas):
    """Each replica sends its own errors back through the same fixed matrices."""

    def network():
        keras.utils.set_random_seed(1)
        x = keras.Input((6,))
        first = layers.Dense(8, "tanh")(x)
        image = keras.layers.Reshape((2, 4, 1))(layers.Detach()(first))
        second = keras.layers.Flatten()(layers.FeedbackConv2D(4, 2, activation="tanh")(image))
        third = layers.FeedbackDense(8, "tanh")(second)
        return keras.Model(x, layers.DirectFeedback()([layers.FeedbackDense(3)(third), first]))

    two, one = (by_fit(where, network, lambda: optimizers.SGD(0.5)) for where in (replicas, None))
    assert {type(layer).__name__ for layer in two[2].layers} >= FEEDBACK
    assert sum(one[0][-10:]) < 0.8 * sum(one[0][:10])
    assert difference(two, one) < BOUND


def test_statistics_that_are_not_synchronized_are_seen(replicas):
    """Each replica has its own batch's then: what the bound is there to find."""
    two = by_loop(replicas, lambda: small(synchronized=False), sgd("plain"))
    assert difference(two, with_option(None, "plain")) > 1000 * BOUND


def test_each_replica_has_a_dropout_mask_of_its_own(replicas):
    """The first one's is Keras's; all are the same again from the same seed."""

    def masks(library):
        with replicas.scope():
            layer = library.Dropout(0.4, seed=3)
            call = tf.function(lambda: layer(tf.ones((8, 8)), training=True))
            steps = [replicas.run(call) for _ in range(2)]
        return [[m.numpy() for m in replicas.experimental_local_results(step)] for step in steps]

    ours, again, theirs = masks(layers), masks(layers), masks(keras.layers)
    np.testing.assert_array_equal(ours, again)
    np.testing.assert_array_equal([step[0] for step in ours], [step[0] for step in theirs])
    drawn = {mask.tobytes() for step in ours for mask in step}
    assert len(drawn) == 4
    for mask in ours[0] + ours[1]:
        assert 0.2 < np.mean(mask == 0) < 0.6  # 64 entries, four deviations of 0.06
