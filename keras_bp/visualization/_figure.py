"""A Matplotlib figure, imported only when one is drawn."""


def new_figure(caller, size):
    """Return an empty figure of `size` (width, height) in inches.

    Args:
        caller: string. The public function that draws, for the message.
        size: tuple of two floats.

    Raises:
        ImportError: if Matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"{caller} needs Matplotlib, which is an extra: pip install keras_bp[examples]"
        ) from error
    return pyplot.figure(figsize=size, layout="constrained")


def tidy(ax):
    """Take away what is no ink for data, and add faint lines to read values by."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.2)
    ax.set_axisbelow(True)


def logarithmic(ax):
    """Make the y axis of a finished plot logarithmic, with labels that are read at a glance."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_formatter(plain)
    # Over one decade or two the powers of ten alone are too few.
    ax.yaxis.set_minor_locator(LogLocator(subs=range(2, 10) if high < 10 * low else (2, 5)))
    ax.yaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())
    ax.grid(which="minor", alpha=0.2)
