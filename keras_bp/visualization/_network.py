"""The drawing of a network: the places and the colours of its neurons."""

import dataclasses

import numpy as np

from keras_bp.visualization._figure import Magnitudes

# So many neurons are drawn at either end of a column that has more than both together.
_AT_THE_TOP, _AT_THE_END = 6, 6
_GAP_BETWEEN_BRANCHES = 2.5  # in neurons
_INCHES_PER_NEURON = 0.36
_INCHES_PER_LETTER = 0.085
_INCHES_PER_SCALE = 3.0
_SHARE_OF_BARS = 0.8  # of the width of a stage
_POINTS_PER_NEURON = 17.0


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a column's neurons are drawn: `units` at the heights `heights`, all at `x`."""

    x: float
    units: np.ndarray
    heights: np.ndarray
    ellipsis: float | None


class Network:
    """A drawing of columns and of one backward pass through them.

    Args:
        columns: list of `Column`s, sorted by stage.
        backward: a `Backward`.

    Attributes:
        size: tuple, the figure's width and height in inches.
        bar_height: float, the height in inches of the bars' part of it.
    """

    bar_height = 1.6

    def __init__(self, columns, backward):
        self._columns = columns
        # All values that are not finite are alike here, NaN too.
        self._dz = {
            name: np.where(np.isnan(dz).any(axis=0), np.inf, np.abs(dz).mean(axis=0))
            for name, dz in backward.dz.items()
        }
        self._dw = {name: np.linalg.norm(dw) for name, dw in backward.dw.items()}
        self._places, tallest = _places(columns)
        stages = [column.stage for column in columns]
        # Names of branches are side by side.
        letters = max((len(c.name) + 2) * stages.count(c.stage) for c in columns)
        self.size = (
            2.6 + (stages[-1] + 1) * max(1.7, _INCHES_PER_LETTER * letters / _SHARE_OF_BARS),
            max(2.4, _INCHES_PER_NEURON * tallest) + self.bar_height + 1.2,
        )

    def draw(self, ax):
        """Draw the neurons and the weights between them."""
        weights = self._draw_weights(ax)
        neurons, magnitudes = self._draw_neurons(ax)
        for column in self._columns:
            self._label(ax, column)
        ax.set_axis_off()
        ax.margins(0.08, 0.04)
        # Of fixed height, whatever the network's.
        scale = dict(ax=ax, shrink=_INCHES_PER_SCALE / (self.size[1] - self.bar_height), aspect=20)
        magnitudes.color_bar(neurons, "neurons: mean |dZ|", pad=0.01, **scale)
        ax.figure.colorbar(weights, label="lines: weight", pad=0.03, **scale)
        handles = magnitudes.legend(marker="o", markersize=9, markeredgecolor="0.2")
        if handles:
            ax.figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False)

    def draw_bars(self, ax):
        """Draw the norm of each kernel's gradient below its layer."""
        stages = [column.stage for column in self._columns if column.layer is not None]
        share = _SHARE_OF_BARS / max(map(stages.count, stages))
        seen = dict.fromkeys(stages, 0)
        positions = []
        for stage in stages:
            positions.append(stage + share * (seen[stage] - (stages.count(stage) - 1) / 2))
            seen[stage] += 1
        norms = np.array(list(self._dw.values()))
        shown = np.where(np.isfinite(norms), norms, 0.0)
        # A logarithmic axis of whole decades, like the neurons' colours: for a gradient that
        # vanishes layer by layer a linear axis would show only the last bar.
        exponents = np.log10(shown[shown > 0.0]) if shown.any() else np.zeros(1)
        bottom, top = 10.0 ** np.floor(exponents.min()), 10.0 ** np.ceil(exponents.max())
        bottom = min(bottom, top / 10.0)
        ax.set(yscale="log", ylim=(bottom, top * (top / bottom) ** 0.25))
        ax.bar(positions, shown, 0.6 * share, color="0.35")
        for position, norm, height in zip(positions, norms, shown, strict=True):
            above = (position, max(height, bottom))
            label = f"{norm:#.2g}".rstrip(".") if norm else "0"
            ax.annotate(label, above, (0, 3), textcoords="offset points", ha="center", fontsize=9)
        ax.set_xticks(positions, self._dw)
        ax.minorticks_off()
        ax.set_title("Gradient norm of each kernel", fontsize=10)
        ax.set_ylabel(r"$\|dW\|$")

    def _draw_weights(self, ax):
        from matplotlib.collections import LineCollection

        lines, weights = [], []
        for column in self._columns:
            if column.layer is None:
                continue
            kernel, end = column.layer.kernel.numpy(), self._places[column]
            for source, first_row in column.sources:
                start = self._places[source]
                for unit, height in zip(start.units, start.heights, strict=True):
                    for target, other in zip(end.units, end.heights, strict=True):
                        lines.append([(start.x, height), (end.x, other)])
                        weights.append(kernel[first_row + unit, target])
        weights = np.asarray(weights, dtype=np.float64)
        largest = np.abs(weights[np.isfinite(weights)]).max(initial=0.0) or 1.0
        # Large weights last: the many small ones must not cover them.
        order = np.argsort(np.abs(weights))
        share = np.abs(np.nan_to_num(weights[order], posinf=0.0, neginf=0.0)) / largest
        collection = LineCollection(
            [lines[i] for i in order],
            array=weights[order],
            cmap="PuOr",
            clim=(-largest, largest),
            linewidths=0.3 + 2.2 * share,
            zorder=1,
        )
        ax.add_collection(collection)
        return collection

    def _draw_neurons(self, ax):
        points, values = [], []
        for column in self._columns:
            place = self._places[column]
            here = [(place.x, height) for height in place.heights]
            if column.layer is None:
                ax.scatter(*zip(*here, strict=True), **_CIRCLE, facecolor="white")
                continue
            points += here
            values += self._dz[column.name][place.units].tolist()
        magnitudes = Magnitudes(values, "dZ")
        neurons = ax.scatter(
            *zip(*points, strict=True), **_CIRCLE, c=magnitudes.exponents, **magnitudes.style
        )
        return neurons, magnitudes

    def _label(self, ax, column):
        place = self._places[column]
        text, style = column.name, dict(ha="center", fontsize=9, zorder=3)
        if place.ellipsis is not None:
            ax.text(place.x, place.ellipsis, "⋮", va="center", **style | {"fontsize": 16})
            text += f"\n{len(place.units)} of {column.units} drawn"
        ax.annotate(
            text,
            (place.x, place.heights[0]),
            (0, 13),
            textcoords="offset points",
            # Readable in front of lines.
            bbox=dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1.0),
            **style,
        )


