"""What the tab is sent: the values written, and no spike lost where steps share a column."""

import time

import numpy as np
import pytest

from keras_bp_runs.tensorboard_plugin import extremes

LAYERS = ["a", "b/c", "d"]


def norms(steps, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(3 * rng.normal(size=(steps, 3))).astype(np.float32)


def in_columns(values, width, first=1):
    """Return the starts of the columns and their extremes, computed step by step."""
    starts = sorted({step // width * width for step in range(first, first + len(values))})
    parts = [
        [row for step, row in enumerate(values, first) if step // width * width == start]
        for start in starts
    ]
    low, high = ([end(part, axis=0) for part in parts] for end in (np.min, np.max))
    return np.array(starts), np.transpose(low), np.transpose(high)


def test_a_step_has_its_own_value(tmp_path, pages, write):
    values = norms(40)
    values[7] = np.nan, np.inf, 0.0
    values[8] = 1e-40, 3e38, 1.0  # a subnormal, and nearly the largest
    write(tmp_path / "run", LAYERS, values)
    columns = pages(tmp_path).columns("run", "gradient_norm", 1, 40)
    assert (columns.names, columns.width, columns.exact) == (LAYERS, 1, True)
    np.testing.assert_array_equal(columns.starts, range(1, 41))
    np.testing.assert_array_equal(columns.low.T, values)
    np.testing.assert_array_equal(columns.high.T, values)
    loss = pages(tmp_path).columns("run", "loss/batch", 5, 6)
    np.testing.assert_array_equal(loss.high, np.float32([[1 / 5, 1 / 6]]))


@pytest.mark.parametrize("most, width", [(25, 8), (100, 2), (1000, 1)])
def test_columns_have_the_extremes_of_all_their_steps(most, width, tmp_path, pages, write):
    values = norms(150)
    values[77, 1] = 1e30
    values[78, 2] = 0.0
    write(tmp_path, LAYERS, values)
    columns = pages(tmp_path).columns(".", "gradient_norm", 1, 150, most)
    starts, low, high = in_columns(values, width)
    assert (columns.width, columns.exact, len(columns.starts) <= most) == (width, True, True)
    np.testing.assert_array_equal(columns.starts, starts)
    np.testing.assert_array_equal(columns.low, low)
    np.testing.assert_array_equal(columns.high, high)


def test_a_long_run_is_thinned_at_first(tmp_path, pages, write, monkeypatch):
    """So long that a request cannot wait: a thread reads, and the next answer is exact."""
    monkeypatch.setattr(extremes, "AT_ONCE", 60)
    monkeypatch.setattr(extremes, "_CHUNK", 45)
    monkeypatch.setattr(extremes, "_KEPT", 64)
    values = norms(400)
    values[123, 1], values[301, 0] = 1e30, np.nan
    write(tmp_path, LAYERS, values)
    asked = pages(tmp_path)
    first = asked.columns(".", "gradient_norm", 1, 400, 30)
    assert not first.exact
    assert first.high[1].max() < 1e30  # the spike lies between two of the records that were read
    assert np.isin(first.high[0], values[:, 0]).all()
    for _ in range(200):
        columns = asked.columns(".", "gradient_norm", 1, 400, 30)
        if columns.exact:
            break
        time.sleep(0.01)
    starts, low, high = in_columns(values, 16)
    np.testing.assert_array_equal(columns.starts, starts)
    np.testing.assert_array_equal(columns.low, low)
    np.testing.assert_array_equal(columns.high, high)
    # Zoomed in, each step has its value again.
    zoomed = asked.columns(".", "gradient_norm", 119, 130, 30)
    assert (zoomed.width, zoomed.exact) == (1, True)
    np.testing.assert_array_equal(zoomed.high.T, values[118:130])
    # In between, columns are made of those that are kept.
    part = asked.columns(".", "gradient_norm", 100, 339, 30)
    starts, low, high = in_columns(values, part.width)
    inside = (starts >= 100 // part.width * part.width) & (starts <= 339)
    assert part.exact and part.width >= 8
    np.testing.assert_array_equal(part.high, high[:, inside])


def test_a_run_that_grows(tmp_path, pages, write, monkeypatch):
    monkeypatch.setattr(extremes, "AT_ONCE", 60)
    monkeypatch.setattr(extremes, "_KEPT", 16)
    values = norms(300)
    write(tmp_path, LAYERS, values[:100])
    asked = pages(tmp_path)
    assert asked.json("run", run=".")["last"] == 100
    # The thread may not have ended when the run has grown.
    asked.columns(".", "gradient_norm", 1, 100, 10)
    write(tmp_path, LAYERS, values[100:], first=101)
    assert asked.json("run", run=".")["last"] == 300
    for _ in range(200):
        columns = asked.columns(".", "gradient_norm", 1, 300, 10)
        if columns.exact:
            break
        time.sleep(0.01)
    for expected, received in zip(
        in_columns(values, columns.width), (columns.starts, columns.low, columns.high), strict=True
    ):
        np.testing.assert_array_equal(received, expected)


def test_steps_that_a_restart_makes_again(tmp_path, pages, write):
    values = norms(60)
    write(tmp_path, LAYERS, values[:40] * 2)
    asked = pages(tmp_path)
    asked.columns(".", "gradient_norm", 1, 40)
    write(tmp_path, LAYERS, values[20:], first=21)
    asked.json("run", run=".")
    columns = asked.columns(".", "gradient_norm", 1, 60)
    np.testing.assert_array_equal(columns.high[:, :20].T, values[:20] * 2)
    np.testing.assert_array_equal(columns.high[:, 20:].T, values[20:])


@pytest.mark.parametrize("removed", [False, True])
def test_columns_that_are_kept_are_made_anew(removed, tmp_path, pages, write, monkeypatch):
    """Of steps that a restart makes again, or of a run that was removed and begun anew."""
    monkeypatch.setattr(extremes, "AT_ONCE", 60)
    write(tmp_path, LAYERS, np.full((100, 3), 2.0))
    asked = pages(tmp_path)
    asked.json("run", run=".")

    def exact():
        while not (columns := asked.columns(".", "gradient_norm", 1, 100, 10)).exact:
            time.sleep(0.01)
        return columns

    assert (exact().high == 2).all()
    if removed:
        for path in tmp_path.iterdir():
            path.unlink()
    write(tmp_path, LAYERS, np.full((100, 3), 7.0))
    asked.json("run", run=".")
    assert (exact().high == 7).all()


def test_a_layer_that_was_frozen_at_first(tmp_path, pages, write):
    """It has no value in the first steps, which is another thing than NaN."""
    values = norms(30)
    values[12, 2] = np.nan
    write(tmp_path, ["head"], values[:10, 2:])
    write(tmp_path, ["base", "head"], values[10:, 1:], first=11)
    columns = pages(tmp_path).columns(".", "gradient_norm", 1, 30)
    rows = dict(zip(columns.names, zip(columns.low, columns.high, strict=True), strict=True))
    low, high = rows["base"]
    assert (low[:10] == np.inf).all() and (high[:10] == -np.inf).all()
    np.testing.assert_array_equal(high[10:], values[10:, 1])
    np.testing.assert_array_equal(rows["head"][1], values[:, 2])
