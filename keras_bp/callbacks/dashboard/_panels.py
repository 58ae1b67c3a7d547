"""The five panels of a training dashboard, and the series of points that they show."""

import math
import typing

import numpy as np

from keras_bp._paths import short_names

# Distinct in every kind of colour vision (Okabe and Ito), and in print by their lightness.
_BLUE, _ORANGE, _RED = "#0072B2", "#D55E00", "#B2182B"
_RATES = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# viridis without its palest end, which is invisible on white.
_PALEST = 0.9
# Between panels, and at the figure's edges, in inches.
_PAD = 0.1
# Up to so many layers have separate rows; with more, the ridges overlap.
_ROWS = 12
# Up to so many have names, in letters that fit beside one another, of 132 points in all.
_NAMES = 22
_LETTERS = 132
_LONGEST_LABEL = 18


class Record(typing.NamedTuple):
    """What the panels show. Points are pairs (steps, values) of arrays (points, columns)."""

    title: str
    layers: list
    """(layers,) paths."""
    steps: tuple
    """The first and the last step."""
    losses: tuple
    """Points of the batches' losses: one column."""
    epochs: tuple
    """Points of the epochs' training losses: one column."""
    validations: tuple
    """Points of the validation losses: one column."""
    rates: tuple
    """Points of the learning rates: one column per optimizer."""
    norms: tuple
    """Points of the gradient norms: one column per layer."""
    weights: list
    """For each layer a histogram: rows (left edge, right edge, count)."""
    warning: str
    """A warning about the batches' losses, or an empty string."""


