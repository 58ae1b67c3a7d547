"""examples/multi_worker.py: two workers, one of which is killed, end as two that were not."""

import argparse
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_bp

EXAMPLE = pathlib.Path(__file__).parent.parent.parent / "examples" / "multi_worker.py"

# Keras's own, as it loads a model with NumPy 2.


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


def test_each_worker_is_told_its_place(tmp_path, monkeypatch):
    """What they do then is in distribution/test_two_workers.py."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, pathlib, sys\n"
        "config = json.loads(os.environ['TF_CONFIG'])\n"
        'name = f\'told_{config["task"]["index"]}.json\'\n'
        "pathlib.Path(__file__).with_name(name).write_text(json.dumps([config, sys.argv[1:]]))\n"
        "sys.exit(3 * config['task']['index'])\n"
    )
    main = runpy.run_path(str(EXAMPLE))["main"]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setitem(main.__globals__, "__file__", str(worker))
    with pytest.raises(SystemExit) as stopped:
        main(["--epochs", "2", "--save-every", "5", "--directory", str(tmp_path)])
    assert stopped.value.code == 3  # that of the worker that failed
    told = [json.loads((tmp_path / f"told_{index}.json").read_text()) for index in range(2)]
    options = ["--epochs", "2", "--save-every", "5", "--directory", str(tmp_path)]
    clusters = []
    for index, (config, arguments) in enumerate(told):
        assert config["task"] == {"type": "worker", "index": index}
        assert arguments == [*options, "--connect-seconds", "60"]
        clusters.append(config["cluster"])
    assert clusters[0] == clusters[1] and len(set(clusters[0]["worker"])) == 2


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


def test_a_batch_that_cannot_be_divided(monkeypatch):
    class ThreeWorkers:
        num_replicas_in_sync = 3
        cluster_resolver = argparse.Namespace(task_id=1)

    example = runpy.run_path(str(EXAMPLE))
    monkeypatch.setattr(keras_bp.workers, "multi_worker_strategy", lambda seconds: ThreeWorkers())
    with pytest.raises(ValueError, match=r"divisible by the workers. Received: 64 .*, 3 workers"):
        example["train"](argparse.Namespace(connect_seconds=1))


def checkpoint_of(optimizer, directory):
    """The example's checkpoint, of a small model."""
    example = runpy.run_path(str(EXAMPLE))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="out")], name="net")
    optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)
    manager = example["checkpoints"](done, model.variables + optimizer.variables, directory)
    return example["restore_newest"], manager, done


@pytest.fixture
def two_saved(tmp_path):
    """Checkpoints after steps 5 and 10."""
    _, manager, done = checkpoint_of(keras.optimizers.Adam(name="adam"), str(tmp_path))
    for step in (5, 10):
        done.assign(step)
        manager.save(checkpoint_number=step)
    return tmp_path


def test_a_corrupt_checkpoint_is_passed_over(two_saved, capsys):
    restore, manager, done = checkpoint_of(keras.optimizers.Adam(name="adam"), str(two_saved))
    restore(manager.checkpoint, str(two_saved))
    assert done.numpy() == 10 and capsys.readouterr().out == ""
    for step, found in ((10, 5), (5, None)):
        done.assign(0)
        [file] = two_saved.glob(f"ckpt-{step}.data-*")
        file.write_bytes(file.read_bytes()[:-20])
        if found is None:
            with pytest.raises(ValueError, match="holds no checkpoint that can be read. Received"):
                restore(manager.checkpoint, str(two_saved))
            continue
        restore(manager.checkpoint, str(two_saved))
        assert done.numpy() == found
        assert re.search(r"ckpt-10 cannot be read; the one before", capsys.readouterr().out)


def test_a_checkpoint_of_another_optimizer(two_saved):
    # Of the same number and shapes of variables.
    restore, manager, _ = checkpoint_of(keras.optimizers.Lamb(), str(two_saved))
    with pytest.raises(ValueError, match=r"same model and optimizer. Received: .*ckpt-10"):
        restore(manager.checkpoint, str(two_saved))
