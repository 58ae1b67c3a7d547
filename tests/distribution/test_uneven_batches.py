"""Batches that the replicas cannot share evenly, and batches that leave one replica empty."""

import numpy as np
import pytest
import tensorflow as tf
from distribution_cases import BATCH, BOUND, LABELS, X, by_fit, by_loop, difference, small

from keras_bp import losses, optimizers

ONE_REPLICA_EMPTY, UNEVEN = 4 * BATCH + 1, 5 * BATCH - 1


def sgd():
    return optimizers.SGD(0.02, global_clipnorm=2.0)


def a_sum():
    return losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


def a_mean():
    return losses.SparseCategoricalCrossentropy(from_logits=True)


def both(way, make, strategy, rows, **options):
    data = X[:rows], LABELS[:rows]
    return [way(s, make, sgd, *data, **options) for s in (strategy, None)]


@pytest.mark.parametrize(
    "rows, cut", [pytest.param(UNEVEN, 5, marks=pytest.mark.long), (4 * BATCH + 3, 3)]
)
def test_a_loop(rows, cut, replicas):
    """Of 8 rows 5 and 3, of the last 7 5 and 2; or 3 and 5, and of the last 3 all and none.

    A sum over the global batch, divided by its number of rows, is right however they are shared
    out, and the synchronized statistics are.
    """
    two, one = both(by_loop, small, replicas, rows, cut=cut)
    assert difference(two, one) < BOUND


@pytest.mark.parametrize("rows", [pytest.param(UNEVEN, marks=pytest.mark.long), ONE_REPLICA_EMPTY])
def test_fit_with_a_sum(rows, replicas):
    two, one = both(by_fit, small, replicas, rows, loss=a_sum)
    assert difference(two, one) < BOUND


def test_fit_with_a_mean_counts_each_replica_once(replicas):
    """Keras's rule, as the losses' documentation says: the mean of the replicas' means.

    Of the last 7 rows 4 weigh 1/8 and 3 weigh 1/6, and not all of them 1/7.
    """
    two, one = both(by_fit, small, replicas, UNEVEN, loss=a_mean)
    weights = np.ones(UNEVEN, "float32")
    weights[-7:-3], weights[-3:] = 7 / 8, 7 / 6
    twin = small()
    twin.compile(sgd(), a_mean(), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((X[:UNEVEN], LABELS[:UNEVEN], weights)).batch(BATCH)
    twin.fit(data, shuffle=False, verbose=0)
    same = ([], two[1]), ([], twin.get_weights())
    assert difference(*same) < BOUND < difference(two, one)


def test_fit_refuses_batches_that_are_all_uneven(replicas):
    """Keras puts the shares of the first batch together to build the metrics."""
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"same size and shape.*\[3,6\].*\[2,6\]"
    ):
        by_fit(replicas, small, sgd, X[:10], LABELS[:10], batch=5)
