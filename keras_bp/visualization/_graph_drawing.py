"""The drawing of a computation graph: where its boxes and lines are, and what stands on them."""

import collections

import numpy as np

from keras_bp.visualization._figure import COLORS, new_figure
from keras_bp.visualization._graph_layout import SHORTCUT, Item, place, ranks_of

# In inches; the axes' unit is an inch too.
_FONT, _LINE = 9, 0.165
_PAD, _BETWEEN_RANKS, _MARGIN = 0.08, 0.17, 0.25
_PORT, _APART, _HEAD = 0.16, 0.04, 0.05
_KEY_HEIGHT = 0.75
_DARK, _BACK, _TINT = "0.25", COLORS[1], "#ffe9a8"
_COLORS = {
    "input": "white",
    "target": "white",
    "linear": "#cfe3f2",
    "activation": "#cdeadf",
    "model": "#e3dced",
    "layer": "#ececec",
    "operation": "#ececec",
    "loss": "#f6d9c8",
}
_SYMBOLS = {"input": "X", "target": "Y", "linear": "Z"}
_LETTERS = {"kernel": "W", "bias": "b", "gamma": "γ", "beta": "β", "embeddings": "W"}
_LETTERS["recurrent_kernel"] = "U"
_MOST_ROWS = 4


class Drawing:
    """A drawing of a `ComputationGraph`.

    Args:
        graph: the `ComputationGraph`.
    """

    def __init__(self, graph):
        self._graph = graph
        self._kinds = {node.name: node.kind for node in graph.nodes}

    def draw(self):
        """Return the figure."""
        figure = new_figure("plot_computation_graph", (1.0, 1.0))
        items = self._items()
        ranks = place(items)
        width, height = self._stack(ranks)
        figure.set_size_inches(width, height)
        figure.set_layout_engine("none")
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, width), ylim=(0, height))
        ax.set_axis_off()
        for edges, chain in self._chains:
            self._draw_line(ax, edges, chain)
        for node in self._graph.nodes:
            self._draw_box(ax, node)
        self._draw_key(ax, height)
        return figure

    # Places

    def _items(self):
        graph = self._graph
        grouped = collections.defaultdict(list)
        for edge in graph.edges:
            grouped[edge.source, edge.target].append(edge)
        ranks = ranks_of([node.name for node in graph.nodes], list(grouped))
        self._boxes, self._rows, self._drawn = {}, {}, set()
        for node in graph.nodes:
            self._boxes[node.name] = self._box(node, 2 * ranks[node.name])
        items, self._chains = list(self._boxes.values()), []
        for (source, target), edges in grouped.items():
            chain = [self._boxes[source]]
            for rank in range(2 * ranks[source] + 1, 2 * ranks[target]):
                chain.append(Item(rank))
            if len(chain) > 2:  # a branch hangs straight, a shortcut runs beside it
                for item in chain[1:]:
                    item.weight = SHORTCUT
            label = chain[-1]
            texts = [self._texts(edge) for edge in edges]
            label.left = max(self._width(text) for text, _, _ in texts) + 0.16
            label.right = max(self._width(text) for _, text, _ in texts) + 0.16
            label.height = _LINE * len(edges)
            items += chain[1:]
            chain.append(self._boxes[target])
            for upper, lower in zip(chain, chain[1:], strict=False):
                upper.below.append(lower)
                lower.above.append(upper)
            self._chains.append((edges, chain))
        return items

    def _box(self, node, rank):
        lines = self._lines(node)
        half = max(self._width(*line) for line in lines) / 2 + _PAD
        rows = self._rows[node.name] = self._parameter_rows(node)
        right = half
        if rows:
            columns = [max(self._width(row[i]) for row in rows) for i in (0, 1)]
            right += 0.3 + sum(columns) + 0.12 + 2 * _PAD
        height = max(len(lines), len(rows)) * _LINE + 2 * _PAD
        return Item(rank, half, right, height, half=half)

    def _lines(self, node):
        """List a box's lines: (text, whether it is bold)."""
        lines = [(node.name, True)]
        equation = node.equation
        if node.kind == "loss":
            equation = f"L = {self._graph.loss:.4g}"
            equation += ", with penalties" * bool(node.parameters)
        if equation:
            lines.append((equation, False))
        if node.kept != 0:
            kept = "its steps' states" if node.kept is None else f"{node.kept:,} values"
            lines.append((f"keeps {kept}", False))
        return lines

    def _parameter_rows(self, node):
        """List what stands beside a box: (value, gradient)."""
        new = [name for name in node.parameters if name not in self._drawn]
        if node.kind == "loss" or not node.parameters:
            return []
        if not new:
            return [("the same parameters", "")]
        self._drawn |= set(new)
        found = [self._graph.parameters[name] for name in new]
        if len(found) > _MOST_ROWS:
            values = sum(int(np.prod(p.shape)) for p in found)
            norm = np.linalg.norm([p.norm for p in found])
            back = np.linalg.norm([p.gradient_norm or 0.0 for p in found])
            return [
                (f"{len(found)} parameters, {values:,} values  ‖·‖ {norm:.3g}", f"‖∇‖ {back:.3g}")
            ]
        rows = []
        for p in found:
            letter = _LETTERS.get(p.name.rpartition("/")[2], p.name.rpartition("/")[2])
            back = (
                "no gradient" if p.gradient_norm is None else f"‖d{letter}‖ {p.gradient_norm:.3g}"
            )
            rows.append((f"{letter}  {_shape(p.shape)}  ‖{letter}‖ {p.norm:.3g}", back))
        return rows

    def _texts(self, edge):
        """Return what stands at the left and at the right of a line, and whether it is kept."""
        symbol = _SYMBOLS.get(self._kinds[edge.source], "A")
        there = f"{symbol}  {_shape(edge.shape)}"
        there += "" if edge.norm is None else f"  ‖{symbol}‖ {edge.norm:.3g}"
        back = ""
        if edge.gradient_norm is not None:
            back = f"‖d{symbol}‖ {edge.gradient_norm:.3g}"
        elif edge.norm is not None and symbol != "Y":
            back = "no gradient"
        return there, back, edge.kept

    def _width(self, text, bold=False):
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path

        font = FontProperties(weight="bold" if bold else "normal", size=_FONT)
        return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72 + 0.02

    def _stack(self, ranks):
        """Give each item its `top`, and return the size of the figure."""
        heights = [max((item.height for item in rank), default=0.0) for rank in ranks]
        height = sum(heights) + _BETWEEN_RANKS * (len(ranks) - 1) + 2 * _MARGIN + _KEY_HEIGHT
        top = height - _MARGIN - _KEY_HEIGHT
        for rank, tall in zip(ranks, heights, strict=True):
            for item in rank:
                item.top, item.span = top - (tall - item.height) / 2, (top, top - tall)
            top -= tall + _BETWEEN_RANKS
        items = [item for rank in ranks for item in rank]
        low = min(item.x - item.left for item in items)
        high = max(item.x + item.right for item in items)
        key = sum(self._width(text) + 0.4 for text, *_ in _KEY) + self._width(_KEPT)
        width = max(high - low, key) + 2 * _MARGIN
        for item in items:
            item.x += (width - high - low) / 2
        return width, height

    # Ink

    def _draw_line(self, ax, edges, chain):
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        start = self._port(chain[0], chain[0].below, chain[1])
        end = self._port(chain[-1], chain[-1].above, chain[-2])
        points = [(start, chain[0].top - chain[0].height)]
        for item in chain[1:-1]:
            points += [(item.x, end) for end in item.span]
        points.append((end, chain[-1].top))
        backward = any(edge.gradient_norm is not None for edge in edges)
        for shift, color in ((-_APART, _DARK), (_APART, _BACK))[: 1 + backward]:
            at = shift if backward else 0.0
            vertices, codes = [(points[0][0] + at, points[0][1])], [Path.MOVETO]
            for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
                middle = (y0 + y1) / 2
                vertices += [(x0 + at, middle), (x1 + at, middle), (x1 + at, y1)]
                codes += [Path.CURVE4] * 3
            ax.add_patch(PathPatch(Path(vertices, codes), fill=False, edgecolor=color, lw=1.1))
            tip, upwards = (vertices[0], True) if color == _BACK else (vertices[-1], False)
            _head(ax, tip, (0, 1 if upwards else -1), color)
        label = chain[-2]
        for i, edge in enumerate(edges):
            there, back, kept = self._texts(edge)
            y = label.top - (i + 0.5) * _LINE
            tint = dict(facecolor=_TINT, edgecolor="none", pad=1.5) if kept else None
            ax.text(label.x - 0.1, y, there, ha="right", color=_DARK, bbox=tint, **_TEXT)
            color = "0.5" if edge.gradient_norm is None else _BACK
            ax.text(label.x + 0.1, y, back, ha="left", color=color, **_TEXT)

    def _port(self, box, neighbours, neighbour):
        """Return where at a box a line ends: beside each other, in the order of the others."""
        order = sorted(neighbours, key=lambda other: other.x)
        apart = min(_PORT * 1.5, 2 * box.half / (len(order) + 1))
        return box.x + apart * (order.index(neighbour) - (len(order) - 1) / 2)

    def _draw_box(self, ax, node):
        from matplotlib.patches import FancyBboxPatch

        box, lines, rows = self._boxes[node.name], self._lines(node), self._rows[node.name]
        style = dict(boxstyle="round,pad=0,rounding_size=0.06", lw=0.9)
        bottom, middle = box.top - box.height, box.top - box.height / 2
        corner = box.x - box.half, bottom
        face = dict(facecolor=_COLORS[node.kind], edgecolor=_DARK, zorder=2)
        if node.kind == "model":
            face["linestyle"] = (0, (4, 1.5))
        ax.add_patch(FancyBboxPatch(corner, 2 * box.half, box.height, **style, **face))
        for i, (text, bold) in enumerate(lines):
            y = middle + (len(lines) / 2 - i - 0.5) * _LINE
            tint = dict(facecolor=_TINT, edgecolor="none", pad=1.0)
            bbox = tint if i and node.kept != 0 and i == len(lines) - 1 else None
            weight = "bold" if bold else "normal"
            ax.text(box.x, y, text, ha="center", weight=weight, zorder=3, bbox=bbox, **_TEXT)
        if not rows:
            return
        left, right = box.x + box.half + 0.3, box.x + box.right
        tall = len(rows) * _LINE + 2 * _PAD
        corner = left, middle - tall / 2
        face = dict(facecolor="white", edgecolor="0.6", zorder=2)
        ax.add_patch(FancyBboxPatch(corner, right - left, tall, **style, **face))
        first = box.x + box.half
        ends = ((left, first, _APART, -1, _DARK), (first, left, -_APART, 1, _BACK))
        for x0, x1, shift, direction, color in ends[: 1 + any(back for _, back in rows)]:
            ax.plot([x0, x1], [middle + shift] * 2, color=color, lw=1.1)
            _head(ax, (x1, middle + shift), (direction, 0), color)
        for i, (there, back) in enumerate(rows):
            y = middle + (len(rows) / 2 - i - 0.5) * _LINE
            ax.text(left + _PAD, y, there, ha="left", color=_DARK, zorder=3, **_TEXT)
            ax.text(right - _PAD, y, back, ha="right", color=_BACK, zorder=3, **_TEXT)

    def _draw_key(self, ax, height):
        graph, left, top = self._graph, _MARGIN, height - _MARGIN
        examples = "1 example" if graph.batch_size == 1 else f"{graph.batch_size:,} examples"
        title = f"{graph.model}: one training step on {examples}"
        ax.text(left, top, title, weight="bold", va="top", ha="left", fontsize=_FONT + 2)
        y = top - 0.42
        for text, color, direction in _KEY:
            ax.plot([left + 0.05] * 2, [y - 0.07, y + 0.07], color=color, lw=1.1)
            _head(ax, (left + 0.05, y + 0.08 * direction), (0, direction), color)
            ax.text(left + 0.15, y, text, ha="left", color=color, **_TEXT)
            left += 0.15 + self._width(text) + 0.25
        tint = dict(facecolor=_TINT, edgecolor="none", pad=1.5)
        ax.text(left, y, _KEPT, ha="left", color=_DARK, bbox=tint, **_TEXT)


_TEXT = dict(va="center", fontsize=_FONT)
_KEY = (
    ("forward: shape and norm", _DARK, -1),
    ("backward: norm of the loss's gradient", _BACK, 1),
)
_KEPT = "kept for the backward pass"


def _head(ax, tip, direction, color):
    """Draw an arrow's head."""
    tip, along = np.array(tip), np.array(direction, float)
    across = along[::-1] * 0.6
    base = tip - 2 * _HEAD * along
    corners = [tip, base + _HEAD * across * 1.4, base - _HEAD * across * 1.4]
    ax.fill(*zip(*corners, strict=True), color=color, lw=0, zorder=4)


def _shape(shape):
    return "×".join(map(str, shape)) if shape else "scalar"
