"""Suggestions on curves whose answer is known, and the picture."""

import base64
import builtins
import io
import re
import sys

import matplotlib.image
import numpy as np
import pytest

from keras_bp.tuning import LearningRateCurve

RATES = np.geomspace(1e-7, 10.0, 100)


def _curve(losses, rates=RATES, steps=100, stop_reason="completed"):
    losses = np.asarray(losses, float)
    # The raw losses say something else: every method must read the average.
    return LearningRateCurve(rates[: len(losses)], -losses, losses, steps, stop_reason)


def test_valley_is_the_middle_of_the_longest_decline():
    """Falls at steps 20 to 32 and at 40 to 79; the first is deeper, the second longer."""
    losses = np.full(100, 10.0)
    losses[20:33] = np.linspace(10.0, 1.0, 13)
    losses[40:80] = np.linspace(30.0, 25.0, 40)
    losses[80:] = 40.0
    # 40 members that end at step 79; from 79 - 40 on, 40 // 3 + 40 // 6 = 19 further.
    assert _curve(losses).suggest("valley") == RATES[58]
    assert _curve(losses).suggest() == RATES[58]


def test_valley_skips_points_that_do_not_fall():
    """A decline with a bump at every third step: two in three points belong to it."""
    losses = np.linspace(10.0, 1.0, 100)
    losses[::3] = 50.0
    members = [k for k in range(10, 95) if k % 3]
    length, end = len(members), 94
    index = end - length + length // 3 + length // 6
    assert _curve(losses).suggest("valley") == RATES[index]


