"""How often a dashboard draws, by a clock of its own, and how many points it keeps."""

import keras
import numpy as np
import pytest

from keras_bp.callbacks import TrainingDashboard
from keras_bp.callbacks.dashboard import _screens
from keras_bp.callbacks.dashboard._panels import ThinnedSeries
from keras_bp.callbacks.dashboard._screens import DrawingPace, PngFile


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_screens, "time", clock)
    return clock


def test_drawing_stays_within_its_share_at_any_moment(clock):
    pace, generator = DrawingPace(0.05, 0.1), np.random.default_rng(0)
    began, spent, drawings = clock.now, 0.0, 0
    for _ in range(100_000):
        clock.passes(0.01)
        if pace.due():
            cost = generator.uniform(0.1, 0.12)
            with pace.drawing():
                clock.passes(cost)
            spent, drawings = spent + cost, drawings + 1
            # It may take longer than the one before it, after which it was found due.
            assert spent - 0.02 <= 0.05 * (clock.now - began - cost)
    assert drawings > 400  # the share is used: 1000 s allow for 454 of 0.11 s


def test_what_a_pause_has_saved_is_not_spent_at_once(clock):
    pace = DrawingPace(0.05, 0.1)
    with pace.drawing():
        clock.passes(1.0)
    clock.passes(1000.0)
    assert pace.due()
    with pace.drawing():
        clock.passes(1.0)
    clock.passes(18.0)
    assert not pace.due()
    clock.passes(1.0)
    assert pace.due()


def test_other_time_counts_but_is_no_drawing(clock):
    pace = DrawingPace(0.5, 0.1)
    with pace.drawing():
        clock.passes(1.0)
    with pace.spending():
        clock.passes(3.0)
    clock.passes(5.9)  # 4 spent and 1 to be spent, of 10
    assert not pace.due()
    clock.passes(0.1)
    assert pace.due()


def test_a_new_start_knows_what_a_drawing_takes(clock):
    pace = DrawingPace(0.05, 0.1)
    with pace.drawing():
        clock.passes(1.0)
    clock.passes(1000.0)
    pace.start()
    clock.passes(19.0)
    assert not pace.due()
    clock.passes(1.0)
    assert pace.due()


def test_a_fit_draws_by_the_clock_and_always_in_the_end(clock, tmp_path, monkeypatch):
    """Batches of 1 s, drawings of 2 s: one each 40 s, the first as if it took 0.3 s."""
    shown, started = [], []

    def show(self):
        shown.append(clock.now)
        clock.passes(2.0)

    monkeypatch.setattr(PngFile, "show", show)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    ones = np.ones((200, 2), "float32")

    class Passes(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.passes(1.0 if batch else 1000.0)  # the first one is compiled

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                started.append(clock.now)

    dashboard = TrainingDashboard(tmp_path / "d.png")
    drawn = []
    for _ in range(2):
        shown.clear()
        model.fit(ones, ones[:, :1], batch_size=1, verbose=0, callbacks=[Passes(), dashboard])
        drawn.append([moment - started[-1] for moment in shown])
    # 0.3 s are 5 % of the first 6 s. Then 2 + 2 are of 80 s, and 2 more each 40 s.
    assert drawn[0] == [6, 80, 120, 160, 200, 209]
    # A second fit knows from the beginning what a drawing takes.
    assert drawn[1] == [40, 80, 120, 160, 200, 209]


def series_of(values, **options):
    series = ThinnedSeries(**options)
    for start in range(0, len(values), 32):
        part = values[start : start + 32]
        series.add(np.arange(start, start + len(part)), part)
    return series.points()


def test_few_points_are_all_there():
    values = np.random.default_rng(0).normal(size=(1999, 3))
    steps, kept = series_of(values)
    np.testing.assert_array_equal(kept, values)
    np.testing.assert_array_equal(steps, np.repeat(np.arange(1999)[:, None], 3, 1))


@pytest.mark.parametrize("n", [2000, 2001, 4001, 30_011])
def test_many_points_keep_what_was_recorded_and_its_range(n):
    values = np.random.default_rng(0).normal(size=(n, 2))
    values[n // 3] = 50.0, -50.0  # what happens once stays to be seen
    steps, kept = series_of(values)
    assert 1000 <= len(kept) <= 2100
    for column in range(2):
        x, y = steps[:, column], kept[:, column]
        assert (np.diff(x) > 0).all()
        np.testing.assert_array_equal(y, values[x.astype(int), column])
        # Evenly spread, from the beginning to the end.
        assert x[0] < n / 500 and x[-1] >= n - n / 500 - 1
        assert np.diff(x).max() <= 4 * n / 1000 + 1
        # The largest and the smallest of any hundredth are there.
        for part in np.array_split(np.arange(n), 20)[1:-1]:
            inside = y[(x >= part[0] - n / 500) & (x <= part[-1] + n / 500)]
            assert inside.max() >= values[part, column].max()
            assert inside.min() <= values[part, column].min()


def test_what_is_not_finite_stays_where_nothing_else_is():
    values = np.ones((8000, 1))
    values[::2] = np.nan
    values[4000:] = np.nan
    values[6000:] = np.inf
    steps, kept = series_of(values)
    finite = np.isfinite(kept[:, 0])
    assert finite[steps[:, 0] < 3990].all() and not finite[steps[:, 0] > 4010].any()
