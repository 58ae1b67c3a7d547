"""Batches that the replicas cannot share evenly, and batches that leave one replica empty."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from distribution_cases import BATCH, BOUND, LABELS, X, by_fit, by_loop, difference, small

from keras_bp import layers, losses, multitask, optimizers
from keras_bp.callbacks import GradientMonitor, TrainingHealth

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


def weights_apart(two, one):
    """Return the largest difference of the weights; Keras's losses of a batch weigh replicas."""
    return difference(([], two[1]), ([], one[1]))


@pytest.mark.parametrize("rows", [pytest.param(UNEVEN, marks=pytest.mark.long), ONE_REPLICA_EMPTY])
def test_fit_with_a_mean(rows, replicas):
    """Of the last 7 rows 4 and 3, each of which counts 1/7; or of one row one and none."""
    two, one = both(by_fit, small, replicas, rows, loss=a_mean)
    assert weights_apart(two, one) < BOUND
    # Keras weighs what it reports of an epoch by the examples.
    data = {"batch_size": 8, "verbose": 0}
    told = [model.evaluate(X[:15], LABELS[:15], **data) for model in (two[2], one[2])]
    np.testing.assert_allclose(*told, rtol=1e-5)


def masked(dtype=None):
    """Three outputs of sequences whose padding is masked, and whose lengths differ."""
    keras.utils.set_random_seed(1)
    x = keras.Input((4, 3), name="x")
    hidden = layers.Dense(8, "tanh", dtype=dtype)(keras.layers.Masking()(x))
    outputs = {
        "binary": layers.Dense(1, "sigmoid", name="binary", dtype=dtype)(hidden),
        "categorical": layers.Dense(3, name="categorical", dtype=dtype)(hidden),
        "sparse": layers.Dense(3, name="sparse", dtype=dtype)(hidden),
    }
    return keras.Model(x, outputs)


def with_tasks():
    model, combiner = masked(), multitask.PCGrad(seed=0)
    return multitask.MultiTaskModel(model.input, model.output, combiner=combiner)


def every_mean():
    options = {"from_logits": True, "ignore_class": 2}
    return {
        "binary": losses.BinaryCrossentropy(reduction="mean_with_sample_weight"),
        "categorical": losses.CategoricalCrossentropy(from_logits=True, reduction="mean"),
        "sparse": losses.SparseCategoricalCrossentropy(**options),
    }


def sequences(rows):
    """Return batches of inputs, targets and sample weights."""
    generator = np.random.default_rng(0)
    x = generator.normal(1.0, 2.0, (rows, 4, 3)).astype("float32")
    for row, length in enumerate(generator.integers(1, 5, rows)):
        x[row, length:] = 0.0
    sparse = generator.integers(0, 3, (rows, 4))
    targets = {
        "binary": (sparse[..., None] == 0).astype("float32"),
        "categorical": keras.utils.to_categorical(sparse, 3),
        "sparse": sparse,
    }
    weights = {name: generator.uniform(0.5, 2.0, (rows, 4)).astype("float32") for name in targets}
    return tf.data.Dataset.from_tensor_slices((x, targets, weights)).batch(BATCH)


def accumulating():
    return optimizers.SGD(0.1, gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    "make, optimizer",
    [
        (masked, accumulating),
        (with_tasks, sgd),
        pytest.param(
            lambda: masked("mixed_float16"),
            lambda: keras.optimizers.LossScaleOptimizer(sgd(), 1024.0),
            marks=pytest.mark.long,
        ),
    ],
    ids=["accumulated", "tasks", "mixed_float16"],
)
def test_means_over_masks_and_weights(make, optimizer, replicas):
    """Shares of equal size, too, hold more or less of what counts."""
    two, one = (
        by_fit(strategy, make, optimizer, sequences(2 * BATCH + 5), None, every_mean, None)
        for strategy in (replicas, None)
    )
    halves = "16" in str(two[2].layers[-1].compute_dtype)
    assert weights_apart(two, one) < (2e-3 if halves else BOUND)


def test_an_eager_loop_with_a_mean(replicas):
    """The gradient is that of the global batch, in whichever share the rows come."""
    x, y = (tf.constant(a[:5]) for a in (X, LABELS))
    w = tf.ones((6, 3))

    def gradient(share):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = a_mean()(y[share], x[share] @ w)
        return tape.gradient(loss, w)

    expected = gradient(slice(None))
    for cut in (1, 5):

        def on_replica(cut=cut):
            context = tf.distribute.get_replica_context()
            share = slice(cut, None) if context.replica_id_in_sync_group else slice(cut)
            return context.all_reduce("SUM", gradient(share))

        for found in replicas.experimental_local_results(replicas.run(on_replica)):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_an_empty_share_moves_nothing(replicas, tmp_path, read_events):
    """Also where statistics are not synchronized: the step is that of the one row.

    What is told of the layers' outputs is that of the whole batch, however it is shared.
    """
    health, seen = TrainingHealth(action=lambda finding: None), []

    def after(batch, logs):
        if not batch:
            seen.append([v.numpy() for v in replicas.experimental_local_results(average())])
            seen.append(two.get_weights())

    def from_there(batch, logs):
        if not batch:
            one.set_weights(seen[1])

    def average():
        return two.get_layer("norm").moving_mean.value

    with replicas.scope():
        two = small(synchronized=False)
    one = small(synchronized=False)
    on_batch = keras.callbacks.LambdaCallback
    for model, strategy, hook, others in (
        (two, replicas, on_batch(on_train_batch_end=after), [health]),
        (one, None, on_batch(on_train_batch_end=from_there), []),
    ):
        folder = tmp_path / ("two" if strategy else "one")
        monitor = GradientMonitor(folder, activations=True, histograms_every=1)
        callbacks = [hook, monitor, *others]
        data = X[: BATCH + 1], LABELS[: BATCH + 1]
        by_fit(strategy, lambda model=model: model, sgd, *data, callbacks=callbacks)
    assert weights_apart((None, two.get_weights()), (None, one.get_weights())) < BOUND
    kept = replicas.experimental_local_results(average())[1]
    np.testing.assert_array_equal(kept, seen[0][1])
    assert "not_finite" not in [finding.check for finding in health.findings]
    told, expected = (read_events(tmp_path / name) for name in ("two", "one"))
    assert min(told["saturated_units/hidden"].values()) > 0
    for tag, series in expected.items():
        # In the first step the replicas normalize by statistics of their own.
        steps = [1, 2] if tag.endswith("units/hidden") else [2]
        if 2 in series and tag.startswith(("gradient_norm", "saturated", "clip")):
            two_, one_ = ([values[step] for step in steps] for values in (told[tag], series))
            np.testing.assert_allclose(two_, one_, rtol=1e-4, atol=1e-6, err_msg=tag)


def test_fit_refuses_batches_that_are_all_uneven(replicas):
    """Keras puts the shares of the first batch together to build the metrics."""
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"same size and shape.*\[3,6\].*\[2,6\]"
    ):
        by_fit(replicas, small, sgd, X[:10], LABELS[:10], batch=5)
