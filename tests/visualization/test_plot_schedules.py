"""Schedules as they are drawn, and what training with them comes to."""

import keras
import numpy as np
import pytest

from keras_bp import schedules
from keras_bp.visualization import plot_schedules, train_with_schedules


def _lines(ax):
    return {line.get_label(): line.get_xydata().T for line in ax.get_lines()}


@pytest.mark.parametrize("epochs, steps_per_epoch", [(1, 10), (7, 3)])
def test_by_default_all_schedules_are_drawn(epochs, steps_per_epoch):
    figure = plot_schedules(epochs=epochs, steps_per_epoch=steps_per_epoch)
    figure.canvas.draw()
    (ax,) = figure.axes
    lines = _lines(ax)
    np.testing.assert_array_equal(lines.pop("Constant")[1], np.float32(0.1))
    assert set(lines) == set(schedules.__all__)
    steps = epochs * steps_per_epoch
    for name, (x, rates) in lines.items():
        assert len(x) == steps and x[0] == 0.0
        assert x[-1] == pytest.approx((steps - 1) / steps_per_epoch)
        assert 0.0 <= rates.min() < rates.max() <= 0.1 + 1e-6, name
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["Constant", *lines]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in ax.get_lines()}) == 1 + len(
        lines
    )


def test_default_schedules_last_as_long_as_the_training():
    (ax,) = plot_schedules(epochs=100, steps_per_epoch=10).axes
    rates = {name: y for name, (_, y) in _lines(ax).items()}
    for name in ("LinearDecay", "CosineAnnealing", "WarmupCosine", "Sequential", "OneCycle"):
        assert rates[name][-1] < 5e-4, name
        assert rates[name][-100] > 5e-4, name
    # Three periods, each begun at a lower peak, of which the last ends with the training.
    restarts = np.flatnonzero(np.diff(rates["CosineRestarts"]) > 0.01) + 1
    np.testing.assert_allclose(rates["CosineRestarts"][restarts], [0.07, 0.049], rtol=1e-5)
    assert rates["CosineRestarts"][-1] < 1e-3
    # GPT-3's: a rise, a fall to a tenth of the peak, and that to the end.
    gpt3 = rates["GPT3"]
    assert 20 < np.argmax(gpt3) < 100
    assert gpt3[-50:].max() == gpt3[-50:].min() == pytest.approx(0.01)
    assert gpt3[-300] > 0.01


def test_given_schedules_are_drawn():
    given = {
        "ours": schedules.LinearDecay(0.5, 100),
        "Keras's": keras.optimizers.schedules.CosineDecay(0.5, 100, warmup_steps=10),
        "constant": np.float32(0.3),
    }
    (ax,) = plot_schedules(given, epochs=10, steps_per_epoch=20).axes
    lines = _lines(ax)
    assert list(lines) == list(given)
    steps = np.arange(200)
    np.testing.assert_allclose(lines["ours"][0], steps / 20)
    np.testing.assert_array_equal(lines["ours"][1], given["ours"](steps))
    expected = [float(given["Keras's"](step)) for step in steps]
    np.testing.assert_allclose(lines["Keras's"][1], expected, rtol=1e-6)
    np.testing.assert_array_equal(lines["constant"][1], np.float32(0.3))


def test_of_many_steps_some_are_drawn():
    (ax,) = plot_schedules({"a": schedules.LinearDecay(1.0, 10**6)}, 1000, 1000).axes
    x, y = _lines(ax)["a"]
    assert 1000 < len(x) <= 2000
    np.testing.assert_allclose(y, 1.0 - x / 1000, atol=1e-6)


