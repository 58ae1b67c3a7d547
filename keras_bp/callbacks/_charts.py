"""What callbacks show in TensorBoard besides scalars: a page of charts, and pictures."""

import re
from collections.abc import Iterable

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, summary

_CHARTS = [
    ("Gradient norm of each layer", [r"gradient_norm/(?!global$)"]),
    ("Gradient norm of all layers, received and applied", [r"gradient_norm\w*/global$"]),
    ("Update ratio of each layer (healthy near 1e-3)", [r"update_ratio/"]),
    ("Weight norm of each layer", [r"weight_norm/"]),
    ("Degrees between the gradient of each layer and the true one", [r"alignment_angle/"]),
    ("Share of equal signs in the two", [r"sign_concordance/"]),
    ("Learning rate", [r"learning_rate"]),
    ("Loss of each batch", [r"loss/batch$"]),
    ("Metrics of each epoch", [r"epoch/"]),
    ("Share of dead units in each layer", [r"dead_units/"]),
    ("Share of saturated outputs of each layer", [r"saturated_units/"]),
    ("Share of the updates that clipping changed", [r"clip_rate$"]),
]
_COLUMNS = 512
_WIDTH, _HEIGHT, _LEAST = 512, 192, 8
# From dark to bright, as matplotlib's viridis, and from red over white to blue, as its RdBu.
_FLOW = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
_CONFLICT = np.array([[178, 24, 43], [247, 247, 247], [33, 102, 172]])
_GREY = np.array([128, 128, 128])


def layout(tags: list[str]) -> Summary:
    """Return the layout of the page Custom Scalars: the charts that some of the tags belong to."""
    # TensorBoard matches an expression only at the start of a tag.
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=expressions))
        for title, expressions in _CHARTS
        if any(re.match(expression, tag) for expression in expressions for tag in tags)
    ]
    category = layout_pb2.Category(title="keras_bp: what the gradients do", chart=charts)
    return summary.pb(layout_pb2.Layout(category=[category]))


class GradientFlowImage:
    """Collects norms over a whole training, in a bounded number of columns.

    Once the columns are full, neighbours are merged, and each column then stands for twice as many
    steps: it shows the mean of their log10.
    """

    def __init__(self) -> None:
        self._columns: list[np.ndarray] = []
        self._steps_per_column = 1
        self._pending: list[np.ndarray] = []

    def add(self, norms: np.ndarray) -> None:
        """Add norms: array of shape (steps, layers)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log10(norms)
        logarithms[~np.isfinite(logarithms)] = np.nan
        for row in logarithms:
            self._pending.append(row)
            if len(self._pending) == self._steps_per_column:
                self._columns.append(_mean(self._pending))
                self._pending = []
                if len(self._columns) == 2 * _COLUMNS:
                    self._columns = [
                        _mean(self._columns[i : i + 2]) for i in range(0, 2 * _COLUMNS, 2)
                    ]
                    self._steps_per_column *= 2

    def draw(self, layers: Iterable[str]) -> tuple[np.ndarray, str]:
        """Return the image, uint8 of shape (height, width, 3), and its description in Markdown."""
        columns = self._columns + [_mean(self._pending)] * bool(self._pending)
        flow = np.array(columns).T
        known = flow[np.isfinite(flow)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
        image = _coloured((flow - low) / max(high - low, 1e-12), _FLOW)
        across = np.arange(_WIDTH) * flow.shape[1] // _WIDTH
        image = np.repeat(image[:, across], max(_HEIGHT // len(flow), _LEAST), axis=0)
        image[:: len(image) // len(flow)] = 0  # a black line between layers
        description = (
            f"Gradient norm of each layer, log10 from {low:.1f} (dark) to {high:.1f} (bright), "
            f"grey where it is 0 or NaN; update steps from left to right. Rows from the "
            f"top:\n\n{_numbered(layers)}"
        )
        return image, description


def conflict_image(
    cosines: np.ndarray, layers: list[str], pairs: list[str]
) -> tuple[np.ndarray, str]:
    """Return a picture of conflicts: layers against pairs of tasks, the cosine as colour.

    Args:
        cosines: array of shape (layers, pairs), NaN if missing.
        layers: list of strings.
        pairs: list of strings.

    Returns:
        The image, uint8 of shape (height, width, 3), and its description in Markdown.
    """
    image = _coloured((cosines + 1) / 2, _CONFLICT)
    width, height = max(_WIDTH // len(pairs), _LEAST), max(_HEIGHT // len(layers), _LEAST)
    image = np.repeat(np.repeat(image, height, axis=0), width, axis=1)
    image[::height] = image[:, ::width] = 0  # black lines between the cells
    description = (
        "Mean cosine between two tasks' gradients over the epoch, from -1 (red) over 0 (white) to "
        f"1 (blue), grey where there is none. Rows from the top:\n\n{_numbered(layers)}\n\n"
        f"Columns from the left:\n\n{_numbered(pairs)}"
    )
    return image, description


def _coloured(shares, colours):
    """Return an image of values from 0 to 1, uint8 with one more axis; grey where they are NaN."""
    known = np.nan_to_num(shares) * (len(colours) - 1)
    places = np.arange(len(colours))
    image = np.stack([np.interp(known, places, channel) for channel in colours.T], axis=-1)
    return np.where(np.isnan(shares)[..., np.newaxis], _GREY, image).astype(np.uint8)


def _numbered(names):
    return "\n".join(f"{number}. `{name}`" for number, name in enumerate(names, 1))


def _mean(rows):
    """Return the mean of the finite entries of each column."""
    rows = np.array(rows)
    known = np.isfinite(rows)
    total = np.where(known, rows, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
