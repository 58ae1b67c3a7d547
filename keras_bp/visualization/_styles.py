"""Lines that are told apart in a plot of many, by colour and by dashes."""

# Okabe and Ito's colours, which all kinds of colour blindness tell apart; without their yellow,
# which a white page swallows.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def line_styles(names):
    """Return name -> colour and dashes, as options of Matplotlib's `plot`."""
    return {
        name: {
            "color": COLORS[i % len(COLORS)],
            "linestyle": _DASHES[i // len(COLORS) % len(_DASHES)],
        }
        for i, name in enumerate(names)
    }
