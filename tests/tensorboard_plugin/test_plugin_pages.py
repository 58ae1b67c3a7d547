"""The tab's pages: which runs there are, what they hold, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary

VALUES = np.float32([[1, 2], [3, 4]])


def finding(**about):
    """Return a finding as `TrainingHealth` writes it."""
    value = Summary.Value(tag="keras_bp/finding")
    value.metadata.plugin_data.plugin_name = "keras_bp"
    text = tf.make_tensor_proto(json.dumps(about), tf.string)
    value.tensor.MergeFromString(text.SerializeToString())
    return "write_summary", Summary(value=[value]), about["step"]


def test_a_run_is_described(tmp_path, pages, write):
    buckets = np.float64([[-1, 0, 3], [0, 2, 5]])
    more = [
        ("write_scalars", ("update_ratio/a", "dead_units/a"), [1e-3, 0.5], 2),
        ("write_histogram", "weights/a/kernel", buckets, 2),
        ("write_histogram", "optimizer/a/kernel/momentum", 2 * buckets, 1),
        ("write_histogram", "activations/a", buckets, 2),
        ("write_histogram", "weights/a/inner/kernel", buckets, 2),
        finding(check="exploding", layer="b", step=2, value=np.nan, threshold=1.5, advice="Lower"),
    ]
    write(tmp_path / "one" / "run", ["a", "b"], VALUES, more=more)
    asked = pages(tmp_path)
    assert asked.plugin.is_active()
    runs = asked.json("runs")
    assert (runs["runs"], runs["newest"]) == (["one/run"], "one/run")
    run = asked.json("run", run="one/run")
    layers = {"gradient_norm": ["a", "b"], "update_ratio": ["a"], "dead_units": ["a"]}
    assert (run["layers"], run["scalars"]) == (layers, ["loss/batch"])
    assert (run["first"], run["last"], run["faults"]) == (1, 2, [])
    [found] = run["findings"]
    assert (found["check"], found["layer"], found["value"]) == ("exploding", "b", "NaN")
    assert found["threshold"] == 1.5

    shown = asked.json("histograms", run="one/run", layer="a")
    assert (shown["steps"], shown["step"]) == ([1, 2], 2)
    charts = {chart["tag"]: chart for chart in shown["charts"]}
    assert set(charts) == {"weights/a/kernel", "activations/a"}
    assert charts["weights/a/kernel"]["buckets"] == buckets.tolist()
    assert charts["weights/a/kernel"]["range"] == [-1, 2]
    earlier = asked.json("histograms", run="one/run", layer="a", step=1)
    assert [chart["buckets"] for chart in earlier["charts"]] == [(2 * buckets).tolist()]
    assert asked.json("histograms", run="one/run", layer="b")["charts"] == []


def test_findings_of_older_runs_are_texts(tmp_path, pages, write):
    texts = [
        ("write_text", "training_health/vanishing/block/a", "Vanishing at 2: it is 1. Try 3: x", 2),
        ("write_text", "training_health/overfitting/model", "Overfitting", 1),
        ("write_text", "training_health/report", "2 findings", 2),
    ]
    write(tmp_path, ["block/a", "b"], VALUES, more=texts)
    found = pages(tmp_path).json("run", run=".")["findings"]
    about = [(each["check"], each["layer"], each["step"]) for each in found]
    assert about == [("overfitting", None, 1), ("vanishing", "block/a", 2)]
    assert [each["description"] for each in found] == ["Overfitting", "it is 1. Try 3: x"]


def test_one_scale_for_all_runs(tmp_path, pages, write):
    write(tmp_path / "small", ["a", "b"], 1e-5 * VALUES)
    write(tmp_path / "large", ["a", "b"], 100 * VALUES)
    spoilt = np.float32([[np.nan, np.inf], [0, 5]])
    write(tmp_path / "spoilt", ["a", "b"], spoilt)
    asked = pages(tmp_path)
    asked.json("run", run="spoilt")  # the others are opened by a thread
    first = asked.json("scale", kind="gradient_norm")
    assert first == {"low": 1.0, "high": 10.0, "complete": False}
    scale = patiently(lambda: asked.json("scale", kind="gradient_norm"), "complete")
    assert (scale["low"], scale["high"]) == (pytest.approx(1e-5), 1000.0)
    shares = asked.json("scale", kind="dead_units")
    assert shares == {"low": 0.0, "high": 1.0, "complete": True}
    nothing = asked.json("scale", kind="update_ratio")
    assert nothing == {"low": 1e-3, "high": 1.0, "complete": True}


def patiently(ask, word):
    """Ask until the answer holds true for a word."""
    for _ in range(500):
        answer = ask()
        if answer[word]:
            return answer
        time.sleep(0.01)
    raise AssertionError(f"never {word}")


def test_a_directory_without_a_run(tmp_path, pages):
    for log_dir in (tmp_path, tmp_path / "missing", None):
        asked = pages(log_dir)
        assert not asked.plugin.is_active()
        assert asked.json("runs")["runs"] == []
        assert asked.answer("run", run=".").status_code == 404


def test_a_run_of_another_tool(tmp_path, pages, write):
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default():
        tf.summary.scalar("gradient_norm/theirs", 1.0, step=1)
    (tmp_path / "other" / "events.out.tfevents.9.text").write_text("no events")
    assert not pages(tmp_path).plugin.is_active()
    write(tmp_path / "ours", ["a", "b"], VALUES)
    assert pages(tmp_path).json("runs")["runs"] == ["ours"]
    # Beside ours in one directory it is part of the run, as TensorBoard joins them.
    with tf.summary.create_file_writer(str(tmp_path / "ours")).as_default():
        tf.summary.scalar("accuracy", 0.5, step=7)
    run = pages(tmp_path).json("run", run="ours")
    assert (run["scalars"], run["last"]) == (["loss/batch", "accuracy"], 7)


def test_a_file_that_is_written_or_damaged(tmp_path, pages, write):
    write(tmp_path, ["a", "b"], np.tile(VALUES, (5, 1)))
    [path] = tmp_path.glob("*tfevents*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # in the middle of the last record
    asked = pages(tmp_path)
    run = asked.json("run", run=".")
    assert (run["last"], run["faults"]) == (9, [])  # it may be written on
    os.utime(path, (0, 0))
    [fault] = asked.json("run", run=".")["faults"]
    assert "no whole record" in fault
    path.write_bytes(whole)
    run = asked.json("run", run=".")
    assert (run["last"], run["faults"]) == (10, [])
    np.testing.assert_array_equal(
        asked.columns(".", "gradient_norm", 1, 10).high.T, np.tile(VALUES, (5, 1))
    )
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    path.write_bytes(damaged)
    run = pages(tmp_path).json("run", run=".")
    assert run["faults"] and "." in run["faults"][0]
    assert 1 <= run["last"] <= 10


def test_runs_by_name(tmp_path, pages, write):
    for name in ("a/run-10", "a/run-2", "b"):
        write(tmp_path / name, ["a", "b"], VALUES)
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    assert pages(tmp_path).json("runs")["runs"] == ["a/run-2", "a/run-10", "b"]
    (tmp_path / "b" / "circle").unlink()
    spec = f"one:{tmp_path}/a,{tmp_path}/b"
    runs = pages(spec=spec).json("runs")["runs"]
    assert runs == [f"{tmp_path}/b", "one/run-2", "one/run-10"]


def test_a_run_that_was_removed(tmp_path, pages, write):
    """At once, although the list of directories is some seconds old."""
    for name in ("kept", "removed"):
        write(tmp_path / name, ["a", "b"], VALUES)
    asked = pages(tmp_path)
    assert asked.json("runs")["runs"] == ["kept", "removed"]
    shutil.rmtree(tmp_path / "removed")
    assert asked.json("runs")["runs"] == ["kept"]
    assert asked.answer("run", run="removed").status_code == 404
    shutil.rmtree(tmp_path / "kept")
    runs = asked.json("runs")
    assert (runs["runs"], runs["newest"]) == ([], None)


def test_the_newest_run_is_opened_as_the_server_starts(tmp_path, pages, write):
    write(tmp_path, ["a", "b"], VALUES)
    asked = pages(tmp_path)
    patiently(lambda: {"open": asked.plugin._log_dir.runs()["."].is_open}, "open")


@pytest.mark.parametrize("run", ["..", "../run", "/etc", "run/../run", ""])
def test_only_the_runs_of_the_log_directory(run, tmp_path, pages, write):
    write(tmp_path / "run", ["a", "b"], VALUES)
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs" / "mine", ["a", "b"], VALUES)
    asked = pages(tmp_path / "logs")
    for page in ("run", "columns", "histograms"):
        assert asked.answer(page, run=run).status_code == 404
    assert asked.answer("columns", run="mine", what="../a", first=1, last=2).status_code == 404
    assert asked.answer("columns", run="mine", what="gradient_norm").status_code == 404
    assert (
        asked.answer(
            "columns", run="mine", what="gradient_norm", first=1, last=2, most=1
        ).status_code
        == 404
    )
    assert len(asked.columns("mine", "gradient_norm", -(10**30), 10**30).starts) > 0  # as typed
    assert asked.answer("scale", kind="nothing").status_code == 404
    assert asked.answer("runs", method="POST").status_code == 405


def test_files_of_the_page(pages):
    asked = pages()
    module = asked.plugin.frontend_metadata().es_module_path
    page = asked.answer(module[1:])
    assert page.status_code == 200 and page.mimetype == "text/javascript"
    assert "export async function render" in page.text
    scripts = [name for name in asked.apps if name.endswith(".js")]
    for name in scripts:
        text = asked.answer(name[1:]).text
        assert "://" not in text  # nothing from elsewhere
        for imported in text.split('from "./')[1:]:
            assert f"/{imported.partition(chr(34))[0]}" in scripts
    assert "/plugin.py" not in asked.apps


def test_tensorboard_starts_without_tensorflow():
    """What the plugin imports holds TensorBoard's start up."""
    code = (
        "import sys; sys.modules.update(tensorflow=None, keras=None, keras_bp=None); "
        "import keras_bp_runs.tensorboard_plugin.plugin"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
