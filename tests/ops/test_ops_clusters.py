"""Clusters: what XLA compiles apart, in a step that is not compiled, computes what it did before.

The cases have as many entries as a cluster takes from on. What they are compared with is the same
function, computed eagerly, where there are no clusters: other tests compare that with a twin.
"""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_bp import layers, ops

SHAPE = (1040, 128)
"""A number of entries over 2**17."""


def batch(shape=SHAPE, seed=0, dtype="float32"):
    return tf.constant(np.random.default_rng(seed).normal(3, 2, shape), dtype)


def batch_norm(x, gamma, beta, **options):
    return ops.batch_normalization(x, gamma, beta, **options).outputs


CASES = {
    "batch": (batch_norm, SHAPE, {}),
    "batch, axis 1": (functools.partial(batch_norm, axis=1), (32, 128, 5, 7), {}),
    "batch, masked": (batch_norm, (52, 20, 128), {"mask": True}),
    "batch, float16": (batch_norm, SHAPE, {"dtype": "float16"}),
    "layer": (ops.layer_normalization, SHAPE, {}),
    "layer, rank 3": (ops.layer_normalization, (52, 20, 128), {}),
}


def gradients(op, x, gamma, beta, upstream):
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y = op(x, gamma, beta)
    return y, *tape.gradient(y, [x, gamma, beta], upstream)


def arguments(name):
    op, shape, options = CASES[name]
    options = dict(options)
    dtype = options.pop("dtype", "float32")
    if options.pop("mask", False):
        op = functools.partial(op, mask=batch(shape[:-1], seed=4) > 3)
    weights = [batch([128], seed, "float32") for seed in (1, 2)]
    return op, batch(shape, 0, dtype), *weights, batch(shape, 3, dtype)


def traced(op, x):
    """Return the gradients as a function of batches of any size."""
    unknown = tf.TensorSpec([None, *x.shape[1:]], x.dtype)
    weight = tf.TensorSpec([128])
    signature = [unknown, weight, weight, unknown]
    return tf.function(functools.partial(gradients, op), input_signature=signature)


def clusters(function):
    """Return the names of the functions that XLA compiles, over and over where they are shared."""
    graph = function.get_concrete_function().graph
    text = str(graph.as_graph_def())
    return re.findall(r"__inference_compiled_\d+", text), text.count("_XlaCompile")


@pytest.mark.parametrize("name", CASES)
def test_same_values_and_gradients(name):
    op, *tensors = arguments(name)
    function = traced(op, tensors[0])
    assert clusters(function)[1] > 0
    # Sums of 1000 and more products of some 6, which cancel in part, in another order; float16 has
    # 10 bits.
    tolerance = 2e-3 if tensors[0].dtype == tf.float16 else 5e-5
    for ours, expected in zip(function(*tensors), gradients(op, *tensors), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * scale)


def test_second_derivatives():
    for op in (batch_norm, ops.layer_normalization):

        def slope(x, gamma, beta, upstream, op=op):
            with tf.GradientTape() as outer:
                outer.watch([x, gamma])
                _, dx, dgamma, _ = gradients(op, x, gamma, beta, upstream)
                cost = tf.reduce_sum(dx**2) + tf.reduce_sum(tf.sin(dgamma))
            return outer.gradient(cost, [x, gamma])

        tensors = batch(), batch([128], 1), batch([128], 2), batch(seed=3)
        expected, ours = slope(*tensors), tf.function(slope)(*tensors)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_a_network_traces_and_compiles_one_cluster_for_its_equal_layers():
    stack = [layers.BatchNormalization() for _ in range(3)]
    for layer in stack:
        layer.build([None, 128])

    @tf.function(input_signature=[tf.TensorSpec([None, 128])])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in stack:
                y = layer(y, training=True)
        return tape.gradient(y, x)

    names, _ = clusters(step)
    assert len(set(names)) == 2  # one of the forward pass, one of the backward pass
    step(batch())


def test_many_sizes_are_right():
    """After ten compilations TensorFlow goes back to single operations."""
    op, *tensors = arguments("batch")
    function = traced(op, tensors[0])
    for rows in range(1025, 1040):
        x, upstream = batch((rows, 128), rows), batch((rows, 128), -rows % 99)
        y, dx, *_ = function(x, *tensors[1:3], upstream)
        expected_y, expected_dx, *_ = gradients(op, x, *tensors[1:3], upstream)
        np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-4)
        np.testing.assert_allclose(dx, expected_dx, rtol=0, atol=1e-4)


def test_on_several_devices(replicas):
    layer = layers.BatchNormalization()
    layer.build([None, 128])
    alone = layer(batch(), training=True)
    with replicas.scope():
        mirrored = layers.BatchNormalization()
        mirrored.build([None, 128])

    @tf.function
    def run(x):
        return replicas.run(lambda x: mirrored(x, training=True), [x])

    outputs = replicas.experimental_local_results(run(batch()))
    assert len(outputs) == 2
    for y in outputs:
        np.testing.assert_allclose(y, alone, rtol=0, atol=1e-5)


def test_a_saved_function_is_loaded(tmp_path):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 128])])
        def normalized(self, x):
            return batch_norm(x, tf.ones([128]), tf.zeros([128]))

    module = Module()
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        loaded.normalized(batch()), module.normalized(batch()), rtol=0, atol=1e-6
    )


def test_long_sums_round_no_worse_than_eagerly():
    """Sums of 10 over 2**18 entries, where XLA's are off by 1e-4 and a product's by 1e-5."""
    for op, shape in [
        (batch_norm, (2**18, 1)),
        (functools.partial(ops.layer_normalization, axis=[1, 2]), (1, 512, 512)),
    ]:
        x = 10 + batch(shape) / 2

        def output(x, op=op):
            with tf.GradientTape() as tape:
                tape.watch(x)
                return op(x, None, None)

        y, x = tf.function(output)(x), x.numpy().astype("float64")
        expected = (x - x.mean()) / np.sqrt(x.var() + 1e-3)
        np.testing.assert_allclose(y, expected, rtol=0, atol=5e-6)


def test_forward_mode_inside_a_function():
    x = batch((6, 4))

    def slope():
        with tf.autodiff.ForwardAccumulator(x, tf.sin(x)) as accumulator:
            y = ops.layer_normalization(x)
        return accumulator.jvp(y)

    np.testing.assert_allclose(tf.function(slope)(), slope(), rtol=0, atol=1e-5)


def test_inference_is_left_to_single_operations():
    function = tf.function(lambda x: ops.layer_normalization(x))
    text = str(function.get_concrete_function(tf.TensorSpec([None, 128])).graph.as_graph_def())
    assert "PartitionedCall" not in text and "_XlaCompile" not in text


def test_vectorized_map_of_clusters():
    x = tf.stack([batch(seed=s) for s in range(2)])
    gamma, beta = batch([128], 1), batch([128], 2)
    function = tf.function(lambda x: tf.vectorized_map(lambda x: batch_norm(x, gamma, beta), x))
    expected = [batch_norm(row, gamma, beta) for row in x]
    np.testing.assert_allclose(function(x), expected, rtol=0, atol=1e-4)
