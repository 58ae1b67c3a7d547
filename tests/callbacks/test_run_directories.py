"""Which directory a run's events go to: one line in TensorBoard is one training."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable_cases import Cut

from keras_bp.callbacks import GradientMonitor, ResumableTraining, TrainingHealth
from keras_bp.recording.event_file import run_directory

L = keras.layers


def make(iterations=0, units=2):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), L.Dense(units, "tanh", name="d"), L.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(iterations)
    return model


def fit(model, data, *callbacks, **options):
    """Train on 5 batches an epoch."""
    return model.fit(*data, batch_size=5, verbose=0, callbacks=list(callbacks), **options)


def steps(events, tag="loss/batch"):
    return list(events[tag])


def test_a_training_that_begins_anew_has_a_directory_of_its_own(
    data, tmp_path, read_events, capsys
):
    for number, name in enumerate(["", "run-2", "run-3"]):
        monitor = GradientMonitor(tmp_path)
        health = TrainingHealth(["not_finite"], log_dir=tmp_path)
        # Whichever comes first decides for both.
        fit(make(), data, *[monitor, health][:: 1 if number % 2 else -1])
        events = read_events(tmp_path / name)
        assert steps(events) == [1, 2, 3, 4, 5]
        assert steps(events, "training_health/report") == [5]
        assert monitor.run_dir == health.run_dir == str(tmp_path / name)
        said = f"{tmp_path} holds an earlier run: this one goes to {tmp_path / name}\n"
        assert capsys.readouterr().out == (said if name else "")


def test_a_training_that_goes_on_stays(data, tmp_path, read_events):
    model = make()
    for _ in range(2):
        fit(model, data, GradientMonitor(tmp_path))
    assert steps(read_events(tmp_path)) == list(range(1, 11))
    fit(make(), data, GradientMonitor(tmp_path))
    fit(make(iterations=5), data, GradientMonitor(tmp_path))  # of run-2, the newest
    assert steps(read_events(tmp_path / "run-2")) == list(range(1, 11))


def test_another_model_does_not_go_on(data, tmp_path, read_events):
    fit(make(), data, GradientMonitor(tmp_path))
    fit(make(iterations=2, units=3), data, GradientMonitor(tmp_path))
    for name, first in {"": 1, "run-2": 3}.items():
        assert steps(read_events(tmp_path / name)) == list(range(first, first + 5))


@pytest.mark.parametrize("units", [2, 3], ids=["alike", "other"])
def test_one_callback_for_two_models(units, data, tmp_path, read_events):
    """Nothing of the first one's run is in the second one's: steps, files, settings, layout."""
    lines = tmp_path / "run.jsonl"
    monitor = GradientMonitor(tmp_path, sinks=[lines])
    health = TrainingHealth(["not_finite"], log_dir=tmp_path)
    first, second = make(), make(units=units)
    for model, goes_on in ((first, False), (first, True), (second, False)):
        fit(model, data, monitor, health)
        assert monitor.run_dir == health.run_dir
        assert health.report.endswith(f" {10 if goes_on else 5} update steps")
    for name, number in {"": 10, "run-2": 5}.items():
        events = read_events(tmp_path / name)
        assert steps(events) == list(range(1, number + 1))
        assert set(events) >= {"keras_bp/settings", "custom_scalars__config__"}
        suffix = f"-{name[-1]}" if name else ""
        written = (tmp_path / f"run{suffix}.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in written] == steps(events)


def test_steps_that_a_killed_process_made_are_made_again(data, tmp_path, read_events):
    def callbacks():
        return [
            GradientMonitor(tmp_path / "run", every=2),
            TrainingHealth(["not_finite"], log_dir=tmp_path / "run"),
            ResumableTraining(tmp_path / "checkpoints"),
        ]

    with pytest.raises(KeyboardInterrupt):
        fit(make(), data, *callbacks(), Cut(1, 3), epochs=3)
    fit(make(), data, *callbacks(), epochs=3)
    assert steps(read_events(tmp_path / "run")) == [2, 4, 6, 8, 10, 12, 14]
    assert not (tmp_path / "run" / "run-2").exists()


def test_two_trainings_that_begin_from_one_saved_model(data, tmp_path, read_events):
    for name in ("", "run-2"):
        fit(make(iterations=100), data, GradientMonitor(tmp_path))
        assert steps(read_events(tmp_path / name)) == [101, 102, 103, 104, 105]


def test_what_is_no_run_does_not_count(data, tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        tf.summary.scalar("others", 1.0, 5)
    writer.close()
    (tmp_path / "events.out.tfevents.damaged").write_bytes(b"\x01" * 100)
    (tmp_path / "run-x").mkdir()

    def stop(batch, logs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_once = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
        fit(make(), data, GradientMonitor(tmp_path), at_once)
    assert run_directory(tmp_path, 0) == str(tmp_path)
    fit(make(), data, GradientMonitor(tmp_path))
    assert run_directory(tmp_path, 0) == str(tmp_path / "run-2")
    assert run_directory(tmp_path, 1) == str(tmp_path)


@pytest.mark.parametrize("graph", [False, True])
def test_custom_loops(graph, tmp_path, read_events):
    variable = tf.Variable([3.0], name="net/a")

    def loop(*numbers, step=True):
        monitor = GradientMonitor(tmp_path)

        def record(number):
            monitor.record([tf.constant([3.0])], [variable], step=number if step else None)

        for number in numbers:
            (tf.function(record) if graph else record)(tf.constant(number))
        monitor.close()

    loop(1, 2, 3)
    loop(3, 4)
    loop(1, 2, step=False)
    for name, numbers in {"": [1, 2, 3, 4], "run-2": [1, 2]}.items():
        values = read_events(tmp_path / name)["gradient_norm/global"]
        np.testing.assert_equal(values, dict.fromkeys(numbers, 3.0))
