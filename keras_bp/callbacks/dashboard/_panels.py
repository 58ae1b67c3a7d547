"""The five panels of a training dashboard."""

import typing

import numpy as np

from keras_bp.callbacks.dashboard._axes import (
    fit_logarithmic,
    fit_losses,
    number_steps,
    positive,
    with_margin,
)

# Told apart with every kind of colour vision (Okabe and Ito), and in print by their lightness.
_BLUE, _ORANGE, _RED = "#0072B2", "#D55E00", "#B2182B"
_RULES = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# viridis without its palest end, which cannot be seen on white.
_PALEST = 0.9
# So many layers are named and drawn one below the other; the ridges of more overlap.
_ROWS = 12
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
    """Points of the learning rates: a column for each rule."""
    norms: tuple
    """Points of the gradient norms: a column for each layer."""
    weights: list
    """For each layer a histogram: rows (left edge, right edge, count)."""
    warning: str
    """What is wrong with the losses, or nothing."""


class DashboardPanels:
    """A figure with the five panels, and what has to be changed in it to show a `Record`.

    Attributes:
        figure: the `matplotlib.figure.Figure`, which pyplot knows nothing of.
        axes: dictionary of its `Axes`: loss, validation, rate, norms, weights.
    """

    def __init__(self):
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.figure = Figure(figsize=(12, 7), dpi=100)
        # At the right there is place for the half of a number below the end of an axis.
        self._layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, rect=(0, 0, 0.985, 1))
        self._room = None, None  # the size and the lengths of labels that there is room for
        self._title = self.figure.suptitle("", fontsize="medium", color="0.3")
        self.axes = self.figure.subplot_mosaic(
            [["loss", "validation", "rate"], ["norms", "norms", "weights"]]
        )
        for name, ax in self.axes.items():
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.2)
            ax.set_axisbelow(True)
            if name != "weights":
                number_steps(ax)
        self.axes["loss"].set_title("Training loss (faint: each batch)")
        self.axes["validation"].set_title("Validation loss")
        self.axes["rate"].set_title("Learning rate")
        self.axes["norms"].set_title(
            "Gradient norm of each layer (faint) and smoothed, coloured as at the right"
        )
        self.axes["weights"].set(title="Weights", xlabel="value")
        self.axes["weights"].spines["left"].set_visible(False)
        self.axes["weights"].tick_params(axis="y", length=0)
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
        """Show another record; it is drawn by whoever shows the figure."""
        if [line.get_label() for line in self._norms] != record.layers:
            self._lay_out_layers(record.layers)
        if len(self._rates) != record.rates[1].shape[1]:
            self._lay_out_rules(record.rates[1].shape[1])
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
        fit_logarithmic(self.axes["norms"], positive(record.norms[1]))
        self._show_weights(record.weights)
        self._make_room()

    def _make_room(self):
        """Lay out the panels, where labels have become longer or the window another."""
        # At every drawing, as a figure with a layout engine does it, it would take twice as long.
        # For one character more there is always room.
        labels = [ax.get_yticklabels() for ax in self.axes.values()]
        lengths = [max((len(label.get_text()) for label in of), default=0) for of in labels]
        size, known = self._room
        if size != tuple(self.figure.get_size_inches()) or np.any(np.subtract(lengths, known) > 1):
            self._layout.execute(self.figure)
            self._room = tuple(self.figure.get_size_inches()), lengths

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
        # An edge of their own colour keeps ridges visible that are narrower than a pixel, and a
        # white one parts those that overlap.
        edges = colors if len(layers) <= _ROWS else "white"
        self._ridges = PolyCollection([], facecolors=colors, edgecolors=edges, linewidths=0.6)
        weights.add_collection(self._ridges, autolim=False)
        # The first layer on top. Of many layers some are named, the first and the last among them.
        rows = np.linspace(0, len(layers) - 1, min(len(layers), _ROWS)).round().astype(int)
        weights.set_yticks(-rows, [_short(layers[row]) for row in rows])
        self._height = 0.95 * max(1, len(layers) / _ROWS)
        weights.set_ylim(1 - len(layers) - 0.2 * self._height, 1.15 * self._height)

    def _lay_out_rules(self, rules):
        for line in self._rates:
            line.remove()
        self._rates = [
            _line(self.axes["rate"], color=_RULES[i % len(_RULES)], label=f"optimizer {i}")
            for i in range(rules)
        ]
        if rules > 1:
            self.axes["rate"].legend(frameon=False)

    def _show_losses(self, record):
        _show([self._losses], record.losses)
        _show([self._epochs], record.epochs, marked=30)
        _show([self._validations], record.validations, marked=30)
        values = record.validations[1]
        note = "not finite" if values.size else "none so far"
        self._notes["validation"].set_text("" if np.isfinite(values).any() else note)
        self._notes["loss"].set_text(record.warning)
        # Both panels have the same limits: what generalization costs is seen as a height.
        parts = record.losses, record.epochs, record.validations
        values = np.concatenate([part[1].ravel() for part in parts])
        for name in "loss", "validation":
            fit_losses(self.axes[name], values)

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
        self.axes["weights"].set_xlim(*with_margin(edges.min(), edges.max()))
        empty = sum(not np.asarray(histogram)[:, 2].any() for histogram in histograms)
        note = f"no finite weight in {empty} layer" + "s" * (empty > 1)
        self._notes["weights"].set_text(note if empty else "")


def _line(ax, **style):
    [line] = ax.plot([], [], markersize=3, **style)
    return line


def _show(lines, points, marked=1):
    """Let each line show one column of points, and mark these where they are few."""
    for line, steps, values in zip(lines, points[0].T, points[1].T, strict=True):
        line.set_data(steps, values)
        line.set_marker("o" if np.isfinite(values).sum() <= marked else "")


def _short(path):
    """Return the end of a long path, which tells more than its beginning."""
    return path if len(path) <= _LONGEST_LABEL else "…" + path[1 - _LONGEST_LABEL :]


def _smoothed(steps, values):
    """Return geometric means over some 4 % of the points, column by column, of what is > 0."""
    half = len(values) // 100
    if not half:
        return steps, values
    # A thinned series holds pairs of the smallest and the largest, which must not be parted.
    even = len(values) // 2 * 2
    steps, values = (part[:even].reshape(-1, 2, part.shape[1]) for part in (steps, values))
    known = np.isfinite(values) & (values > 0)
    logarithms = np.log10(values, where=known, out=np.zeros_like(values)).sum(axis=1)
    counts = known.sum(axis=1)
    means = _window_sums(logarithms, half) / np.maximum(_window_sums(counts, half), 1)
    return steps.mean(axis=1), np.where(counts > 0, 10**means, np.nan)


def _window_sums(rows, half):
    """Return for each row the sum over it and over `half` of its neighbours on either side."""
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(axis=0)])
    place = np.arange(len(rows))
    return sums[np.minimum(place + half + 1, len(rows))] - sums[np.maximum(place - half, 0)]
