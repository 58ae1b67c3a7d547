"""What callbacks show in TensorBoard besides scalars: a page of charts, and pictures."""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, summary

from keras_bp._paths import block_of, short_names

_CHARTS = [
    ("Gradient norm of each layer", [r"gradient_norm/(?!global$)"]),
    ("Gradient norm of all layers, received and applied", [r"gradient_norm\w*/global$"]),
    ("Update ratio of each layer (healthy near 1e-3)", [r"update_ratio/"]),
    ("Weight norm of each layer", [r"weight_norm/"]),
    ("Degrees between the gradient of each layer and the true one", [r"alignment_angle/"]),
    ("Share of equal signs in the two", [r"sign_concordance/"]),
    ("Learning rate", [r"learning_rate"]),
    ("Critical learning rate, beside the one used", [r"critical_learning_rate$", r"learning_rate"]),
    ("Critical sharpness and largest Hessian eigenvalue", [r"(critical_sharpness|hessian/)"]),
    ("Gradient noise scale in examples, with its 95 % interval", [r"gradient_noise_scale"]),
    ("Loss of each batch", [r"loss/batch$"]),
    ("Metrics of each epoch", [r"epoch/"]),
    ("Share of dead units in each layer", [r"dead_units/"]),
    ("Share of saturated outputs of each layer", [r"saturated_units/"]),
    ("Share of the updates that clipping changed", [r"clip_rate$"]),
]
# TensorBoard gives all lines of a run one colour, and lists them below the pointer: so many layers
# share a chart, and of more there are charts by block.
_LINES, _LINES_OF_BLOCKS = 15, 10
_COLUMNS = 512
_WIDTH, _HEIGHT, _LEAST = 512, 192, 8
# From dark to bright, as matplotlib's viridis, and from red over white to blue, as its RdBu.
_FLOW = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
_CONFLICT = np.array([[178, 24, 43], [247, 247, 247], [33, 102, 172]])
_GREY = np.array([128, 128, 128])
# In pixels: the size of letters and of a row with a name, and what is around the rows of a picture.
_LETTER, _LINE = 11, 14
_TOP, _RIGHT, _BOTTOM = 24, 96, 40
_LONGEST = 32
# So many rows are named; of more, the first and last, and the most extreme.
_NAMED, _EXTREMES = 30, 10


def layout(tags: list[str], layers: Sequence[str]) -> Summary:
    """Return the layout of the page Custom Scalars: the charts that some of the tags belong to.

    Args:
        tags: list of strings, tags or the beginnings of tags.
        layers: list of strings, the layers that are written, in order.
    """
    # TensorBoard matches an expression only at the start of a tag.
    titles = [
        (title, expressions)
        for title, expressions in _CHARTS
        if any(re.match(expressions[0], tag) for tag in tags)
    ]
    overview, by_block = titles, []
    if len(layers) > _LINES:
        by_block = [chart for chart in titles if " each layer" in chart[0]]
        overview = [chart for chart in titles if chart not in by_block]
    categories = [layout_pb2.Category(title="keras_bp: what the gradients do")]
    categories[0].chart.extend(_chart(*chart) for chart in overview)
    for title, [expression] in by_block:
        kind = expression.partition("/")[0]
        paths = [tag.removeprefix(f"{kind}/") for tag in tags if re.match(expression, tag)]
        charts = []
        for block in _blocks(layers if paths == [""] else paths):
            span = " to ".join(dict.fromkeys([block[0], block[-1]]))
            either = "|".join(map(re.escape, block))
            charts.append(_chart(f"{kind.replace('_', ' ')}: {span}", [f"{kind}/({either})$"]))
        categories.append(layout_pb2.Category(title=title, chart=charts, closed=True))
    return summary.pb(layout_pb2.Layout(category=categories))


def _chart(title, expressions):
    return layout_pb2.Chart(
        title=title, multiline=layout_pb2.MultilineChartContent(tag=expressions)
    )


def _blocks(layers):
    """Split paths into charts of neighbours, blocks of one name or number together if they fit."""
    blocks = []
    for _, block in itertools.groupby(layers, block_of):
        block = list(block)
        for start in range(0, len(block), _LINES_OF_BLOCKS):
            part = block[start : start + _LINES_OF_BLOCKS]
            if blocks and len(blocks[-1]) + len(part) <= _LINES_OF_BLOCKS:
                blocks[-1] += part
            else:
                blocks.append(part)
    return blocks


