"""Every example runs as a user runs it; every Python block of the documents prints what it says."""

import contextlib
import io
import pathlib
import re
import runpy
import subprocess
import sys
import typing

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Small(typing.NamedTuple):
    """A run of an example that takes seconds, and what it must print.

    Attributes:
        arguments: the command line.
        accuracy: the least accuracy in percent for the small run, and for a run without arguments.
            The bounds lie below what was seen by more than rounding on another machine can move
            (a handful of the examples), and far above chance.
        lines: regular expressions, each of which a line of the output must begin with.
        files: patterns of files that it leaves.
    """

    arguments: list
    accuracy: tuple
    lines: list
    files: list


SMALL = {
    # Seen: 96.4 % after 4 epochs, 98.1 % after 30; chance 10 %.
    "quickstart": Small(
        arguments=["--epochs", "4"],
        accuracy=(93.0, 97.0),
        lines=[
            r"Gradient check: correct, relative difference \d\.\d+e-",
            r"Epoch 4/4$",
            r"gradient check: correct, relative difference \d\.\de-",
            r"picture of the run: tb_logs/quickstart/training\.png$",
            r"look inside: tensorboard --logdir tb_logs$",
        ],
        files=[
            "tb_logs/quickstart/events.out.tfevents.*",
            "tb_logs/quickstart/training.png",
        ],
    ),
    # Seen: 97.4 % after 8 epochs, 99.1 % after 40; chance 63 %.
    "custom_training_loop": Small(
        arguments=["--epochs", "8"],
        accuracy=(92.0, 95.0),
        lines=[
            r"epoch 8/8  loss 0\.\d+  gradient norm \d\.\d+ ",
            *(
                rf"classifier/{variable} +-?\d\.\d\de[-+]\d\d +\d\.\d\de[-+]\d\d$"
                for variable in ("hidden_1/kernel", "norm_2/gamma", "output/bias")
            ),
        ],
        files=[],
    ),
    # Seen: 61.8 % after 40 epochs, 100 % after 2000; chance 50 %.
    "spiral": Small(
        arguments=["--epochs", "40"],
        accuracy=(55.0, 98.0),
        lines=[r"gradient check: relative difference \d\.\de-(0[89]|1\d) "],
        files=[],
    ),
}


def run(path, arguments, folder):
    """Run an example in a process of its own and return what it printed."""
    result = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr, result.stderr
    return result.stdout


def accuracy(output):
    """Return the figure of the line that begins "test accuracy" or "training accuracy"."""
    (percent,) = re.findall(r"^(?:test|training) accuracy: (\d+\.\d+)%", output, re.MULTILINE)
    return float(percent)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    small = SMALL[path.stem]  # a new example needs an entry
    output = run(path, small.arguments, tmp_path)
    for line in small.lines:
        assert re.search(f"^{line}", output, re.MULTILINE), f"no line {line!r} in:\n{output}"
    assert small.accuracy[0] < accuracy(output) <= 100
    for pattern in small.files:
        (file,) = tmp_path.glob(pattern)
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        else:
            tags = EventAccumulator(str(file)).Reload().Tags()["tensors"]
            assert {"gradient_norm/global", "learning_rate", "loss/batch"} <= set(tags)
    left = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert len(left) == len(small.files), left


@pytest.mark.long
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_reaches_its_figure(path, tmp_path):
    assert accuracy(run(path, [], tmp_path)) > SMALL[path.stem].accuracy[1]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_refuses_no_epochs(path, capsys):
    main = runpy.run_path(str(path))["main"]
    with pytest.raises(SystemExit) as stopped:
        main(["--epochs", "0"])
    assert stopped.value.code == 2
    assert "--epochs must be at least 1. Received: 0" in capsys.readouterr().err


def test_quickstart_replaces_its_earlier_run_and_nothing_else(tmp_path):
    quickstart = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    earlier, other = folder / "events.out.tfevents.1.host.2.0.v2", folder / "notes.txt"
    earlier.touch()
    other.touch()
    quickstart["main"](["--epochs", "1", "--log-dir", str(tmp_path / "runs")])
    assert other.exists() and not earlier.exists()
    steps, _ = quickstart["read_scalars"](folder)["loss/batch"]
    assert steps == list(range(1, 46))  # 1437 images in batches of 32: every step, once


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_prints_what_it_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", path.read_text(), re.M | re.S)
    assert any(kind == "python" for kind, _ in blocks)
    names, output = {}, None
    for kind, text in blocks:
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, str(path), "exec"), names)
            output = printed.getvalue()
        else:
            assert output == text
