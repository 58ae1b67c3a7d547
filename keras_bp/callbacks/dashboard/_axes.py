"""How the axes of a dashboard's panels look, and what their limits are."""

import math

import numpy as np


def number_steps(ax):
    """Count update steps on the x axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlabel("update steps")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    _write_numbers(ax)


def positive(values):
    """Return what can be seen on a logarithmic axis."""
    return values[np.isfinite(values) & (values > 0)]


def fit_losses(ax, values):
    """Show all finite values, on a logarithmic axis if they are positive and far apart."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() / values.min() > 10:
        fit_logarithmic(ax, values)
    else:
        _set_scale(ax, "linear")
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        ax.set_ylim(*with_margin(low, high))


def fit_logarithmic(ax, values):
    """Show positive values on a logarithmic axis of a decade or more."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = (values.min(), values.max()) if values.size else (0.1, 1.0)
    low, high = math.log10(low), math.log10(high)
    margin = max(0.04 * (high - low), (1 - (high - low)) / 2)
    _set_scale(ax, "log")
    # What float64 can hold ends not far beyond.
    ax.set_ylim(10 ** max(low - margin, -300), 10 ** min(high + margin, 300))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2 else (1,), numticks=8))
    ax.yaxis.set_minor_locator(NullLocator())


def with_margin(low, high):
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
