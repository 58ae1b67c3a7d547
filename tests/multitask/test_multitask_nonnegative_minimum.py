"""The least-squares problem that UPGrad, MGDA and CAGrad solve, where gradients nearly depend."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.multitask.solvers import nonnegative_minimum


def test_the_ridge_is_refined_away():
    """Its share of the smallest eigenvalue, 1e-11 / 2^-30, is the error that it leaves alone."""
    close = 1 - 2.0**-30
    matrix, x = np.array([[1.0, close], [close, 1.0]]), np.array([[1.0, 2.0]])
    # Q x is exact here, so that all that is lost is the 1e-16 of the solution, over 2^-30.
    found = nonnegative_minimum(tf.constant(matrix), tf.constant(x @ matrix))
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_entry_that_rounding_lets_in_is_tried_once(seed, monkeypatch):
    """Eight gradients in a plane but for 1e-6: without a bar the same entry joins for ever."""
    rounds, cholesky = [], tf.linalg.cholesky
    monkeypatch.setattr(tf.linalg, "cholesky", lambda m: rounds.append(0) or cholesky(m))
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 8)) + 1e-6 * rng.normal(size=(8, 8))
    gramian = rows @ rows.T
    x = nonnegative_minimum(tf.constant(gramian), tf.constant(-gramian)).numpy()
    # Some 10 rounds; the loop ends by itself at 80.
    assert len(rounds) <= 24
    # What each row's minimum asks for: no slope below 0, and none where x is above 0.
    slopes = (x @ gramian + gramian) / np.trace(gramian)
    assert x.min() >= 0.0 and slopes.min() > -1e-9
    assert np.abs(slopes[x > 0.0]).max() < 1e-9