class DashboardPanels:
    """A figure with the five panels, which can show one `Record` after another.

    Attributes:
        figure: the `matplotlib.figure.Figure`, not one of pyplot's.
        axes: dictionary of its `Axes`: loss, validation, rate, norms, weights.
    """

    def __init__(self):
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.ticker import MaxNLocator

        self.figure = Figure(figsize=(12, 7), dpi=100)
        self._layout = ConstrainedLayoutEngine(w_pad=_PAD, h_pad=0.08)
        self._size = self._room = None
        self._title = self.figure.suptitle("", fontsize="medium", color="0.3")
        self.axes = self.figure.subplot_mosaic(
            [["loss", "validation", "rate"], ["norms", "norms", "weights"]]
        )
        for name, ax in self.axes.items():
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.2)
            ax.set_axisbelow(True)
            if name != "weights":
                _number_steps(ax)
        self.axes["loss"].set_title("Training loss (faint: each batch)")
        self.axes["validation"].set_title("Validation loss")
        self.axes["rate"].set_title("Learning rate")
        self.axes["norms"].set_title(
            "Gradient norm of each layer (faint) and smoothed, coloured as at the right"
        )
        self.axes["weights"].set(title="Weights", xlabel="value")
        self.axes["weights"].spines["left"].set_visible(False)
        self.axes["weights"].tick_params(axis="y", length=0)
        # With more, numbers of five characters touch.
        self.axes["weights"].xaxis.set_major_locator(MaxNLocator(4))
        self._losses = _line(self.axes["loss"], color=_BLUE, alpha=0.35, linewidth=0.8)
        # The last marker of these two lies on the edge.
        self._epochs = _line(self.axes["loss"], color=_BLUE, clip_on=False, in_layout=False)
        self._validations = _line(
            self.axes["validation"], color=_ORANGE, clip_on=False, in_layout=False
        )
        self._notes = {
            name: self.axes[name].text(
                0.5, y, "", color=color, ha="center", transform=self.axes[name].transAxes
            )
            for name, y, color in (
                ("loss", 0.04, _RED),
                ("validation", 0.5, "0.4"),
                ("weights", 0.5, _RED),
            )
        }
        self._rates, self._norms, self._means, self._ridges = [], [], [], None

    def update(self, record):
        """Show another record; a screen then draws the figure."""
        if [line.get_label() for line in self._norms] != record.layers:
            self._lay_out_layers(record.layers)
        if len(self._rates) != record.rates[1].shape[1]:
            self._lay_out_rates(record.rates[1].shape[1])
        self._title.set_text(record.title)
        first, last = record.steps
        for name in "loss", "validation", "rate", "norms":
            self.axes[name].set_xlim(first - 1, last)
        self._show_losses(record)
        _show(self._rates, record.rates)
        rates = record.rates[1][np.isfinite(record.rates[1])]
        self.axes["rate"].set_ylim(0, 1.05 * max(rates, default=0) or 1)
        _show(self._norms, record.norms)
        _show(self._means, _smoothed(*record.norms))
        _fit_logarithmic(self.axes["norms"], _positive(record.norms[1]))
        self._show_weights(record.weights)
        self._make_room()

    def _make_room(self):
        """Lay out the panels again, if labels have become wider or the window has changed."""
        # With a layout at each drawing, as a figure with a layout engine does, drawing would take
        # twice as long. The padding is room for one more character.
        size, slack = tuple(self.figure.get_size_inches()), 0.95 * _PAD * self.figure.dpi
        if size != self._size or (self._overhangs() > self._room + slack).any():
            self._layout.execute(self.figure)
            self._size, self._room = size, self._overhangs()

    def _overhangs(self):
        """Return how far the labels reach beyond each panel on the left and right, in pixels."""
        # As they will be drawn: an axis has labels beyond its limits too, which are not.
        boxes = [
            (ax.bbox, axis.get_tightbbox())
            for ax in self.axes.values()
            for axis in (ax.xaxis, ax.yaxis)
        ]
        return np.array([(p.x0 - box.x0, max(box.x1 - p.x1, 0)) for p, box in boxes])

    def _lay_out_layers(self, layers):
        from matplotlib import colormaps
        from matplotlib.collections import PolyCollection

        for artist in self._norms + self._means + [self._ridges] * (self._ridges is not None):
            artist.remove()
        colors = colormaps["viridis"](np.linspace(0, _PALEST, len(layers)))
        named = list(zip(layers, colors, strict=True))
        norms, weights = self.axes["norms"], self.axes["weights"]
        self._norms = [_line(norms, color=c, label=n, alpha=0.2, linewidth=0.6) for n, c in named]
        self._means = [_line(norms, color=c, label=n) for n, c in named]
        # An edge of the same colour keeps a ridge visible that is narrower than a pixel; a white
        # one separates ridges that overlap.
        edges = colors if len(layers) <= _ROWS else "white"
        self._ridges = PolyCollection([], facecolors=colors, edgecolors=edges, linewidths=0.6)
        weights.add_collection(self._ridges, autolim=False)
        # The first layer on top. Of many layers only some are named, the first and last included.
        rows = np.arange(0, len(layers), math.ceil(len(layers) / _NAMES))
        rows[-1] = len(layers) - 1
        names = short_names(layers, _LONGEST_LABEL)
        weights.set_yticks(-rows, [names[row] for row in rows])
        weights.tick_params(axis="y", labelsize=min(10, _LETTERS / len(rows)))
        self._height = 0.95 * max(1, len(layers) / _ROWS)
        weights.set_ylim(1 - len(layers) - 0.2 * self._height, 1.15 * self._height)

    def _lay_out_rates(self, count):
        for line in self._rates:
            line.remove()
        self._rates = [
            _line(self.axes["rate"], color=_RATES[i % len(_RATES)], label=f"optimizer {i}")
            for i in range(count)
        ]
        if count > 1:
            self.axes["rate"].legend(frameon=False)

    def _show_losses(self, record):
        _show([self._losses], record.losses)
        _show([self._epochs], record.epochs, marked=30)
        _show([self._validations], record.validations, marked=30)
        values = record.validations[1]
        note = "not finite" if values.size else "none so far"
        self._notes["validation"].set_text("" if np.isfinite(values).any() else note)
        self._notes["loss"].set_text(record.warning)
        # Both panels have the same limits, so that the generalization gap is visible as a height.
        parts = record.losses, record.epochs, record.validations
        values = np.concatenate([part[1].ravel() for part in parts])
        for name in "loss", "validation":
            _fit_losses(self.axes[name], values)

    def _show_weights(self, histograms):
        outlines = []
        for row, histogram in enumerate(histograms):
            left, right, counts = np.asarray(histogram).T
            x = np.stack([left, right], axis=1).ravel()
            y = np.repeat(self._height * counts / max(counts.max(), 1) - row, 2)
            x, y = [x[0], *x, x[-1]], [-row, *y, -row]
            outlines.append(np.stack([x, y], axis=1))
        self._ridges.set_verts(outlines)
        edges = np.concatenate(outlines)[:, 0]
        self.axes["weights"].set_xlim(*_with_margin(edges.min(), edges.max()))
        empty = sum(not np.asarray(histogram)[:, 2].any() for histogram in histograms)
        note = f"no finite weight in {empty} layer" + "s" * (empty > 1)
        self._notes["weights"].set_text(note if empty else "")


def _line(ax, **style):
    [line] = ax.plot([], [], markersize=3, **style)
    return line