class GradientFlowImage:
    """Collects norms over a whole training, in a bounded number of columns.

    Once the columns are full, neighbours are merged, and each column then stands for twice as many
    steps: it shows the mean of their log10.
    """

    def __init__(self) -> None:
        self._columns: list[np.ndarray] = []
        self._steps_per_column = 1
        self._pending: list[np.ndarray] = []
        self._first = 0
        self._range: tuple[int, int] | None = None

    def add(self, norms: np.ndarray, last_step: int) -> None:
        """Add norms: array of shape (steps, layers), up to the step `last_step`."""
        self._first = self._first or last_step - len(norms) + 1
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

    def draw(self, layers: Sequence[str], last_step: int) -> tuple[np.ndarray, str]:
        """Return the image, uint8 of shape (height, width, 3), and its description in Markdown.

        All images have the range of the first one, so that they can be compared: whole decades, one
        more at either end.

        Args:
            layers: list of strings, the rows' names.
            last_step: integer, the step of the last norms.
        """
        columns = self._columns + [_mean(self._pending)] * bool(self._pending)
        flow = np.array(columns).T
        known = flow[np.isfinite(flow)]
        if self._range is None and known.size:
            self._range = math.floor(known.min()) - 1, math.ceil(known.max()) + 1
        low, high = self._range or (-1, 1)
        cells = _coloured(np.clip((flow - low) / (high - low), 0, 1), _FLOW)
        rows = np.arange(len(layers))
        if len(layers) > _NAMED:
            means = _mean(columns)
            order = [row for row in np.argsort(means) if np.isfinite(means[row])]
            extremes = order[: _EXTREMES // 2] + order[-_EXTREMES // 2 :]
            rows = np.unique([0, *extremes, len(layers) - 1])
        picture = _Picture(cells[:, np.arange(_WIDTH) * flow.shape[1] // _WIDTH], layers, rows)
        picture.write("gradient norm of each layer", 0.5, 4)
        picture.write("update steps", 0.5, -2)
        for place, step in ((0.0, self._first), (1.0, last_step)):
            picture.write(f"{step:,}", place, -1)
        every = math.ceil((high - low) / 10)
        picture.color_bar(
            _FLOW, {(d - low) / (high - low): f"1e{d}" for d in range(low, high + 1, every)}
        )
        description = (
            "Gradient norm of each layer, its logarithm as colour, in one range in all images of a "
            f"run; grey where it is 0 or NaN. Of more than {_NAMED} layers the "
            f"first, the last and the {_EXTREMES} of the largest and the smallest mean are named."
        )
        return picture.pixels(), description


class _Picture:
    """Rows of coloured cells with names at the left, text around them, and a colour bar.

    Args:
        cells: uint8 array of shape (rows, width, 3).
        names: list of strings, the rows' names.
        named: the numbers of the rows whose names are shown.
    """

    def __init__(self, cells, names, named):
        rows, self._width, _ = cells.shape
        # Of many rows the picture is no higher than a screen.
        row = min(max(_HEIGHT // rows, _LINE), max(_LINE * _NAMED // rows, 2))
        self._height = rows * row
        cells = np.repeat(cells, row, axis=0)
        if row >= _LEAST:
            cells[::row] = 0  # a black line between rows
        self._font = ImageFont.load_default(_LETTER)
        labels = np.array(short_names(list(names), _LONGEST))[named]
        self._left = 16 + math.ceil(max(map(self._font.getlength, labels)))
        size = self._left + self._width + _RIGHT, _TOP + self._height + _BOTTOM
        self._image = Image.new("RGB", size, "white")
        self._image.paste(Image.fromarray(cells), (self._left, _TOP))
        self._draw = ImageDraw.Draw(self._image)
        heights = _TOP + (np.asarray(named) + 0.5) * row
        places = _apart(heights, _LINE, _TOP, _TOP + self._height)
        for label, height, place in zip(labels, heights, places, strict=True):
            self._text((self._left - 12, place), label, "rm")
            self._draw.line([(self._left - 10, place), (self._left - 2, height)], "grey")

    def write(self, text, place, line):
        """Write text at a share of the width, in a line above the rows or, from -1, below them."""
        below = _TOP + self._height + 4 + 16 * (-1 - line)
        x, y = self._left + place * self._width, line if line >= 0 else below
        self._text((x, y), text, "ma")

    def fitting(self, names, width):
        """Return the names if all fit into columns of this width, or else their numbers."""
        if max(map(self._font.getlength, names)) < width:
            return names
        return map(str, range(1, len(names) + 1))

    def color_bar(self, colours, labels):
        """Draw a colour bar; labels: dictionary, a share of its height -> text."""
        x, height = self._left + self._width + 16, self._height
        shares = np.linspace(1, 0, height)
        bar = np.repeat(_coloured(shares, colours)[:, None], 14, axis=1)
        self._image.paste(Image.fromarray(bar), (x, _TOP))
        for share, text in labels.items():
            y = _TOP + (1 - share) * (height - 1)
            self._draw.line([(x + 14, y), (x + 18, y)], "black")
            self._text((x + 22, y), text, "lm")

    def pixels(self):
        """Return the picture, uint8 of shape (height, width, 3)."""
        return np.asarray(self._image)

    def _text(self, place, text, anchor):
        self._draw.text(place, text, "black", self._font, anchor)


def _apart(heights, distance, least, most):
    """Return heights in ascending order, moved so that neighbours are so far apart."""
    slots = distance * np.arange(len(heights))
    free = heights - slots  # must not fall
    free = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    return np.clip(free, least, most - slots[-1]) + slots


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
    width = max(_WIDTH // len(pairs), _LEAST)
    image = np.repeat(_coloured((cosines + 1) / 2, _CONFLICT), width, axis=1)
    image[:, ::width] = 0  # black lines between columns
    rows = np.linspace(0, len(layers) - 1, min(len(layers), _NAMED)).round().astype(int)
    picture = _Picture(image, layers, rows)
    picture.write("mean cosine of two tasks' gradients over the epoch", 0.5, 4)
    picture.write("pairs of tasks", 0.5, -2)
    for number, name in enumerate(picture.fitting(pairs, width)):
        picture.write(name, (number + 0.5) / len(pairs), -1)
    picture.color_bar(_CONFLICT, {0.0: "-1 conflict", 0.5: "0", 1.0: "1 help"})
    description = (
        "Mean cosine between two tasks' gradients over the epoch, from -1 (red) over 0 (white) to "
        f"1 (blue), grey where there is none. Columns from the left:\n\n{_numbered(pairs)}"
    )
    return picture.pixels(), description


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
