"""read_run: the tables are what the event file holds, and the settings what fit was given."""

import csv
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

import keras_bp
from keras_bp.callbacks import GradientMonitor, TrainingHealth
from keras_bp.recording import EventFile
from keras_bp_runs import RunFiles


def fresh(folder, **scalars):
    """Write a run by hand: scalars, each {step: value}."""
    file = EventFile(folder)
    for tag, points in scalars.items():
        for step, value in points.items():
            file.write_scalars((tag.replace("_", "/"),), (value,), step)
    file.close()
    return keras_bp.read_run(folder)


def test_the_table_is_what_was_written(runs, read_events):
    """By TensorBoard's own reader, and by what a sink was given."""
    run = keras_bp.read_run(runs.folder / "one")
    events, table = read_events(runs.folder / "one"), run.table
    assert table["step"].dtype == np.int64 and table["step"].tolist() == list(range(1, 9))
    assert set(run.tags) == {t for t, k in RunFiles(run.directory).tags.items() if k == "scalars"}
    given = {tag for values in runs.written["one"].values() for tag in values}
    assert set(run.tags) == given == set(table) - {"step"}
    for tag in run.tags:
        assert table[tag].dtype == np.float32
        steps, values = run.series(tag)
        assert dict(zip(steps.tolist(), values.tolist(), strict=True)) == {
            step: float(value) for step, value in events[tag].items()
        }
        column = {step: values.get(tag, np.nan) for step, values in runs.written["one"].items()}
        np.testing.assert_array_equal(table[tag], list(column.values()))
    known = ~np.isnan(table["weight_norm/hidden"])
    assert table["step"][known].tolist() == [1, 4, 8]  # updates_every=4
    assert repr(run) == (
        f"<Run {str(runs.folder / 'one')!r}: {len(run.tags)} scalars of steps 1 to 8, 2 texts>"
    )


def test_settings(runs):
    run = keras_bp.read_run(runs.folder / "one")
    settings = dict(run.settings)
    layers, summary = settings.pop("layers"), settings.pop("summary")
    optimizer, versions = settings.pop("optimizer"), settings.pop("versions")
    assert settings == {
        "model": "net",
        "parameters": 19,
        "trainable_parameters": 19,
        "loss": "mse",
        "batch_size": 5,
        "epochs": 2,
        "steps_per_epoch": 4,
        "precision": "float32",
        "jit_compile": False,
        "run_eagerly": True,
        "steps_per_execution": 1,
        "replicas": 1,
        "seed": 7,
    }
    assert optimizer["class"] == "SGD"
    assert (optimizer["learning_rate"], optimizer["momentum"]) == (0.05, 0.9)  # not 0.0500000007
    assert versions["keras"] == keras.__version__ and versions["tensorflow"] == tf.__version__
    assert versions["keras_bp"] == keras_bp.__version__
    assert layers == [
        {"path": "hidden", "class": "Dense", "block": "hidden", "parameters": 15},
        {"path": "out", "class": "Dense", "block": "out", "parameters": 4},
    ]
    assert "hidden (Dense)" in summary
    page = dict(run.texts["settings/training"])[0]
    assert "| optimizer.learning_rate | 0.05 |" in page and "| seed | 7 |" in page
    assert "hidden (Dense)" in dict(run.texts["settings/model"])[0]
    # TensorBoard's page HParams.
    files = RunFiles(runs.folder / "one")
    assert files.tags["_hparams_/session_start_info"] == "hparams"
    (value,) = (v for _, v in files._values("_hparams_/session_start_info"))
    content = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
    shown = content.session_start_info.hparams
    assert shown["optimizer.momentum"].number_value == 0.9
    assert shown["loss"].string_value == "mse"


class Own(keras.optimizers.SGD):
    def get_config(self):
        raise RuntimeError("none")


