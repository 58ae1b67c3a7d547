"""ResumableTraining inside an epoch: the data go on where they were, whatever they are."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import Cut, make_model, state

import keras_bp
from keras_bp.callbacks import GradientMonitor, ResumableTraining

L = keras.layers


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Do not wait for the disk: what a power cut leaves is in test_resumable_training_files.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Loading(keras.utils.PyDataset):
    """Batches of 6 in an order that a hook draws from NumPy's global generator."""

    def __init__(self, data, moves=True, **options):
        super().__init__(**options)
        self.data, self.order, self.loaded = data, np.arange(len(data[0])), []
        self.moves = moves

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.loaded.append(index)
        rows = self.order[6 * index : 6 * index + 6]
        return tuple(array[rows] for array in self.data)

    def on_epoch_end(self):
        if self.moves:
            np.random.shuffle(self.order)


def generated(data):
    for seed in range(100):
        rows = np.random.default_rng(seed).integers(0, len(data[0]), 6)
        yield tuple(array[rows] for array in data)


def noisy(x, y):
    return x + tf.random.normal(tf.shape(x)), y


def pairs(data):
    # The seed of the order is drawn anew for each epoch.
    return tf.data.Dataset.from_tensor_slices(data).shuffle(23, seed=1)


def of_unknown_length(data):
    return pairs(data).filter(lambda x, y: True).batch(6)


def divided(pairs):
    """Validation examples from the shuffled ones, drawn anew in each epoch."""
    return {"x": pairs.skip(8).batch(4), "validation_data": pairs.take(8).batch(4), **IN_ORDER}


IN_ORDER = {"shuffle": False}
FOUR = {"steps_per_epoch": 4, **IN_ORDER}
# Name: what `fit` takes.
DATA = {
    "arrays": lambda d: {"x": d[0], "y": d[1], "batch_size": 6},
    "shuffled batches": lambda d: {"x": d[0], "y": d[1], "batch_size": 6, "shuffle": "batch"},
    "dataset": lambda d: {"x": pairs(d).batch(6), **IN_ORDER},
    "ahead": lambda d: {"x": pairs(d).batch(6).prefetch(4), **IN_ORDER},
    "twice": lambda d: {"x": pairs(d).repeat(2).batch(12), **IN_ORDER},
    "of unknown length": lambda d: {"x": of_unknown_length(d), **IN_ORDER},
    "cannot be saved": lambda d: {"x": pairs(d).batch(6).map(noisy), **IN_ORDER},
    "neither": lambda d: {"x": of_unknown_length(d).map(noisy), **IN_ORDER},
    "cached": lambda d: {"x": pairs(d).cache().shuffle(9, seed=2).batch(6), **IN_ORDER},
    "cached in an order": lambda d: {"x": pairs(d).cache().batch(6).prefetch(2), **IN_ORDER},
    "over epochs": lambda d: {"x": pairs(d).repeat().batch(6), **FOUR},
    "cut short": lambda d: {"x": pairs(d).batch(6), "steps_per_epoch": 3, **IN_ORDER},
    "over epochs, not saved": lambda d: {"x": pairs(d).repeat().batch(6).map(noisy), **FOUR},
    "loading": lambda d: {"x": Loading(d)},
    "loading, workers": lambda d: {"x": Loading(d, workers=2)},
    "generator": lambda d: {"x": generated(d), **FOUR},
    "validation": lambda d: {"x": d[0], "y": d[1], "batch_size": 4, "validation_split": 0.3},
    "validation steps": lambda d: {
        **DATA["arrays"](d),
        "validation_data": pairs(d).repeat().batch(5),
        "validation_steps": 2,
    },
    "one shuffle for both": lambda d: divided(pairs(d)),
}

# From then on Keras draws the order from the number of the epoch that takes the first batch, which
# a resumed training does not have.
if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16):
    DATA["loading, over epochs"] = lambda d: {
        "x": Loading(d, moves=False),
        "steps_per_epoch": 2,
    }


def accumulating():
    optimizer = keras_bp.optimizers.AdamW(0.01, gradient_accumulation_steps=3)
    return make_model(optimizer)


