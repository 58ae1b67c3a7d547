"""compare_runs, and the commands that print runs: where curves part, and what differs."""

import subprocess
import sys

import numpy as np
import pytest

import keras_bp
from keras_bp.recording import EventFile
from keras_bp_runs import terminal


def by_hand(folder, scalars):
    """Write a run: {tag: {step: value}}."""
    file = EventFile(folder)
    for tag, points in scalars.items():
        for step, value in points.items():
            file.write_scalars((tag,), (value,), step)
    file.close()
    return folder


def test_two_runs_of_one_model(runs):
    comparison = keras_bp.compare_runs([runs.folder / "one", runs.folder / "two"])
    assert comparison.names == ["one", "two"]
    assert comparison.settings == {"optimizer.learning_rate": [0.05, 0.1]}
    # The rate differs at once, the first update with it, the gradients from the second step on.
    assert comparison.first_step == comparison.parted["learning_rate"] == 1
    assert comparison.parted["update_ratio/hidden"] == 1
    assert {comparison.parted[t] for t in ("loss/batch", "gradient_norm/hidden")} == {2}
    assert comparison.missing == {}
    table = comparison.table
    last = {tag: value for tag, value in runs.written["two"][8].items()}
    told = dict(zip(table["tag"], table["two"], strict=True))
    assert told == {tag: float(value) for tag, value in last.items()}
    steps = table["parted"]
    assert steps == sorted(steps)
    same = keras_bp.compare_runs([runs.folder / "one"] * 2)
    assert same.first_step is None and same.settings == {} and "do not part" in str(same)
    assert same.names == ["1: one", "2: one"]


def test_runs_of_different_models(runs):
    comparison = keras_bp.compare_runs([runs.folder / "one", runs.folder / "wide"])
    assert comparison.settings["layers.hidden"] == ["Dense, 15", "Dense, 25"]
    assert comparison.settings["parameters"] == [19, 31]
    assert comparison.parted["learning_rate"] is None and comparison.parted["loss/batch"] == 1


def test_a_run_without_settings_differs_in_none(runs, tmp_path):
    bare = by_hand(tmp_path / "bare", {"loss/batch": {1: 1}})
    assert keras_bp.compare_runs([runs.folder / "one", bare]).settings == {}
    three = [bare, runs.folder / "one", runs.folder / "two"]
    assert keras_bp.compare_runs(three).settings == {"optimizer.learning_rate": [None, 0.05, 0.1]}


def test_the_first_step_that_differs(tmp_path):
    nan = np.nan
    one = by_hand(tmp_path / "one", {"a": {1: 1, 2: nan, 3: 1, 5: 2}, "b": {1: 0}, "same": {1: 3}})
    two = by_hand(
        tmp_path / "two",
        {"a": {1: 1, 2: nan, 4: 8, 5: 2.001}, "c": {1: 0}, "same": {1: 3}},
    )
    comparison = keras_bp.compare_runs([one, two])
    assert comparison.parted == {"a": 5, "same": None}
    assert comparison.missing == {"b": ["two"], "c": ["one"]}
    last = {line.split()[0]: line.split()[1:] for line in str(comparison).splitlines() if line}
    assert last["a"] == ["5", "2", "2.001"] and last["b"] == ["-", "0", "-"]  # of one step
    assert "No settings were written by one, two." in str(comparison)
    apart = by_hand(tmp_path / "apart", {"d": {1: 0}})
    assert "have no name in common" in str(keras_bp.compare_runs([one, apart]))
    assert keras_bp.compare_runs([one, two], tolerance=6e-4).parted["a"] is None
    assert keras_bp.compare_runs([one, two], tolerance=4e-4).parted["a"] == 5
    three = by_hand(tmp_path / "three", {"a": {1: nan}, "same": {1: np.inf}})
    both = keras_bp.compare_runs([one, two, keras_bp.read_run(three)])
    assert "2 (step 5)" in str(both) and "nan (step 1)" in str(both)
    assert both.parted == {"a": 1, "same": 1}


