"""Sinks: each gets every scalar, and one that fails stops neither the training nor another."""

import copy
import csv
import json
import os
import pathlib
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bp
from keras_bp.callbacks import GradientMonitor


def fit(model, data, monitor, callbacks=(), **options):
    options = {"batch_size": 5, "verbose": 0, **options}
    return model.fit(*data, callbacks=[monitor, *callbacks], **options)


def lines(path):
    """Return a JSONL file as {step: {tag: value}}, each step once."""
    text = pathlib.Path(path).read_text()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    steps = {row.pop("step"): row for row in rows}
    assert len(steps) == len(rows)
    return {s: {t: np.float32(float(v)) for t, v in row.items()} for s, row in steps.items()}


def long_form(path):
    """Return a CSV file of step, tag and value likewise."""
    steps = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            values = steps.setdefault(int(row["step"]), {})
            assert row["tag"] not in values
            values[row["tag"]] = np.float32(row["value"])
    return steps


def of_run(directory):
    """Return what the event file holds likewise."""
    run, steps = keras_bp.read_run(directory), {}
    for tag in run.tags:
        for step, value in zip(*run.series(tag), strict=True):
            steps.setdefault(int(step), {})[tag] = value
    return steps


def test_each_sink_gets_every_scalar(make, data, tmp_path):
    """Bit for bit, those of a step together; over two fits, in one file."""
    given = []
    paths = [str(tmp_path / "new" / "run.jsonl"), tmp_path / "run.csv"]
    sinks = [*paths, lambda step, values: given.append((step, values))]
    monitor = GradientMonitor(tmp_path / "run", updates_every=3, sinks=sinks)
    model = make()
    for _ in range(2):
        fit(model, data, monitor, epochs=2)
    expected = of_run(tmp_path / "run")
    assert [step for step, _ in given] == list(range(1, 17))
    assert dict(given) == {s: {t: float(v) for t, v in e.items()} for s, e in expected.items()}
    assert lines(paths[0]) == long_form(paths[1]) == expected
    assert paths[1].read_text().count("step,tag,value\n") == 1
    assert type(given[0][1]["loss/batch"]) is float


def test_numbers_that_are_none(make, data, tmp_path):
    x = data[0].copy()
    x[-1] = np.nan
    paths = [tmp_path / "run.jsonl", tmp_path / "run.csv"]
    fit(make(), (x, data[1]), GradientMonitor(tmp_path / "run", sinks=paths), shuffle=False)
    for step in (lines(paths[0])[4], long_form(paths[1])[4]):
        assert np.isnan(step["loss/batch"])
    assert '"loss/batch": "NaN"' in paths[0].read_text()


