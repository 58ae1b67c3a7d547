"""The paths of optimizers, and of small and large batches, on a cost's contours."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_bp import optimizers as package_optimizers
from keras_bp._arguments import check_callable, check_integer, check_mapping, check_number
from keras_bp.visualization._figure import line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A path ends where the cost is this share of the first.
_SHARE = 1e-6
_POINTS = 161  # of a grid's side, for the contours
_FAR = 4.0  # what is farther from the minimum than so many times the start is cut off


def plot_paths(
    optimizers: Mapping[str, Callable[[], Any]] | None = None,
    steps: int = 400,
    *,
    curvatures: Sequence[float] = (1.0, 100.0),
    start: Sequence[float] = (10.0, 1.0),
) -> "Figure":
    r"""Draw the path that each optimizer takes in a valley, and the cost along it.

    The valley is the cost of two weights

        J(theta) = (h_1 theta_1^2 + h_2 theta_2^2) / 2
        gradient = (h_1 theta_1, h_2 theta_2)

    near a minimum every smooth cost looks like it. h_2 / h_1 is its condition number. Each
    optimizer has a panel, with the cost's contours, the minimum as a cross, and the number of steps
    after which the cost is a millionth of the first; below all is the cost after each step.

    Args:
        optimizers: mapping, a name -> a callable without arguments that returns a new optimizer:
            Keras's, this package's, or one of `keras_bp.reference`. Defaults to `None`: SGD and
            Momentum at the best rates that theory knows for these curvatures, RMSprop at 0.1 and
            Adam at 0.5.
        steps: integer of 1 or more, the most steps of a path. Defaults to 400.
        curvatures: two numbers above 0. Defaults to (1, 100).
        start: two numbers, the first weights, not at the minimum. Defaults to (10, 1).

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if an argument is of another type, or a callable returns something else.
        ValueError: if a number is out of its range, or there is no optimizer.

    Example:
        >>> figure = keras_bp.visualization.plot_paths(
        ...     {
        ...         "SGD": lambda: keras.optimizers.SGD(0.019),
        ...         "Nesterov": lambda: keras_bp.optimizers.Nesterov(0.05),
        ...     },
        ...     steps=100,
        ... )
        >>> figure.savefig("paths.png")

    References:
        Polyak, 1964, "Some methods of speeding up the convergence of iteration methods", for the
        rates of the first two.
    """
    steps = check_integer("steps", steps, 1)
    h = np.array(_pair("curvatures", curvatures, low=0.0))
    first = np.array(_pair("start", start))
    if not first.any():
        raise ValueError(f"`start` must not be the minimum, (0, 0). Received: start={start!r}")
    chosen = _tuned(h) if optimizers is None else check_mapping("optimizers", optimizers)
    for name, make in chosen.items():
        check_callable(f"optimizers[{name!r}]", make)

    def cost(theta):
        return 0.5 * np.sum(h * np.square(theta), axis=-1)

    with np.errstate(over="ignore", invalid="ignore"):  # where an optimizer diverges
        paths = {name: _path(name, make(), h, first, steps) for name, make in chosen.items()}
        costs = {name: cost(path) for name, path in paths.items()}
    columns = min(len(paths), 2)
    rows = -(-len(paths) // columns)
    figure = new_figure("plot_paths", (4.6 * columns, 2.9 * rows + 3.0))
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.9] * rows + [2.4])
    below, styles = figure.add_subplot(grid[rows, :]), line_styles(paths)
    window = _window(paths, first, np.zeros(2))
    for i, (name, path) in enumerate(paths.items()):
        ax = figure.add_subplot(grid[i // columns, i % columns])
        _draw_path(ax, path, lambda x, y: cost(np.stack([x, y], -1)), window, styles[name])
        ax.plot(0, 0, "k+", markersize=10)
        ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
        reached = costs[name][-1] <= _SHARE * cost(first)
        ax.set_title(
            f"{name}: {'' if reached else 'not there after '}{_count(len(path) - 1, 'step')}"
        )
        below.plot(_shown(costs[name]), label=name, **styles[name])
    below.set(yscale="log", xlabel="steps", ylabel="cost", title="Cost after each step")
    below.set_xlim(0, max(map(len, paths.values())) - 1)
    below.set_ylim(0.5 * _SHARE * cost(first), 100 * cost(first))
    below.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    tidy(below)
    return figure


def plot_batch_sizes(
    batch_sizes: Mapping[str, int] | None = None,
    epochs: int = 15,
    *,
    optimizer: Callable[[], Any] | None = None,
    seed: int = 0,
) -> "Figure":
    """Draw batch, stochastic and mini-batch gradient descent side by side on one problem.

    The problem is least squares: a line `y = w x + b` through 96 noisy points, two weights, the
    cost the mean squared error. All begin at the same weights and take the examples in random
    order, a new one in each epoch; what differs is after how many of them they update. On top are
    the paths on the cost's contours, with the least-squares solution as a cross, then the cost of
    all examples after each update: against the updates, and against the epochs, which is what the
    gradients cost.

    Args:
        batch_sizes: mapping, a name -> the number of examples in a batch, from 1 to 96. Defaults to
            `None`: batch (96), stochastic (1) and mini-batch (16).
        epochs: integer of 1 or more. Defaults to 15.
        optimizer: callable without arguments that returns a new optimizer: Keras's, this package's,
            or one of `keras_bp.reference`. Defaults to `None`: gradient descent at a rate of 0.1.
        seed: integer of 0 or more, of the order of the examples. Defaults to 0.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if an argument is of another type, or `optimizer` returns something else.
        ValueError: if a number is out of its range, or there is no batch size.

    Example:
        >>> figure = keras_bp.visualization.plot_batch_sizes(epochs=2)
        >>> figure.savefig("batches.png")
    """
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0)
    x, y = _points()
    if batch_sizes is None:
        batch_sizes = {"batch": len(x), "stochastic": 1, "mini-batch": 16}
    sizes = {
        name: check_integer(f"batch_sizes[{name!r}]", size, 1, len(x) + 1)
        for name, size in check_mapping("batch_sizes", batch_sizes).items()
    }
    make = optimizer or (lambda: package_optimizers.SGD(0.1))
    check_callable("optimizer", make)

    def cost(b, w):
        errors = np.multiply.outer(x[:, 0], b) + np.multiply.outer(x[:, 1], w)
        return np.mean(np.square(errors - y.reshape(-1, *[1] * np.ndim(b))), axis=0)

    best, first = np.linalg.lstsq(x, y, rcond=None)[0], np.array([-2.0, -1.0])
    paths = {}
    for name, size in sizes.items():
        random = np.random.default_rng(seed)
        batches = [
            order[i : i + size]
            for order in (random.permutation(len(x)) for _ in range(epochs))
            for i in range(0, len(x), size)
        ]

        def gradient(theta, step, batches=batches):
            rows = batches[step]
            return 2 / len(rows) * x[rows].T @ (x[rows] @ theta - y[rows])

        paths[name] = _descend("optimizer", make(), gradient, first, len(batches))

    figure = new_figure("plot_batch_sizes", (max(3.6 * len(paths), 7.2), 6.4))
    grid = figure.add_gridspec(2, 1, height_ratios=[1.25, 1])
    panels = figure.add_subfigure(grid[0]).subplots(1, len(paths), squeeze=False)[0]
    by_updates, by_epochs = figure.add_subfigure(grid[1]).subplots(1, 2, sharey=True)
    styles = line_styles(paths)
    window = _window(paths, first, best)
    for ax, (name, path) in zip(panels, paths.items(), strict=True):
        _draw_path(ax, path, cost, window, styles[name])
        ax.plot(*best, "k+", markersize=10)
        ax.set(xlabel="b", ylabel="w")
        updates = -(-len(x) // sizes[name])
        ax.set_title(
            f"{name}, {_count(sizes[name], 'example')}:\n{_count(updates, 'update')} an epoch"
        )
        costs = _shown(cost(*path.T))
        line = styles[name] | {"label": name, "linewidth": 1.0 if updates > 20 else 1.8}
        by_updates.plot(costs, zorder=2 + 1 / updates, **line)
        by_epochs.plot(np.arange(len(path)) / updates, costs, zorder=2 + 1 / updates, **line)
    for ax, unit in ((by_updates, "updates"), (by_epochs, "epochs")):
        ax.set(yscale="log", xlabel=unit, title=f"Cost of all examples by {unit}")
        tidy(ax)
    by_updates.set(xscale="symlog", xlim=(0, None), ylabel="mean squared error")
    by_epochs.set_xlim(0, epochs)
    by_epochs.legend(frameon=False)
    return figure


def _points():
    """Return the examples of `plot_batch_sizes`: rows (1, x), and y."""
    random = np.random.default_rng(0)
    x = random.uniform(-0.5, 2.0, 96)
    return np.column_stack([np.ones(96), x]), 1.0 + 0.5 * x + random.normal(0.0, 0.5, 96)


def _pair(name, value, low=None):
    if not isinstance(value, Sequence | np.ndarray) or len(value) != 2:
        raise ValueError(f"`{name}` must be two numbers. Received: {name}={value!r}")
    bounds = {} if low is None else {"low": low, "low_open": True}
    return [check_number(f"{name}[{i}]", number, **bounds) for i, number in enumerate(value)]


def _tuned(h):
    """Return the default optimizers, the first two tuned to the curvatures."""
    root = np.sqrt(h.max() / h.min())
    beta = ((root - 1) / (root + 1)) ** 2
    # Of the accumulating form; Momentum averages.
    rate = (2 / (1 + root)) ** 2 / h.min() / (1 - beta)
    return {
        "SGD": lambda: package_optimizers.SGD(2 / h.sum()),
        "Momentum": lambda: package_optimizers.Momentum(rate, beta),
        "RMSprop": lambda: package_optimizers.RMSprop(0.1, rho=0.9),
        "Adam": lambda: package_optimizers.Adam(0.5),
    }


def _path(name, optimizer, h, first, steps):
    """Return the path in a valley, up to the step that reaches the end: (steps + 1, 2)."""
    path = _descend(f"optimizers[{name!r}]", optimizer, lambda theta, _: h * theta, first, steps)
    costs = np.sum(h * np.square(path), axis=1)
    reached = np.flatnonzero(costs <= _SHARE * costs[0])
    return path[: reached[0] + 1] if len(reached) else path


def _descend(name, optimizer, gradient, first, steps):
    """Return the weights before and after each step: float64 array, (steps + 1, weights)."""
    path = [first]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        variable = keras.Variable(first, dtype="float64", name="theta")
        optimizer.build([variable])
        for step in range(steps):
            optimizer.apply([tf.constant(gradient(path[-1], step), tf.float64)], [variable])
            path.append(variable.numpy())
    elif callable(getattr(optimizer, "step", None)):
        for step in range(steps):
            path += optimizer.step([path[-1]], [gradient(path[-1], step)])
    else:
        raise TypeError(
            f"`{name}` must return a keras.optimizers.Optimizer, or an optimizer of "
            f"keras_bp.reference. Received: {optimizer!r}"
        )
    return np.array(path)


def _window(paths, first, best):
    """Return the lower and the upper bounds of what is drawn: all paths, but for a divergence."""
    distance = np.abs(first - best)
    distance = np.maximum(distance, 0.1 * distance.max())
    points = np.concatenate([*paths.values(), [best - 0.3 * distance, best + 0.3 * distance]])
    points = np.clip(
        points[np.isfinite(points).all(axis=1)] - best, -_FAR * distance, _FAR * distance
    )
    low, high = best + points.min(axis=0), best + points.max(axis=0)
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _draw_path(ax, path, cost, window, style):
    """Draw a path on the contours of the cost, a function of two arrays."""
    sides = np.linspace(*window, _POINTS).T
    heights = cost(*np.meshgrid(*sides))
    low = heights.min()
    # Closer to each other at the bottom, as the cost grows with the distance's square.
    levels = low + (heights.max() - low) * np.linspace(0.05, 0.95, 12) ** 2
    ax.contour(*sides, heights, levels, colors="0.75", linewidths=0.7)
    ax.plot(*path.T, ".-", linewidth=0.8, markersize=3, color=style["color"])
    ax.plot(*path[0], "o", color=style["color"], markersize=6)
    ax.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]])


def _shown(costs):
    """Return costs that a logarithmic axis, with its margins, can show."""
    return np.where((costs < 1e100) & (costs > 0.0), costs, np.nan)


def _count(number, noun):
    return f"{number} {noun}" + "s" * (number != 1)
