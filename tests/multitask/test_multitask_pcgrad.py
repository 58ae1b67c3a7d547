"""PCGrad beside a NumPy twin that is given the same orders, and where its orders come from."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from combiner_cases import Compiled

from keras_bp import multitask


def twin(rows, orders):
    """Return Algorithm 1 of the paper, on the gradients themselves."""
    total = np.zeros(rows.shape[1])
    for own, order in enumerate(orders):
        h = rows[own].copy()
        for other in order:
            if other != own and h @ rows[other] < 0:
                h -= h @ rows[other] / (rows[other] @ rows[other]) * rows[other]
        total += h
    return total


class Ordered(multitask.PCGrad):
    """Takes given orders in place of drawn ones."""

    def _orders(self, size):
        return tf.constant(self.orders)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_is_algorithm_1_in_the_same_orders(reduction):
    rng = np.random.default_rng(0)
    combiner = Ordered(reduction=reduction)
    for _ in range(50):
        tasks = int(rng.integers(2, 11))
        rows = rng.normal(size=(tasks, int(rng.integers(1, 15))))
        combiner.orders = rng.permuted(np.tile(np.arange(tasks), (tasks, 1)), axis=1)
        wanted = twin(rows, combiner.orders) / (tasks if reduction == "mean" else 1)
        # Products of some ten terms, whose sign alone is decided on.
        np.testing.assert_allclose(combiner.combine(tf.constant(rows)), wanted, atol=1e-10)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_order_comes_up_about_equally_often(jit_compile):
    combiner = multitask.PCGrad(seed=0)
    draw = tf.function(lambda: combiner._orders(3), jit_compile=jit_compile)
    draws = np.stack([draw() for _ in range(400)])
    assert (np.sort(draws, axis=2) == np.arange(3)).all()
    for task in range(3):
        counts = [
            (draws[:, task] == order).all(axis=1).sum()
            for order in itertools.permutations(range(3))
        ]
        # 66.7 each with a standard deviation of 7.5: four of them.
        assert min(counts) > 36 and max(counts) < 97
    assert (draws[:, 0] != draws[:, 1]).any(), "each task has an order of its own"


ROWS = np.random.default_rng(8).normal(size=(6, 4))


def run(combiner, jit_compile=None, steps=3):
    combine = combiner.combine
    if jit_compile is not None:
        combine = Compiled(combiner, jit_compile=jit_compile)
    return np.stack([combine(ROWS) for _ in range(steps)])


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_orders_are_reproducible_from_keras_seed(jit_compile):
    keras.utils.set_random_seed(3)
    first = run(multitask.PCGrad(), jit_compile)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(run(multitask.PCGrad(), jit_compile), first)
    keras.utils.set_random_seed(4)
    assert (run(multitask.PCGrad(), jit_compile) != first).any()
    # And change from step to step.
    assert len(np.unique(first.round(9), axis=0)) > 1


def test_the_orders_are_reproducible_from_a_seed_of_its_own():
    first = run(multitask.PCGrad(seed=5))
    np.testing.assert_array_equal(run(multitask.PCGrad(seed=5)), first)
    assert (run(multitask.PCGrad(seed=6)) != first).any()
