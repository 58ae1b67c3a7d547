"""ProgressLine shows loss, norm and rate in one line: in a terminal, a notebook and a log."""

import io
import re
import sys
import types

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp.callbacks import ProgressLine, progress_line

X = np.linspace(-1.0, 1.0, 8).reshape(8, 1).astype("float32")
LINE = (
    r"epoch (\d+)/2  batch (\d+)/2  loss (\S+)  gradient norm (\S+)  rate 0\.25"
    r"(?:  val_loss (\S+))?"
)


def _model():
    model = keras.Sequential(
        [keras.Input((1,)), keras_bp.layers.Dense(1, kernel_initializer="ones")]
    )
    model.compile(keras_bp.optimizers.SGD(0.25), "mse", run_eagerly=True)
    return model


def _fit(callback, **options):
    """Train on 2 batches an epoch, for 2 epochs."""
    fixed = dict(batch_size=4, epochs=2, shuffle=False, verbose=0)
    model = _model()
    history = model.fit(X, 3 * X, callbacks=[callback], **fixed, **options)
    return history.history, model.get_weights()


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def each_batch(monkeypatch):
    """Let the line be written after each batch."""
    monkeypatch.setattr(ProgressLine, "_seconds", 0.0)
    monkeypatch.setattr(progress_line, "_SECONDS", 0.0)


def test_a_log_gets_a_line_now_and_then(each_batch, capsys, monkeypatch):
    _fit(ProgressLine())
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(LINE, line)[1] == "2"
    monkeypatch.setattr(progress_line, "_SECONDS_OF_A_LOG", 0.0)
    history, weights = _fit(ProgressLine(), validation_data=(X, 3 * X))
    lines = [re.fullmatch(LINE, line) for line in capsys.readouterr().out.splitlines()]
    places = [(line[1], line[2]) for line in lines]
    assert places == [("1", "1"), ("1", "2"), ("1", "2"), ("2", "1"), ("2", "2"), ("2", "2")]
    # The first batch: loss and gradient of w = 1, b = 0, by hand.
    x = X[:4, 0]
    loss, gradient = np.mean((2 * x) ** 2), [np.mean(-4 * x * x), np.mean(-4 * x)]
    assert float(lines[0][3]) == pytest.approx(loss, rel=1e-3)
    assert float(lines[0][4]) == pytest.approx(np.linalg.norm(gradient), rel=1e-2)
    assert lines[0][5] is None
    assert float(lines[-1][5]) == pytest.approx(history["val_loss"][-1], rel=1e-3)
    # As without the callback.
    for value, other in zip(weights, _fit(keras.callbacks.Callback())[1], strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_terminal_has_one_line(each_batch, monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    _fit(ProgressLine())
    first, *lines = terminal.getvalue().split("\r")
    assert first == "" and len(lines) == 4
    assert all(re.fullmatch(LINE, line.strip()) for line in lines)
    # The cursor ends below.
    assert "\n" not in "".join(lines[:-1]) and lines[-1].endswith("\n")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stdout", narrow := _Terminal())
    _fit(ProgressLine())
    assert max(map(len, narrow.getvalue().strip().split("\r"))) == 29


def test_a_line_covers_the_one_before(each_batch, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    line = ProgressLine()
    for line._line in ("a long line", "short", "long again"):
        line._show()
    assert terminal.getvalue() == "\ra long line\rshort      \rlong again"


def test_a_notebook_updates_one_display(each_batch, monkeypatch, capsys):
    shown = []

    def display(html, display_id):
        shown.append([html])
        return types.SimpleNamespace(update=shown[-1].append)

    module = types.ModuleType("IPython")
    module.display = types.ModuleType("IPython.display")
    module.display.display, module.display.HTML = display, lambda data: data
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    monkeypatch.setattr(progress_line, "in_notebook", lambda: True)
    line = ProgressLine()
    _fit(line)
    _fit(line)
    assert [len(cell) for cell in shown] == [4, 4]  # a display a fit
    assert re.fullmatch(f"<pre>{LINE}</pre>", shown[0][-1])[2] == "2"
    assert capsys.readouterr().out == ""


def test_only_the_first_worker_writes(each_batch, monkeypatch, capsys):
    monkeypatch.setattr(ProgressLine, "_worker", lambda self: 1)
    _fit(ProgressLine())
    assert capsys.readouterr().out == ""


def test_a_fit_that_an_exception_ends(each_batch, monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    line, model = ProgressLine(), _model()

    def stop(batch, logs):
        raise KeyboardInterrupt

    stopping = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, X, batch_size=4, verbose=0, callbacks=[line, stopping])
    model.fit(X, X, batch_size=8, verbose=0, callbacks=[line])
    assert terminal.getvalue().count("\n") == 2
