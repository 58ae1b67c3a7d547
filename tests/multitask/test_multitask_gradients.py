"""Combiner.gradients: what several tasks share is combined, what is one task's keeps its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from combiner_cases import RULES

from keras_bp import multitask, optimizers


class Trunk:
    """Two tasks on a table and a matrix that they share, each with a head of its own."""

    def __init__(self, dtype=tf.float32):
        rng = np.random.default_rng(0)
        shapes = [(7, 3), (3, 4), (4,), (4, 1), (4, 1), (2,)]
        self.variables = [tf.Variable(rng.normal(size=s), dtype=dtype) for s in shapes]
        self.ids = [tf.constant([1, 5, 1, 1]), tf.constant([5, 1, 2, 5, 0, 0])]
        self.factors = [tf.constant(1.0, dtype), tf.constant(1.0, dtype)]

    def losses(self):
        table, matrix, bias, *heads, _ = self.variables
        losses = []
        for ids, head, factor, sign in zip(self.ids, heads, self.factors, (1, -1), strict=True):
            hidden = tf.tanh(tf.gather(table, ids) @ matrix + bias)
            losses.append(factor * sign * tf.reduce_mean(hidden @ head * hidden[:, :1]))
        return losses

    def separate(self):
        """Return each task's gradients by a tape of its own, dense, in float64."""
        rows = []
        for task in range(2):
            with tf.GradientTape() as tape:
                loss = self.losses()[task]
            gradients = tape.gradient(loss, self.variables)
            rows.append([None if g is None else tf.convert_to_tensor(g) for g in gradients])
        return rows

    def combined(self, combiner, jit_compile=None, losses=lambda losses: losses):
        """Return the gradients, eagerly or from a graph that is compiled by XLA or is not."""

        def step():
            with tf.GradientTape(persistent=True) as tape:
                values = losses(self.losses())
            gradients = combiner.gradients(tape, values, self.variables)
            # Under XLA what a function returns has to have a known shape.
            return [None if g is None else tf.convert_to_tensor(g) for g in gradients]

        return (step if jit_compile is None else tf.function(step, jit_compile=jit_compile))()


SHARED, HEADS, UNUSED = [0, 1, 2], [3, 4], 5


@pytest.mark.parametrize("name, jit_compile", [("PCGrad", None), ("UPGrad", False)])
def test_shared_variables_get_the_combined_gradient(name, jit_compile):
    trunk = Trunk()
    rows = trunk.separate()
    jacobian = np.stack([np.concatenate([np.ravel(row[i]) for i in SHARED]) for row in rows])
    assert jacobian[0] @ jacobian[1] < 0, "the tasks should conflict"
    wanted = RULES[name]().combine(tf.constant(jacobian))
    gradients = trunk.combined(RULES[name](), jit_compile)
    found = np.concatenate([np.ravel(gradients[i]) for i in SHARED])
    # Float32 sums of some ten terms of size 1, in two orders.
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(found - jacobian.sum(axis=0)).max() > 1e-3
    for task, head in enumerate(HEADS):
        np.testing.assert_allclose(gradients[head], rows[task][head], atol=1e-6)
    assert gradients[UNUSED] is None


def test_a_table_stays_sparse():
    trunk = Trunk()
    with tf.GradientTape(persistent=True) as tape:
        losses = trunk.losses()
    gradient = multitask.Sum().gradients(tape, losses, trunk.variables)[0]
    assert isinstance(gradient, tf.IndexedSlices)
    wanted = sum(row[0] for row in trunk.separate())
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), wanted, atol=1e-6)


def test_a_dense_and_a_sparse_gradient_of_one_variable():
    table = tf.Variable(np.random.default_rng(0).normal(size=(5, 2)))
    with tf.GradientTape(persistent=True) as tape:
        losses = [tf.reduce_sum(tf.gather(table, [1, 1, 3]) ** 2), -tf.reduce_sum(table**2)]
    rows = [np.ravel(tf.convert_to_tensor(tape.gradient(x, table))) for x in losses]
    [gradient] = multitask.MGDA().gradients(tape, losses, [table])
    wanted = multitask.MGDA().combine(tf.constant(np.stack(rows)))
    np.testing.assert_allclose(np.ravel(gradient), wanted, atol=1e-12)


def test_the_parts_of_the_answer():
    trunk = Trunk()
    rows = trunk.separate()
    jacobian = np.stack([np.concatenate([np.ravel(row[i]) for i in SHARED]) for row in rows])
    combined = multitask.UPGrad().combine_tasks(rows)
    np.testing.assert_allclose(combined.gramian, jacobian @ jacobian.T, rtol=1e-5)
    np.testing.assert_allclose(combined.weights, multitask.UPGrad().weights(combined.gramian))
    assert combined.present.numpy().tolist() == [True, True]


@pytest.mark.parametrize("bad, jit_compile", [(np.nan, True), (np.inf, None)])
def test_a_loss_that_is_not_finite_leaves_its_task_out(bad, jit_compile):
    trunk = Trunk()
    wanted = trunk.separate()[1]
    trunk.factors[0] = tf.constant(bad, tf.float32)
    gradients = trunk.combined(multitask.Mean(), jit_compile)
    for index in [*SHARED, HEADS[1]]:
        np.testing.assert_allclose(gradients[index], wanted[index], atol=1e-6)
    np.testing.assert_array_equal(gradients[HEADS[0]], np.zeros((4, 1)))


