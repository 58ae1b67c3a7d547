"""A picture of the gradients' flow: layers against update steps, the norm as colour."""

import numpy as np

_COLUMNS = 512
_WIDTH, _HEIGHT, _LEAST_HEIGHT = 512, 192, 8
# From dark to bright, as matplotlib's viridis; grey stands for what is no number.
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
_GREY = np.array([128, 128, 128])


class GradientFlowImage:
    """Collects norms over a whole training, in a bounded number of columns.

    Where the columns are full, neighbours are merged, and from then on a column stands for twice
    as many steps: it shows their mean of log10.
    """

    def __init__(self):
        self._columns = []
        self._steps_a_column = 1
        self._pending = []

    def add(self, norms):
        """Add norms: array of shape (steps, layers)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log10(norms)
        logarithms[~np.isfinite(logarithms)] = np.nan
        for row in logarithms:
            self._pending.append(row)
            if len(self._pending) == self._steps_a_column:
                self._columns.append(_mean(self._pending))
                self._pending = []
                if len(self._columns) == 2 * _COLUMNS:
                    self._columns = [
                        _mean(self._columns[i : i + 2]) for i in range(0, 2 * _COLUMNS, 2)
                    ]
                    self._steps_a_column *= 2

    def draw(self, layers):
        """Return the image, uint8 of shape (height, width, 3), and its description in Markdown."""
        columns = self._columns + [_mean(self._pending)] * bool(self._pending)
        flow = np.array(columns).T
        known = flow[np.isfinite(flow)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
        share = (flow - low) / max(high - low, 1e-12) * (len(_COLOURS) - 1)
        left = np.clip(np.nan_to_num(share), 0, len(_COLOURS) - 1 - 1e-9).astype(int)
        part = (share - left)[..., np.newaxis]
        image = _COLOURS[left] * (1 - part) + _COLOURS[left + 1] * part
        image = np.where(np.isnan(share)[..., np.newaxis], _GREY, image)
        across = np.arange(_WIDTH) * flow.shape[1] // _WIDTH
        height = max(_HEIGHT // len(flow), _LEAST_HEIGHT)
        image = np.repeat(image[:, across], height, axis=0)
        image[::height] = 0  # a black line parts the layers
        rows = "\n".join(f"{number}. `{layer}`" for number, layer in enumerate(layers, 1))
        description = (
            f"Gradient norm of each layer, log10 from {low:.1f} (dark) to {high:.1f} (bright), "
            f"grey where it is 0 or no number; update steps from left to right. Rows from the "
            f"top:\n\n{rows}"
        )
        return image.astype(np.uint8), description


def _mean(rows):
    """Return the mean of rows, column by column, of what is a number."""
    rows = np.array(rows)
    known = np.isfinite(rows)
    total = np.where(known, rows, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
