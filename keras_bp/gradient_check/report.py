"""The result of a gradient check."""

import dataclasses

import numpy as np

from keras_bp._html import escaped, table
from keras_bp.gradient_check.numeric import SIGMAS

CORRECT_BELOW = 1e-7
SUSPICIOUS_BELOW = 1e-5
_VERDICTS = ("correct", "suspicious", "wrong")


@dataclasses.dataclass(frozen=True)
class GradientCheckRow:
    """One variable's or one input's part of a `GradientCheckReport`.

    Attributes:
        path: string, the variable's path or the input's name.
        shape: tuple of integers.
        entries: integer, how many entries were checked.
        kinks: integer, how many of them lie on a kink, or a bend too sharp for the step, and are
            left out of the figure.
        relative_difference: float, the figure of this row's entries alone.
        verdict: string, `"correct"`, `"suspicious"` or `"wrong"`.
        worst_index: tuple of integers, the entry whose slopes differ most beyond what rounding
            explains; `None` if every entry is a kink.
        analytic: float, the analytic slope of that entry.
        numeric: float, the numeric slope of that entry.
    """

    path: str
    shape: tuple[int, ...]
    entries: int
    kinks: int
    relative_difference: float
    verdict: str
    worst_index: tuple[int, ...] | None
    analytic: float
    numeric: float


@dataclasses.dataclass(frozen=True, repr=False)
class GradientCheckReport:
    r"""The result of `check_gradients`; `str(report)` is a table, which a notebook shows.

    The figure is $\|g_a - g_n\| / (\|g_a\| + \|g_n\|)$, 0 where both are zero, over the entries
    that are not kinks. The verdict is the worst of the overall figure's, of every row's figure's
    and of every single faulty entry's: a fault in a small variable would vanish among the others. A
    figure counts only if its numerator exceeds rounding: the bias before a batch normalization has
    the gradient zero, and the ratio of two roundings means nothing.

    Attributes:
        relative_difference: float, the figure over all entries.
        verdict: string: `"correct"` (below 1e-7), `"suspicious"` (below 1e-5, or open: nothing but
            kinks to compare, or float32's rounding in the result) or `"wrong"`.
        rows: tuple of `GradientCheckRow`, first the variables, then the inputs.
        epsilon: float, the step of the central differences: at least 2e-3 if `is_rounded`.
        not_trainable: tuple of strings, the paths of floating weights that were not checked:
            frozen ones and statistics.
        not_differentiable: tuple of strings, the names of inputs that are not floating point.
        rounded_at: tuple of strings, operations inside the target that compute fewer bits from
            float64, named after their layers; `"output"` if only the output shows it.
        is_rounded: boolean, whether the result shows their rounding.
    """

    relative_difference: float
    verdict: str
    rows: tuple[GradientCheckRow, ...]
    epsilon: float
    not_trainable: tuple[str, ...] = ()
    not_differentiable: tuple[str, ...] = ()
    rounded_at: tuple[str, ...] = ()
    is_rounded: bool = False

    def __repr__(self) -> str:
        return (
            f"<GradientCheckReport {self.verdict}, relative_difference="
            f"{self.relative_difference:.2e}, {len(self.rows)} rows>"
        )

    def __str__(self) -> str:
        rows = [_HEADER, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self._title()]
        for path, *cells, verdict in rows:
            cells = [c.rjust(width) for c, width in zip(cells, widths[1:-1], strict=True)]
            lines.append("  ".join([path.ljust(widths[0]), *cells, verdict]))
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        wrong = [row.verdict != "correct" for row in self.rows]
        rows = table(self._title(), _HEADER, list(map(_cells, self.rows)), wrong)
        return "\n".join([rows, *(f"<p>{escaped(remark)}</p>" for remark in self._remarks())])

    def _title(self):
        return (
            f"Gradient check: {self.verdict}, relative difference "
            f"{self.relative_difference:.2e} (correct < 1e-07, suspicious < 1e-05)"
        )

    def _remarks(self):
        entries = sum(row.entries for row in self.rows)
        kinks = sum(row.kinks for row in self.rows)
        yield f"{entries} entries, central differences in float64, epsilon {self.epsilon:g}"
        if kinks:
            yield f"{kinks} entries lie on a kink and are left out of the figures"
        if kinks == entries:
            yield "nothing is left to compare"
        if self.verdict == "suspicious" and not self.is_rounded:
            yield "if it is rounding, a larger epsilon or a smaller loss brings it down"
        if self.not_trainable:
            yield f"{len(self.not_trainable)} weights are not trainable and were not checked"
        if self.not_differentiable:
            yield f"inputs not differentiated: {', '.join(self.not_differentiable)}"
        if self.is_rounded:
            yield (
                "float64 is rounded to fewer bits inside: only a fault beyond this rounding "
                "is found, at: " + ", ".join(self.rounded_at)
            )


