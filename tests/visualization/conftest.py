"""What the tests of the pictures share: reading a drawing back."""

import types

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection


@pytest.fixture
def read_network():
    """Return a function: figure of plot_backprop -> what is drawn, as numbers.

    The function returns a namespace of `inputs` and `neurons`, arrays of positions (x, y) from
    top to bottom and left to right; `dz`, the magnitudes that the neurons' colours stand for, 0
    and infinity in colours of their own; `weights`, position of the start and of the end -> what
    the line's colour stands for; `dw`, layer -> height of its bar; `texts`; and `legend`.
    """

    def read(figure):
        figure.canvas.draw()  # what cannot be drawn fails here
        drawing, bars = figure.axes[:2]
        circles = [c for c in drawing.collections if isinstance(c, PathCollection)]
        colored = [c for c in circles if c.get_array() is not None]
        (lines,) = [c for c in drawing.collections if isinstance(c, LineCollection)]
        (neurons,) = colored
        positions, exponents = neurons.get_offsets().data, neurons.get_array().data
        order = np.lexsort((-positions[:, 1], positions[:, 0]))
        low, high = neurons.norm.vmin, neurons.norm.vmax
        dz = 10.0 ** exponents[order]
        dz[exponents[order] < low], dz[exponents[order] > high] = 0.0, np.inf
        inputs = np.concatenate([c.get_offsets() for c in circles if c.get_array() is None])
        return types.SimpleNamespace(
            inputs=inputs[np.argsort(-inputs[:, 1])],
            neurons=positions[order],
            dz=dz,
            weights={
                tuple(map(tuple, segment)): weight
                for segment, weight in zip(lines.get_segments(), lines.get_array(), strict=True)
            },
            dw={
                label.get_text(): bar.get_height()
                for label, bar in zip(bars.get_xticklabels(), bars.patches, strict=True)
            },
            texts=[text.get_text() for text in drawing.texts],
            legend=[t.get_text() for legend in figure.legends for t in legend.get_texts()],
        )

    return read
