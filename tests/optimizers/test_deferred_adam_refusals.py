"""What DeferredAdam cannot do as Adam would, it refuses, and says so."""

import keras
import pytest
import tensorflow as tf

from keras_bp.layers import DeferredEmbedding
from keras_bp.optimizers import DeferredAdam


def test_another_embedding_is_refused():
    layer = keras.layers.Embedding(5, 2, name="words")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 2])))
    gradients = tape.gradient(loss, layer.trainable_weights)
    with pytest.raises(ValueError, match=r"DeferredEmbedding.*Received: .*'words/embeddings'"):
        DeferredAdam().apply(gradients, layer.trainable_weights)


@pytest.mark.parametrize(
    "name, refused, accepted",
    [("weight_decay", 0.1, None), ("amsgrad", True, False), ("epsilon_hat", False, True)],
)
def test_other_rules_are_refused(name, refused, accepted):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}={refused}"):
        DeferredAdam(**{name: refused})
    DeferredAdam(**{name: accepted})


def test_averages_of_the_weights_are_refused():
    layer = DeferredEmbedding(5, 2)
    layer.build()
    with pytest.raises(ValueError, match="`use_ema`.*Received: use_ema=True"):
        DeferredAdam(use_ema=True).build(layer.trainable_weights)


@pytest.mark.parametrize(
    "beta_1, beta_2, dtype, fits",
    [
        (0.5, 0.9, "float32", True),
        (0.9, 0.999, "float64", True),
        (0.9, 0.95, "float32", True),
        (0.95, 0.999, "float32", True),
        (0.99, 0.999, "float32", False),
        (0.9, 0.81, "float32", False),
        (0.9, 0.0, "float32", False),
    ],
)
def test_betas_at_which_means_outlive_the_window(beta_1, beta_2, dtype, fits):
    layer = DeferredEmbedding(5, 2, dtype=dtype)
    layer.build()
    optimizer = DeferredAdam(beta_1=beta_1, beta_2=beta_2)
    if fits:
        optimizer.build(layer.trainable_weights)
    else:
        with pytest.raises(ValueError, match="`beta_1`.*Received: beta_1=0.9"):
            optimizer.build(layer.trainable_weights)
        assert not optimizer.built


@pytest.mark.parametrize("compiled", ["no", "one function", "two functions"])
def test_two_optimizers_by_turns(compiled):
    """The rows hold the averages of one; a new one takes over, see test_deferred_adam.py."""
    layer = DeferredEmbedding(5, 2)
    layer.build()
    optimizers = [DeferredAdam(0.1, name=name) for name in ("generator", "critic")]
    for optimizer in optimizers:
        optimizer.build(layer.trainable_weights)

    def step(*turns):
        for optimizer in turns:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(tf.constant([1, 2])))
            gradients = tape.gradient(loss, layer.trainable_weights)
            optimizer.apply(gradients, layer.trainable_weights)

    turns = [lambda: step(*optimizers, optimizers[0])]
    if compiled == "one function":
        turns = [lambda: tf.function(step)(*optimizers)]
    elif compiled == "two functions":
        a, b = (tf.function(lambda one=one: step(one)) for one in optimizers)
        turns = [a, a, b, b, a]
    for turn in turns[:-1]:
        turn()
    with pytest.raises(
        ValueError, match="one DeferredAdam only.*Received: '.*' and '.*', by turns"
    ):
        turns[-1]()
