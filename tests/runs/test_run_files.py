"""RunFiles: every number is read bit for bit, and damage costs what is damaged."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from keras_bp.recording import EventFile
from keras_bp_runs import RunFiles, read_run
from keras_bp_runs.records import crc32c, masked

STEPS = [0, 1, 127, 128, 129, 16383, 16384, 2**31]


def values_of(seed, *shape):
    """Return float32 numbers of any bits: NaN, infinite and denormal ones too."""
    return np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32).view(np.float32)


def write(directory, tags, values, steps, starts=False, step=0):
    file = EventFile(directory, step, starts)
    for at, row in zip(steps, values, strict=True):
        file.write_scalars(tags, row, at)
    file.close()


def the_file(directory):
    (path,) = pathlib.Path(directory).iterdir()
    return path


def bits(values):
    # A NaN that passes through Python keeps all bits but the one that makes it quiet.
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def test_scalars_are_read_bit_for_bit(tmp_path):
    tags = tuple(f"gradient_norm/block_{i}/dense" for i in range(40))
    values = values_of(0, len(STEPS), len(tags))
    write(tmp_path, tags, values, STEPS)
    files = RunFiles(tmp_path)
    assert files.tags == dict.fromkeys(tags, "scalars")
    for _ in range(2):  # before and after the checksums
        for column in (0, 7, 39):
            steps, series = files.series(tags[column])
            assert (steps.dtype, series.dtype) == (np.int64, np.float32)
            assert steps.tolist() == STEPS
            np.testing.assert_array_equal(bits(series), bits(values[:, column]))
        steps, rows = files.rows([tags[3], tags[38]])
        np.testing.assert_array_equal(bits(rows), bits(values[:, [3, 38]]))
        files.verify()
    assert files.faults == []
    assert files.series("another")[0].size == 0


def test_rows_are_joined_by_step_and_thinned(tmp_path):
    file = EventFile(tmp_path)
    for step in range(1, 101):
        file.write_scalars(("a", "b"), (step, -step), step)
        if step % 10 == 0:
            file.write_scalars(("c",), (step / 4,), step)
    file.close()
    files = RunFiles(tmp_path)
    steps, rows = files.rows(["c", "a"], first=18, last=21)
    assert steps.tolist() == [18, 19, 20, 21]
    np.testing.assert_array_equal(rows, [[np.nan, 18], [np.nan, 19], [5, 20], [np.nan, 21]])
    steps, rows = files.rows(["a"], most=10)
    assert steps.tolist() == [*range(1, 100, 11), 100][:10] and len(steps) == 10
    assert rows[:, 0].tolist() == steps.tolist()
    assert files.rows(["a", "c"], most=1000)[0].size == 100
    assert files.rows(["no"])[1].shape == (0, 1)


def test_of_a_step_rows_have_what_was_written_last(tmp_path):
    """Whichever tags its records hold."""
    file = EventFile(tmp_path)
    for step in (1, 2):
        file.write_scalars(("a", "b"), (1, 2), step)
        file.write_scalars(("a",), (5,), step)
        file.write_scalars(("a", "b"), (9, 10 * step), step)
    file.write_scalars(("b",), (7,), 2)
    file.close()
    steps, rows = RunFiles(tmp_path).rows(["a", "b"])
    assert steps.tolist() == [1, 2] and rows.tolist() == [[9, 10], [9, 7]]


def test_thinned_rows_read_no_other_record(tmp_path, monkeypatch):
    write(tmp_path, ("a", "b"), np.ones((1000, 2)), range(1000))
    files, read = RunFiles(tmp_path), []
    records = next(iter(files._files.values()))._records
    columns = records.columns
    monkeypatch.setattr(
        records, "columns", lambda n, *at: (read.append(len(n)), columns(n, *at))[1]
    )
    files.rows(["a"], most=20)
    assert sum(read) == 20


def _tensor(dtype, **content):
    return TensorProto(dtype=dtype, **content)


def test_what_other_tools_write(tmp_path):
    """tf.summary, PyTorch's simple_value and histograms, doubles, several kinds in one record."""
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        for step in range(300):
            for tag in ("train/a", "train/b"):  # of one length
                tf.summary.scalar(tag, step + (tag == "train/b") / 2, step)
        tf.summary.text("words", ["one", "two"], 3)
        tf.summary.histogram("h", [1.0, 2.0, 4.0], 4)
    writer.close()
    histogram = HistogramProto(min=0, max=3, num=3, bucket_limit=[1, 3], bucket=[2, 1])
    with tf.io.TFRecordWriter(str(tmp_path / "z.tfevents")) as others:
        for step in range(5):
            event = Event(step=step, wall_time=1.5)
            event.summary.value.add(tag="torch", simple_value=step / 4)
            others.write(event.SerializeToString())
            event = Event(step=step)
            for tag, tensor in {
                "double": _tensor(2, double_val=[step / 8]),
                "content": _tensor(1, tensor_content=np.float32(step).tobytes()),
            }.items():
                value = event.summary.value.add(tag=tag, tensor=tensor)
                value.metadata.plugin_data.plugin_name = "scalars"
            others.write(event.SerializeToString())
        event = Event(step=9, wall_time=1.5)
        event.summary.value.add(tag="mixed", simple_value=2.5)
        event.summary.value.add(tag="legacy", histo=histogram)
        others.write(event.SerializeToString())
    files = RunFiles(tmp_path)
    files.verify()
    assert files.faults == []
    for tag, expected in {
        "train/a": np.arange(300.0),
        "train/b": np.arange(300) + 0.5,
        "torch": np.arange(5) / 4,
        "double": np.arange(5) / 8,
        "content": np.arange(5.0),
        "mixed": [2.5],
    }.items():
        assert files.tags[tag] == "scalars"
        np.testing.assert_array_equal(files.series(tag)[1], expected)
    assert files.texts("words") == [(3, "one\ntwo")]
    ((step, rows),) = files.histograms("h")
    assert step == 4 and rows.shape[1] == 3 and rows[:, 2].sum() == 3
    ((step, rows),) = files.histograms("legacy")
    assert step == 9
    np.testing.assert_array_equal(rows, [[0, 1, 2], [1, 3, 1]])
    assert (files.tags["words"], files.tags["legacy"]) == ("text", "histograms")


