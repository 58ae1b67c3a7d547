"""EventFile: what is written reads back, and TensorBoard's own histogram says the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.histogram.summary import histogram_pb

from keras_bp.callbacks._event_file import EventFile


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


@pytest.mark.parametrize(
    "values",
    [np.random.default_rng(0).normal(size=(40, 50)), np.full((3, 4), 2.5), np.zeros((0, 3))],
    ids=["normal", "constant", "empty"],
)
def test_histogram_is_tensorboards(values, tmp_path, read_events):
    file = EventFile(tmp_path)
    file.write_histogram("h", values, 3)
    file.close()
    ours = read_events(tmp_path)["h"][3]
    theirs = tf.make_ndarray(histogram_pb("h", values).value[0].tensor)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours[:, 2].sum() == values.size


def test_histogram_leaves_out_what_is_not_finite(tmp_path, read_events):
    file = EventFile(tmp_path)
    file.write_histogram("h", np.array([np.nan, 1.0, np.inf, 2.0, -np.inf]), 1)
    file.write_histogram("h", np.array([np.nan]), 2)
    file.write_histogram("h", np.array([-3e38, 3e38], "float32"), 3)
    file.close()
    histograms = read_events(tmp_path)["h"]
    assert [h[:, 2].sum() for h in histograms.values()] == [2, 0, 2]
    assert histograms[1][0, 0] == 1.0 and histograms[1][-1, 1] == 2.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_histogram_of_any_weight_dtype(dtype, tmp_path, read_events):
    weight = keras.Variable(np.array([1.0, 2.0, 2.0]), dtype=dtype)
    file = EventFile(tmp_path)
    file.write_histogram("h", weight.numpy(), 1)
    file.close()
    assert read_events(tmp_path)["h"][1][[0, -1], 2].tolist() == [1, 2]


def test_tensorboard_knows_the_plugins(tmp_path):
    file = EventFile(tmp_path)
    file.write_scalars(("a",), (1.0,), 1)
    file.write_histogram("h", np.ones(3), 1)
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