def test_losses_are_drawn_below():
    given = {"a": 0.1, "b": 0.2}
    losses = {"b": np.array([2.0, 1.0, 0.5])}
    figure = plot_schedules(given, epochs=3, losses=losses)
    figure.canvas.draw()
    rates, below = figure.axes
    assert below.get_yscale() == "log"
    raw, average = below.get_lines()
    assert raw.get_xdata().tolist() == [1, 2, 3] and raw.get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert average.get_label() == "b" and average.get_xdata().tolist() == [1, 2, 3]
    weights = [[1.0, 0.0, 0.0], [0.8, 1.0, 0.0], [0.64, 0.8, 1.0]]
    expected = [np.average(losses["b"], weights=row) for row in weights]
    np.testing.assert_allclose(average.get_ydata(), expected)
    colors = {line.get_label(): line.get_color() for line in rates.get_lines()}
    assert raw.get_color() == average.get_color() == colors["b"] != colors["a"]


OF_BOTH = [
    (dict(schedules=[0.1]), TypeError, "`schedules` must be a mapping"),
    (dict(schedules={}), TypeError, "`schedules` must be a mapping of one or more"),
    (dict(schedules={"a": "cosine"}), TypeError, r"`schedules\['a'\]` must be .*'cosine'"),
    (dict(schedules={"a": True}), TypeError, r"`schedules\['a'\]` must be .*True"),
    (dict(schedules={"a": np.nan}), ValueError, r"`schedules\['a'\]` must be finite.*nan"),
    (dict(epochs=0), ValueError, "`epochs` must be an integer of 1"),
    (dict(epochs=2.0), TypeError, "`epochs` must be an integer"),
]
OF_THE_PLOT = [
    (dict(epochs=1, steps_per_epoch=9), ValueError, "must be 10 or more.*Received: 9 steps"),
    (dict(steps_per_epoch=0), ValueError, "`steps_per_epoch` must be an integer of 1"),
    (dict(losses={"other": [1.0]}), ValueError, "`losses` must have names.*'other'"),
]
OF_THE_TRAINING = [(dict(seed=-1), ValueError, "`seed` must be an integer of 0")]


@pytest.mark.parametrize("arguments, error, message", OF_BOTH + OF_THE_PLOT)
def test_refusals_of_the_plot(arguments, error, message):
    with pytest.raises(error, match=message):
        plot_schedules(**arguments)


@pytest.mark.parametrize("arguments, error, message", OF_BOTH + OF_THE_TRAINING)
def test_refusals_of_the_training(arguments, error, message):
    with pytest.raises(error, match=message):
        train_with_schedules(**arguments)


def test_trainings_differ_in_the_schedule_alone():
    warm_up = schedules.Warmup(0.1, 100)
    given = {"first": warm_up, "still": 0.0, "again": schedules.Sequential([warm_up], [])}
    losses = train_with_schedules(given, epochs=60)
    assert list(losses) == list(given)
    np.testing.assert_array_equal(losses["first"], losses["again"])
    # At a rate of 0 each epoch has the loss of the first weights: about that of a guess.
    np.testing.assert_allclose(losses["still"], losses["still"][0], rtol=1e-5)
    assert 0.5 < losses["still"][0] < 1.0
    # Seen: 0.28; the guess of one half has 0.69, a straight line through the arms 0.64.
    assert losses["first"][-1] < 0.4
    other = train_with_schedules({"still": 0.0}, epochs=1, seed=2)
    assert abs(other["still"][0] - losses["still"][0]) > 1e-4


@pytest.mark.long
def test_by_default_all_schedules_are_trained_with():
    assert set(train_with_schedules(epochs=1)) == set(schedules.__all__)


def test_a_schedule_draws_itself():
    schedule = schedules.StepDecay(0.1, 20, 0.5)
    ax = schedule.plot(50)
    steps, rates = ax.get_lines()[0].get_xydata().T
    np.testing.assert_array_equal(steps, np.arange(50))
    np.testing.assert_array_equal(rates, schedule(np.arange(50)))
    assert schedule.plot(5, ax) is ax and len(ax.get_lines()) == 2
    with pytest.raises(ValueError, match="`steps` must be .* Received: steps=0"):
        schedule.plot(0)
