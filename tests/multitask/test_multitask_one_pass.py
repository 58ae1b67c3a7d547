"""Weights that do not depend on the gradients take one backward pass, and give the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.multitask import Mean, MultiTaskModel, PCGrad, Sum, UncertaintyWeighting

TASKS = "abc"


class Heavier(Sum):
    """Other weights than its base's, which depend on the gradients."""

    def _weights(self, gramian, present):
        return tf.where(present, 1.0 + tf.linalg.diag_part(gramian), 0.0)


class Counting(keras.layers.Layer):
    """The identity, which counts the backward passes that are run, not those that are pruned."""

    passes = 0

    def call(self, x):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: tf.ensure_shape(
                tf.numpy_function(self.count, [upstream], upstream.dtype, stateful=False), x.shape
            )

        return identity(x)

    def count(self, upstream):
        self.passes += 1
        return upstream


@pytest.mark.parametrize(
    "combiner, listeners, passes",
    [
        (Sum, 0, [1, 4, 1]),
        (Sum, 1, [4, 7, 4]),  # those of the listener come on top
        (Mean, 0, [1, 4, 1]),
        (UncertaintyWeighting, 0, [1, 4, 1]),
        (Heavier, 0, [3, 3, 3]),
        (PCGrad, 0, [3, 3, 3]),  # eagerly
    ],
)
def test_backward_passes_through_the_trunk(combiner, listeners, passes):
    """One for all tasks; one per task where a gradient is not finite, or where asked for."""
    counting, inputs = Counting(), keras.Input((4,))
    trunk = counting(keras.layers.Dense(3)(inputs))
    outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in TASKS}
    model = MultiTaskModel(inputs, outputs, combiner=combiner())
    model.compile("sgd", dict.fromkeys(TASKS, "mse"), run_eagerly=combiner is PCGrad)
    heard = tf.Variable(0.0)

    def listener(variables, tasks, combined):
        heard.assign(sum(tf.norm(gradients[0]) for gradients in tasks))

    model.listeners += [listener] * listeners
    y = {name: np.ones((24, 1), "float32") for name in TASKS}
    y["b"][10] = np.nan  # in the second of three batches
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: vars(counting).update(passes=0),
        on_train_batch_end=lambda batch, logs: seen.append(counting.passes),
    )
    model.fit(np.ones((24, 4)), y, batch_size=8, shuffle=False, verbose=0, callbacks=[note])
    assert seen == passes
    assert model.left_out() == {"a": 0, "b": 1, "c": 0}


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize("combiner", [Sum, Mean, UncertaintyWeighting])
def test_traced_as_eagerly(combiner, faulty):
    """All that a variable can be: of all tasks, of two, of one, of none, sparse, and both.

    The fourth task shares nothing, and the fifth has no loss. Eagerly there is a pass per task.
    """
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (4, 4), (4,), (4,), (4,), (4,), (9, 4), (9, 4)]
    variables = [tf.Variable(rng.normal(size=s).astype("float32")) for s in shapes]
    everyone, two, own, alone, nothing, scale, table, mixed = variables
    x, ids = tf.constant(rng.normal(size=(5, 3)), tf.float32), tf.constant([1, 3, 1, 8, 0])

    def losses(x):
        hidden = tf.tanh(x @ everyone) + tf.gather(table, ids) * tf.gather(mixed, ids)
        a = tf.reduce_mean((hidden @ two + own) ** 2)
        b = tf.reduce_mean((hidden @ two) ** 4) * (np.nan if faulty else 1.0)
        c = tf.reduce_mean(hidden * scale) ** 2 + tf.reduce_sum(mixed**2)
        return [a, b, c, 7.0 * tf.reduce_sum(alone**2), None]

    def step(rule, x):
        with tf.GradientTape(persistent=True) as tape:
            values = losses(x)
        upstream = [None if value is None else tf.ones_like(value) for value in values]
        found, present = rule.from_tape(
            tape, values, upstream, variables, values, rows_may_differ=True
        )
        return [None if g is None else tf.convert_to_tensor(g) for g in found], present

    results = []
    for wrap in (lambda function: function, tf.function):
        rule = combiner()
        rule.build(5)
        for variable in rule.variables:
            variable.assign([0.5, -1.0, 2.0, 1.0, 0.0])
        gradients, present = wrap(lambda x, rule=rule: step(rule, x))(x)
        results.append(([*gradients, *rule.variables], present))
    (expected, there), (found, also_there) = results
    assert [value is None for value in found] == [value is None for value in expected]
    assert there.numpy().tolist() == also_there.numpy().tolist() == [1, 1 - faulty, 1, 1, 0]
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:  # sums in another order
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
