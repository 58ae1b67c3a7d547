"""Embedding is Keras's, and reads rows; DeferredEmbedding is it with a memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.layers import DeferredEmbedding, Embedding
from keras_bp.optimizers import LazyAdam

OURS = [Embedding, DeferredEmbedding]
TABLE = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")


def look_up(layer, ids):
    """Return outputs and the gradient of the table, dense."""
    with tf.GradientTape() as tape:
        outputs = layer(ids)
        flat = getattr(outputs, "flat_values", outputs)
        loss = tf.reduce_sum(tf.sin(flat))
    [gradient] = tape.gradient(loss, layer.trainable_weights)
    assert isinstance(gradient, tf.IndexedSlices)
    return flat.numpy(), tf.math.unsorted_segment_sum(gradient.values, gradient.indices, 7).numpy()


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize(
    "ids",
    [[2], [[1, 2, 1], [0, 6, 6]], [[[1], [5]]], [], [[-1, -7]], 3],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
def test_numbers_are_keras(ours, ids, dtype):
    if dtype == "uint8" and np.min(ids, initial=0) < 0:
        pytest.skip("no negative ids in uint8")
    ids = tf.cast(tf.constant(ids, tf.float32), dtype)
    theirs = look_up(keras.layers.Embedding(7, 3, weights=TABLE), ids)
    for expected, value in zip(theirs, look_up(ours(7, 3, weights=TABLE), ids), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("ours", OURS)
def test_ragged_ids(ours):
    ids = tf.ragged.constant([[1, 2], [], [6]])
    outputs = ours(7, 3, weights=TABLE)(ids)
    np.testing.assert_array_equal(outputs.flat_values, TABLE[[1, 2, 6]])
    assert outputs.row_lengths().numpy().tolist() == [2, 0, 1]


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(ours, policy):
    layer, theirs = (L(7, 3, weights=TABLE, dtype=policy) for L in (ours, keras.layers.Embedding))
    ids = tf.constant([1, 2])
    assert layer(ids).dtype == theirs(ids).dtype == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(layer(ids), theirs(ids))


# A fault of Keras's nightly: its LSTM takes the mask all the same.
@pytest.mark.filterwarnings("ignore:Layer 'lstm.*does not support masking:UserWarning")
@pytest.mark.parametrize("ours", OURS)
def test_mask_and_symbolic_shape(ours):
    layer = ours(7, 3, mask_zero=True)
    assert layer.compute_mask(tf.constant([0, 1])).numpy().tolist() == [False, True]
    inputs = keras.Input((None,), dtype="int32")
    assert layer(inputs).shape == (None, None, 3)
    model = keras.Sequential([layer, keras.layers.LSTM(2)])
    assert model(tf.constant([[1, 2, 0], [3, 0, 0]])).shape == (2, 2)


@pytest.mark.parametrize("ours", OURS)
def test_unknown_and_dynamic_shapes(ours):
    layer = ours(7, 3, weights=TABLE)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int32)])
    def any_rank(ids):
        return layer(ids)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], jit_compile=True)
    def any_length(ids):
        return layer(ids)

    np.testing.assert_array_equal(any_rank(tf.constant([[1, 2]])), TABLE[[[1, 2]]])
    np.testing.assert_array_equal(any_length(tf.constant([[1, 2]])), TABLE[[[1, 2]]])


def test_files_and_weights_are_keras(tmp_path):
    ours = keras.Sequential([keras.Input((2,), dtype="int32"), Embedding(7, 3, weights=TABLE)])
    theirs = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(7, 3)])
    ours.save_weights(tmp_path / "model.weights.h5")
    theirs.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(theirs.get_weights()[0], TABLE)
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is Embedding
    np.testing.assert_array_equal(loaded.predict(np.array([[1, 2]]), verbose=0), TABLE[[[1, 2]]])


def test_lora_runs_keras_code():
    ours, theirs = (L(7, 3, weights=TABLE) for L in (Embedding, keras.layers.Embedding))
    for layer in (ours, theirs):
        layer.enable_lora(2, b_initializer="ones", a_initializer="ones")
    np.testing.assert_array_equal(ours(tf.constant([1, 2])), theirs(tf.constant([1, 2])))


def test_quantization_runs_keras_code():
    ours, theirs = (L(7, 3, weights=TABLE) for L in (Embedding, keras.layers.Embedding))
    for layer in (ours, theirs):
        layer.quantize("int8")
    np.testing.assert_array_equal(ours(tf.constant([1, 2])), theirs(tf.constant([1, 2])))


def test_a_step_never_reads_the_table():
    """In the step's graph no operation reads the whole variable, which would copy it."""
    layer, optimizer = Embedding(1000, 4), LazyAdam()
    layer.build()
    optimizer.build(layer.trainable_weights)

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(ids) ** 2)
        optimizer.apply(tape.gradient(loss, layer.trainable_weights), layer.trainable_weights)

    graph = step.get_concrete_function(tf.constant([1, 2])).graph
    shapes = [output.shape for op in graph.get_operations() for output in op.outputs]
    assert not any(shape.rank and shape[0] == 1000 for shape in shapes)
    assert any(op.type == "ResourceGather" for op in graph.get_operations())


@pytest.mark.parametrize(
    "arguments, error, name",
    [
        ({"embeddings_regularizer": "l2"}, TypeError, "embeddings_regularizer"),
        ({"embeddings_constraint": "non_neg"}, TypeError, "embeddings_constraint"),
        ({"lora_rank": 2}, TypeError, "lora_rank"),
        ({"input_dim": 0}, ValueError, "input_dim"),
    ],
    ids=str,
)
def test_what_deferred_embedding_refuses(arguments, error, name):
    with pytest.raises(error, match=f"`{name}`"):
        DeferredEmbedding(**{"input_dim": 7, "output_dim": 3, **arguments})


def test_deferred_embedding_keeps_its_table_in_full_precision():
    with pytest.raises(ValueError, match="`dtype`.*Received: dtype='float16'"):
        DeferredEmbedding(7, 3, dtype="float16").build()
    layer = DeferredEmbedding(7, 3)
    layer.build()
    for refused in (layer.enable_lora, layer.quantize):
        with pytest.raises(ValueError, match="use Embedding"):
            refused("int8")