@pytest.mark.parametrize(
    "optimizer, expected",
    [
        (
            lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 7)),
            {"class": "CosineDecay", "initial_learning_rate": 0.1, "decay_steps": 7},
        ),
        (lambda: keras_bp.optimizers.AdamW(keras_bp.schedules.WarmupCosine(0.1, 9, 2)), {}),
        (lambda: Own(0.1), None),
        (lambda: keras.optimizers.SGD(lambda: 0.1), "lambda"),
    ],
)
def test_any_optimizer_is_described(optimizer, expected, data, tmp_path):
    """What cannot be told is left out, and stops no training."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer(), "mse", run_eagerly=True)
    monitor = GradientMonitor(tmp_path)
    model.fit(*data, batch_size=20, verbose=0, callbacks=[monitor])
    settings = monitor.frame().settings
    told = settings["optimizer"]
    assert settings["model"] == "sequential"  # whatever number Keras appends
    assert told["class"] == type(model.optimizer).__name__
    rate = told.get("learning_rate")
    if isinstance(expected, dict):
        assert expected.items() <= rate.items() and rate["class"].startswith(("Cos", "Warm"))
    else:
        assert rate == expected


def test_settings_are_written_once_and_again_if_they_change(make, data, tmp_path):
    model, monitor = make(), GradientMonitor(tmp_path)
    for _ in range(2):
        model.fit(*data, batch_size=10, verbose=0, callbacks=[monitor])
    model.optimizer.learning_rate = 0.25
    model.fit(*data, batch_size=10, verbose=0, callbacks=[monitor])
    run = monitor.frame()
    assert [step for step, _ in run.texts["settings/training"]] == [0, 4]
    assert run.settings["optimizer"]["learning_rate"] == 0.25


def test_findings(make, data, tmp_path):
    model, x = make(), data[0].copy()
    x[7] = np.nan
    health = TrainingHealth(["not_finite"], action=lambda finding: None, log_dir=tmp_path)
    model.fit(x, data[1], batch_size=5, shuffle=False, verbose=0, callbacks=[health])
    (finding,) = keras_bp.read_run(tmp_path).findings
    assert (finding["check"], finding["layer"], finding["step"]) == ("not_finite", "hidden", 2)
    told = health.findings[0]
    assert (finding["description"], finding["advice"]) == (told.description, told.advice)
    json.dumps(finding, allow_nan=False)  # a browser reads no NaN


def test_frame_reads_while_fit_runs(make, data, tmp_path):
    monitor, lengths = GradientMonitor(tmp_path), []
    read = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: lengths.append(monitor.frame().table["step"].size)
    )
    make().fit(*data, batch_size=5, verbose=0, callbacks=[monitor, read])
    assert lengths == [1, 2, 3, 4]
    another = GradientMonitor(tmp_path / "new")
    with pytest.raises(ValueError, match=r"which is no directory"):
        another.frame()


SPECIAL = {1: 0.1, 2: np.nan, 4: np.inf, 5: -np.inf, 9: 1e-42, 10: 1 / 3}


def test_csv_reads_back_bit_for_bit(tmp_path):
    run = fresh(tmp_path, a=SPECIAL, b={2: 5.0})
    run.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", "a", "b"]
    assert [row[0] for row in rows] == ["1", "2", "4", "5", "9", "10"]
    back = np.array([float(row[1]) for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(back, np.float32([*SPECIAL.values()]))
    # An empty place is none, NaN a loss that is none.
    assert [row[2] for row in rows] == ["", "5.0", "", "", "", ""]
    assert rows[1][1] == "nan"


def test_json_reads_back_bit_for_bit(runs, tmp_path):
    fresh(tmp_path / "run", a=SPECIAL).to_json(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert content["scalars"]["a"]["steps"] == [*SPECIAL]
    values = np.float32([float(value) for value in content["scalars"]["a"]["values"]])
    np.testing.assert_array_equal(values, np.float32([*SPECIAL.values()]))
    run = keras_bp.read_run(runs.folder / "one")
    run.to_json(tmp_path / "one.json")
    content = json.loads((tmp_path / "one.json").read_text())
    assert content["settings"] == run.settings and set(content["scalars"]) == set(run.tags)


def test_without_pandas(tmp_path, monkeypatch):
    run = fresh(tmp_path, a={1: 0.1})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        run.to_pandas()


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"`log_dir` must be a string .*Received: log_dir=3"):
        keras_bp.read_run(3)
    for name, words in {"no": "which is no directory", "": "which holds none"}.items():
        with pytest.raises(ValueError, match=rf"`log_dir` must be .*Received: .*{words}"):
            keras_bp.read_run(tmp_path / name)
    for name in ("first", "first/run-2", "val"):
        fresh(tmp_path / name, a={1: 1.0})
    inside = r"holds the runs 'first', 'first/run-2', 'val'"
    with pytest.raises(ValueError, match=inside):
        keras_bp.read_run(tmp_path)
    run = keras_bp.read_run(tmp_path / "first")
    assert run.inside == ["run-2"] and "further runs inside: 'run-2'" in repr(run)
    with pytest.raises(KeyError, match="`tag` must be one of"):
        run.series("b")


def test_damage_is_told(tmp_path):
    fresh(tmp_path, a={1: 1.0, 2: 2.0})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    run = keras_bp.read_run(tmp_path)
    assert run.table["a"].tolist() == [1.0]
    assert len(run.faults) == 1 and ", 1 fault>" in repr(run)
