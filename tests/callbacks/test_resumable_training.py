"""ResumableTraining: a fit that is cut off and called again ends as the one that was not."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import OPTIMIZERS, Cut, cut_and_resumed, fit, forget, make_model, state

from keras_bp.callbacks import GradientMonitor, ResumableTraining, SwapEMAWeights

L = keras.layers

# Keras's own, with NumPy 2, where a learning rate is set.


EAGER, GRAPH, JIT = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}


@pytest.mark.parametrize(
    "name, options",
    [
        # Several of the optimizers have Adam inside of them.
        # Those whose checkpoints are damaged elsewhere are resumed there.
        *((name, EAGER) for name in ("lamb", "accumulation", "average")),
        ("accumulation", GRAPH),
        pytest.param("accumulation", JIT, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_resumed_is_uninterrupted(name, options, data, tmp_path):
    def make():
        return make_model(OPTIMIZERS[name](), **options)

    whole = make()
    history = fit(whole, data)
    every_place = name == "accumulation" and options == EAGER
    cuts = [(0, 2), (1, 1), (2, 3)] if every_place else [(1, 1)]
    model, resumed = cut_and_resumed(make, data, tmp_path, cuts)
    np.testing.assert_equal(state(model), state(whole))
    assert resumed.history == history.history and resumed.epoch == [0, 1, 2]


BFLOAT16 = tf.bfloat16.as_numpy_dtype


class Counts(keras.callbacks.Callback):
    """Holds all that a callback may count."""

    def on_train_begin(self, logs=None):
        self.weights, self.losses, self.best = None, [], {}

    def on_epoch_end(self, epoch, logs=None):
        # The scalars among the weights come as NumPy's numbers, not as arrays.
        self.weights = [np.float32(epoch), np.full(3, epoch), BFLOAT16(epoch)]
        self.losses.append(logs["loss"])
        self.best["loss"] = np.float64(min(self.losses)), None, "min", epoch > 1


def test_what_other_callbacks_have_counted(data, tmp_path):
    counts = [Counts() for _ in range(3)]
    data = [array[:12] for array in data]
    fit(make_model(), data, counts[0])
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), data, counts[1], ResumableTraining(tmp_path, counts[1:2]), Cut(2, 1))
    fit(make_model(), data, counts[2], ResumableTraining(tmp_path, counts[2:3]), epochs=2)
    whole, cut, resumed = map(vars, counts)
    for name in ("weights", "losses", "best"):
        np.testing.assert_equal(resumed[name], cut[name])
    assert resumed["losses"] == whole["losses"][:2]
    assert [type(w) for w in resumed["weights"]] == [np.float32, np.ndarray, BFLOAT16]
    assert type(resumed["best"]["loss"]) is tuple and resumed["params"]["epochs"] == 2


def test_global_random_states(data, tmp_path):
    class Drawing(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.drawn = []

        def on_epoch_begin(self, epoch, logs=None):
            drawn = keras.random.uniform(()), np.random.rand(), random.random()
            self.drawn.append([float(number) for number in drawn])

    data, whole, resumed = [array[:6] for array in data], Drawing(), Drawing()
    fit(make_model(), data, ResumableTraining(tmp_path), whole)
    forget(tmp_path, 3)
    fit(make_model(), data, ResumableTraining(tmp_path), resumed)
    assert resumed.drawn == whole.drawn[2:]


def test_what_other_callbacks_count(data, tmp_path):
    data = [array[:12] for array in data]

    def run(directory, *cut):
        stopping = keras.callbacks.EarlyStopping("loss", 1e9, patience=3, restore_best_weights=True)
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=2, min_delta=1e9)
        resumable = ResumableTraining(directory, callbacks=[stopping, plateau])
        model = make_model()
        history = fit(model, data, stopping, plateau, resumable, *cut, epochs=9)
        return history.epoch, state(model)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Cut(2, 1))
    np.testing.assert_equal(run(tmp_path / "cut"), whole)
    assert whole[0] == [0, 1, 2, 3]


def test_a_training_that_was_stopped_is_not_taken_up(data, tmp_path):
    data = [array[:12] for array in data]

    def run():
        stopping = keras.callbacks.EarlyStopping("loss", 1e9, patience=1, restore_best_weights=True)
        model = make_model()
        resumable = ResumableTraining(tmp_path, callbacks=[stopping])
        return fit(model, data, stopping, resumable, epochs=9), state(model)

    (history, weights), (again, same) = run(), run()
    assert again.epoch == history.epoch == [0, 1] and again.history == history.history
    np.testing.assert_equal(same, weights)


def test_metrics_that_are_arrays(data, tmp_path):
    x, y = data[0], np.eye(3, dtype="float32")[np.arange(23) % 3]
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax")])
    f1 = keras.metrics.F1Score(average=None)
    model.compile("sgd", "categorical_crossentropy", metrics=[f1], run_eagerly=True)
    fit(model, (x, y), ResumableTraining(tmp_path), epochs=2)
    history = fit(model, (x, y), ResumableTraining(tmp_path), epochs=3)
    assert np.shape(history.history["f1_score"]) == (3, 3)


def test_nothing_stays_and_epochs_are_the_total(data, tmp_path):
    data = [array[:12] for array in data]
    model, resumable = make_model(), ResumableTraining(tmp_path)
    fit(model, data, resumable, epochs=2)
    before = state(model)
    assert fit(model, data, resumable, epochs=2).epoch in ([], [0, 1])
    np.testing.assert_equal(state(model), before)
    assert fit(model, data, resumable, epochs=3).epoch == [0, 1, 2]
    assert not model._initial_epoch
    assert fit(model, data, epochs=2).epoch == [0, 1]


def test_averages_that_stay_in_the_model_between_epochs(data, tmp_path):
    data = [array[:6] for array in data]

    def run():
        model = keras.Sequential([keras.Input((4,)), L.Dense(1, kernel_initializer="ones")])
        model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse", run_eagerly=True)
        swap = SwapEMAWeights(swap_on_epoch=True)
        fit(model, data, ResumableTraining(tmp_path), swap, epochs=3)
        return state(model)

    whole = run()
    np.testing.assert_equal(run(), whole)  # with no epoch left
    forget(tmp_path, 3)
    np.testing.assert_equal(run(), whole)
    model = make_model()
    resumable, theirs = ResumableTraining(tmp_path / "new"), keras.callbacks.SwapEMAWeights(True)
    for callbacks in [(SwapEMAWeights(True), resumable), (resumable, theirs)]:
        with pytest.raises(ValueError, match=r"`callbacks` .* must hold .*Received: .*SwapEMA"):
            fit(model, data, *callbacks)
    assert not (tmp_path / "new").exists()


def test_beside_a_monitor(data, tmp_path, read_events):
    for cut in [Cut(1, 2)], []:
        callbacks = [GradientMonitor(tmp_path / "logs"), ResumableTraining(tmp_path / "c"), *cut]
        try:
            fit(make_model(), data, *callbacks, epochs=3)
        except KeyboardInterrupt:
            callbacks[0].set_model(make_model())  # as the next fit does: writes what is left
    (first, second) = sorted((tmp_path / "logs").iterdir())
    steps = []
    for path in (first, second):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        events = [tf.compat.v1.Event.FromString(record) for record in records]
        steps.append(
            [e.step for e in events if any(v.tag == "loss/batch" for v in e.summary.value)]
        )
    assert steps == [list(range(1, 8)), list(range(5, 13))]
