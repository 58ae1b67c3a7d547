"""examples/multi_worker.py: two workers, one of which is killed, end as two that were not."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_bp  # noqa: F401  for load_model

EXAMPLE = pathlib.Path(__file__).parent.parent.parent / "examples" / "multi_worker.py"

# Keras's own, as it loads a model with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def start(directory, *more):
    command = [sys.executable, str(EXAMPLE), "--epochs", "2", "--save-every", "5"]
    command += ["--directory", str(directory), "--seconds", "200", *more]
    # A session of its own, so that the workers can be ended with it.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def workers_of(process):
    """List the processes that a process has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return [int(number) for number in found.stdout.split()]


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def steps_written(directory):
    steps = set()
    for path in (directory / "logs").iterdir():
        events = EventAccumulator(str(path), size_guidance={"tensors": 0})
        events.Reload()
        steps |= {event.step for event in events.Tensors("gradient_norm/global")}
    return steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    process = start(directory)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return directory, output


def test_two_workers_train(whole):
    directory, output = whole
    assert re.search(r"^epoch 2/2  loss 0\.\d+$", output, re.M), output
    assert "continues" not in output
    # The chief alone writes, every step once.
    assert len(list((directory / "logs").iterdir())) == 1
    assert steps_written(directory) == set(range(1, 57))


@pytest.mark.long
def test_a_killed_worker_and_a_restart(whole, tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    checkpoint = tmp_path / "checkpoints" / "ckpt-20.index"
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    end(process)  # a pair that lost a worker is ended, and started anew
    process = start(tmp_path)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    (step,) = re.findall(r"continues after step (\d+)", output)
    # Its files are there a moment before it is listed.
    assert int(step) >= 15 and int(step) % 5 == 0
    models = [
        keras.models.load_model(d / "model.keras", compile=False) for d in (whole[0], tmp_path)
    ]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert steps_written(tmp_path) == set(range(1, 57))


def test_no_worker_is_an_error():
    process = start("nowhere", "--workers", "0")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "--workers must be at least 1" in output