def test_a_gradient_that_is_not_finite_leaves_its_task_out():
    v, head = tf.Variable([1.0, 0.0]), tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=True) as tape:
        # sqrt has no slope at 0, and the loss is finite.
        losses = [tf.reduce_sum(tf.sqrt(v) * head), tf.reduce_sum(v * 3.0)]
    shared, own = multitask.MGDA().gradients(tape, losses, [v, head])
    np.testing.assert_array_equal(shared, [3.0, 3.0])
    np.testing.assert_array_equal(own, [0.0, 0.0])
    present = multitask.MGDA().combine_tasks([[tape.gradient(x, v)] for x in losses]).present
    assert present.numpy().tolist() == [False, True]


def test_a_loss_that_is_not_finite_counts_whatever_its_gradient():
    v = tf.Variable([1.0, 0.0])
    with tf.GradientTape(persistent=True) as tape:
        losses = [tf.reduce_sum(v) + np.inf, tf.reduce_sum(v * 3.0)]
    [gradient] = multitask.Sum().gradients(tape, losses, [v])
    np.testing.assert_array_equal(gradient, [3.0, 3.0])


def test_a_keras_model_with_two_heads():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(hidden) for name in "ab"])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    with tf.GradientTape(persistent=True) as tape:
        a, b = model(x)
        losses = {"a": tf.reduce_mean(a), "b": tf.reduce_mean(b**2)}
    variables = model.trainable_variables
    gradients = multitask.Sum().gradients(tape, losses, variables)
    # Each head hangs on its own loss alone, so that the plain sum's gradient is the same there.
    wanted = tape.gradient(list(losses.values()), variables)
    for found, plain in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-6)


def test_a_loss_of_none_leaves_its_task_out():
    trunk = Trunk()
    wanted = trunk.separate()[0]
    gradients = trunk.combined(
        multitask.PCGrad(), losses=lambda losses: {"a": losses[0], "b": None}
    )
    for index in [*SHARED, HEADS[0]]:
        np.testing.assert_allclose(gradients[index], wanted[index], atol=1e-6)
    assert gradients[HEADS[1]] is None