def small():
    """A model whose steps take little time."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), L.Dropout(0.4), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=True)
    return model


def run(name, data, directory, *callbacks, make=small, **options):
    """Train two epochs of four batches; return the history, the state and the data.

    Without a directory nothing is saved.
    """
    model = make()
    arguments = DATA[name](data)
    resumable = [ResumableTraining(directory, save_freq=1, **options)] if directory else []
    fit = {"epochs": 2, "verbose": 0, "callbacks": [*resumable, *callbacks]}
    return model.fit(**arguments, **fit).history, state(model), arguments["x"]


# The first cut is after the last batch of an epoch.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "name, make", [*((name, small) for name in DATA), ("validation", accumulating)]
)
def test_resumed_is_uninterrupted(name, make, data, tmp_path):
    history, whole, _ = run(name, data, None, make=make)
    # Of what four batches leave, "cut short" has one in its second epoch, and the other one two.
    short = {"cut short": [(0, 2), (1, 0)], "loading, over epochs": [(0, 1), (1, 0)]}
    cuts = short.get(name, [(0, 3), (1, 1)])
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            run(name, data, tmp_path / "cut", Cut(*cut), make=make)
    resumed, weights, x = run(name, data, tmp_path / "cut", make=make)
    np.testing.assert_equal(weights, whole)
    assert resumed == history
    if name == "loading":  # two for the signature, one in place of the two batches that are done
        assert len(x.loaded) == 2 + 1 + 2


@pytest.mark.parametrize("name", ["dataset", "of unknown length", "over epochs"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_several_batches_in_a_call(name, data, tmp_path):
    """A partial call ends the epochs; `save_freq` need not be a multiple."""

    def make():
        model = small()
        model.compile("sgd", "mse", jit_compile=False, steps_per_execution=3)
        return model

    history, whole, _ = run(name, data, None, make=make)
    with pytest.raises(KeyboardInterrupt):
        run(name, data, tmp_path / "cut", Cut(1, 2), make=make)
    resumed, weights, _ = run(name, data, tmp_path / "cut", make=make)
    np.testing.assert_equal(weights, whole)
    assert resumed == history
    with pytest.raises(KeyboardInterrupt):
        run(name, data, tmp_path / "other", Cut(1, 2), make=make)
    with pytest.raises(ValueError, match=r"`steps_per_execution` .*must be .*Received: 1, after 3"):
        model = small()
        model.compile("sgd", "mse", run_eagerly=True)
        run(name, data, tmp_path / "other", make=lambda: model)


def test_replicas(data, tmp_path, replicas):
    """Each replica's moving averages and metrics are its own."""

    def make():
        keras.utils.set_random_seed(3)
        with replicas.scope():
            layers = [L.BatchNormalization(), keras_bp.layers.Dropout(0.4), L.Dense(1)]
            model = keras.Sequential([keras.Input((4,)), *layers])
            optimizer = keras_bp.optimizers.Adam(0.01, gradient_accumulation_steps=2)
            model.compile(optimizer, "mse", jit_compile=False)
        return model

    def values(model):
        return [
            [part.numpy() for part in replicas.experimental_local_results(v.value)]
            for v in model.variables + model.optimizer.variables
        ]

    def train(directory, *cut):
        model = make()
        resumable = ResumableTraining(tmp_path / directory, save_freq=1)
        dataset = pairs(tuple(array[:11] for array in data)).batch(6)
        fit = {"epochs": 2, "verbose": 0, "shuffle": False, "callbacks": [resumable, *cut]}
        return model.fit(dataset, **fit).history, values(model)

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", Cut(1, 0))
    np.testing.assert_equal(train("cut"), whole)
    moving = [parts for parts in whole[1] if parts[0].shape == (4,)]
    assert any(not np.array_equal(*parts) for parts in moving)


