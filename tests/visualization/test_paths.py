"""The drawn paths are those of the optimizers' equations."""

import keras
import numpy as np
import pytest

import keras_bp
from keras_bp import reference
from keras_bp.visualization import plot_batch_sizes, plot_paths


def _paths(figure):
    """Return name -> points, and the costs' lines."""
    figure.canvas.draw()
    axes = figure.axes
    panels = [ax for ax in axes if ax.collections]
    drawn = {ax.get_title().partition(":")[0]: np.array(ax.lines[0].get_xydata()) for ax in panels}
    costs = [{line.get_label(): line for line in ax.lines} for ax in axes if not ax.collections]
    return drawn, costs, [ax.get_title() for ax in panels]


def test_paths_in_a_valley():
    h, first = np.array([2.0, 30.0]), np.array([-4.0, 1.0])
    figure = plot_paths(
        {
            "Keras's": lambda: keras.optimizers.SGD(0.02),
            "ours": lambda: keras_bp.optimizers.Momentum(0.1, 0.8),
            "NumPy's": lambda: reference.Momentum(0.1, 0.8),
            "Newton's": lambda: keras.optimizers.SGD(0.5),
        },
        20,
        curvatures=h,
        start=first,
    )
    drawn, (costs,), titles = _paths(figure)
    # theta_t = (1 - a h)^t theta_0; rates are float32.
    closed = first * (1 - 0.02 * h) ** np.arange(21)[:, None]
    np.testing.assert_allclose(drawn["Keras's"], closed, rtol=1e-5)
    np.testing.assert_allclose(drawn["ours"], drawn["NumPy's"], rtol=1e-5)
    np.testing.assert_allclose(
        costs["Keras's"].get_ydata(), 0.5 * np.sum(h * closed**2, axis=1), rtol=1e-5
    )
    assert "Keras's: not there after 20 steps" in titles
    assert len(drawn) == len(costs) == 4 and np.abs(drawn["Newton's"]).max() > 1e9


def test_a_divergence_beyond_all_numbers(tmp_path):
    # Warnings are errors.
    plot_paths({"far": lambda: reference.SGD(1e3)}, 200).savefig(tmp_path / "far.png")


def test_a_path_ends_at_a_millionth_of_the_cost():
    figure = plot_paths({"Newton": lambda: reference.SGD(0.25)}, curvatures=[4, 4], start=[1, 3])
    drawn, _, titles = _paths(figure)
    assert titles == ["Newton: 1 step"]
    np.testing.assert_array_equal(drawn["Newton"], [[1, 3], [0, 0]])


def test_the_default_rates_are_the_best():
    """Of SGD and of Momentum: each contracts as theory says."""
    drawn, _, titles = _paths(plot_paths(steps=60))
    assert [title.partition(":")[0] for title in titles] == ["SGD", "Momentum", "RMSprop", "Adam"]
    np.testing.assert_allclose(drawn["SGD"][10], [10 * (99 / 101) ** 10, (99 / 101) ** 10], 1e-4)
    assert "Momentum: 56 steps" in titles


def test_batches_on_one_problem():
    sizes = {"all": 96, "some": 40, "one": 1}
    drawn, (by_updates, by_epochs), titles = _paths(plot_batch_sizes(sizes, 2, seed=3))
    assert [title.partition("\n")[2] for title in titles] == [
        "1 update an epoch",
        "3 updates an epoch",
        "96 updates an epoch",
    ]
    x, y = keras_bp.visualization.paths._points()
    random = np.random.default_rng(3)
    orders = [random.permutation(96) for _ in range(2)]
    for name, size in sizes.items():
        path = next(points for title, points in drawn.items() if title.startswith(name))
        theta = path[0]
        batches = [order[i : i + size] for order in orders for i in range(0, 96, size)]
        assert len(path) == 1 + len(batches)
        for batch, after in zip(batches, path[1:], strict=True):
            errors = x[batch] @ theta - y[batch]
            theta = theta - 0.1 * np.mean(2 * errors[:, None] * x[batch], axis=0)
            np.testing.assert_allclose(after, theta, rtol=1e-5)
        cost = np.mean((x @ path[-1] - y) ** 2)
        assert by_updates[name].get_ydata()[-1] == pytest.approx(cost)
        assert by_epochs[name].get_xdata()[-1] == 2


def test_any_optimizer_takes_the_batches():
    drawn, *_ = _paths(plot_batch_sizes({"all": 96}, 1, optimizer=lambda: reference.Adam(0.5)))
    (path,) = drawn.values()
    np.testing.assert_allclose(np.abs(path[1] - path[0]), 0.5, rtol=1e-6)  # Adam's first step


@pytest.mark.parametrize(
    "draw, error, message",
    [
        (lambda: plot_paths({}), ValueError, "`optimizers` must have one entry"),
        (lambda: plot_paths({"a": 3}), TypeError, r"`optimizers\['a'\]` must be a callable"),
        (lambda: plot_paths({"a": dict}), TypeError, r"`optimizers\['a'\]` must return .*{}"),
        (lambda: plot_paths(start=[0, 0]), ValueError, "`start` must not be the minimum"),
        (lambda: plot_paths(start=[1]), ValueError, "`start` must be two numbers"),
        (lambda: plot_paths(curvatures=[1, 0]), ValueError, r"`curvatures\[1\]` must be"),
        (lambda: plot_paths(steps=0), ValueError, "`steps` must be"),
        (lambda: plot_batch_sizes({"a": 97}), ValueError, r"`batch_sizes\['a'\]` must be"),
        (lambda: plot_batch_sizes(optimizer=3), TypeError, "`optimizer` must be a callable"),
        (lambda: plot_batch_sizes(epochs=0), ValueError, "`epochs` must be"),
    ],
)
def test_refusals(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