_CIRCLE = dict(s=_POINTS_PER_NEURON**2, edgecolors="0.2", linewidths=0.8, zorder=2)


def _places(columns):
    """Return column -> `_Place`, and the height of the tallest stage in neurons."""
    places, tallest = {}, 0.0
    for stage in range(columns[-1].stage + 1):
        branches = [column for column in columns if column.stage == stage]
        if stage:
            # Each beside its source, so that fewer lines cross.
            branches.sort(key=lambda column: -_height_of_sources(column, places))
        offsets = [_offsets(column.units) for column in branches]
        total = sum(o[1][-1] + 1.0 for o in offsets) + _GAP_BETWEEN_BRANCHES * (len(branches) - 1)
        top = total / 2 - 0.5
        for column, (units, below, ellipsis) in zip(branches, offsets, strict=True):
            ellipsis = None if ellipsis is None else top - ellipsis
            places[column] = _Place(stage, units, top - below, ellipsis)
            top -= below[-1] + 1.0 + _GAP_BETWEEN_BRANCHES
        tallest = max(tallest, total)
    return places, tallest


def _height_of_sources(column, places):
    return np.mean([places[source].heights.mean() for source, _ in column.sources])


def _offsets(units):
    """Return which neurons of a column are drawn, how far below the first, and the ellipsis."""
    if units <= _AT_THE_TOP + _AT_THE_END:
        return np.arange(units), np.arange(float(units)), None
    last = np.arange(units - _AT_THE_END, units)
    below = np.r_[np.arange(float(_AT_THE_TOP)), _AT_THE_TOP + 1.0 + np.arange(float(_AT_THE_END))]
    return np.r_[np.arange(_AT_THE_TOP), last], below, float(_AT_THE_TOP)