@pytest.fixture
def handlers():
    """Python's own: a shell's background job ignores SIGINT, and so would the callback."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield own
    for number, handler in before.items():
        signal.signal(number, handler)


class Kill(keras.callbacks.Callback):
    """Sends signals to this process, in a batch of the training or of its validation."""

    def __init__(self, *numbers, at=(1, 1), testing=False):
        super().__init__()
        self.numbers, self.at, self.testing, self.epoch = numbers, at, testing, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not self.testing and (self.epoch, batch) == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def on_test_batch_end(self, batch, logs=None):
        if self.testing and (self.epoch, batch) == self.at:
            os.kill(os.getpid(), self.numbers[0])


def train(data, directory, *before, **options):
    model = small()
    resumable = ResumableTraining(directory)
    fit = {"batch_size": 4, "epochs": 3, "verbose": 0, "validation_split": 0.3, **options}
    history = model.fit(*data, **fit, callbacks=[*before, resumable]).history
    return history, state(model)


@pytest.mark.parametrize("testing", [False, True])
def test_a_signal_ends_the_process_after_it_has_saved(testing, data, tmp_path, capsys, handlers):
    whole = train(data, tmp_path / "whole")
    for number, error in (signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt):
        with pytest.raises(error) as ended:
            kill = Kill(number, at=(number == signal.SIGINT, 0), testing=testing)
            train(data, tmp_path / "cut", kill)
        assert number == signal.SIGINT or ended.value.code == 128 + number
        assert f" on {signal.Signals(number).name}, in " in capsys.readouterr().err
    last = "epoch-1-batch-4.index" if testing else "epoch-1-batch-1.index"
    assert (tmp_path / "cut" / last).exists()
    np.testing.assert_equal(train(data, tmp_path / "cut"), whole)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_a_second_signal_ends_the_process_at_once(data, tmp_path, handlers):
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, Kill(signal.SIGTERM, signal.SIGINT))
    assert not (tmp_path / "epoch-1-batch-2.index").exists()


def test_a_signal_after_the_last_epoch(data, tmp_path, handlers):
    """It comes too late to save something, but is obeyed."""
    late = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: os.kill(os.getpid(), signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, late, epochs=1)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert len(train(data, tmp_path, epochs=1)[0]["loss"]) == 1  # nothing is left to do


def test_a_handler_that_was_there_before(data, tmp_path, capsys, handlers):
    """It is called, and as it returns, the training goes on and listens again.

    A signal that was ignored stays so, as Ctrl-C does in a script's background jobs.
    """
    called = []
    kills = [Kill(signal.SIGTERM, at=(epoch, 1)) for epoch in range(2)]
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        train(data, tmp_path / "a", *kills, epochs=2)
        assert called == [signal.SIGTERM] * 2
        capsys.readouterr()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        train(data, tmp_path / "b", kills[0], epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "SIGTERM" not in capsys.readouterr().err


def test_after_an_error_signals_are_obeyed_at_once(data, tmp_path, handlers):
    """Keras tells nobody that a `fit` has ended by an error."""
    with pytest.raises(ZeroDivisionError):
        failing = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
        train(data, tmp_path, failing)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(10)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_child_that_loads_data_can_be_ended(data, tmp_path, handlers):
    """`multiprocessing` ends its processes by SIGTERM, and waits for them."""
    ended = []

    def fork(batch, logs):
        ready, begun = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(begun, b"1")
                threading.Event().wait(20)
            except SystemExit as end:
                os._exit(end.code)
            os._exit(1)
        os.read(ready, 1)  # before, Python would forget the signal
        os.kill(child, signal.SIGTERM)
        ended.append(os.waitpid(child, 0)[1])

    forking = keras.callbacks.LambdaCallback(on_train_batch_end=fork)
    resumable = ResumableTraining(tmp_path)
    small().fit(*data, batch_size=23, verbose=0, callbacks=[forking, resumable])
    assert [os.waitstatus_to_exitcode(status) for status in ended] == [128 + signal.SIGTERM]


def test_not_in_the_main_thread(data, tmp_path):
    errors = []

    def work():
        try:
            train(data, tmp_path)
        except ValueError as error:  # Python's, of a handler
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors and (tmp_path / "epoch-3.index").exists()


def test_by_time(data, tmp_path, monkeypatch):
    times = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    resumable = ResumableTraining(tmp_path, save_seconds=1)
    with pytest.raises(KeyboardInterrupt):
        small().fit(*data, batch_size=6, verbose=0, callbacks=[resumable, Cut(0, 1)])
    resumable._checkpoints.close()
    assert len([*tmp_path.glob("epoch-0-batch-*.index")]) == 2


def test_a_monitor_loses_no_step_that_is_saved(data, tmp_path, read_events):
    """What it has not written yet, it writes before a checkpoint."""
    for cut in [Cut(1, 2)], []:
        monitor = GradientMonitor(tmp_path / "logs")
        callbacks = [monitor, ResumableTraining(tmp_path / "c", save_freq=1), *cut]
        fit = {"batch_size": 6, "epochs": 2, "verbose": 0, "callbacks": callbacks}
        try:
            small().fit(*data, **fit)
        except KeyboardInterrupt:
            del monitor  # as a killed process
    steps = []
    for path in sorted((tmp_path / "logs").iterdir()):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        events = [tf.compat.v1.Event.FromString(record) for record in records]
        steps += [e.step for e in events if any(v.tag == "loss/batch" for v in e.summary.value)]
    assert steps == list(range(1, 9))


def test_a_first_epoch_other_than_0(data, tmp_path):
    def train(*cut):
        resumable = ResumableTraining(tmp_path)
        fit = {"initial_epoch": 1, "epochs": 4, "verbose": 0, "callbacks": [resumable, *cut]}
        return small().fit(*data, batch_size=23, **fit).epoch

    with pytest.raises(KeyboardInterrupt):
        train(Cut(2, 0))
    assert train() == [1, 2, 3]


def test_metrics_go_on(data, tmp_path):
    """Also those whose variables Keras makes in the first batch."""

    def make():
        model = small()
        model.compile("sgd", "mse", metrics=["mae", keras.metrics.R2Score()], run_eagerly=True)
        return model

    history, _, _ = run("arrays", data, None, make=make)
    with pytest.raises(KeyboardInterrupt):
        run("arrays", data, tmp_path / "cut", Cut(0, 2), make=make)
    assert run("arrays", data, tmp_path / "cut", make=make)[0] == history


def test_another_dataset_cannot_take_the_position(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run("dataset", data, tmp_path, Cut(0, 1))
    other = tf.data.Dataset.from_tensor_slices(data).repeat(2).batch(6).take(4)
    resumable = ResumableTraining(tmp_path, save_freq=1)
    with pytest.raises(ValueError, match="`x` of `fit` must be the dataset of the training that"):
        small().fit(other, epochs=3, verbose=0, shuffle=False, callbacks=[resumable])