def test_another_run_leaves_the_lines_of_an_earlier_one(make, data, tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    for number in range(1, 4):
        fit(make(), data, GradientMonitor(tmp_path / "run", sinks=[path]))
        own = tmp_path / (f"run-{number}.jsonl" if number > 1 else "run.jsonl")
        assert list(lines(own)) == [1, 2, 3, 4]
    assert f"{path} holds an earlier run: this one goes to {own}\n" in capsys.readouterr().out
    model = make()
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(4)  # one that goes on
    fit(model, data, GradientMonitor(tmp_path / "run", sinks=[path]))
    assert list(lines(path)) == list(range(1, 9))


def test_a_sink_that_raises_is_told_once(make, data, tmp_path):
    calls = []

    def broken(step, values):
        calls.append(step)
        raise RuntimeError("no network")

    path = tmp_path / "run.jsonl"
    monitor = GradientMonitor(tmp_path / "run", sinks=[broken, path])
    with pytest.warns(RuntimeWarning, match=r"sink <function .*broken.* failed.*no netw") as caught:
        history = fit(make(), data, monitor, epochs=2)
    assert len(caught) == 1 and calls == [1]
    assert len(history.history["loss"]) == 2
    assert lines(path) == of_run(tmp_path / "run") and len(lines(path)) == 8
    another = copy.deepcopy(monitor)  # a tuner's next trial tries again
    with pytest.warns(RuntimeWarning):
        fit(make(), data, another)
    assert calls == [1, 1]


def test_a_full_disk_leaves_whole_lines(make, data, tmp_path):
    """The system refuses to let a file grow beyond a limit, as a full disk would."""
    resource = pytest.importorskip("resource")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    paths = [tmp_path / "run.jsonl", tmp_path / "run.csv"]
    model, monitor = make(), GradientMonitor(tmp_path / "run", sinks=paths)
    fit(model, data, monitor)
    limit = max(path.stat().st_size for path in paths) + 800
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        with pytest.warns(RuntimeWarning) as caught:
            fit(model, data, monitor, epochs=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    told = [str(warning.message) for warning in caught]
    assert sum("run.jsonl" in message for message in told) == 1
    assert sum("run.csv" in message for message in told) == 1
    written = lines(paths[0])
    assert len(written) >= 4 and paths[0].read_bytes().endswith(b"}\n")
    assert 4 in long_form(paths[1]) and paths[1].read_bytes().endswith(b"\n")
    assert int(model.optimizer.iterations) == 16


def test_each_step_is_written_whole_at_once(make, data, tmp_path):
    """Where a process was killed, the lines of all steps before are there."""
    path, seen = tmp_path / "run.jsonl", []
    monitor = GradientMonitor(tmp_path / "run", updates_every=1, sinks=[path])
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(path.read_text() if batch else "")
    )
    fit(make(), data, monitor, callbacks=[look])
    assert [text.count("\n") for text in seen] == [0, 0, 1, 2]
    assert path.read_text().startswith(seen[-1])


KILLED = """
import os, keras, numpy as np
from keras_bp.callbacks import GradientMonitor
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse", run_eagerly=True)
kill = keras.callbacks.LambdaCallback(
    on_train_batch_begin=lambda batch, logs: batch == 7 and (monitor.flush(), os._exit(9)))
monitor = GradientMonitor("run", sinks=["run.jsonl", "run.csv"])
model.fit(np.ones((16, 2)), np.ones(16), batch_size=2, verbose=0, callbacks=[monitor, kill])
"""


@pytest.mark.long
def test_a_killed_process_has_written_whole_steps(tmp_path):
    command = [sys.executable, "-c", KILLED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=200)
    assert run.returncode == 9, run.stderr
    assert list(lines(tmp_path / "run.jsonl")) == list(range(1, 8))
    assert lines(tmp_path / "run.jsonl") == long_form(tmp_path / "run.csv")


@pytest.mark.parametrize(
    "sinks, error, words",
    [
        ("run.csv", TypeError, r"`sinks` must be a list .*Received: sinks='run.csv'"),
        ([3], TypeError, r"`sinks` must be a list .*Received: 3"),
        (["run.txt"], ValueError, r"end in .jsonl or .csv.*Received: 'run.txt'"),
        (["comet"], ValueError, r"'wandb' and 'mlflow'.*Received: 'comet'"),
    ],
)
def test_what_is_no_sink(sinks, error, words):
    with pytest.raises(error, match=words):
        GradientMonitor(sinks=sinks)


def test_a_sink_that_cannot_be_opened_is_told_before_the_first_step(
    make, data, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    model = make()
    monitor = GradientMonitor(tmp_path / "run", sinks=[tmp_path / "file" / "run.csv"])
    with pytest.raises(ValueError, match=r"`sinks` must name files that can be written"):
        fit(model, data, monitor)
    for service in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, service, None)
        monitor = GradientMonitor(tmp_path / "run", sinks=[service])
        with pytest.raises(ImportError, match=f"`sinks` holds '{service}'.*pip install {service}"):
            fit(model, data, monitor)
    assert int(model.optimizer.iterations) == 0


def test_a_custom_loop(tmp_path):
    variable, path = tf.Variable([3.0], name="net/a"), tmp_path / "run.jsonl"
    monitor = GradientMonitor(tmp_path / "run", sinks=[path])
    for _ in range(2):
        monitor.record([tf.constant([4.0])], [variable], loss=2.0)
    monitor.close()
    assert lines(path) == of_run(tmp_path / "run")
    assert lines(path)[2] == {
        "gradient_norm/net": 4.0,
        "gradient_norm/global": 4.0,
        "weight_norm/net": 3.0,
        "loss/batch": 2.0,
    }


# With the real packages, where they are installed.


def wandb_records(path):
    """Yield what the file of an offline run holds: LevelDB's log format, behind 7 bytes."""
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:  # a block's end holds no header
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.filterwarnings("default")
def test_wandb(make, data, tmp_path, monkeypatch):
    """Its own file of an offline run holds every scalar; other calls of `log` do no harm."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.chdir(tmp_path)
    monitor = GradientMonitor(tmp_path / "run", sinks=["wandb"])
    with pytest.raises(ValueError, match=r"call `wandb.init` before"):
        fit(make(), data, monitor)
    run = wandb.init(project="p", mode="offline", dir=str(tmp_path))
    run.log({"own": 1.0}, step=500)
    fit(make(), data, monitor)
    run.finish()
    (path,) = tmp_path.rglob("*.wandb")
    expected, found, axes = of_run(tmp_path / "run"), {}, {}
    for record in wandb_records(path):
        message = wandb_internal_pb2.Record.FromString(record)
        axes[message.metric.name] = message.metric.step_metric
        items = message.history.item
        row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
        if step := row.get("update_step"):
            found[step] = {tag: np.float32(row.get(tag)) for tag in expected[step]}
    assert found == expected
    assert {axes[tag] for tag in expected[1]} == {"update_step"}


@pytest.mark.filterwarnings("default")
def test_mlflow(make, data, tmp_path):
    """A run in a local folder holds every scalar, NaN too."""
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monitor = GradientMonitor(tmp_path / "run", sinks=["mlflow"])
    with pytest.raises(ValueError, match=r"call `mlflow.start_run` before"):
        fit(make(), data, monitor)
    x = data[0].copy()
    x[-1] = np.nan
    with mlflow.start_run() as run:
        fit(make(), (x, data[1]), monitor, shuffle=False)
    client, found = mlflow.MlflowClient(), {}
    for tag in client.get_run(run.info.run_id).data.metrics:
        for metric in client.get_metric_history(run.info.run_id, tag):
            found.setdefault(metric.step, {})[tag] = np.float32(metric.value)
    np.testing.assert_equal(found, of_run(tmp_path / "run"))


def test_pandas(runs):
    pytest.importorskip("pandas")
    run = keras_bp.read_run(runs.folder / "one")
    frame = run.to_pandas()
    assert frame.index.name == "step" and list(frame) == run.tags
    for tag in run.tags:
        np.testing.assert_array_equal(frame[tag], run.table[tag])