def test_a_plateau_is_no_decline():
    losses = np.full(100, 10.0)
    losses[80:90] = np.linspace(9.9, 9.0, 10)
    # One of the plateau's points and the ten below it, from step 79 to step 89.
    assert _curve(losses).suggest("valley") == RATES[89 - 11 + 11 // 3 + 11 // 6]


def test_slide_is_where_the_slopes_of_both_ends_first_agree():
    """Straight down until step 60, and a parabola upwards from there."""
    k = np.arange(100)
    losses = 10.0 - 0.05 * k + 0.02 * np.maximum(k - 60, 0) ** 2
    # Slopes (centred): at step 60 + j it is -0.05 + 0.04 j, from j = 1 on; -0.04 at step 60. The
    # window [45, 60] is the last whose ends differ by more than 0.005 (0.01), [44, 59] agrees.
    assert _curve(losses).suggest("slide") == pytest.approx(RATES[45])


def test_slide_stays_at_the_end_of_a_straight_curve():
    losses = np.linspace(10.0, 9.0, 100)
    assert _curve(losses).suggest("slide") == RATES[94 - 15]


def test_slide_goes_to_the_beginning_of_a_curve_that_is_nowhere_straight():
    losses = (np.arange(100) - 70.0) ** 2
    assert _curve(losses).suggest("slide") == RATES[10]


def test_steep_is_the_steepest_descent_against_the_logarithm():
    losses = -np.tanh(np.log10(RATES / 1e-3) * 4.0)
    # Its slope is least at 1e-3; the step from 49 to 50 (8.9e-4 to 1.07e-3) holds it.
    assert _curve(losses).suggest("steep") == RATES[49]


def test_steep_does_not_take_the_longest_step_for_the_steepest():
    """One step is ten times as long in the logarithm, and falls only twice as far."""
    exponents = np.arange(40.0)
    exponents[20:] += 9.0
    losses = 100.0 - exponents * 0.2
    losses[30:] -= 1.0
    curve = _curve(losses, np.exp(exponents), steps=40)
    assert curve.suggest("steep") == np.exp(exponents[29])


def test_minimum_is_a_tenth_of_the_lowest_point():
    losses = np.log10(RATES / RATES[60]) ** 2
    assert _curve(losses).suggest("minimum") == pytest.approx(RATES[60] / 10)


@pytest.mark.parametrize("method", ["valley", "steep", "minimum"])
def test_the_first_tenth_and_the_last_five_points_do_not_count(method):
    losses = np.log10(RATES / RATES[60]) ** 2
    spoiled = losses.copy()
    spoiled[:10] = np.linspace(-100.0, -500.0, 10)
    spoiled[95:] = np.linspace(-100.0, -500.0, 5)
    assert _curve(spoiled).suggest(method) == _curve(losses).suggest(method)
    spoiled[10] = spoiled[94] = -1000.0
    assert _curve(spoiled).suggest("minimum") != _curve(losses).suggest("minimum")


@pytest.mark.parametrize("method, least", [("valley", 5), ("slide", 16), ("steep", 5)])
def test_a_curve_too_short(method, least):
    losses = np.linspace(2.0, 1.0, 100)
    assert RATES[0] < _curve(losses[: 10 + least + 5]).suggest(method) < 1.0
    for points in (10 + least + 4, 7, 0):
        short = _curve(losses[:points], stop_reason="loss diverged")
        message = f"at least {least} points .* Received: a curve of {points} points, loss diverged"
        with pytest.raises(ValueError, match=message):
            short.suggest(method)


def test_a_curve_that_never_falls():
    with pytest.raises(ValueError, match=r"nowhere fall$"):
        _curve(np.linspace(1.0, 2.0, 100)).suggest()


def test_a_method_that_is_none():
    with pytest.raises(ValueError, match=r"`method` must be one of .*Received: method='best'$"):
        _curve(np.linspace(2.0, 1.0, 100)).suggest("best")
    with pytest.raises(ValueError, match=r"`method` must be one of .*Received: method=\['best'\]$"):
        _curve(np.linspace(2.0, 1.0, 100)).suggest(["best"])


def test_repr():
    losses = np.log10(RATES / RATES[60]) ** 2
    text = repr(_curve(losses, stop_reason="loss diverged"))
    assert re.fullmatch(
        r"<LearningRateCurve 100 of 100 steps, learning rate 1\.0e-07 to 1\.0e\+01, "
        r"loss diverged, valley .*, slide .*, steep .*, minimum 7\.1e-04>",
        text,
    )
    assert repr(_curve([])) == "<LearningRateCurve 0 of 100 steps, completed>"


def test_a_notebook_shows_picture_and_suggestions(monkeypatch):
    curve = _curve(np.log10(RATES / RATES[60]) ** 2, stop_reason="<b>")
    shown = curve._repr_html_()
    (data,) = re.findall('src="data:image/png;base64,(.*?)"', shown)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
    assert picture.std() > 0.05  # it is not empty
    for method in ("valley", "slide", "steep", "minimum"):
        assert re.search(f">{method}</td><td[^>]*>{curve.suggest(method):.3e}<", shown)
    assert "100 of 100 steps, &lt;b&gt;" in shown and "<b>," not in shown
    assert matplotlib.pyplot.get_fignums() == []  # a notebook would show that, too
    assert "0 of 100 steps" in _curve([])._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert curve._repr_html_() == shown.partition("\n")[2]


@pytest.mark.parametrize("own_axes", [True, False])
def test_plot(own_axes):
    losses = 1.0 + np.log10(RATES / RATES[60]) ** 2
    curve = LearningRateCurve(RATES, losses + 0.1, losses, 100, "completed")
    given = matplotlib.figure.Figure().subplots() if own_axes else None
    ax = curve.plot(given)
    assert given is None or ax is given
    assert ax.get_xscale() == "log"
    raw, average, *marks = ax.get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), curve.losses)
    np.testing.assert_array_equal(average.get_ydata(), losses)
    for mark, method in zip(marks, ("valley", "slide", "steep", "minimum"), strict=True):
        assert mark.get_label() == f"{method}: {curve.suggest(method):.1e}"
        assert mark.get_xdata() == pytest.approx(curve.suggest(method))
    ax.figure.canvas.draw()
    if not own_axes:
        matplotlib.pyplot.close(ax.figure)


def test_plot_without_matplotlib(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="plot needs Matplotlib: pip install matplotlib$"):
        _curve(np.linspace(2.0, 1.0, 100)).plot()
