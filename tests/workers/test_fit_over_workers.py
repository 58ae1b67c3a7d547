"""Keras's fit over two workers: all its forms, what differs is refused, and one that dies named."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from fit_cases import FORMS, numbers

import keras_bp

SCRIPT = pathlib.Path(__file__).parent / "two_workers.py"


def run(folder, *cases):
    """Run two workers; return the exit status and the output of each, and their addresses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for free in sockets:
        free.close()
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        source = str(pathlib.Path(keras_bp.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": source, "TF_CONFIG": json.dumps(task)}
        with open(folder / f"output{index}", "w") as output:
            command = [sys.executable, SCRIPT, folder, *cases]
            workers.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    victim = int(cases[-1][-1])
    try:
        workers[victim].wait(timeout=240)
        workers[1 - victim].wait(timeout=15)  # as promised, and ten times what it takes
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    outputs = [(folder / f"output{index}").read_text() for index in range(2)]
    return [worker.returncode for worker in workers], outputs, addresses


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two workers that trained in all forms, till the second was killed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *run(folder, "fit", "killed:1")


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # of unknown length, at its end
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_fit_is_that_of_one_process(form, trained):
    folder, _, outputs, _ = trained
    one = numbers(form(tf.distribute.get_strategy()))
    for index in range(2):
        assert (folder / f"{form.__name__}{index}.npz").exists(), outputs[index][-3000:]
        two = np.load(folder / f"{form.__name__}{index}.npz")
        for number, values in enumerate(one):
            # float32, in another order of sums.
            np.testing.assert_allclose(two[f"arr_{number}"], values, rtol=1e-4, atol=2e-6)


def test_what_is_refused(trained):
    folder, *_, addresses = trained
    same = "ValueError: All workers must have the same"
    no_more = r"InvalidArgumentError: .*One had no.*worker 1 \(" + addresses[1]
    expected = {
        "batches": f"{same} `number of batches`. Received: 6 on worker 0, 4 on worker 1",
        "validation": f"{same} `number of validation examples`. Received: 96 .* 0, 95 .* 1",
        "form": f"{same} `form of batches`. Received: .*float32.* on worker 0, .*float64.* on wor",
        "epochs": f"{same} `epochs`. Received: 1 on worker 0, 2 on worker 1",
        "shorter": no_more,
        "predicted": no_more,
        "jit": r"ValueError: .*`jit_compile` must be False.*compile\(..., jit_compile=False\)",
        "steps": r"ValueError: .*`steps_per_execution` must be 1: .*\(..., steps_per_execution=1\)",
        "one file": r"ValueError: `callbacks` must hold .* CSVLogger\('.*refused.csv'\) on several",
        "backup": "ValueError: .*`callbacks` must hold keras_bp.callbacks.ResumableTraining in pl",
        "optimizer": f"{same} `optimizer`. Received: 'one/iteration .* on worker 0, 'other/itera",
        "seed": f"{same} `seed`. Received: 0 on worker 0, 1 on worker 1",
    }
    for index in range(2):  # on all alike
        errors = json.loads((folder / f"errors{index}.json").read_text())
        assert errors.keys() == expected.keys()
        for name, words in expected.items():
            assert re.match(words, errors[name], re.DOTALL), errors[name]


def test_the_loop_of_the_documentation(trained):
    folder, _, outputs, _ = trained
    losses = [float(loss) for loss in re.findall(r"^epoch ./3  loss (.*)$", outputs[0], re.M)]
    assert len(losses) == 3 and losses[2] < 0.5 * losses[0]
    assert (folder / "loop" / "checkpoints" / "ckpt-24.index").exists()
    assert "epoch 1/3" not in outputs[1]


def check_named(victim, words, statuses, outputs, addresses):
    assert statuses[1 - victim] == 1, outputs[1 - victim][-3000:]
    lines = outputs[1 - victim].splitlines()
    named = f"worker {victim} ({addresses[victim]}) {words}"
    assert any(named in line for line in lines[-5:]), lines[-20:]  # in the error itself


def test_one_that_is_killed_is_named(trained):
    statuses = trained[1]
    assert statuses[1] == -9
    check_named(1, "died without a word", *trained[1:])


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "way, words, status",
    [
        ("killed", "died without a word", -9),
        ("terminated", "died without a word", -15),
        ("raises", "failed with ZeroDivisionError: division by zero", 1),
        ("ends", "ended before the training of this one did", 0),
    ],
)
def test_whatever_its_end(way, words, status, victim, tmp_path):
    statuses, outputs, addresses = run(tmp_path, f"{way}:{victim}")
    assert statuses[victim] == status
    check_named(victim, words, statuses, outputs, addresses)
