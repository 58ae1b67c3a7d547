"""BlockwiseUPGrad leaves no conflict in any variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp import callbacks
from keras_bp.multitask import BlockwiseUPGrad, MultiTaskModel, UPGrad

SHAPES = [(3, 4), (4,), (5, 2), (2,), (7,)]


def drawn(tasks, seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape) for shape in SHAPES] for _ in range(tasks)]


def combined(rows, jit_compile=None):
    """Combine eagerly, or in a graph that is compiled by XLA or is not."""

    def combine(rows):
        return BlockwiseUPGrad().combine_tasks(rows).gradients

    if jit_compile is not None:
        combine = tf.function(combine, jit_compile=jit_compile)
    return combine([[None if g is None else tf.constant(g) for g in row] for row in rows])


@pytest.mark.parametrize(
    "tasks, jit_compile",
    [(2, None), *(pytest.param(5, jit, marks=pytest.mark.long) for jit in (False, True))],
)
def test_each_variable_gets_its_own_upgrad(tasks, jit_compile):
    rows = drawn(tasks)
    for number, gradient in enumerate(combined(rows, jit_compile)):
        block = np.stack([row[number].ravel() for row in rows])
        wanted = UPGrad().combine(tf.constant(block))
        np.testing.assert_allclose(np.ravel(gradient), wanted, atol=1e-10)
        assert (block @ np.ravel(gradient)).min() > -1e-10


def test_upgrad_of_all_leaves_conflicts_in_variables():
    """What the blocks are for."""
    left = 0  # of 100; seen: 9
    for seed in range(20):
        rows = drawn(2, seed)
        whole = UPGrad().combine_tasks([[tf.constant(g) for g in row] for row in rows]).gradients
        for number, gradient in enumerate(whole):
            left += min(np.vdot(row[number], gradient) for row in rows) < -1e-9
    assert left > 0


def test_tasks_without_a_gradient_count_nowhere():
    rows = drawn(3)
    rows[0][1] = rows[2][1] = None  # of one task alone
    rows[1][2] = None
    rows[0][3] = rows[1][3] = rows[2][3] = None
    gradients = combined(rows)
    np.testing.assert_array_equal(gradients[1], rows[1][1])
    both = np.stack([rows[0][2].ravel(), rows[2][2].ravel()])
    np.testing.assert_allclose(
        np.ravel(gradients[2]), UPGrad().combine(tf.constant(both)), atol=1e-10
    )
    assert gradients[3] is None


def test_a_task_that_is_left_out_is_in_no_block():
    rows = drawn(3)
    rows[1][4] = rows[1][4] * np.nan
    for gradient, wanted in zip(combined(rows), combined([rows[0], rows[2]]), strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=1e-10)


def test_the_parts_of_the_answer():
    rows = [[tf.constant(g) for g in row] for row in drawn(2)]
    rows[0][1] = None
    parts = BlockwiseUPGrad().combine_tasks(rows)
    assert parts.weights[1] is None and parts.gramians[1] is None
    total = sum(w for w in parts.gramians if w is not None)
    np.testing.assert_allclose(parts.gramian, total)
    for number in (0, 2, 3, 4):
        weighted = sum(
            w * row[number] for w, row in zip(tf.unstack(parts.weights[number]), rows, strict=True)
        )
        np.testing.assert_allclose(parts.gradients[number], weighted, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_model_trains_with_it(jit_compile, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    trunk = keras.layers.Dense(8, "tanh", name="trunk")(x)
    outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("up", "down")}
    model = MultiTaskModel(x, outputs, combiner=BlockwiseUPGrad())
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit_compile)
    data = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    targets = {"up": data[:, :1], "down": -data[:, :1]}
    conflict = callbacks.GradientConflict(tmp_path)
    losses = model.fit(data, targets, epochs=15, verbose=0, callbacks=[conflict]).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert {row["layer"] for row in conflict.table()} == {"trunk", "global"}
