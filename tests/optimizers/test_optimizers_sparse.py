"""Sparse gradients: repeated ids count once, none at all is a step, lazy rules leave rows alone."""

import numpy as np
import pytest
import tensorflow as tf
from optimizer_cases import COLUMNS, KINDS, NAMES, ROWS, Problem, assert_close, assert_same, make

from keras_bp import optimizers

# LazyAdam is another algorithm with a dense gradient, where every row is in the batch.
AS_DENSE = [name for name in NAMES if name != "LazyAdam"]


# A row without a gradient stays; rules that step along an average move it on.
STAY = ("Adadelta", "Adafactor", "Adagrad", "DoG", "Ftrl", "LazyAdam", "RMSprop", "SGD")
SHAPE = tf.constant([ROWS, COLUMNS])


def slices(ids, rows, dtype="float32"):
    return tf.IndexedSlices(tf.constant(rows, dtype), tf.constant(ids), SHAPE)


# In float64, where the difference of two orders of the same sums is 1e-16 a step.
@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in AS_DENSE),
        ("AdamW", {"gradient_accumulation_steps": 2}),
        ("RMSprop", {"weight_decay": None, "momentum": 0.9, "centered": True}),
        ("RMSprop", {"weight_decay": None, "epsilon_in_sqrt": False}),
    ],
    ids=str,
)
def test_repeated_ids_make_the_dense_step(name, options):
    sparse, dense = Problem(name, "float64"), Problem(name, "float64", sparse=False)
    options = {"weight_decay": 0.01, "clipnorm": 1.5, **options}
    sparse.steps(make(name, **options), 4)
    dense.steps(make(name, **options), 4)
    assert_close(sparse.read(), dense.read(), 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_ids_make_the_step_of_their_sum(name):
    """What a table's row is moved by does not depend on how its gradient is cut."""
    together, apart = Problem(name), Problem(name)
    optimizers_ = make(name), make(name)
    for step in range(3):
        matrix, scalar, _ = together.gradients(step)
        row = np.array([[0.5, -1.0]]) * (step + 1)
        for problem, optimizer, ids, rows in (
            (together, optimizers_[0], [1, 2], [row[0], row[0]]),
            (apart, optimizers_[1], [1, 2, 1, 1], [row[0] / 4, row[0], row[0] / 4, row[0] / 2]),
        ):
            optimizer.apply([matrix, scalar, slices(ids, rows)], problem.variables)
    # Shares of a half and a quarter are exact: 0.
    assert_same(together.read(), apart.read())


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_gradient_is_a_step_in_time(name):
    problem, optimizer = Problem(name), make(name)
    problem.steps(optimizer, 2)
    before = problem.read()
    slots = [v.numpy() for v in optimizer.variables if "embeddings" in v.path]
    empty = tf.IndexedSlices(tf.zeros((0, COLUMNS)), tf.zeros((0,), tf.int64), SHAPE)
    matrix, scalar, _ = problem.gradients(2)
    optimizer.apply([matrix, scalar, empty], problem.variables)
    assert int(optimizer.iterations) == 3
    assert np.all(np.isfinite(problem.read()[2]))
    stays = name in STAY
    assert np.array_equal(problem.read()[2], before[2]) == stays
    if name == "LazyAdam":
        assert_same([v.numpy() for v in optimizer.variables if "embeddings" in v.path], slots)


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_gradient_in_accumulation(name):
    """It is a micro-step: the other one counts half."""
    problem, twin = Problem(name), Problem(name)
    optimizer, plain = make(name, gradient_accumulation_steps=2), make(name)
    matrix, scalar, table = problem.gradients(0)
    empty = tf.IndexedSlices(tf.zeros((0, COLUMNS)), tf.zeros((0,), tf.int64), SHAPE)
    optimizer.apply([matrix, scalar, empty], problem.variables)
    optimizer.apply([matrix, scalar, table], problem.variables)
    plain.apply([matrix, scalar, slices(table.indices, table.values / 2)], twin.variables)
    assert_close(problem.read(), twin.read(), 1e-7)


def lazy_rows(variables):
    """w, m and v of a table, as NumPy arrays."""
    return [v.numpy() for v in variables]


@pytest.mark.parametrize("correction", ["global", "row"])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("jit_compile", [None, False])
def test_lazy_adam_leaves_other_rows_bit_for_bit(correction, options, jit_compile):
    table = tf.Variable(np.random.default_rng(0).normal(size=(6, 2)), dtype=tf.float32)
    optimizer = optimizers.LazyAdam(0.1, correction=correction, weight_decay=0.1, **options)
    optimizer.build([table])

    def step(ids):
        rows = tf.cast(ids, tf.float32)[:, None] * tf.constant([[1.0, -2.0]]) + 1.0
        optimizer.apply([tf.IndexedSlices(rows, ids, tf.constant([6, 2]))], [table])

    if jit_compile is not None:
        signature = [tf.TensorSpec((None,), tf.int32)]
        step = tf.function(step, jit_compile=jit_compile, input_signature=signature)
    state = [table, *(v.value for v in optimizer.variables if v.shape == (6, 2))]
    state = state[:1] + state[-2:]  # w, m, v: sums of gradients come before
    for ids in ([0, 1, 1], [2, 5], [5, 5, 0], [3, 3]):
        for micro_step in range(options.get("gradient_accumulation_steps", 1)):
            before = lazy_rows(state)
            step(tf.constant(ids))
            moves = micro_step + 1 == options.get("gradient_accumulation_steps", 1)
            touched = np.isin(np.arange(6), ids if moves else [])
            for array, old in zip(lazy_rows(state), before, strict=True):
                assert np.array_equal(array[~touched], old[~touched])
                assert np.all(array[touched] != old[touched])
    # Row 4 was in no batch.
    assert np.all(lazy_rows(state)[1][4] == 0)


@pytest.mark.parametrize("correction, steps", [("row", [1, 1, 1]), ("global", [1, 0.48, 2.51])])
@pytest.mark.parametrize("sparse", [True, False])
def test_lazy_adam_first_steps(correction, steps, sparse):
    """A row's first step at t = 1, 10 and 1000, in units of the learning rate."""
    for time, expected in zip((1, 10, 1000), steps, strict=True):
        table = tf.Variable([[1.0], [1.0]])
        optimizer = optimizers.LazyAdam(0.01, correction=correction, epsilon=1e-12)
        optimizer.build([table])
        optimizer.iterations.assign(time - 1)
        gradient = tf.IndexedSlices(tf.constant([[3.0]]), tf.constant([1]), tf.constant([2, 1]))
        gradient = gradient if sparse else tf.constant([[3.0], [3.0]])
        optimizer.apply([gradient], [table])
        # The figures have two decimals.
        assert abs((1 - table.numpy()[1, 0]) / 0.01 - expected) < 0.005
        assert (table.numpy()[0, 0] == 1) == sparse


@pytest.mark.parametrize("epsilon_hat", [True, False])
@pytest.mark.parametrize("correction", ["global", "row"])
def test_lazy_adam_is_its_rule_row_by_row(correction, epsilon_hat):
    """A twin in NumPy, over 30 steps of random ids, in float64."""
    generator = np.random.default_rng(5)
    w = generator.normal(size=(5, 2))
    table = tf.Variable(w)
    options = {"correction": correction, "epsilon_hat": epsilon_hat, "weight_decay": 0.1}
    optimizer = optimizers.LazyAdam(0.1, epsilon=1e-3, **options)
    m, v, k = np.zeros_like(w), np.zeros_like(w), np.zeros(5, int)
    for t in range(1, 31):
        ids, rows = generator.integers(0, 5, 3), generator.normal(size=(3, 2))
        optimizer.apply(
            [tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant([5, 2]))], [table]
        )
        for u in set(ids):
            g = rows[ids == u].sum(axis=0)
            k[u] += 1
            time = k[u] if correction == "row" else t
            w[u] -= 0.1 * 0.1 * w[u]
            m[u] = 0.9 * m[u] + 0.1 * g
            v[u] = 0.999 * v[u] + 0.001 * g**2
            root = np.sqrt(1 - 0.999**time)
            epsilon = 1e-3 if epsilon_hat else 1e-3 * root
            w[u] -= 0.1 * root / (1 - 0.9**time) * m[u] / (np.sqrt(v[u]) + epsilon)
    # The learning rate is a float32 variable: 0.1 is 1.5e-9 more there.
    np.testing.assert_allclose(table.numpy(), w, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_lazy_momentum_is_tensorflows_kernel_on_the_rows_of_the_batch(nesterov, options):
    generator = np.random.default_rng(6)
    w = generator.normal(size=(6, 2))
    table, wanted, velocity = tf.Variable(w), tf.Variable(w), tf.Variable(np.zeros_like(w))
    rule = {"momentum": 0.5, "nesterov": nesterov, "weight_decay": 0.25, "lazy_update": True}
    optimizer = optimizers.SGD(0.125, **rule, **options)
    micro_steps = options.get("gradient_accumulation_steps", 1)

    @tf.function(input_signature=[tf.TensorSpec((3, 2), tf.float64), tf.TensorSpec((3,), tf.int32)])
    def step(rows, ids):
        optimizer.apply([tf.IndexedSlices(rows, ids, tf.constant([6, 2]))], [table])

    for _ in range(8):
        dense, met = np.zeros_like(w), set()
        for _ in range(micro_steps):
            ids, rows = generator.integers(0, 5, 3), generator.normal(size=(3, 2))
            np.add.at(dense, ids, rows / micro_steps)
            met |= set(ids.tolist())
            step(tf.constant(rows), tf.constant(ids, tf.int32))
        met, before = sorted(met), wanted.numpy()
        decayed = before.copy()
        decayed[met] *= 1 - 0.125 * 0.25
        wanted.assign(decayed)
        tf.raw_ops.ResourceSparseApplyKerasMomentum(
            var=wanted.handle,
            accum=velocity.handle,
            lr=tf.constant(0.125, tf.float64),
            grad=tf.constant(dense[met]),
            indices=tf.constant(met),
            momentum=tf.constant(0.5, tf.float64),
            use_nesterov=nesterov,
        )
        np.testing.assert_allclose(table.numpy(), wanted.numpy(), rtol=1e-12)
    [slot] = [v for v in optimizer.variables if v.name.endswith("momentum")]
    np.testing.assert_allclose(slot.numpy(), velocity.numpy(), rtol=1e-12)
    assert np.array_equal(table.numpy()[5], w[5])  # which was in no batch


FTRL = {"l1": 0.0625, "l2": 0.125, "l2_shrinkage": 0.25, "lr_power": -0.25}


def test_ftrl_is_tensorflows_kernel_on_the_rows_of_the_batch():
    generator = np.random.default_rng(7)
    w = generator.normal(size=(6, 2))
    table, wanted = tf.Variable(w), tf.Variable(w)
    slots = tf.Variable(np.full_like(w, 0.25)), tf.Variable(np.zeros_like(w))
    penalties = {f"{n}_regularization_strength": FTRL[n] for n in ("l1", "l2", "l2_shrinkage")}
    optimizer = optimizers.Ftrl(0.125, FTRL["lr_power"], 0.25, **penalties)
    scalars = {name: tf.constant(number, tf.float64) for name, number in FTRL.items()}
    for _ in range(5):
        ids, rows = generator.integers(0, 5, 3), generator.normal(size=(3, 2))
        gradient = tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant([6, 2]))
        optimizer.apply([gradient], [table])
        dense = np.zeros_like(w)
        np.add.at(dense, ids, rows)
        met = sorted(set(ids.tolist()))
        tf.raw_ops.ResourceSparseApplyFtrlV2(
            var=wanted.handle,
            accum=slots[0].handle,
            linear=slots[1].handle,
            grad=tf.constant(dense[met]),
            indices=tf.constant(met),
            lr=tf.constant(0.125, tf.float64),
            **scalars,
        )
        np.testing.assert_allclose(table.numpy(), wanted.numpy(), rtol=1e-12)
    for slot, other in zip(optimizer.variables[-2:], slots, strict=True):
        np.testing.assert_allclose(slot.numpy(), other.numpy(), rtol=1e-12)
    assert np.array_equal(table.numpy()[5], w[5])  # which was in no batch
