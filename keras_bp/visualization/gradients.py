"""Gradients over a training: each layer's norm, and the conflict between tasks, as pictures."""

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_bp._types import Path
from keras_bp.visualization._figure import Magnitudes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PREFIX, _GLOBAL = "gradient_norm/", "gradient_norm/global"
# The most columns of a picture: with more steps, a column stands for several.
_MOST_COLUMNS = 600
_KEYS = {"layer", "tasks", "cosine", "conflicting", "steps"}
_GREY = "0.8"


def plot_gradient_flow(source: Path | Any) -> "Figure":
    """Draw the gradient norm of each layer at each update step, from a run's TensorBoard files.

    There is one row per layer, from the first layer of the network at the top to the last (layers
    that were frozen at first come last), and one column per update step; the colour is the decimal
    logarithm of the norm. A gradient that vanishes on its way back gets darker from the bottom to
    the top, one that explodes brighter. A norm of 0, and one that is NaN or infinite, have their
    own colours, which the legend names.

    With more than 600 steps several share a column, which shows their largest norm. Where a layer
    was not written, such as one that was frozen at first, nothing is drawn.

    Args:
        source: string or `os.PathLike`, the `run_dir` of a `keras_bp.callbacks.GradientMonitor`;
            or the monitor itself, or any object with such an attribute `log_dir`. The scalars
            `gradient_norm/<layer path>` are read, except `gradient_norm/global`. If a step was
            written twice, the later value counts.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `source` is neither a path nor an object that has one.
        ValueError: if there is no event file with such scalars.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.layers.Dense(8, "tanh", name="hidden"), keras.layers.Dense(1, name="out")]
        ... )
        >>> model.compile("sgd", "mean_squared_error")
        >>> monitor = keras_bp.callbacks.GradientMonitor("tb_logs/flow")
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> _ = model.fit(x, x[:, :1], verbose=0, callbacks=[monitor])
        >>> figure = keras_bp.visualization.plot_gradient_flow(monitor)
        >>> figure.savefig("gradient_flow.png")
    """
    log_dir = getattr(source, "run_dir", getattr(source, "log_dir", source))
    if not isinstance(log_dir, str | os.PathLike):
        raise TypeError(
            "`source` must be a path, or an object with a path as its `log_dir`. "
            f"Received: source={source!r} of type {type(source).__name__}"
        )
    layers, steps, norms = _read(os.fspath(log_dir))
    edges, cells = _columns(steps, norms)

    longest = max(map(len, layers))
    figure = new_figure("plot_gradient_flow", (8.0 + 0.075 * longest, 1.6 + 0.32 * len(layers)))
    magnitudes = Magnitudes(cells, "norm")
    ax = figure.subplots()
    mesh = ax.pcolormesh(
        edges, np.arange(len(layers) + 1) - 0.5, magnitudes.exponents, **magnitudes.style
    )
    magnitudes.color_bar(mesh, "gradient norm", ax=ax, pad=0.02)
    ax.set_yticks(range(len(layers)), layers)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlabel("update steps")
    ax.set_title("Gradient norm of each layer")
    handles = magnitudes.legend(marker="s", markersize=9)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _read(log_dir):
    """Return the layers' paths, the update steps and an array of norms, (layers, steps)."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    if not tf.io.gfile.glob(tf.io.gfile.join(log_dir, "*tfevents*")):
        raise ValueError(
            "`source` must be a directory with a TensorBoard event file directly in it, as "
            f"GradientMonitor writes one. Received: {log_dir!r}"
        )
    events = EventAccumulator(log_dir, size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith(_PREFIX) and tag != _GLOBAL]
    if not tags:
        raise ValueError(
            f"`source` must be a run with scalars {_PREFIX}<layer>, as GradientMonitor writes "
            f"them. Received: {log_dir!r}, with the tags {events.Tags()['tensors']}"
        )
    series = []
    for tag in tags:
        points = events.Tensors(tag)
        norms = ((p.step, tf.make_ndarray(p.tensor_proto).item()) for p in points)
        series.append({step: np.inf if np.isnan(norm) else norm for step, norm in norms})
    steps = sorted(set().union(*series))
    norms = np.array([[norms.get(step, np.nan) for step in steps] for norms in series])
    return [tag.removeprefix(_PREFIX) for tag in tags], np.array(steps), norms


def _columns(steps, norms):
    """Merge neighbouring steps if there are too many; return edges and columns."""
    starts = np.linspace(0, len(steps), min(len(steps), _MOST_COLUMNS), endpoint=False).astype(int)
    # Each step reaches halfway to its neighbours, which need not be the adjacent steps.
    middles = (steps[1:] + steps[:-1]) / 2
    reach = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    edges = np.r_[steps[0] - reach, middles[starts[1:] - 1], steps[-1] + reach]
    # fmax ignores NaN, which stands for a step without a norm.
    return edges, np.fmax.reduceat(norms, starts, axis=1)


def plot_gradient_conflict(source: Any) -> "Figure":
    """Draw how two tasks' gradients compare, for each layer and pair of tasks.

    There is one row per layer, from the first layer of the network at the top to the last, then
    below a line all shared layers together, `global`; and one column per pair of tasks. The colour
    is the mean cosine between the two gradients over the steps: blue where the tasks help each
    other, white at 0, red where they conflict. The number is the share of the steps in which they
    conflict, those with a cosine below 0. A cell is grey where the tasks do not share the layer, or
    one of them never had a gradient there.

    The scale is symmetric about 0, and ends at a tenth.

    Args:
        source: a `keras_bp.callbacks.GradientConflict` that has watched a `fit`, or what its method
            `table` returns, or some rows of that.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `source` is neither such a callback nor a list of such rows.
        ValueError: if it has no rows, as before the first update step.

    Example:
        >>> inputs = keras.Input((4,))
        >>> trunk = keras.layers.Dense(8, "relu", name="trunk")(inputs)
        >>> outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("down", "up")}
        >>> combiner = keras_bp.multitask.PCGrad()
        >>> model = keras_bp.multitask.MultiTaskModel(inputs, outputs, combiner=combiner)
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> conflict = keras_bp.callbacks.GradientConflict("tb_logs/conflict")
        >>> y = {"down": -x[:, :1], "up": x[:, :1]}
        >>> _ = model.fit(x, y, verbose=0, callbacks=[conflict])
        >>> figure = keras_bp.visualization.plot_gradient_conflict(conflict)
        >>> figure.savefig("gradient_conflict.png")
    """
    rows = source.table() if callable(getattr(source, "table", None)) else source
    _check_rows(rows, source)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    pairs = list(dict.fromkeys(tuple(row["tasks"]) for row in rows))
    cosines, shares = np.full((2, len(layers), len(pairs)), np.nan)
    for row in rows:
        place = layers.index(row["layer"]), pairs.index(tuple(row["tasks"]))
        cosines[place], shares[place] = row["cosine"], row["conflicting"]

    longest = max(map(len, layers))
    size = 3.4 + 0.075 * longest + 0.9 * len(pairs), 1.8 + 0.36 * len(layers)
    figure = new_figure("plot_gradient_conflict", size)
    ax = figure.subplots()
    limit = _limit(cosines)
    mesh = ax.pcolormesh(cosines, cmap="RdBu", vmin=-limit, vmax=limit, edgecolor="w", lw=1)
    ax.set_facecolor(_GREY)
    bar = figure.colorbar(mesh, label="mean cosine", ax=ax, pad=0.02)
    bar.set_ticks(np.linspace(-limit, limit, 5))
    for i, j in np.argwhere(np.isfinite(cosines)):
        # White on the dark ends of the scale.
        color = "w" if abs(cosines[i, j]) > 0.6 * limit else "k"
        ax.text(j + 0.5, i + 0.5, f"{shares[i, j]:.0%}", color=color, ha="center", va="center")
    if layers[-1] == "global" and len(layers) > 1:
        ax.axhline(len(layers) - 1, color="k", lw=1.5)
    ax.set_yticks(np.arange(len(layers)) + 0.5, layers)
    labels = [f"{a}\n{b}" for a, b in pairs]
    ax.set_xticks(np.arange(len(pairs)) + 0.5, labels)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    # Centred on the figure, since the axes are narrow with a single pair.
    figure.suptitle("Cosine between two tasks' gradients,\nand share of conflicting steps")
    if not np.isfinite(cosines).all():
        _explain_grey(figure)
    return figure


def _limit(cosines):
    """Return the end of the scale: a tenth, so that tick labels are short."""
    known = np.abs(cosines[np.isfinite(cosines)])
    # A cosine of 0.3 may be rounded upwards.
    return max(math.ceil(10.0 * known.max() - 1e-9), 1) / 10.0 if known.size else 1.0


def _explain_grey(figure):
    from matplotlib.patches import Patch

    handles = [Patch(color=_GREY, label="not shared, or no step with both gradients")]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)


def _check_rows(rows, source):
    expected = "`source` must be a keras_bp.callbacks.GradientConflict, or rows of its `table()`"
    if not isinstance(rows, list | tuple) or not all(
        isinstance(row, dict) and row.keys() >= _KEYS for row in rows
    ):
        raise TypeError(f"{expected}. Received: source={source!r} of type {type(source).__name__}")
    if not rows:
        raise ValueError(f"{expected}, with a step measured. Received: source={source!r}, no rows")