@pytest.mark.parametrize("name", RULES)
def test_one_task_alone_has_its_plain_gradient(name):
    v = tf.Variable([1.0, -2.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(v**2)
    [gradient] = RULES[name]().gradients(tape, [loss], [v])
    np.testing.assert_array_equal(gradient, [2.0, -4.0])


def test_a_task_without_shared_variables_takes_no_part():
    """As a row of zeros it would hold MGDA at 0."""
    v, apart = tf.Variable([1.0, 1.0], dtype=tf.float64), tf.Variable([4.0])
    with tf.GradientTape(persistent=True) as tape:
        losses = [v[0], v[1] - v[0], tf.reduce_sum(apart**2)]
    shared, own = multitask.MGDA().gradients(tape, losses, [v, apart])
    np.testing.assert_allclose(tf.convert_to_tensor(shared), [0.2, 0.4], atol=1e-12)
    np.testing.assert_array_equal(own, [8.0])


def test_tasks_that_share_nothing_have_their_plain_gradients():
    a, b = tf.Variable([1.0]), tf.Variable([2.0])
    with tf.GradientTape(persistent=True) as tape:
        losses = [tf.reduce_sum(a**2), tf.reduce_sum(b**2)]
    gradients = multitask.CAGrad().gradients(tape, losses, [a, b])
    assert [float(g[0]) for g in gradients] == [2.0, 4.0]


def test_half_precision_gradients_keep_their_dtype():
    rows = [[tf.constant([300.0, 1.0], tf.float16)], [tf.constant([-299.0, 1.0], tf.float16)]]
    combined = multitask.UPGrad().combine_tasks(rows)
    assert combined.gradients[0].dtype == tf.float16
    # 300^2 is beyond float16.
    np.testing.assert_allclose(combined.gramian[0, 0], 90001.0)
    assert np.isfinite(combined.gradients[0]).all()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_an_absent_task_in_half_precision(dtype):
    rows = ([1.0, 2.0], [np.inf, 1.0], [3.0, 4.0])
    combined = multitask.Mean().combine_tasks([[tf.constant(row, dtype)] for row in rows])
    assert combined.present.numpy().tolist() == [True, False, True]
    assert combined.gradients[0].dtype == dtype
    np.testing.assert_array_equal(tf.cast(combined.gradients[0], tf.float32), [2.0, 3.0])


def test_gradients_of_unknown_rank():
    """As behind `tf.numpy_function`."""
    rows = np.array([[[1.0, 0.0]], [[-1.0, 1.0]], [[np.nan, 0.0]]], np.float32)

    @tf.function(input_signature=[tf.TensorSpec(None)] * 3)
    def combine(*rows):
        ids = tf.constant([2])
        tasks = [[row, tf.IndexedSlices(row, ids, tf.constant([5, 2]))] for row in rows]
        combined = multitask.UPGrad().combine_tasks(tasks)
        return combined.gradients[0], combined.gradients[1].values

    dense, values = combine(*rows)
    np.testing.assert_allclose(dense, [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(values, axis=0), [0.25, 0.75], atol=1e-6)


def test_a_custom_loop_compiled_and_traced_once():
    trunk, optimizer, combiner = Trunk(), optimizers.Adam(0.01), multitask.PCGrad()
    variables = trunk.variables[:5]
    optimizer.build(variables)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape(persistent=True) as tape:
            losses = [x**2 for x in trunk.losses()]
        optimizer.apply(combiner.gradients(tape, losses, variables), variables)
        return tf.add_n(losses)

    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert step.experimental_get_tracing_count() == 1


def test_replicas_combine_the_sum_over_them(replicas):
    """Each replica's own conflict is not that of the batch."""
    rows = np.array([[[1.0, 0.0], [-3.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]], np.float32)

    @tf.function
    def step(rows):
        def replica(rows):
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = tf.gather(rows, number)
            combined = multitask.UPGrad().combine_tasks([[mine[0]], [mine[1]]])
            return combined.gradients[0]

        return replicas.reduce("SUM", replicas.run(replica, [rows]), axis=None)

    wanted = multitask.UPGrad().combine(tf.constant(rows.sum(axis=0)))
    np.testing.assert_allclose(step(tf.constant(rows)), wanted, atol=1e-6)
    rows[0, 1, 0] = np.nan  # a task that is absent on one replica is so on both
    np.testing.assert_allclose(step(tf.constant(rows)), rows[:, 0].sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_an_absent_task_changes_nothing_for_the_others(bad, jit_compile):
    """One variable is shared by all, one by two of them, and each has one of its own."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 4)).astype("float32")
    rows[1, 2] = bad
    pairs, own = rng.normal(size=(2, 3, 2)).astype("float32")
    tasks = [
        [rows[t], pairs[t] if t < 2 else None, *(own[t] if t == i else None for i in range(3))]
        for t in range(3)
    ]
    tasks = [[None if g is None else tf.constant(g) for g in task] for task in tasks]
    combine = tf.function(multitask.UPGrad().combine_tasks, jit_compile=jit_compile)
    # The third does not depend on the second variable: its gradient there is zero.
    kept = [tasks[0], [tasks[2][0], tf.zeros(2), *tasks[2][2:]]]
    found, wanted = combine(tasks), combine(kept)
    assert found.present.numpy().tolist() == [True, False, True]
    np.testing.assert_allclose(found.gradients[0], wanted.gradients[0], rtol=1e-6)
    np.testing.assert_allclose(found.gradients[1], wanted.gradients[1], rtol=1e-6)
    for task, gradient in enumerate(found.gradients[2:]):
        np.testing.assert_array_equal(gradient, 0.0 * own[1] if task == 1 else own[task])
    for gramian in (found.gramian, found.gramians[0], found.gramians[1]):
        assert np.isfinite(gramian).all()
        assert not np.any(gramian[1])
    np.testing.assert_array_equal(found.gramians[1][2], np.zeros(3))


@pytest.mark.parametrize("dtype, largest", [(tf.float32, 3e38), (tf.float64, 1e308)])
def test_the_largest_gradients_are_finite(dtype, largest):
    """Their squares are not, in their own dtype."""
    tasks = [[tf.constant([largest, 0.0], dtype)], [tf.constant([0.0, largest], dtype)]]
    combined = multitask.Mean().combine_tasks(tasks)
    assert combined.present.numpy().all()
    np.testing.assert_allclose(combined.gradients[0], [largest / 2, largest / 2], rtol=1e-6)


def test_an_absent_task_does_not_set_the_scale_of_float64():
    tasks = [[tf.constant(row, tf.float64)] for row in ([1e300, np.nan], [1e-100, 0], [0, 1e-100])]
    combined = multitask.MGDA().combine_tasks(tasks)
    assert combined.present.numpy().tolist() == [False, True, True]
    np.testing.assert_allclose(combined.gradients[0], [5e-101, 5e-101], rtol=1e-6)
    # The products are infinite, those of an absent task 0.
    tasks = [[tf.constant(row, tf.float64)] for row in ([1e300, 0], [np.nan, 0])]
    combined = multitask.Mean().combine_tasks(tasks)
    for gramian in (combined.gramian, combined.gramians[0]):
        np.testing.assert_array_equal(gramian, [[np.inf, 0.0], [0.0, 0.0]])


def test_a_sparse_gradient_that_is_not_finite():
    def row(value):
        values = tf.constant([[value, 1.0], [2.0, 2.0]])
        return [tf.IndexedSlices(values, tf.constant([3, 1]), tf.constant([5, 2]))]

    combined = multitask.Sum().combine_tasks([row(np.inf), row(7.0)])
    assert combined.present.numpy().tolist() == [False, True]
    dense = tf.convert_to_tensor(combined.gradients[0])
    np.testing.assert_array_equal(dense, tf.convert_to_tensor(row(7.0)[0]))
