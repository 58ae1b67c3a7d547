"""The order of the batches depends on the seed and the epoch, and on nothing else."""

import keras
import numpy as np

from keras_bp.visualization.optimizers import shuffled_batches

X = np.arange(10.0)[:, np.newaxis]


def _epochs(seed):
    batches = shuffled_batches(X, np.arange(10), 4, seed)
    return [[y.numpy().tolist() for _, y in batches] for _ in range(2)]


def test_order():
    keras.utils.set_random_seed(1)
    first = _epochs(0)
    keras.utils.set_random_seed(1)
    np.random.normal(), keras.random.normal(())
    other, again = _epochs(5), _epochs(0)
    assert first == again != other
    for epoch in first:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(sum(epoch, [])) == list(range(10)) != sum(epoch, [])
    assert first[0] != first[1]


def test_inputs_are_those_of_the_targets_in_floatx():
    for x, y in shuffled_batches(X, np.arange(10), 4, 0):
        assert x.dtype == "float32" and y.dtype == "int64"
        np.testing.assert_array_equal(x[:, 0], y)