def test_steps_that_a_restart_makes_again_are_left_out(tmp_path, read_events):
    write(tmp_path, ("a",), [[1], [2], [3], [4]], [1, 2, 3, 4], starts=True)
    write(tmp_path, ("a",), [[30], [40]], [3, 4], starts=True, step=2)
    write(tmp_path, ("b",), [[5]], [2])  # of another callback of the same training
    files = RunFiles(tmp_path)
    assert [s.tolist() for s in files.series("a")] == [[1, 2, 3, 4], [1, 2, 30, 40]]
    assert dict(zip(*files.series("a"), strict=True)) == read_events(tmp_path)["a"]
    assert files.series("b")[0].tolist() == [2]
    first, second, _ = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes() + second.read_bytes())  # both sessions in one file
    second.unlink()
    assert RunFiles(tmp_path).series("a")[1].tolist() == [1, 2, 30, 40]


def test_a_tag_of_which_a_restart_leaves_nothing(tmp_path):
    """As of an epoch that a process that was killed had ended, and the next one has not."""
    write(tmp_path, ("a",), [[1], [2], [3]], [1, 2, 3], starts=True)
    write(tmp_path, ("epoch/loss",), [[4]], [3])
    files = RunFiles(tmp_path)
    assert set(files.tags) == {"a", "epoch/loss"} and files.rewrites == 0
    write(tmp_path, ("a",), [[20]], [2], starts=True, step=1)
    assert files.refresh() and set(files.tags) == {"a"} and files.rewrites == 1
    assert "epoch/loss" not in str(read_run(tmp_path).table)
    write(tmp_path, ("epoch/loss",), [[5]], [3])
    files.refresh()
    assert set(files.tags) == {"a", "epoch/loss"} and files.rewrites == 1
    assert files.series("epoch/loss")[1].tolist() == [5]
    os.remove(min(map(str, tmp_path.iterdir())))
    files.refresh()
    assert files.rewrites == 2


def test_a_run_that_goes_on(tmp_path):
    files = RunFiles(tmp_path / "run")
    assert files.tags == {} and not files.refresh()
    file = EventFile(tmp_path / "run")
    for step in range(1, 4):
        file.write_scalars(("a", "b"), (step, 2 * step), step)
        file.write_histogram("h", np.ones((2, 3)), step)
        file.flush()
        assert files.refresh() and not files.refresh()
        assert files.series("b")[1].tolist() == [2.0 * s for s in range(1, step + 1)]
        assert len(files.histograms("h")) == step
    write(tmp_path / "run", ("c",), [[1]], [4])
    files.refresh()
    assert set(files.tags) == {"a", "b", "c", "h"}
    os.remove(file._path)
    files.refresh()
    assert set(files.tags) == {"c"}
    path = the_file(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:40])
    files.refresh()
    assert files.tags == {} and len(files.faults) == 1


