"""TrainingDashboard writes whole pictures, and survives what goes wrong with its file."""

import builtins
import gc
import os
import pathlib

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from keras_bp.callbacks import TrainingDashboard
from keras_bp.callbacks.dashboard import _screens
from keras_bp.callbacks.dashboard._screens import DrawingPace

L = keras.layers


@pytest.fixture
def always_due(monkeypatch):
    """Let it draw after every batch."""
    monkeypatch.setattr(DrawingPace, "due", lambda self: True)


def small_model(**options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), L.Dense(3, "tanh", name="d1"), L.Dense(1, name="d2")]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", **(options or {"run_eagerly": True}))
    return model


def fit(model, data, *callbacks, epochs=1):
    """Train on 5 batches an epoch."""
    options = {"batch_size": 5, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(*data, callbacks=list(callbacks), **options)


class At(keras.callbacks.Callback):
    """Does something after batch number `batch` of every epoch."""

    def __init__(self, batch, action):
        super().__init__()
        self._batch, self._action = batch, action

    def on_train_batch_end(self, batch, logs=None):
        if batch == self._batch:
            self._action()


def raise_(error):
    def action(*args, **kwargs):
        raise error

    return action


def pixels(path):
    """Decode a picture, which fails on half a one."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_gif_holds_the_course_up_to_the_last_picture(data, tmp_path, always_due):
    gif, png = TrainingDashboard(str(tmp_path / "d.GIF")), TrainingDashboard(tmp_path / "d.png")
    fit(small_model(), [array[:10] for array in data], gif, png)
    with Image.open(tmp_path / "d.GIF") as image:
        # After each batch, each epoch and in the end; Pillow joins what is alike.
        assert image.format == "GIF" and 2 <= image.n_frames <= 4
        image.seek(image.n_frames - 1)
        last = np.asarray(image.convert("RGB"), dtype=int)
    difference = np.abs(last - pixels(tmp_path / "d.png"))
    assert difference.mean() < 2  # of 255: what 128 colours cost
    assert names(tmp_path) == ["d.GIF", "d.png"]


def test_a_gif_is_bounded_and_evenly_spread(monkeypatch, tmp_path):
    monkeypatch.setattr(_screens, "_FRAMES", 8)
    figure = matplotlib.figure.Figure(figsize=(1, 1), dpi=20)
    screen = _screens.GifFile(tmp_path / "d.gif", figure)
    for number in range(100):
        figure.set_facecolor((number / 100, 0, 0))
        screen.show()
        assert len(screen._frames) <= 8
    screen.end()
    reds = []
    with Image.open(tmp_path / "d.gif") as image:
        for frame in range(image.n_frames):
            image.seek(frame)
            reds.append(image.convert("RGB").getpixel((0, 0))[0] / 255)
    np.testing.assert_allclose(np.array(reds) * 100, [0, 16, 32, 48, 64, 80, 96, 99], atol=1)


def test_two_dashboards_show_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(DrawingPace, "due", lambda self: False)  # one alone might be in time
    fit(small_model(), data, *(TrainingDashboard(tmp_path / name) for name in ("a.png", "b.png")))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert names(tmp_path) == ["a.png", "b.png"]


def test_a_directory_is_made_and_pyplot_is_left_alone(data, tmp_path):
    figure, ax = pyplot.subplots()
    before = dict(matplotlib.rcParams)
    fit(small_model(), data, TrainingDashboard(tmp_path / "new" / "d.png"))
    assert pixels(tmp_path / "new" / "d.png").shape == (700, 1200, 3)
    assert dict(matplotlib.rcParams) == before
    assert pyplot.gcf() is figure and pyplot.gca() is ax and pyplot.get_fignums() == [figure.number]
    pyplot.close(figure)


@pytest.mark.parametrize("moment", ["writing", "replacing"])
def test_a_picture_that_is_cut_off_leaves_the_one_before(moment, data, tmp_path, monkeypatch):
    model, dashboard = small_model(), TrainingDashboard(tmp_path / "d.png")
    fit(model, data, dashboard)
    before = (tmp_path / "d.png").read_bytes()
    write_bytes = pathlib.Path.write_bytes

    def half(path, content):
        write_bytes(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    if moment == "writing":
        monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", raise_(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, dashboard)
    assert (tmp_path / "d.png").read_bytes() == before
    assert names(tmp_path) == ["d.png"]


def test_fit_that_is_stopped(data, tmp_path, always_due):
    model, dashboard = small_model(), TrainingDashboard(tmp_path / "d.png")
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, dashboard, At(1, raise_(KeyboardInterrupt())))
    first = pixels(tmp_path / "d.png")
    assert names(tmp_path) == ["d.png"] and pyplot.get_fignums() == []
    fit(model, [array[:10] for array in data], dashboard)
    assert (pixels(tmp_path / "d.png") != first).any()
    [line] = dashboard.figure.axes[0].get_lines()[:1]
    np.testing.assert_array_equal(line.get_xdata(), range(1, 5))


def test_gif_of_a_fit_that_is_stopped_is_written_when_the_callback_goes(data, tmp_path, always_due):
    dashboard = TrainingDashboard(tmp_path / "d.gif")
    with pytest.raises(RuntimeError):
        fit(small_model(), data, dashboard, At(1, raise_(RuntimeError())))
    assert names(tmp_path) == []
    del dashboard
    gc.collect()
    with Image.open(tmp_path / "d.gif") as image:
        assert image.n_frames >= 2


def test_a_full_disk_costs_one_warning_and_no_training(data, tmp_path, always_due):
    """The system refuses to let a file grow beyond a limit, as a full disk would."""
    resource = pytest.importorskip("resource")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    pictures = []

    def limit():
        pictures.append((tmp_path / "d.png").read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))

    model = small_model()
    try:
        with pytest.warns(RuntimeWarning, match=r"training goes on.*File too large") as caught:
            history = fit(
                model, data, TrainingDashboard(tmp_path / "d.png"), At(1, limit), epochs=2
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert len(caught) == 1 and "d.png" in str(caught[0].message)
    assert len(history.history["loss"]) == 2
    assert (tmp_path / "d.png").read_bytes() == pictures[0] and names(tmp_path) == ["d.png"]
    twin = small_model()
    fit(twin, data, epochs=2)
    np.testing.assert_equal(model.get_weights(), twin.get_weights())


def test_a_drawing_that_fails_costs_one_warning(data, tmp_path, monkeypatch, always_due):
    dashboard = TrainingDashboard(tmp_path / "d.png")
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda *args: 1 / 0)
    with pytest.warns(RuntimeWarning, match=r"training goes on.*ZeroDivisionError") as caught:
        fit(small_model(), data, dashboard)
    assert len(caught) == 1
    monkeypatch.undo()
    fit(small_model(), data, dashboard)  # which is another chance
    assert pixels(tmp_path / "d.png").std() > 10


@pytest.mark.parametrize("name", ["file/d.png", "file/d.gif", "directory.png"])
def test_path_that_cannot_be_written(name, data, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory.png").mkdir()
    model = small_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"`filepath` must name .*Received: filepath=.*{name}"):
        fit(model, data, TrainingDashboard(pathlib.Path(tmp_path / name)))
    np.testing.assert_equal(model.get_weights(), before)
    fit(model, data)


@pytest.mark.parametrize("path", [3, b"d.png", ["d.png"]])
def test_path_of_another_type(path):
    with pytest.raises(TypeError, match=r"`filepath` must be a string.*Received: filepath="):
        TrainingDashboard(path)


@pytest.mark.parametrize("path", ["", "d", "d.jpg", ".png", "png"])
def test_path_with_another_end(path):
    with pytest.raises(ValueError, match=rf"`filepath` must .* \.png or \.gif.*filepath='{path}'"):
        TrainingDashboard(path)


def test_matplotlib_is_missing(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        TrainingDashboard("d.png")
