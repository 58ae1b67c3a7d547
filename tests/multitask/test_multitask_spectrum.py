"""Eigenvalues that are exact under XLA, where TensorFlow's own are not."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.multitask.solvers import _partners, spectrum


def gramians():
    rng = np.random.default_rng(0)
    for rank in (1, 2, 4, 7):
        rows = rng.integers(-3, 4, size=(7, rank)) @ rng.integers(-3, 4, size=(rank, 9))
        yield rows @ rows.T / np.trace(rows @ rows.T), np.linalg.matrix_rank(rows)
    yield np.eye(7), 7
    yield np.zeros((7, 7)), 0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_eigenvectors_are_orthonormal_and_make_up_the_matrix(jit_compile):
    compute = tf.function(spectrum, jit_compile=jit_compile)
    for gramian, rank in gramians():
        values, vectors, counts = (tensor.numpy() for tensor in compute(tf.constant(gramian)))
        assert counts.sum() == rank
        # 63 rotations at most, each with a rounding or two of 1e-16, mostly at random.
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(7), atol=1e-14)
        made_up = vectors @ np.diag(np.where(counts, values, 0.0)) @ vectors.T
        np.testing.assert_allclose(made_up, gramian, atol=2e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
def test_everyone_meets_everyone_once(size):
    rounds = _partners(size)
    own = np.arange(size)
    for partners in rounds:
        np.testing.assert_array_equal(partners[partners], own)
    meetings = {(i, p) for partners in rounds for i, p in enumerate(partners) if i < p}
    assert len(meetings) == size * (size - 1) // 2
    assert len(rounds) == size + size % 2 - 1
