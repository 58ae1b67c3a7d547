"""The directory of ResumableTraining: forged files, another training, full disks, power cuts."""

import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import fit, make_model, state

import keras_bp
from keras_bp.callbacks import ResumableTraining
from keras_bp.callbacks.resumable._checkpoints import Checkpoints

# Keras's own, with NumPy 2, where a learning rate is set.


def begin(directory, model, others=(), **options):
    """Return the callback of a `fit` that has begun; most of what it does needs no training."""
    resumable = ResumableTraining(directory, others, **options)
    for callback in (*others, resumable):
        callback.set_params({"epochs": 9, "steps": 1, "verbose": 0})
        callback.set_model(model)
        callback.on_train_begin()
    return resumable


def callbacks_of(folder):
    """Two that know paths, derived from an argument or given, and one that counts."""
    stopping = keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True)
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    saving = keras.callbacks.ModelCheckpoint(folder / "best.keras", "loss", save_best_only=True)
    return [stopping, backup, saving]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A directory with the checkpoint of one epoch."""
    folder = tmp_path_factory.mktemp("saved")
    others = callbacks_of(folder)
    resumable = begin(folder / "run", model, others)
    others[0].on_epoch_end(0, {"loss": 1.0})
    resumable.on_epoch_end(0, {"loss": 1.0})
    resumable._checkpoints.close()
    return folder / "run"


def forge(source, directory, change):
    """Write the checkpoint of `source` with other metadata or tensors."""
    reader = tf.train.load_checkpoint(str(source / "epoch-1"))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    metadata = json.loads(values["more"])
    text = change(metadata, values)
    values["more"] = json.dumps(metadata) if text is None else text
    tf.raw_ops.SaveV2(
        prefix=str(directory / "epoch-1"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def put(*path):
    """Return a change of one entry of the metadata."""
    *path, key, value = path

    def change(metadata, values):
        for name in path:
            metadata = metadata[name]
        metadata[key] = value

    return change


def dropped(key):
    return lambda metadata, values: metadata.pop(key) and None


def tensor(name, value):
    return lambda metadata, values: values.update({name: value})


NUMBERS = {"array": ["float32", [10**12], ""]}
FORGERIES = {
    "a path that is an argument": put("callbacks", 2, "filepath", "x"),
    "a path that is derived": put("callbacks", 1, "_weights_path", "x"),
    "a new path": put("callbacks", 0, "new", "../x"),
    "a file without a dot": put("callbacks", 0, "new", "Makefile"),
    "a path in a list": put("callbacks", 0, "new", {"list": ["a.b"]}),
    "an argument": put("callbacks", 0, "patience", 3),
    "a method": put("callbacks", 0, "on_epoch_end", 3),
    "a property": put("callbacks", 0, "model", None),
    "what Keras sets": put("callbacks", 0, "_model", None),
    "the dictionary itself": put("callbacks", 0, "__dict__", {"dict": {}}),
    "the class": put("callbacks", 0, "__class__", None),
    "a string for a number": put("callbacks", 0, "wait", "min"),
    "a list as JSON has it": put("callbacks", 0, "wait", [1]),
    "more than there is": put("callbacks", 0, "best", NUMBERS),
    "objects": put("callbacks", 0, "best", {"array": ["object", [1], "AAAAAAAAAAA="]}),
    "two kinds": put("callbacks", 0, "best", {"list": [], "dict": {}}),
    "an unknown kind": put("callbacks", 0, "best", {"pickle": "gASVAAA="}),
    "another callback's": put("callbacks", []),
    "attributes in a list": put("callbacks", [[], [], []]),
    "a negative epoch": put("place", [-5, 0]),
    "another epoch": put("place", [7, 0]),
    "an epoch in words": put("place", ["1", 0]),
    "a batch too many": put("place", [1, 0, 0]),
    "no place": dropped("place"),
    "no random state": put("data", "now", None),
    "Python's of another form": put("data", "now", 0, [3, [1, 2], None]),
    "Python's out of range": put("data", "now", 0, [3, [-1] * 625, None]),
    "NumPy's out of range": put("data", "begun", 1, 1, 0, -1),
    "NumPy's beyond its end": put("data", "now", 1, 2, 10**6),
    "NumPy's unknown": put("data", "begun", 1, 0, "PCG64"),
    "calls without end": put("data", "calls", 10**12),
    "calls before the first": put("data", "passed", -1),
    "no calls": put("data", {}),
    "logs of another form": put("logs", []),
    "a long history": put("history", {"loss": [1.0, 2.0]}),
    "a history of numbers": put("history", {"loss": 1.0}),
    "a signature of numbers": put("signature", 0, 3),
    "an older one": dropped("format"),
    "a newer one": put("format", 99),
    "not a dictionary": lambda metadata, values: "[1]",
    "not JSON": lambda metadata, values: "{",
    "nested without end": lambda metadata, values: "[" * 10**5,
    "metadata of numbers": lambda metadata, values: 3.0,
    "another shape": tensor("model_0", np.zeros((4, 9), "float32")),
    "another type": tensor("model_0", np.zeros((4, 8))),
    "a missing variable": lambda metadata, values: values.pop("model_0") is None or None,
    "foreign": lambda metadata, values: values.clear() or "1",
}


def plain(callbacks):
    kinds = str, int, float, type(None)
    return [{n: v for n, v in vars(c).items() if isinstance(v, kinds)} for c in callbacks]


@pytest.fixture(scope="module")
def fresh(model, tmp_path_factory):
    """What callbacks hold as a training begins."""
    others = callbacks_of(pathlib.Path("folder"))
    begin(tmp_path_factory.mktemp("empty"), model, others)
    return plain(others)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_checkpoint_sets_nothing(name, model, saved, fresh, tmp_path):
    forge(saved, tmp_path, FORGERIES[name])
    others = callbacks_of(pathlib.Path("folder"))
    weights = state(model)
    keras.random.uniform(())  # its generator is seeded from Python's, when it is first used
    drawing = random.getstate()
    with pytest.raises(ValueError, match=r"`backup_dir` must hold checkpoints .*Received: "):
        begin(tmp_path, model, others)
    np.testing.assert_equal(state(model), weights)
    assert random.getstate() == drawing and plain(others) == fresh


def test_a_whole_checkpoint_is_taken(model, saved, fresh, tmp_path):
    """The forgeries are refused for what was changed in them."""
    forge(saved, tmp_path, lambda metadata, values: None)
    others = callbacks_of(pathlib.Path("folder"))
    resumed = begin(tmp_path, model, others)
    resumed._checkpoints.close()
    assert resumed._epochs == [0] and others[0].best == 1.0
    np.testing.assert_equal(others[0].best_weights, model.get_weights())
    assert plain(others)[1:] == fresh[1:]


# Another training in the same directory


def connected(turned=False, rate=0.1):
    """Two inputs, whose difference has one sign or the other; all classes and shapes are alike.

    Keras numbers the names of layers, of operations at each level, and of seed generators.
    """
    keras.utils.set_random_seed(3)
    inputs = [keras.Input((4,)), keras.Input((4,))]
    one, other = inputs[::-1] if turned else inputs
    middle = keras.Input((4,))
    inner = keras.Model(middle, keras.layers.Dropout(rate)(2.0 * middle))
    start = keras.initializers.GlorotUniform(keras.random.SeedGenerator(1))
    outputs = keras.layers.Dense(1, kernel_initializer=start)(inner(one - other))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", run_eagerly=True)
    return model


def test_a_checkpoint_of_a_model_with_other_settings(tmp_path):
    begin(tmp_path, connected()).on_epoch_end(0, {})
    for other, words in [
        (
            connected(turned=True),
            "'model .*name 1.*' there and 'model .*name 2",
        ),
        (connected(rate=0.2), "rate = 0.1' there and .*rate = 0.2' here"),
    ]:
        with pytest.raises(ValueError, match=f"`backup_dir` must .*same model.*{words}"):
            begin(tmp_path, other)
    assert begin(tmp_path, connected())._epochs == [0]  # whose names are numbered on


def sgd(total=9, scale=2.0, rate=None, **options):
    rate = rate or keras_bp.schedules.CosineAnnealing(0.1, total)
    inner = keras.optimizers.SGD(rate, **{"momentum": 0.9, **options})
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=scale)


def smoothed(smoothing):
    return keras_bp.losses.BinaryCrossentropy(label_smoothing=smoothing)


def test_a_checkpoint_of_another_optimizer_or_loss(model, tmp_path):
    """All classes and shapes are alike."""

    def training(name, optimizer, *loss):
        model.compile(optimizer, *loss, run_eagerly=True)
        return begin(tmp_path / name, model)

    training("a", sgd(), smoothed(0.1)).on_epoch_end(0, {})
    training("b", sgd(rate=0.1), "mse", [0.5]).on_epoch_end(0, {})
    for name, other, words in [
        ("a", (sgd(total=8), smoothed(0.1)), "total_steps = 9' there and .*total_steps = 8' here"),
        ("a", (sgd(scale=4.0), smoothed(0.1)), "initial_scale = 2.0' there"),
        ("a", (sgd(momentum=0.1), smoothed(0.1)), "momentum = 0.9' there"),
        ("a", (sgd(clipnorm=1.0), smoothed(0.1)), "'optimizer .*clipnorm = 1.0' here"),
        ("a", (sgd(), smoothed(0.2)), "'loss .*label_smoothing = 0.1' there"),
        ("b", (sgd(rate=0.1), "mae", [0.5]), "'loss .*mse.*' there and 'loss .*mae.*' here"),
        ("b", (sgd(rate=0.1), "mse", [0.6]), "'loss /weights = 0.5' there"),
    ]:
        with pytest.raises(ValueError, match=f"same model, optimizer and loss.*{words}"):
            training(name, *other)
    assert training("a", sgd(), smoothed(0.1))._epochs == [0]  # whose names are numbered on
    # As ReduceLROnPlateau leaves the optimizer; the checkpoint has the rate.
    assert training("b", sgd(rate=0.01), "mse", [0.5])._epochs == [0]
    model.compile("adam", "mse", run_eagerly=True)


BY_ITSELF = {"batch_size": None, "shuffle": False}


def test_a_checkpoint_on_other_data(data, tmp_path):
    x, y = data
    x = x[:12]
    y = y[:12]
    pairs = tf.data.Dataset.from_tensor_slices
    fit(make_model(), (x, y), ResumableTraining(tmp_path / "a"), epochs=1)
    dataset = pairs((x, y)).batch(6)
    fit(make_model(), (dataset,), ResumableTraining(tmp_path / "d"), epochs=1, **BY_ITSELF)
    changed = np.where(np.arange(12)[:, None] == 7, x + 1, x)
    for directory, other, options, words in [
        ("a", (changed, y), {}, r"'data x array of shape \(12, 4\), float32, checksum \d+'"),
        ("a", (x, y + 1), {}, "data y array"),
        ("a", (x, y, 12), {"batch_size": 3}, "data in 2 batches' there and 'data in 4 batches'"),
        ("a", (x, y), {"sample_weight": np.ones(12)}, "sample_weight NoneType' there"),
        ("d", (pairs((x, y[:, 0])).batch(6),), BY_ITSELF, "data x dataset of .*shape="),
        ("d", (x, y), {}, "data x dataset of"),
    ]:
        with pytest.raises(ValueError, match=f"on the same data. Received: .*{words}"):
            fit(make_model(), other[:2], ResumableTraining(tmp_path / directory), **options)
    fit(make_model(), (x.copy(), y), ResumableTraining(tmp_path / "a"), epochs=1)


LOCK = textwrap.dedent("""
    import fcntl, sys
    file = open(sys.argv[1] + "/lock", "a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("refused")
    file.truncate(0)
    print("held by somebody", file=file, flush=True)
    print("locked", flush=True)
    sys.stdin.read()
""")


def other_process(directory):
    """Another process that tries for the lock, and what it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return process, process.stdout.readline().strip()


def end(process):
    process.kill()
    process.communicate()


def test_two_processes(model, tmp_path):
    process, said = other_process(tmp_path)
    assert said == "locked"
    with pytest.raises(ValueError, match="must not be .*of an interrupted one .*held by"):
        begin(tmp_path, model)
    end(process)
    resumable = begin(tmp_path, model)  # a dead process holds nothing
    resumable.on_epoch_end(0, {})
    process, said = other_process(tmp_path)
    assert said == ""
    end(process)
    model.history = keras.callbacks.History()
    resumable.on_train_end()
    process, said = other_process(tmp_path)
    assert said == "locked"
    end(process)


def test_a_refused_training_holds_nothing(model, saved, tmp_path):
    forge(saved, tmp_path, put("place", [-5, 0]))
    with pytest.raises(ValueError):
        begin(tmp_path, model, callbacks_of(tmp_path))
    process, said = other_process(tmp_path)
    assert said == "locked"
    end(process)


def test_two_trainings_of_one_process(model, tmp_path):
    """The later one has the directory: Keras tells nobody that the earlier one was interrupted."""
    first, second = begin(tmp_path, model), begin(tmp_path, model)
    second.on_epoch_end(0, {"loss": 2.0})
    with pytest.raises(RuntimeError, match="A later `fit` of this process writes"):
        first.on_epoch_end(0, {"loss": 1.0})
    model.history = keras.callbacks.History()
    first.on_train_end()  # leaves the lock of the second alone
    process, said = other_process(tmp_path)
    assert said == ""
    end(process)
    assert begin(tmp_path, model)._history == {"loss": [2.0]}


# What the disk does


def test_leftovers_of_a_kill_are_removed(model, tmp_path):
    for name in ("partial", "epoch-3_temp", "epoch-3_temp/part-0", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "epoch-1.data-00000-of-00001").write_text("moved, but its index was not")
    resumable = begin(tmp_path, model)
    for epoch in range(3):
        resumable.on_epoch_end(epoch, {})
    resumable._checkpoints.failure(wait=True)
    kept = [f"epoch-{n}.{end}" for n in (2, 3) for end in ("data-00000-of-00001", "index")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, "lock", "mine"]


class Disk:
    """What would be left of a directory if the power failed: the names and contents flushed."""

    def __init__(self, directory, monkeypatch):
        self.directory, self.contents, self.names = directory, {}, {}
        self.flush, self.remove = os.fsync, tf.io.gfile.remove
        monkeypatch.setattr(os, "fsync", self.on_flush)
        monkeypatch.setattr(tf.io.gfile, "remove", self.on_remove)

    def on_flush(self, handle):
        self.flush(handle)
        path = pathlib.Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path == self.directory:
            self.names = {p.name: p.stat().st_ino for p in path.iterdir() if p.is_file()}
        elif path.is_file():
            self.contents[path.stat().st_ino] = path.read_bytes()

    def on_remove(self, path):
        self.remove(path)
        self.names.pop(pathlib.Path(path).name, None)  # it may reach the disk at once

    def after_a_power_cut(self, target):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, number in self.names.items():
            (target / name).write_bytes(self.contents.get(number, b""))
        return target


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Linux tells a handle's path")
def test_a_power_cut_leaves_a_checkpoint(model, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    disk = Disk(directory, monkeypatch)
    resumable = begin(directory, model)
    for epoch in range(4):
        resumable.on_epoch_end(epoch, {})
        resumable._checkpoints.failure(wait=True)
        left = disk.after_a_power_cut(tmp_path / "left")
        resumed = begin(left, model)
        assert resumed._epochs == [*range(epoch + 1)]
        resumed._checkpoints.close()
    assert "epoch-4.index" in disk.names and "epoch-2.index" not in disk.names


def test_what_cannot_be_written(model, tmp_path):
    """Nor is an error lost that is not the disk's."""
    resumable = begin(tmp_path, model)
    resumable.on_epoch_end(0, {"loss": 1.0})
    resumable.on_epoch_end(1, {"when": object()})
    resumable._checkpoints._wait_for_writer()
    with pytest.warns(RuntimeWarning, match="of epoch 2 cannot be written.*not JSON serializable"):
        resumable.on_train_batch_end(0)
    resumable._checkpoints.close()
    assert [*tmp_path.glob("*.index")] == [tmp_path / "epoch-1.index"]


@pytest.mark.filterwarnings("ignore:The checkpoint epoch-3")
def test_one_that_cannot_be_read_does_not_count_as_kept(tmp_path):
    checkpoints, one = Checkpoints(tmp_path), {"value": tf.constant(1.0)}
    for epochs in range(4):
        checkpoints.save((epochs, 0), one, {})
    checkpoints.failure(wait=True)
    next(tmp_path.glob("epoch-3.data-*")).write_bytes(b"cut short")
    read = lambda place, entries: (place, entries.array("value", tf.float32, ()))[0]  # noqa: E731
    assert checkpoints.newest(read) == (2, 0)
    for batches in (5, 10):
        checkpoints.save((2, batches), one, {})
    checkpoints.failure(wait=True)
    assert checkpoints.places() == [[2, 10], [2, 5]]
    checkpoints.close()


class FullDisk(keras.callbacks.Callback):
    """Lets no file grow beyond some bytes at the end of an epoch."""

    def __init__(self, epoch, resumable):
        super().__init__()
        self.epoch, self.limits = epoch, resource.getrlimit(resource.RLIMIT_FSIZE)
        self.resumable = resumable

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, self.limits[1]))

    def on_epoch_begin(self, epoch, logs=None):
        self.resumable._checkpoints._wait_for_writer()
        self.on_train_end()

    def on_train_end(self, logs=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_a_full_disk(data, tmp_path):
    """`fit` goes on or ends, as it was told; what was saved before and after is whole."""
    data = [array[:6] for array in data]
    warning = ResumableTraining(tmp_path / "a")
    disk = FullDisk(1, warning)
    try:
        with pytest.warns(RuntimeWarning, match="checkpoint of epoch 2 cannot be written to"):
            fit(make_model(), data, disk, warning, epochs=3)
        assert {p.name for p in (tmp_path / "a").glob("*.index")} == {
            "epoch-1.index",
            "epoch-3.index",
        }
        with pytest.raises(OSError, match="checkpoint of epoch 2 cannot be written to"):
            ending = ResumableTraining(tmp_path / "b", save_failure="raise")
            fit(make_model(), data, FullDisk(1, ending), ending, epochs=3)
    finally:
        disk.on_train_end()
    assert sorted(p.name for p in (tmp_path / "b").iterdir())[1:] == ["epoch-1.index", "lock"]
    whole, resumed = make_model(), make_model()
    fit(whole, data, epochs=3)
    fit(resumed, data, ResumableTraining(tmp_path / "b"), epochs=3)
    np.testing.assert_equal(state(resumed), state(whole))
