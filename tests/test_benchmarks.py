"""The benchmarks run, and what the backward pass keeps in memory is no more than Keras's."""

import importlib.util
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

import keras_bp

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"


def _measure():
    spec = importlib.util.spec_from_file_location("_measure", BENCHMARKS / "_measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Return a function: command line -> output of a benchmark, without a start of TensorFlow."""

    def run(*command_line):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", list(command_line))
        runpy.run_path(str(BENCHMARKS / command_line[0]), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_layers_benchmark_runs(run_here):
    command = ["layers.py", "--only", "GroupNormalization", "--jit", "off", "--seconds", "0.01"]
    lines = [line.split() for line in run_here(*command).splitlines() if line.startswith("Group")]
    assert len(lines) == 4
    assert all(float(ratio) > 0 for line in lines for ratio in line[-2:])


def test_optimizers_benchmark_runs(run_here):
    command = ["optimizers.py", "--only", "nesterov", "--jit", "off", "--seconds", "0.01"]
    lines = [line.split() for line in run_here(*command).splitlines() if line.startswith("SGD")]
    assert len(lines) == 4
    # The slots take no more memory than Keras's.
    assert all(line[-2] == line[-1] for line in lines)


def test_backward_pass_benchmark_runs(run_here):
    command = ["backward_pass.py", "--only", "NumPy 8", "--seconds", "0.01"]
    lines = [line.split() for line in run_here(*command).splitlines()[1:]]
    assert [line[:-3] for line in lines] == [
        ["NumPy", "8-8-4"],
        ["by", "differences,", "108", "entries"],
    ]
    assert all(float(milliseconds) > 0 for line in lines for milliseconds in line[-3:-1])


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments, lines",
    [
        (["monitor.py", "--turns", "1", "--steps", "20", "--fits", "1", "--epochs", "1"], 9),
        (["scaling.py", "--steps", "5"], 34),
        (["multi_worker.py", "--turns", "1", "--steps", "5"], 6),
        (["multitask.py", "--only", "4 tasks", "--jit", "off", "--seconds", "0.1"], 11),
        # Without PyTorch and JAX, whose environments would be made.
        (["peers.py", "--environments", "none", "--columns", "ours", "--rounds", "1"], 10),
        pytest.param(
            ["gradients_tab.py", "20", "500"],
            3,
            marks=pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium"),
        ),
    ],
    ids=["monitor", "scaling", "multi_worker", "multitask", "peers", "gradients_tab"],
)
def test_other_benchmarks_run(arguments, lines):
    run = subprocess.run(
        [sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert sum(bool(re.search(r"\d\.\d", line)) for line in run.stdout.splitlines()) >= lines


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "softmax", "gelu"])
@pytest.mark.parametrize("shape", [(16, 8), (4, 5, 8)], ids=str)
def test_dense_keeps_no_more_than_keras(activation, shape):
    inputs = tf.random.normal(shape)
    kept = {}
    for library in (keras_bp, keras):
        layer = library.layers.Dense(32, activation=activation)
        layer.build(shape)
        kept[library] = _measure().saved_bytes(layer, inputs)
    assert kept[keras_bp] <= kept[keras]


def test_saved_bytes_counts_what_the_backward_pass_reads():
    # The derivative of x^2 reads x alone; that of exp(x)^2 reads exp(x) alone.
    inputs = tf.zeros([10])
    assert _measure().saved_bytes(tf.square, inputs) == 40
    assert _measure().saved_bytes(lambda x: tf.square(tf.exp(x)), inputs) == 40