@pytest.mark.parametrize(
    "runs, options, words",
    [
        ("one", {}, r"`runs` must be a list of runs .*Received: runs='one'"),
        (["one"], {}, r"`runs` must hold two runs or more. Received: runs=\['one'\]"),
        (["one", "no"], {}, r"`log_dir` must be the directory of a run"),
        (["one", "two"], {"tolerance": -1.0}, r"`tolerance` must be 0 or more"),
        (["one", "two"], {"tolerance": "tiny"}, r"`tolerance` must be a number"),
        (["one", "two"], {"tolerance": np.nan}, r"`tolerance` must be 0 or more"),
    ],
)
def test_what_cannot_be_compared(runs, options, words):
    kind = TypeError if runs == "one" or "tiny" in options.values() else ValueError
    with pytest.raises(kind, match=words):
        keras_bp.compare_runs(runs, **options)


def test_the_chart(runs, tmp_path, monkeypatch):
    comparison = keras_bp.compare_runs([runs.folder / "one", runs.folder / "two"])
    figure = comparison.plot(tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "loss/batch  (they part at step 2)"
    assert [title.split()[0] for title in titles] == [
        "loss/batch",
        "gradient_norm/global",
        "learning_rate",
    ]
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines[:2]] == ["one", "two"]
    np.testing.assert_array_equal(lines[1].get_ydata(), comparison.runs[1].series("loss/batch")[1])
    (ax,) = comparison.plot(tags=["epoch/loss"]).axes
    assert ax.get_title(loc="left").startswith("epoch/loss")
    with pytest.raises(ValueError, match="`tags` must be scalars of the runs. Received: 'no'"):
        comparison.plot(tags=["no"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        comparison.plot()


def printed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    terminal.main("python -m keras_bp")
    return capsys.readouterr().out


def test_show(runs, monkeypatch, capsys):
    text = printed(monkeypatch, capsys, "show", runs.folder / "one")
    assert f"{runs.folder / 'one'}: steps 1 to 8" in text
    last = runs.written["one"][8]
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["optimizer.learning_rate"] == ["0.05"]
    assert rows["loss/batch"][:3:2] == ["8", f"{last['loss/batch']:.4g}"]
    kinds = rows["Layers"]
    assert kinds == ["gradient_norm", "update_ratio", "weight_norm"]
    assert rows["hidden"] == [f"{last[f'{kind}/hidden']:.4g}" for kind in kinds]
    assert "Findings" not in text and "Could not be read" not in text


def test_show_tells_the_most_extreme_layers_findings_and_faults(tmp_path):
    norms = {f"gradient_norm/block_{i}": {1: float(i)} for i in range(1, 40)}
    norms["gradient_norm/block_7"] = {1: np.nan}
    by_hand(tmp_path, {**norms, **{f"plain/{i}": {1: 0.0} for i in range(40)}})
    file = EventFile(tmp_path)
    told = '{"check": "dead", "layer": null, "step": 3, "description": "All", "advice": "Mend."}'
    file.write_json("keras_bp/finding/dead/model", told, 3)
    file.close()
    last = max(tmp_path.iterdir())
    last.write_bytes(last.read_bytes() + b"cut")
    text = terminal.run_text(keras_bp.read_run(tmp_path))
    assert "Layers, 4 largest and smallest of 39" in text
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("block_")]
    assert shown == [f"block_{i}" for i in (7, 39, 38, 37, 4, 3, 2, 1)]
    assert "and 10 more" in text
    assert "- step 3, the model: All. Mend." in text
    assert "Could not be read" in text and "the last 3 bytes are no whole record" in text


def test_compare_in_a_terminal(runs, tmp_path, monkeypatch, capsys):
    pair = runs.folder / "one", runs.folder / "two"
    text = printed(monkeypatch, capsys, "compare", *pair, "--plot", tmp_path / "c.svg")
    assert text.startswith("one, two: the curves part at step 1\n")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["optimizer.learning_rate"] == ["0.05", "0.1"]
    assert rows["loss/batch"][0] == "2"
    assert (tmp_path / "c.svg").stat().st_size > 1000
    with pytest.raises(SystemExit, match=r"python -m keras_bp: `log_dir` must be the directory"):
        printed(monkeypatch, capsys, "show", runs.folder)


def test_the_command_without_tensorflow(runs):
    """It is the one of `python -m keras_bp`, which TensorFlow's import keeps waiting."""
    block = "import sys; sys.modules.update(tensorflow=None, keras=None); import runpy; "
    code = block + "runpy.run_module('keras_bp_runs', run_name='__main__')"
    command = [sys.executable, "-c", code, "show", str(runs.folder / "one")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "gradient_norm/global" in run.stdout, run.stderr
