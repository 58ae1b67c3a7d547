"""Interleaved timing of two ways to do the same, and counting of what a backward pass keeps."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time
import typing

import numpy as np
import tensorflow as tf


class Comparison(typing.NamedTuple):
    """Seconds a call of ours and of Keras's, and the ratios Keras / ours (over 1: ours faster)."""

    ours: float
    keras: float
    ratio_of_medians: float
    ratio_of_minima: float


def compare(ours, keras, seconds=2.0):
    """Call `ours()` and `keras()` in turn for `seconds` and compare the times a call.

    The order within a pair alternates, so that neither always finds the other's data in the cache.
    """
    for _ in range(5):
        ours(), keras()
    ours, keras = times_in_turn([ours, keras], seconds)
    medians = np.median(ours), np.median(keras)
    return Comparison(*medians, medians[1] / medians[0], min(keras) / min(ours))


def times_in_turn(calls, seconds, block=(1, 1), clock=time.perf_counter):
    """Call functions in turn for `seconds`, at least 9 turns; return a list of times for each.

    Every second turn goes through the functions backwards.

    Args:
        calls: Functions without arguments.
        seconds: Duration of the measurement.
        block: How often each is called in a turn, (least, most): a fast function as often as the
            slowest one's time allows. Where one call sweeps the caches, as an update of a large
            table does, the next one pays for that, and only the first of a block.
        clock: Function that returns the seconds; `time.process_time` counts the process's own.
    """
    least, most = block
    repeats = [least] * len(calls)
    times = [[] for _ in calls]
    end = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end or turn < 9:
        for i in range(len(calls))[:: 1 if turn % 2 else -1]:
            for _ in range(repeats[i]):
                start = clock()
                calls[i]()
                times[i].append(clock() - start)
        turn += 1
        if most > least:
            slowest = max(np.median(t) for t in times)
            repeats = [int(np.clip(slowest / np.median(t), least, most)) for t in times]
    return times


def forward_and_backward(function, variables, inputs, jit_compile):
    """Return a callable that computes a function and, for a fixed upstream, all its gradients.

    Args:
        function: Function of one tensor.
        variables: Variables whose gradients are wanted beside the input's.
        inputs: Tensor; the callable is traced for any length of its first axis, as in `fit`.
        jit_compile: Whether XLA compiles the step.
    """
    upstream = tf.random.stateless_normal(tf.shape(function(inputs)), seed=[1, 2])

    def any_batch(t):
        return tf.TensorSpec([None, *t.shape[1:]], t.dtype)

    @tf.function(jit_compile=jit_compile, input_signature=[any_batch(inputs), any_batch(upstream)])
    def step(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        return tape.gradient(outputs, [inputs, *variables], upstream)

    concrete = step.get_concrete_function()
    return lambda: concrete(inputs, upstream)


def saved_bytes(function, inputs):
    """Count the bytes that a backward pass reads of the forward pass: weights and inputs too.

    Built in a graph, as under `tf.function`. Identities and reshapes share their input's memory and
    count as their input.
    """
    graph_mark = []

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        graph_mark.append(len(outputs.graph.get_operations()))
        upstream = tf.random.stateless_normal(outputs.shape, seed=[1, 2])
        return tape.gradient(outputs, [inputs, *tape.watched_variables()], upstream)

    operations = step.get_concrete_function(inputs).graph.get_operations()
    forward, backward = operations[: graph_mark[0]], operations[graph_mark[0] :]

    def source(tensor):
        while tensor.op.type in ("Identity", "IdentityN", "Reshape"):
            tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
        return tensor

    forward = set(forward)
    kept = {source(t).ref() for operation in backward for t in operation.inputs}
    kept = [ref.deref() for ref in kept if ref.deref().op in forward]
    return sum(t.shape.num_elements() * t.dtype.size for t in kept if t.dtype.is_floating)
