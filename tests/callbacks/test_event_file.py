"""EventFile: what is written reads back, and TensorBoard's own histogram says the same."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.histogram.summary import histogram_pb

from keras_bp.recording import EventFile, UpdateMeter, histograms
from keras_bp.recording.histograms import (
    SAMPLE,
    count_sample,
    count_values,
    count_variable,
    rows,
    sample_entries,
    sample_gradient,
)


def test_scalars_read_back(tmp_path, read_events):
    file = EventFile(tmp_path)
    file.write_scalars(("a", "b/c"), (0.5, np.float64(2.0)), 1)
    file.write_scalars(("a", "b/c"), (np.nan, np.inf), 7)
    file.write_scalars(("a",), (1e39,), 8)
    file.close()
    events = read_events(tmp_path)
    assert set(events) == {"a", "b/c"}
    np.testing.assert_equal(events["a"], {1: 0.5, 7: np.nan, 8: np.inf})
    np.testing.assert_equal(events["b/c"], {1: 2.0, 7: np.inf})


COUNTS = {
    "values": count_values,
    "step": lambda values: count_sample(tf.function(sample_entries)(values).numpy()),
    "jit": lambda values: count_sample(
        tf.function(sample_entries, jit_compile=True)(values).numpy()
    ),
}


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=(40, 50)),
        np.random.default_rng(0).normal(size=70_000),
        np.full((3, 4), 2.5),
        np.zeros((0, 3)),
        np.array([1.0, 2.0, 2.0], "float16"),
        np.array([1, 2, 2], "int8"),
    ],
    ids=["normal", "large", "constant", "empty", "half", "integer"],
)
def test_histogram_is_tensorboards(values, tmp_path, read_events):
    counted = count_values(values)
    file = EventFile(tmp_path)
    file.write_histogram("h", rows(counted), 3)
    file.close()
    ours = read_events(tmp_path)["h"][3]
    theirs = tf.make_ndarray(histogram_pb("h", values.astype("float64")).value[0].tensor)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours[:, 2].sum() == values.size


@pytest.mark.parametrize("count", COUNTS)
def test_histogram_leaves_out_what_is_not_finite(count):
    mixed, none, wide = (
        rows(COUNTS[count](np.array(values, "float32")))
        for values in ([np.nan, 1.0, np.inf, 2.0, -np.inf], [np.nan], [-3e38, 3e38])
    )
    assert [h[:, 2].sum() for h in (mixed, none, wide)] == [2, 0, 2]
    assert mixed[0, 0] == 1.0 and mixed[-1, 1] == 2.0
    assert mixed[[0, -1], 2].tolist() == wide[[0, -1], 2].tolist() == [1, 1]


@pytest.mark.parametrize("count", COUNTS)
def test_a_histogram_of_a_range_too_small_to_divide_by(count):
    for largest in (1.5e-38, 1.4e-45):  # half of it, in float32, is no number or flushed to 0
        counted = rows(COUNTS[count](np.array([0.0, largest], "float32")))
        assert counted[:, 2].sum() == 2


@pytest.mark.parametrize("jit", [False, True])
def test_histogram_of_a_sparse_gradient_is_that_of_the_dense_one(jit):
    values = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    count = tf.function(
        lambda values, ids: sample_gradient(tf.IndexedSlices(values, ids, (6, 2)), (6, 2)),
        jit_compile=jit,
        input_signature=[tf.TensorSpec((None, 2)), tf.TensorSpec((None,), tf.int32)],
    )
    for ids, entries in [
        ([1, 1, 3, 0], values),
        ([1, 1, 3, 0], 1 - abs(values)),
        ([1, 1, 3, 0], abs(values) + 1),  # all zeros are in the first bucket
        ([5, 1, 2, 2], -abs(values)),  # in the last
        ([0, 1, 2, 3, 4, 5], np.arange(1, 13, dtype="float32").reshape(6, 2)),  # no zeros at all
        ([2], np.array([[np.nan, 1.0]], "float32")),
        ([], np.zeros((0, 2), "float32")),
    ]:
        slices = tf.IndexedSlices(entries, tf.constant(ids, tf.int32), (6, 2))
        expected = count_values(tf.convert_to_tensor(slices))
        counted = count_sample(count(entries, tf.constant(ids, tf.int32)).numpy())
        np.testing.assert_array_equal(counted, expected)
    graph = count.get_concrete_function().graph
    shapes = [output.shape for op in graph.get_operations() for output in op.outputs]
    assert not any(shape.rank == 2 and shape.as_list() == [6, 2] for shape in shapes)


@pytest.mark.parametrize("jit", [False, True])
def test_a_sample_of_a_large_tensor_stands_for_all_of_it(jit):
    channels = np.tile(np.arange(64, dtype="float32"), (3, 3, 64, 1))
    sampled = tf.function(sample_entries, jit_compile=jit)(channels).numpy()
    assert 0.8 * SAMPLE < sampled[1] <= SAMPLE
    counted = count_sample(sampled)
    assert counted[2:].sum() == pytest.approx(channels.size)
    np.testing.assert_allclose(counted, count_values(channels), rtol=0.05)
    # A table of which few rows have a gradient: nearly all of its entries are 0.
    slices = tf.IndexedSlices(np.ones((100, 64), "float32"), tf.range(100), (10_000, 64))
    counted = count_sample(sample_gradient(slices, (10_000, 64)).numpy())
    np.testing.assert_allclose(counted[[0, 1, 2, -1]], [0, 1, 9_900 * 64, 6_400])


def test_a_large_table_is_read_in_blocks(monkeypatch):
    variable = keras.Variable(np.random.default_rng(0).normal(size=(50, 4)))
    monkeypatch.setattr(histograms, "_READ", 64)
    blocks = [block.shape[0] for block in histograms.row_blocks(variable)]
    assert blocks == [16, 16, 16, 2]
    np.testing.assert_array_equal(count_variable(variable), count_values(variable))
    meter = UpdateMeter([variable, keras.Variable(2.0)])
    for _ in range(2):  # eagerly and traced
        before = np.float64(variable)
        meter.start()
        after = np.float64(variable.assign_add(0.1 * np.sin(variable)))
        squares = [np.sum(np.square(values)) for values in (after - before, before, after)]
        np.testing.assert_allclose(meter.stop(), np.transpose([squares, [0, 4, 4]]), rtol=1e-5)


def test_image_and_text_read_back(tmp_path, read_events):
    image = np.random.default_rng(0).integers(0, 255, (4, 7, 3)).astype("uint8")
    file = EventFile(tmp_path)
    file.write_image("i", image, "what it is", 5)
    file.write_text("t", "what *happened*", 6)
    file.close()
    events = read_events(tmp_path)
    width, height, png = events["i"][5]
    assert (int(width), int(height)) == (7, 4)
    np.testing.assert_array_equal(tf.io.decode_png(png), image)
    assert events["t"][6].item() == b"what *happened*"


def test_tensorboard_knows_the_plugins(tmp_path):
    file = EventFile(tmp_path)
    file.write_scalars(("a",), (1.0,), 1)
    file.write_histogram("h", np.ones((30, 3)), 1)
    file.close()
    (path,) = tmp_path.iterdir()
    records = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    plugins = {v.tag: v.metadata.plugin_data.plugin_name for r in records for v in r.summary.value}
    assert plugins == {"a": "scalars", "h": "histograms"}


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`log_dir` .*Received: log_dir=.*file/below"):
        EventFile(tmp_path / "file" / "below")


def test_after_close_nothing_is_written_and_nothing_fails(tmp_path, read_events):
    file = EventFile(tmp_path)
    file.close()
    file.write_scalars(("a",), (1.0,), 1)
    file.flush()
    file.close()
    assert read_events(tmp_path) == {}


def test_a_directory_that_is_removed_meanwhile_is_told(tmp_path, read_events):
    file = EventFile(tmp_path / "run")
    file.write_scalars(("a",), (1.0,), 1)
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(RuntimeWarning, match=r"event file .*/run/events.* was removed .* are lost"):
        file.flush()
    file.write_scalars(("a",), (2.0,), 2)
    file.flush()
    assert read_events(tmp_path / "run")["a"] == {2: 2.0}
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("")
    with pytest.warns(RuntimeWarning) as caught:
        file.flush()
    assert ["was removed" in str(caught[0].message), "failed" in str(caught[1].message)] == [
        True
    ] * 2
    file.flush()  # told once

    file = EventFile(tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    with pytest.warns(RuntimeWarning, match="was removed"):
        file.close()
