"""sum_over_replicas: every replica holds the sum of all replicas' gradients."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bp.gradients import deduplicate, sum_over_replicas


def number():
    return tf.distribute.get_replica_context().replica_id_in_sync_group


@pytest.mark.parametrize("graph", [False, True])
def test_dense_sparse_and_none(graph, replicas):
    def replica():
        i = tf.get_static_value(number())
        share = float(i + 1)
        rows = tf.IndexedSlices(tf.fill((2, 1), share), tf.constant([i, 2]), tf.constant([4, 1]))
        # Of mixed dtypes, which one all_reduce would concatenate.
        wide, dense, none, sparse, scalar = sum_over_replicas(
            [tf.constant(share, tf.float64), tf.fill((2, 3), share), None, rows, tf.constant(share)]
        )
        assert none is None and isinstance(sparse, tf.IndexedSlices)
        return dense, tf.convert_to_tensor(deduplicate(sparse)), scalar, wide

    def step():
        return replicas.run(replica)

    for results in zip(
        *map(replicas.experimental_local_results, (tf.function(step) if graph else step)()),
        strict=True,
    ):
        dense, table, scalar, wide = (result.numpy() for result in results)
        # Replica 0 gives 1, replica 1 gives 2.
        np.testing.assert_array_equal(dense, np.full((2, 3), 3.0))
        np.testing.assert_array_equal(table, [[1.0], [2.0], [3.0], [0.0]])
        assert scalar == wide == 3.0 and wide.dtype == np.float64


def test_not_a_number_reaches_every_replica(replicas):
    def replica():
        i = tf.get_static_value(number())
        return sum_over_replicas([tf.constant([1.0, np.nan if i else 2.0])])[0]

    for result in replicas.experimental_local_results(replicas.run(replica)):
        np.testing.assert_array_equal(np.isnan(result), [False, True])


def test_all_none(replicas):
    assert sum_over_replicas([None, None]) == [None, None]
    assert sum_over_replicas([]) == []
    assert replicas.run(lambda: sum_over_replicas([None])) == [None]


def test_one_replica_has_nothing_to_sum():
    given = [tf.ones(2), None]
    total, none = sum_over_replicas(given)
    assert total is given[0] and none is None


def test_outside_of_the_replicas(replicas):
    with (
        replicas.scope(),
        pytest.raises(ValueError, match=r"inside `strategy.run`.*Received: a call in the strategy"),
    ):
        sum_over_replicas([tf.ones(2)])
