"""Magnitudes of gradients as colours: a decade is a step, and zero is not the smallest of them."""

import numpy as np

# Below this share of the largest magnitude all look alike: the eye tells no more decades apart.
_DECADES = 8
# Two colours that viridis has not, and that no colour blindness takes for one of its own.
ZERO, NOT_FINITE = "0.8", "#d55e00"


class Magnitudes:
    """The colours of an array of numbers of 0 or more.

    Zero and infinity have colours of their own, outside of the scale.

    Args:
        values: array of any shape; a NaN is no value, and has no colour.
        symbol: string, what the values are called in the legend.

    Attributes:
        exponents: float64 array of the same shape: the decimal logarithms, for 0 something below
            the scale's end and for infinity something above it.
        style: dictionary of `cmap` and `norm`, for Matplotlib.
    """

    def __init__(self, values, symbol):
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        values = np.asarray(values, dtype=np.float64)
        with np.errstate(divide="ignore"):
            exponents = np.log10(values)
        finite = exponents[np.isfinite(exponents)]
        # Whole decades, for the colour bar to begin and end with a tick.
        high = np.ceil(finite.max()) if len(finite) else 0.0
        low = max(np.floor(finite.min()), high - _DECADES) if len(finite) else high
        low = min(low, high - 1.0)
        # Finite numbers for what lies outside, since Matplotlib leaves out what is infinite.
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
        """List a legend's handles for zero and for what is not finite, where there are any."""
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], linestyle="", color=color, label=meaning, **style)
            for color, meaning in self._meanings.items()
        ]
