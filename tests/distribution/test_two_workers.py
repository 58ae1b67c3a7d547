"""Two workers that train as one device with the global batch, over 50 steps, or that differ."""

import json
import os
import pathlib
import pickle
import re
import socket
import subprocess
import sys

import callback_cases
import keras
import numpy as np
import pytest
import resume_cases
from distribution_cases import (
    BATCH,
    BOUND,
    CASES,
    LABELS,
    STEPS,
    UNEVEN,
    X,
    by_fit,
    difference,
    sgd,
    small,
    with_option,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_bp
from keras_bp.callbacks import SwapEMAWeights

SCRIPT = pathlib.Path(__file__).parent / "two_workers.py"


def train(folder, names, number=2):
    """Let workers train each case, and the chief of them leave in the folder what came out."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for free in sockets:
        free.close()
    source = str(pathlib.Path(keras_bp.__file__).parents[1])
    workers = []
    for index in range(number):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "PYTHONPATH": source, "TF_CONFIG": json.dumps(task)}
        with open(folder / f"output{index}", "w") as output:
            workers.append(
                subprocess.Popen(
                    [sys.executable, SCRIPT, folder, *names],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        for worker in workers:
            worker.wait(timeout=480)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    output = "".join((folder / f"output{index}").read_text()[-2000:] for index in range(number))
    assert not any(worker.returncode for worker in workers), output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two workers that trained with all options, and as the example does."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, ["loop", "fit", "example", "resume"])
    return folder


def apart(folder, name, one):
    """Return how far what the workers have trained is from what one process has."""
    arrays = dict(np.load(folder / f"{name}.npz"))
    losses = arrays.pop("losses")
    assert len(losses) == STEPS
    return difference((losses, [arrays[f"arr_{index}"] for index in range(len(arrays))]), one)


def test_two_workers_are_one(trained):
    """Clipping, accumulation and averages, with synchronized batch normalization."""
    assert apart(trained, "loop", with_option(None, "all")) < BOUND


def test_fit_over_two_workers_is_that_of_one(trained, tmp_path):
    """Losses, weights, predictions in order, and an evaluation; the first worker writes the run.

    In the last batch one of them has no example.
    """
    callbacks = [SwapEMAWeights(True), keras.callbacks.ModelCheckpoint(tmp_path / "one.keras")]
    data = X[:UNEVEN], LABELS[:UNEVEN]
    losses, weights, model = by_fit(None, small, sgd("all"), *data, callbacks=callbacks)
    predicted = model.predict(X, batch_size=BATCH, verbose=0)
    evaluated = model.evaluate(X, LABELS, batch_size=BATCH, verbose=0)
    for index in range(2):
        arrays = dict(np.load(trained / f"fit{index}.npz"))
        two = arrays.pop("losses")[:-1], [arrays[f"arr_{n}"] for n in range(len(weights))]
        # Keras's loss of the last batch weighs a worker without examples like the other.
        assert difference(two, (losses[:-1], weights)) < BOUND
        np.testing.assert_allclose(arrays["predicted"], predicted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(arrays["evaluated"], evaluated, rtol=1e-5)
    [events] = (trained / "fit_logs").iterdir()
    tensors = EventAccumulator(str(events), size_guidance={"tensors": 0}).Reload()
    steps = [event.step for event in tensors.Tensors("gradient_norm/global")]
    assert steps == list(range(1, STEPS // 4 + 1))  # updates, of four batches each
    assert [path.name for path in trained.glob("dashboard*")] == ["dashboard0.png"]
    assert [path.name for path in trained.glob("scalars*")] == ["scalars0.csv"]
    assert (trained / "history.csv").read_text().startswith("epoch,loss")
    saved = [
        ([], keras.models.load_model(path).get_weights())
        for path in (trained / "saved.keras", tmp_path / "one.keras")
    ]
    assert difference(*saved) < BOUND


def test_the_example(trained):
    """That it starts its workers, and that one may be killed, is shown in tests/endurance."""
    output = (trained / "output0").read_text()
    assert re.search(r"^28/28 .* - loss: 0\.\d+$", output, re.M), output
    assert "loss" not in (trained / "output1").read_text()
    # The chief alone writes, every step once.
    [events] = (trained / "example" / "logs").iterdir()
    norms = EventAccumulator(str(events), size_guidance={"tensors": 0}).Reload()
    assert [e.step for e in norms.Tensors("gradient_norm/global")] == list(range(1, 57))
    assert (trained / "example" / "model.keras").exists()
    assert (trained / "example" / "checkpoints" / "epoch-2.index").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 4])
def test_workers_are_one_in_each_case(number, tmp_path):
    train(tmp_path, CASES, number)
    for name, case in CASES.items():
        # Each share's gradient is rounded: units in the last place of float16.
        bound = 4 * 2.0**-10 if name == "mixed_float16" else BOUND
        found = apart(tmp_path, name, by_fit(None, *case))
        print(f"{number} workers, {name}: {found:.1e}")
        assert found < bound, name


def test_a_resume_inside_an_epoch(trained):
    """Bit for bit, on both workers."""
    results = [pickle.loads((trained / f"resume{index}").read_bytes()) for index in range(2)]
    resume_cases.check(trained, results)


@pytest.mark.long
def test_every_callback_over_two_workers(tmp_path):
    """Weights, histories and results are those of one process, and the same on both."""
    train(tmp_path, ["callbacks"])
    first, second = (
        pickle.loads((tmp_path / f"callbacks{index}").read_bytes()) for index in range(2)
    )
    for case in callback_cases.CASES:
        arrays, *results = case(None, tmp_path / "one")
        for worker in (first, second):
            theirs, *told = worker[case.__name__]
            assert difference(([], theirs), ([], arrays)) < BOUND, case.__name__
            assert told == results
    for log_dir, files in ("logs", 2), ("conflict", 1):
        assert len(list((tmp_path / log_dir).iterdir())) == files  # of the first worker alone


def test_workers_that_differ(trained):
    """And what is reduced over them, a structure."""
    expected = (
        "All workers must have the same `variables`. Received: "
        "'sequential/hidden/kernel (4, 6)' (number 0) on worker 0, "
        "'sequential/hidden/kernel (4, 8)' (number 0) on worker 1"
    )
    for index in range(2):
        report = (trained / f"report{index}").read_text().splitlines()
        assert report == ["the same", expected, "{'one': 2, 'number': (21,)}"]
