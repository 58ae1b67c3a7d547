"""Common parts of the pictures: a figure, axes, line styles, and magnitudes as colours.

Matplotlib, an extra, is imported only when something is drawn.
"""

import numpy as np

from keras_bp._versions import require_matplotlib

# Okabe and Ito's colours, distinct in all kinds of colour blindness; without their yellow, which is
# invisible on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
# Magnitudes more decades below the largest look alike: the eye distinguishes no more.
_DECADES = 8
# Two colours outside viridis, distinct from it in all kinds of colour blindness.
ZERO, NOT_FINITE = "0.8", "#d55e00"


def new_figure(caller, size):
    """Return an empty figure of `size` (width, height) in inches.

    Args:
        caller: string. The public function that draws, for the message.
        size: tuple of two floats.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    require_matplotlib(caller)
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


def tidy(ax):
    """Remove chart junk, and add a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2)
    ax.set_axisbelow(True)


def logarithmic(ax):
    """Make the y axis of a finished plot logarithmic, with readable labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_formatter(plain)
    # Over one or two decades the powers of ten are too few.
    ax.yaxis.set_minor_locator(LogLocator(subs=range(2, 10) if high < 10 * low else (2, 5)))
    ax.yaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())
    ax.grid(which="minor", alpha=0.2)


def line_styles(names):
    """Return name -> colour and dashes, as options of Matplotlib's `plot`."""
    return {
        name: {
            "color": COLORS[i % len(COLORS)],
            "linestyle": _DASHES[i // len(COLORS) % len(_DASHES)],
        }
        for i, name in enumerate(names)
    }


class Magnitudes:
    """The colours of an array of numbers of 0 or more.

    Zero and infinity have their own colours, outside of the scale.

    Args:
        values: array of any shape; NaN means no value, and has no colour.
        symbol: string, what the values are called in the legend.

    Attributes:
        exponents: float64 array of the same shape: the decimal logarithms, below the scale for 0
            and above it for infinity.
        style: dictionary of `cmap` and `norm`, for Matplotlib.
    """

    def __init__(self, values, symbol):
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        values = np.asarray(values, dtype=np.float64)
        with np.errstate(divide="ignore"):
            exponents = np.log10(values)
        finite = exponents[np.isfinite(exponents)]
        # Whole decades, so that the colour bar begins and ends with a tick.
        high = np.ceil(finite.max()) if len(finite) else 0.0
        low = max(np.floor(finite.min()), high - _DECADES) if len(finite) else high
        low = min(low, high - 1.0)
        # Finite numbers outside the scale, since Matplotlib leaves out infinity.
        self.exponents = np.clip(exponents, low, high)
        self.exponents[values == 0.0] = low - 1.0
        self.exponents[values == np.inf] = high + 1.0
        cmap = colormaps["viridis"].with_extremes(under=ZERO, over=NOT_FINITE)
        self.style = {"cmap": cmap, "norm": Normalize(low, high)}
        self._clipped = bool((finite < low).any())
        meanings = {
            ZERO: (f"{symbol} is 0", values == 0.0),
            NOT_FINITE: (f"{symbol} is not finite", values == np.inf),
        }
        self._meanings = {color: text for color, (text, where) in meanings.items() if where.any()}

    def color_bar(self, mappable, label, **options):
        """Add the scale to the figure that `mappable`, drawn in `style`, is in."""
        bar = mappable.figure.colorbar(mappable, label=label, **options)
        low, high = self.style["norm"].vmin, self.style["norm"].vmax
        ticks = np.arange(low, high + 1.0)
        labels = [f"$10^{{{tick:.0f}}}$" for tick in ticks]
        if self._clipped:
            labels[0] = f"$\\leq${labels[0]}"
        bar.set_ticks(ticks, labels=labels)
        bar.minorticks_off()
        return bar

    def legend(self, **style):
        """List a legend's handles for zero and for values that are not finite, if there are any."""
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], linestyle="", color=color, label=meaning, **style)
            for color, meaning in self._meanings.items()
        ]