_HEADER = tuple(
    ", shape, checked, kinks, difference, worst, analytic, numeric, verdict".split(", ")
)


def _cells(row):
    """Return a row's cells, strings, as `_HEADER` names them."""
    worst = "-" if row.worst_index is None else str(row.worst_index)
    only_rounding = row.verdict == "correct" and row.relative_difference >= CORRECT_BELOW
    return (
        row.path,
        str(row.shape),
        str(row.entries),
        str(row.kinks),
        f"{row.relative_difference:.1e}",
        worst,
        f"{row.analytic:.6e}",
        f"{row.numeric:.6e}",
        row.verdict + " (rounding)" * only_rounding,
    )


def make_row(path, shape, indices, comparison):
    """Summarize one slot's `Comparison`; `indices` are the entries' flat positions."""
    kept = np.flatnonzero(~comparison.kinks)
    analytic, numeric = comparison.analytic[kept], comparison.numeric[kept]
    figures = [_significant_figure(analytic, numeric, comparison.noise)]
    for i in np.flatnonzero(comparison.faults):
        figures.append(_figure(comparison.analytic[i], comparison.numeric[i]))
    worst, slopes = None, (0.0, 0.0)
    if len(kept):
        i = _worst(analytic, numeric, comparison.noise)
        worst = tuple(int(d) for d in np.unravel_index(indices[kept[i]], shape))
        slopes = float(analytic[i]), float(numeric[i])
    return GradientCheckRow(
        path=path,
        shape=tuple(shape),
        entries=len(indices),
        kinks=int(comparison.kinks.sum()),
        relative_difference=_figure(analytic, numeric),
        verdict=_verdict(figures),
        worst_index=worst,
        analytic=slopes[0],
        numeric=slopes[1],
    )


def make_report(rows, comparisons, is_rounded=False, **facts):
    """Combine the rows, with the figure and the verdict over all their entries."""
    kept = [~c.kinks for c in comparisons]
    analytic = np.concatenate([c.analytic[k] for c, k in zip(comparisons, kept, strict=True)])
    numeric = np.concatenate([c.numeric[k] for c, k in zip(comparisons, kept, strict=True)])
    noise = max(c.noise for c in comparisons)
    overall = _verdict([_significant_figure(analytic, numeric, noise)])
    verdicts = [overall, *(row.verdict for row in rows)]
    if not len(analytic) or is_rounded:
        verdicts.append("suspicious")
    return GradientCheckReport(
        relative_difference=_figure(analytic, numeric),
        verdict=max(verdicts, key=_VERDICTS.index),
        rows=tuple(rows),
        is_rounded=is_rounded,
        **facts,
    )


def _worst(analytic, numeric, noise):
    """Return the position of the entry that differs most, relative to rounding."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(analytic - numeric)
        explained = SIGMAS * noise + 1e-8 * (np.abs(analytic) + np.abs(numeric))
        excess = np.where(difference == 0.0, 0.0, difference / explained)
    return int(np.argmax(np.nan_to_num(excess, nan=np.inf, posinf=np.inf)))


def _figure(analytic, numeric):
    """Return the relative difference; infinite if a slope is."""
    size = np.linalg.norm(analytic) + np.linalg.norm(numeric)
    if size == 0.0:
        return 0.0
    with np.errstate(invalid="ignore"):
        figure = float(np.linalg.norm(analytic - numeric) / size)
    return figure if np.isfinite(figure) else float("inf")


def _significant_figure(analytic, numeric, noise):
    """Return the figure, or 0 if rounding explains the whole difference of two equal slopes.

    If rounding is so large that it would also explain a gradient that is 0.1 % off, nothing is
    proven: the figure is then at least suspicious.
    """
    rounding = 4.0 * noise * np.sqrt(np.size(analytic))
    with np.errstate(invalid="ignore"):
        difference = np.linalg.norm(analytic - numeric)
        size = np.linalg.norm(analytic) + np.linalg.norm(numeric)
    if not difference <= rounding:
        return _figure(analytic, numeric)
    # A size of a few roundings is a gradient of zero, as before a batch normalization.
    drowned = 10.0 * rounding < size < 2e3 * rounding and _figure(analytic, numeric) > CORRECT_BELOW
    return CORRECT_BELOW if drowned else 0.0


def _verdict(figures):
    worst = max(figures)
    if worst < CORRECT_BELOW:
        return "correct"
    return "suspicious" if worst < SUSPICIOUS_BELOW else "wrong"