def test_a_record_that_is_cut_is_told_until_it_is_whole(tmp_path):
    write(tmp_path, ("a",), [[1], [2]], [1, 2])
    path = the_file(tmp_path)
    content = path.read_bytes()
    for cut in (1, 20, 50):
        path.write_bytes(content[:-cut])
        files = RunFiles(tmp_path)
        assert files.series("a")[0].tolist() == [1]
        assert files.faults[0].startswith(path.name) and "interrupted" in files.faults[0]
        with path.open("ab") as file:
            file.write(content[-cut:])
        files.refresh()
        assert files.series("a")[0].tolist() == [1, 2] and files.faults == []


@pytest.mark.parametrize("many", [False, True])
def test_one_damaged_byte_costs_one_record(many, tmp_path):
    """At every place of a file: of the frame, a tag, a value, or what all records share."""
    tags = tuple(f"tag/{i}" for i in range(4))
    values = values_of(1, 40 if many else 3, 4)
    write(tmp_path, tags, values, range(1, len(values) + 1))
    path = the_file(tmp_path)
    content, size = path.read_bytes(), RunFiles(tmp_path)._files[str(path)]._records.lengths[1] + 16
    for place in range(len(content) - size * (1 if many else 2), len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        files = RunFiles(tmp_path)
        files.verify()
        lost = len(values) - 1 - (len(content) - 1 - place) // size
        kept = np.delete(np.arange(len(values)), lost)
        assert len(files.faults) == 1, (place, files.faults)
        assert sorted(files.tags) == sorted(tags)
        steps, rows = files.rows(tags)
        assert steps.tolist() == (kept + 1).tolist()
        np.testing.assert_array_equal(bits(rows), bits(values[kept]))


def test_a_large_record_is_checked_where_it_is_read(tmp_path):
    file = EventFile(tmp_path)
    file.write_scalars(("a",), (1.0,), 1)
    file.write_json("keras_bp/settings", '{"summary": "' + 50_000 * "x" + '"}', 1)
    file.close()
    path = the_file(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-10_000] = ord("y")
    assert len(RunFiles(tmp_path).settings["summary"]) == 50_000
    path.write_bytes(damaged)
    files = RunFiles(tmp_path)
    assert files.settings is None and len(files.faults) == 1
    assert files.tags == {"a": "scalars"}


def test_records_that_differ_far_from_their_beginning_are_told_apart(tmp_path):
    """Without their checksums, too: what is read is compared."""
    tags = [f"tag/{i:03d}" for i in range(60)]
    write(tmp_path, tuple(tags), values_of(2, 3, 60), [1, 2, 3])
    others = [*tags[:50], "tag/x50", *tags[51:]]
    write(tmp_path, tuple(others), values_of(3, 2, 60), [4, 5])
    paths = sorted(tmp_path.iterdir())
    paths[0].write_bytes(paths[0].read_bytes() + paths[1].read_bytes())
    paths[1].unlink()
    files = RunFiles(tmp_path)
    assert files.rows(tags)[0].tolist() == [1, 2, 3, 4, 5]
    assert files.series("tag/050")[0].tolist() == [1, 2, 3]
    assert files.series("tag/x50")[0].tolist() == [4, 5]
    assert files.faults == []


def test_checksums_are_tensorflows(tmp_path):
    data = bytes(range(256)) * 3
    with tf.io.TFRecordWriter(str(tmp_path / "f")) as file:
        file.write(data)
    stored = np.frombuffer((tmp_path / "f").read_bytes()[-4:], "<u4")
    for number in (1, 20):  # in Python, and in NumPy
        rows = np.tile(np.frombuffer(data, np.uint8), (number, 1))
        assert (masked(crc32c(rows)) == stored).all()


def test_nothing_of_keras_or_tensorflow_is_imported():
    """TensorBoard loads the plugin as it starts."""
    code = "import sys, keras_bp_runs; print(*{m.split('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "numpy" in run.stdout
    assert not {"tensorflow", "keras", "keras_bp", "matplotlib"} & set(run.stdout.split())
