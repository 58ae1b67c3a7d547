"""Runs, and in what they differ, as plain text."""

import math
import typing
from collections.abc import Iterable

import numpy as np

from keras_bp_runs.run import LAYER_KINDS, Run, flat_settings, layer_of

if typing.TYPE_CHECKING:
    from keras_bp_runs.compare import RunComparison

_LAYERS, _EXTREMES, _ROWS, _WIDTH = 12, 4, 30, 60


def run_text(run: Run) -> str:
    """Return what a run holds: settings, scalars, the most extreme layers, findings, faults."""
    steps = run.table["step"]
    title = run.directory + (f": steps {steps[0]} to {steps[-1]}" if len(steps) else "")
    parts = [title, _settings(run.settings or {})]
    parts.append(_scalars(run, [tag for tag in run.tags if layer_of(tag) is None]))
    parts.append(_layer_table(_layers(run)))
    found = (
        f"- step {f['step']}, {f['layer'] or 'the model'}: {f['description']}. {f['advice']}"
        for f in run.findings
    )
    parts.append(_block("Findings of TrainingHealth", found))
    parts.append(_block("Further runs inside", (f"- {name}" for name in run.inside)))
    parts.append(_block("Could not be read", (f"- {fault}" for fault in run.faults)))
    return "\n\n".join(filter(None, parts))


def comparison_text(comparison: "RunComparison") -> str:
    """Return in what runs differ: settings, and last values with the step at which they part."""
    names, step = comparison.names, comparison.first_step
    tolerance = f" by more than {comparison.tolerance:g}" * bool(comparison.tolerance)
    apart = "do not part" if step is None else f"part at step {step}"
    if not comparison.parted:
        apart, tolerance = "have no name in common", ""
    parts = [f"{', '.join(names)}: the curves {apart}{tolerance}"]
    rows = [[key, *map(_short, values)] for key, values in comparison.settings.items()]
    parts.append(_table(["Settings", *names], rows))
    if any(run.settings is None for run in comparison.runs):
        without = (n for n, r in zip(names, comparison.runs, strict=True) if r.settings is None)
        parts.append(f"No settings were written by {', '.join(without)}.")
    table = comparison.table
    rows = []
    for row, (tag, apart) in enumerate(zip(table["tag"], table["parted"], strict=True)):
        last = [_number(table[name][row]) for name in names]
        steps = [int(r.series(tag)[0][-1]) if tag in r.tags else None for r in comparison.runs]
        if len({*steps} - {None}) > 1:
            pairs = zip(last, steps, strict=True)
            last = [v if step is None else f"{v} (step {step})" for v, step in pairs]
        rows.append([tag, "-" if apart is None else str(apart), *last])
    parts.append(_table(["Last values", "part at step", *names], rows))
    return "\n\n".join(filter(None, parts))


def _settings(settings):
    """Return the settings that are short."""
    flat = flat_settings({k: v for k, v in settings.items() if k not in ("layers", "summary")})
    rows = [[key, _short(value)] for key, value in flat.items() if value is not None]
    return _block("Made with", _aligned(rows)) if rows else ""


def _layers(run):
    """Return the last values by layer: {path: {kind: value}}, in the model's order."""
    layers: dict[str, dict[str, float]] = {}
    for tag in run.tags:
        if path := layer_of(tag):
            kind = tag.partition("/")[0]
            layers.setdefault(path, {})[kind] = float(run.series(tag)[1][-1])
    return layers


def _scalars(run, tags):
    """Return a row for each tag."""
    rows = []
    for tag in tags:
        values = run.series(tag)[1]
        known = values[~np.isnan(values)]
        ends = [values[0], values[-1], *([known.min(), known.max()] if len(known) else [None] * 2)]
        rows.append([tag, str(len(values)), *map(_number, ends)])
    return _table(["Scalars", "points", "first", "last", "least", "largest"], rows)


def _layer_table(layers):
    """Return a row for each layer, of many for those with the most extreme gradients."""
    kinds = [kind for kind in LAYER_KINDS if any(kind in each for each in layers.values())]
    rows = [[path, *(_number(each.get(k)) for k in kinds)] for path, each in layers.items()]
    title = "Layers"
    if len(rows) > _LAYERS:
        norms = [each.get("gradient_norm", math.nan) for each in layers.values()]
        order = np.argsort(norms)[::-1].tolist()  # NaN, the worst, first
        rows = [rows[i] for i in order[:_EXTREMES] + order[-_EXTREMES:]]
        title = f"Layers, {_EXTREMES} largest and smallest of {len(layers)}"
    return _table([title, *kinds], rows)


def _number(value):
    return "-" if value is None else f"{value:.4g}"


def _short(value, width=_WIDTH):
    text = str(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _table(head, rows):
    """Return a table of strings, without rows an empty string; long ones are cut."""
    lines = _aligned([head, *rows[:_ROWS]])
    if len(rows) > _ROWS:
        lines.append(f"and {len(rows) - _ROWS} more")
    return "\n".join(lines) if rows else ""


def _aligned(rows):
    """Return lines with columns of equal width, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(widths) == 2:  # a name and a text
        return [f"{name:<{widths[0]}}  {text}".rstrip() for name, text in rows]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _block(title: str, lines: Iterable[str]) -> str:
    lines = [*lines]
    return "\n".join([title, *lines]) if lines else ""
