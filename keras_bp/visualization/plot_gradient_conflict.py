"""Which layers the tasks of a model pull in opposite directions, as a picture."""

import math

import numpy as np

from keras_bp.visualization._figure import new_figure

_KEYS = {"layer", "tasks", "cosine", "conflicting", "steps"}
_GREY = "0.8"


def plot_gradient_conflict(source):
    """Draw how two tasks' gradients lie to one another, for each layer and pair of tasks.

    A row a layer, from the first layer of the network at the top to the last, and below a line all
    shared layers together, `global`; a column a pair of tasks. The colour is the mean cosine
    between the two gradients over the steps: blue where the tasks help one another, white at 0, red
    where they are against one another. The number is the share of the steps in which they conflict,
    those whose cosine is below 0. A cell is grey where the tasks do not share the layer, or one of
    them had no gradient there in any step.

    The scale reaches as far to the one side of 0 as to the other, to the next tenth.

    Args:
        source: a `keras_bp.callbacks.GradientConflict` that has watched a `fit`, or what its method
            `table` returns, or some rows of that.

    Returns:
        A Matplotlib `Figure`.

    Raises:
        ImportError: if Matplotlib is not installed.
        TypeError: if `source` is neither such a callback nor a list of such rows.
        ValueError: if it has no rows, as before the first update step.

    Example:
        >>> from keras_bp.visualization import plot_gradient_conflict
        >>> inputs = keras.Input((4,))
        >>> trunk = keras.layers.Dense(8, "relu", name="trunk")(inputs)
        >>> outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in ("down", "up")}
        >>> combine = keras_bp.multitask.PCGrad()
        >>> model = keras_bp.multitask.MultiTaskModel(inputs, outputs, combiner=combine)
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> conflict = keras_bp.callbacks.GradientConflict("tb_logs/conflict")
        >>> y = {"down": -x[:, :1], "up": x[:, :1]}
        >>> _ = model.fit(x, y, verbose=0, callbacks=[conflict])
        >>> figure = plot_gradient_conflict(conflict)
        >>> figure.savefig("gradient_conflict.png")
    """
    rows = source.table() if callable(getattr(source, "table", None)) else source
    _check(rows, source)
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
    # Above the figure's middle, since the axes are narrow where there is one pair.
    figure.suptitle("Cosine between two tasks' gradients,\nand share of conflicting steps")
    if not np.isfinite(cosines).all():
        _explain_grey(figure)
    return figure


def _limit(cosines):
    """Return the end of the scale: a tenth, so that the ticks are short."""
    known = np.abs(cosines[np.isfinite(cosines)])
    # A cosine that was meant to be 0.3 may be rounded upwards.
    return max(math.ceil(10.0 * known.max() - 1e-9), 1) / 10.0 if known.size else 1.0


def _explain_grey(figure):
    from matplotlib.patches import Patch

    handles = [Patch(color=_GREY, label="not shared, or no step with both gradients")]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)


def _check(rows, source):
    expected = "`source` must be a keras_bp.callbacks.GradientConflict, or rows of its `table()`"
    if not isinstance(rows, list | tuple) or not all(
        isinstance(row, dict) and row.keys() >= _KEYS for row in rows
    ):
        raise TypeError(f"{expected}. Received: source={source!r} of type {type(source).__name__}")
    if not rows:
        raise ValueError(f"{expected}, with a step measured. Received: source={source!r}, no rows")