def _show(lines, points, marked=1):
    """Let each line show one column of points, with markers where they are few."""
    for line, steps, values in zip(lines, points[0].T, points[1].T, strict=True):
        line.set_data(steps, values)
        line.set_marker("o" if np.isfinite(values).sum() <= marked else "")


def _smoothed(steps, values):
    """Return the geometric means of positive values over some 4 % of the points, by column."""
    half = len(values) // 100
    if not half:
        return steps, values
    # A thinned series holds pairs of a smallest and a largest value, which belong together.
    even = len(values) // 2 * 2
    steps, values = (part[:even].reshape(-1, 2, part.shape[1]) for part in (steps, values))
    known = np.isfinite(values) & (values > 0)
    logarithms = np.log10(values, where=known, out=np.zeros_like(values)).sum(axis=1)
    counts = known.sum(axis=1)
    means = _window_sums(logarithms, half) / np.maximum(_window_sums(counts, half), 1)
    return steps.mean(axis=1), np.where(counts > 0, 10**means, np.nan)


def _window_sums(rows, half):
    """Return for each row its sum with `half` neighbours on either side."""
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(axis=0)])
    place = np.arange(len(rows))
    return sums[np.minimum(place + half + 1, len(rows))] - sums[np.maximum(place - half, 0)]


def _number_steps(ax):
    """Count update steps on the x axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlabel("update steps")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    _write_numbers(ax)


def _positive(values):
    """Return the values that a logarithmic axis can show."""
    return values[np.isfinite(values) & (values > 0)]


def _fit_losses(ax, values):
    """Show all finite values, on a logarithmic axis if they are positive and far apart."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() / values.min() > 10:
        _fit_logarithmic(ax, values)
    else:
        _set_scale(ax, "linear")
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        ax.set_ylim(*_with_margin(low, high))


def _fit_logarithmic(ax, values):
    """Show positive values on a logarithmic axis of a decade or more."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = (values.min(), values.max()) if values.size else (0.1, 1.0)
    low, high = math.log10(low), math.log10(high)
    margin = max(0.04 * (high - low), (1 - (high - low)) / 2)
    _set_scale(ax, "log")
    # Not far from the end of float64's range.
    ax.set_ylim(10 ** max(low - margin, -300), 10 ** min(high + margin, 300))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2 else (1,), numticks=8))
    ax.yaxis.set_minor_locator(NullLocator())


def _with_margin(low, high):
    """Return limits a little beyond these."""
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _set_scale(ax, scale):
    if ax.get_yscale() != scale:
        ax.set_yscale(scale, **({"nonpositive": "mask"} if scale == "log" else {}))
        _write_numbers(ax)


def _write_numbers(ax):
    from matplotlib.ticker import FuncFormatter

    def text(value, _):
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")

    ax.yaxis.set_major_formatter(FuncFormatter(text))


class ThinnedSeries:
    """Values over steps, reduced to a bounded number of points that draw the same line.

    A column of pixels with a thousand points shows their range. So when there are `points` points,
    the smallest and the largest of each 4 in a row stay, at their steps, and from then on 2 of each
    4 steps, later of 8, 16, ... The points stay evenly spread, and are recorded values, not
    averages. A value that is not finite stays only where there is no other.

    Args:
        points: multiple of 4, the number of points at which the series is thinned out.
    """

    def __init__(self, points=2000):
        self._limit = points
        self._points = []  # pairs of (columns,) arrays: steps, values
        self._block = []  # not thinned out yet
        self._steps_per_point = 1

    def add(self, steps, rows):
        """Add rows, array of shape (n, columns), of n steps."""
        for step, row in zip(steps, rows, strict=True):
            self._block.append((np.full(len(row), step), row))
            if len(self._block) == 2 * self._steps_per_point:
                self._points += _extremes(self._block)
                self._block = []
            if len(self._points) == self._limit:
                blocks = range(0, self._limit, 4)
                self._points = [p for i in blocks for p in _extremes(self._points[i : i + 4])]
                self._steps_per_point *= 2

    def points(self):
        """Return steps and values, two arrays of shape (points, columns)."""
        points = self._points + self._block
        if not points:
            return np.zeros((2, 0, 1))
        steps, values = zip(*points, strict=True)
        return np.stack(steps), np.stack(values)


def _extremes(points):
    """Return the smallest and the largest point of each column, in their order."""
    if len(points) == 2:
        return points
    steps, values = (np.stack(part) for part in zip(*points, strict=True))
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf).argmin(axis=0)
    high = np.where(finite, values, -np.inf).argmax(axis=0)
    columns = np.arange(values.shape[1])
    rows = np.minimum(low, high), np.maximum(low, high)
    return [(steps[row, columns], values[row, columns]) for row in rows]
