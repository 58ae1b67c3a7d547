"""Fifty tasks on one trunk: every rule against SciPy's least squares, or by what it must hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from combiner_cases import RULES
from scipy.optimize import nnls

from keras_bp import multitask
from keras_bp.layers import Dense
from keras_bp.optimizers import SGD

TASKS = 50
# The gradients are float32, and some are nearly dependent.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def problem():
    """A model with 50 heads, a batch, and for each task its gradient in the trunk's variables."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    trunk = Dense(8, "tanh", name="top")(Dense(10, "tanh", name="bottom")(inputs))
    outputs = {f"task_{i}": Dense(1, name=f"task_{i}")(trunk) for i in range(TASKS)}
    model = multitask.MultiTaskModel(inputs, outputs, combiner=multitask.UPGrad())
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12)).astype("float32")
    y = {name: generator.normal(size=(64, 1)).astype("float32") for name in outputs}
    shared = model.get_layer("bottom").variables + model.get_layer("top").variables
    with tf.GradientTape(persistent=True) as tape:
        predicted = model(x, training=True)
        losses = [tf.reduce_mean((predicted[name] - y[name]) ** 2) for name in y]
    tasks = [tape.gradient(loss, [variable.value for variable in shared]) for loss in losses]
    return model, x, y, shared, tasks


def as_blocks(tasks):
    """Return a float64 matrix for each variable, a row for each task."""
    return [np.reshape(np.float64(block), (TASKS, -1)) for block in zip(*tasks, strict=True)]


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def upgrad(rows):
    """Project each gradient's share by Lawson and Hanson's method."""
    shares = [row / TASKS for row in rows]
    return sum(share + rows.T @ nnls(rows.T, -share)[0] for share in shares)


def mgda(rows):
    """The nearest point of the hull, as the direction of a least-squares problem's solution."""
    weights, _ = nnls(np.vstack([rows.T, np.ones(TASKS)]), np.append(np.zeros(rows.shape[1]), 1.0))
    return rows.T @ (weights / weights.sum())


def pcgrad(rows, orders):
    """Algorithm 1, on the vectors themselves."""
    total = 0
    for i, order in enumerate(orders):
        h = rows[i].copy()
        for j in order:
            if j != i and h @ rows[j] < 0:
                h -= h @ rows[j] / (rows[j] @ rows[j]) * rows[j]
        total = total + h
    return total


def aligned(rows):
    """The formula by the singular values of the gradients."""
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    return s.min() * np.full(TASKS, 1 / TASKS) @ u @ vt


@pytest.mark.parametrize("name", RULES)
def test_fifty_gradients(name, problem):
    blocks = as_blocks(problem[-1])
    rows = np.hstack(blocks)
    assert np.linalg.matrix_rank(rows) == TASKS
    # The twin draws the same orders.
    combiner, twin = (RULES[name](**({"seed": 1} if name == "PCGrad" else {})) for _ in range(2))
    found = [np.ravel(gradient) for gradient in combiner.combine_tasks(problem[-1]).gradients]
    d, lengths = np.hstack(found), np.linalg.norm(rows, axis=1)
    assert np.all(np.isfinite(d))
    if name == "CAGrad":
        mean = rows.mean(axis=0)
        radius = 0.5 * np.linalg.norm(mean)
        assert np.linalg.norm(d - mean) == pytest.approx(radius, rel=1e-3)
        # The weights that the step shows are a certificate: no d has a larger least product.
        weights, rest = nnls(rows.T, d - mean)
        g = rows.T @ (weights / weights.sum())
        assert rest < 1e-3 * radius
        assert (rows @ d).min() == pytest.approx(g @ mean + radius * np.linalg.norm(g), rel=1e-3)
    elif name == "IMTLG":  # as far along every gradient, from the plane through their ends
        along = rows @ d / lengths
        np.testing.assert_allclose(along, along.mean(), rtol=1e-2)
        weights = np.linalg.lstsq(rows.T, d, rcond=None)[0]
        assert weights.sum() == pytest.approx(1.0, rel=1e-2)
    elif name == "BlockwiseUPGrad":
        for block, part in zip(blocks, found, strict=True):
            # In a block of 8 entries 50 gradients leave no way: d is 0.
            length = np.linalg.norm(block) / TASKS
            assert np.linalg.norm(part - upgrad(block)) < TOLERANCE * length
    else:
        wanted = {
            "Sum": lambda: rows.sum(axis=0),
            "Mean": lambda: rows.mean(axis=0),
            "PCGrad": lambda: pcgrad(rows, twin._orders(TASKS).numpy()),
            "MGDA": lambda: mgda(rows),
            "UPGrad": lambda: upgrad(rows),
            "AlignedMTL": lambda: aligned(rows),
        }[name]()
        assert error(d, wanted) < TOLERANCE


def test_a_step_of_a_model_with_fifty_heads(problem):
    model, x, y, shared, tasks = problem
    before = [variable.numpy() for variable in shared]
    head = model.get_layer("task_49").kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x)["task_49"] - y["task_49"]) ** 2)
    own, kernel = tape.gradient(loss, head.value).numpy(), head.numpy()
    model.compile(SGD(1.0), loss="mse", run_eagerly=True)
    model.train_on_batch(x, y)
    moved = [np.ravel(old - new.numpy()) for old, new in zip(before, shared, strict=True)]
    wanted = upgrad(np.hstack(as_blocks(tasks)))
    assert error(np.hstack(moved), wanted) < TOLERANCE
    np.testing.assert_allclose(kernel - head.numpy(), own, rtol=1e-5, atol=1e-6)
