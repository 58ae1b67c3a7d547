"""TrainingDashboard is seen in a notebook, in a window, or says that there is neither."""

import gc
import sys
import types

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_bp.callbacks import TrainingDashboard
from keras_bp.callbacks.dashboard._screens import DrawingPace

L = keras.layers

# Pyplot asks for IPython when it takes its first backend: now, and not of a stand-in below.
pyplot.switch_backend(matplotlib.get_backend())


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
    """Train on 2 batches an epoch."""
    options = {"batch_size": 12, "epochs": epochs, "shuffle": False, "verbose": 0}
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


class Shell:
    """Stands in for IPython: its module, `display` and the handle that this returns."""

    def __init__(self, config):
        self.config = config
        self.shown = []

    def display(self, picture, display_id):
        assert display_id is True
        self.shown.append([picture])
        return types.SimpleNamespace(update=self.shown[-1].append)

    def put_in(self, monkeypatch):
        module = types.ModuleType("IPython")
        module.get_ipython = lambda: self
        module.version_info = (9, 0, 0)  # Matplotlib asks for it
        module.display = types.ModuleType("IPython.display")
        module.display.display = self.display
        module.display.Image = lambda data, format: (data, format)
        monkeypatch.setitem(sys.modules, "IPython", module)
        monkeypatch.setitem(sys.modules, "IPython.display", module.display)


def test_a_notebook_shows_each_picture_in_place_of_the_last(data, monkeypatch, always_due):
    shell = Shell({"IPKernelApp": {}})
    shell.put_in(monkeypatch)
    model, dashboard = small_model(), TrainingDashboard()
    for cell in 1, 2:
        fit(model, data, dashboard)
        assert len(shell.shown) == cell  # a display below each cell
        assert len(shell.shown[-1]) == 4  # after each batch, at the epoch's and the training's end
    assert all(data[:4] == b"\x89PNG" and kind == "png" for data, kind in sum(shell.shown, []))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_notebook_and_a_window_a_path_is_asked_for(terminal, data, monkeypatch):
    if terminal:
        Shell({"TerminalIPythonApp": {}}).put_in(monkeypatch)
    model = small_model()
    before = model.get_weights()
    message = r"(?i)`filepath` must name a \.png or .*filepath=None .*'agg' opens no window"
    with pytest.raises(ValueError, match=message):
        fit(model, data, TrainingDashboard())
    np.testing.assert_equal(model.get_weights(), before)
    assert pyplot.get_fignums() == []


class Manager(FigureManagerBase):
    """A window that notes what is done with it."""

    opened = []

    def show(self):
        self.opened.append(self)
        self.is_open = True

    def destroy(self):
        self.is_open = False
        self.canvas.callbacks.process("close_event", None)


class Canvas(FigureCanvasAgg):
    manager_class = Manager
    drawn = refreshed = 0

    def draw(self):
        super().draw()
        self.drawn += 1

    def flush_events(self):
        self.refreshed += 1


@pytest.fixture
def windows(monkeypatch):
    """Let pyplot's backend be one with windows; returns the list of those opened."""
    module = types.ModuleType("windows_for_tests")
    module.FigureCanvas = Canvas
    monkeypatch.setitem(sys.modules, "windows_for_tests", module)
    monkeypatch.setattr(Manager, "opened", [])
    backend = matplotlib.get_backend()
    pyplot.switch_backend("module://windows_for_tests")
    yield Manager.opened
    pyplot.switch_backend(backend)


def test_a_window_stays_and_pyplot_does_not_know_it(data, windows, always_due):
    model, dashboard = small_model(), TrainingDashboard()
    for _ in range(2):
        fit(model, data, dashboard)
        [window] = windows
        assert window.is_open and window.canvas.figure is dashboard.figure
        assert pyplot.get_fignums() == []
    assert window.canvas.drawn == 8 and window.canvas.refreshed >= 8
    window.destroy()


def test_a_window_that_is_closed_is_left_alone_until_the_next_fit(data, windows, always_due):
    model, dashboard = small_model(), TrainingDashboard()
    fit(model, data, dashboard, At(1, lambda: windows[0].destroy()))
    assert len(windows) == 1 and windows[0].canvas.drawn == 2
    fit(model, data, dashboard)
    assert len(windows) == 2 and windows[1].is_open and windows[1].canvas.drawn == 4


def test_the_window_of_a_fit_that_is_stopped_closes_when_the_callback_goes(data, windows):
    dashboard = TrainingDashboard()
    with pytest.raises(RuntimeError):
        fit(small_model(), data, dashboard, At(1, raise_(RuntimeError())))
    assert windows[0].is_open
    del dashboard
    gc.collect()
    assert not windows[0].is_open
