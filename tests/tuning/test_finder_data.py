"""Every kind of data that `fit` takes, shorter than the sweep and longer; mostly eagerly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bp.tuning import find_learning_rate

STEPS = {"steps": 20, "max_learning_rate": 1e-2}
# The first loss is that of the initial weights, the second ends the sweep.
DIVERGES = {"min_learning_rate": 1e3, "max_learning_rate": 1e4}


class _Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self._arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(a[32 * index : 32 * index + 32] for a in self._arrays)


def _endless(*arrays):
    while True:
        yield from (_Batches(*arrays)[k] for k in range(3))


def test_batches_that_bring_their_own_targets(data, linear):
    """All see the same three batches in the same order, a PyDataset in another one."""
    arrays = (*data, np.linspace(0.0, 2.0, 96, dtype="float32"))
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(32)
    expected = find_learning_rate(linear(run_eagerly=True), dataset, **STEPS)
    for batches in (dataset.repeat(), dataset.filter(lambda *_: True), _endless(*arrays)):
        curve = find_learning_rate(linear(run_eagerly=True), batches, **STEPS)
        np.testing.assert_array_equal(curve.losses, expected.losses)
        assert curve.stop_reason == "completed" and len(curve.losses) == 20
    curve = find_learning_rate(linear(run_eagerly=True), _Batches(*arrays), **STEPS)
    assert curve.stop_reason == "completed" and len(curve.losses) == 20
    # The first pass, at rates that change nothing yet, in another order.
    np.testing.assert_allclose(np.sort(curve.losses[:3]), np.sort(expected.losses[:3]), rtol=1e-5)


def test_sample_weights_count(data, linear):
    weights = np.linspace(0.0, 2.0, 96, dtype="float32")
    curve = find_learning_rate(linear(), *data, sample_weight=weights, batch_size=96, **DIVERGES)
    w, b = linear().get_weights()
    expected = np.mean(weights * ((data[0] @ w + b - data[1]) ** 2)[:, 0])
    np.testing.assert_allclose(curve.losses[0], expected, rtol=1e-5)


def test_class_weights_count(data):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="zeros")(inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.repeat([0, 1], 48)
    curve = find_learning_rate(
        model, data[0], labels, class_weight={0: 1.0, 1: 5.0}, batch_size=96, **DIVERGES
    )
    np.testing.assert_allclose(curve.losses[0], 3.0 * np.log(2.0), rtol=1e-5)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_arrays_are_shuffled_and_begun_anew(data, linear, as_tensors):
    x, y = map(tf.constant, data) if as_tensors else data
    keras.utils.set_random_seed(5)
    curve = find_learning_rate(linear(run_eagerly=True), x, y, **STEPS)
    w, b = linear().get_weights()
    squares = (data[0] @ w + b - data[1]) ** 2
    assert len(curve.losses) == 20 and abs(curve.losses[0] - squares[:32].mean()) > 1e-3
    # The rates change nothing yet: each pass holds every example once.
    np.testing.assert_allclose(curve.losses[:3].mean(), squares.mean(), rtol=1e-4)


def test_several_inputs(data):
    x, y = data
    inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
    outputs = keras.layers.Dense(1)(keras.layers.Add()(list(inputs.values())))
    values = {"left": x, "right": -2 * x}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    expected = np.mean((-x @ model.get_weights()[0] - y) ** 2)
    curve = find_learning_rate(model, values, y, batch_size=96, **DIVERGES)
    np.testing.assert_allclose(curve.losses[0], expected, rtol=1e-5)


def test_without_targets(data):
    """A model whose only loss is its own."""
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, activity_regularizer="l2")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", run_eagerly=True)
    curve = find_learning_rate(model, data[0], steps=20)
    assert curve.losses[-1] < curve.losses[0]


def test_a_generator_that_runs_dry_gives_a_shorter_curve(data, linear):
    batches = (_Batches(*data)[k % 3] for k in range(7))
    curve = find_learning_rate(linear(), batches, **STEPS)
    assert len(curve.losses) == len(curve.learning_rates) == 7 and curve.steps == 20
    assert curve.stop_reason == "data ran out" and "data ran out" in repr(curve)


def test_the_last_micro_batches_of_a_dry_generator_are_no_update(data, linear):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=3)
    batches = (_Batches(*data)[k % 3] for k in range(8))
    assert (
        len(find_learning_rate(linear(optimizer, run_eagerly=True), batches, **STEPS).losses) == 2
    )
    batches = (_Batches(*data)[k] for k in range(2))
    with pytest.raises(ValueError, match="`x` must hold the batches of one update step at least"):
        find_learning_rate(linear(optimizer, run_eagerly=True), batches, **STEPS)


def test_under_a_distribution_strategy(data, linear, replicas):
    with replicas.scope():
        model = linear(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9)))
    weights = model.get_weights()
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(32).repeat()
    curve = find_learning_rate(model, dataset, steps=20, max_learning_rate=0.1)
    expected = find_learning_rate(linear(), dataset, steps=20, max_learning_rate=0.1)
    np.testing.assert_allclose(curve.losses, expected.losses, rtol=1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
