"""Two or more runs side by side."""

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from keras_bp_runs.run import Run, flat_settings, layer_of, read_run
from keras_bp_runs.text import comparison_text

_CHARTS = ("loss/batch", "epoch/val_loss", "gradient_norm/global", "learning_rate")
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


def compare_runs(
    runs: Sequence[Run | str | os.PathLike[str]], tolerance: float = 0.0
) -> "RunComparison":
    """Say in what some runs differ: their settings, and from which step on their curves.

    Runs of different models are compared in what both have.

    Args:
        runs: list of two or more runs: what `read_run` returns, or directories to be read.
        tolerance: float >= 0, the relative difference, |a - b| over the larger of |a| and |b|,
            up to which two values count as equal. Defaults to 0: equal bit for bit.

    Returns:
        A `RunComparison`, which prints as a table.

    Raises:
        TypeError: if `runs` is not a list of runs, or `tolerance` no number.
        ValueError: if it holds fewer than two, if one holds no run, or if `tolerance` is negative.

    Example:
    ```python
    comparison = keras_bp.compare_runs(["tb_logs/first", "tb_logs/second"])
    print(comparison)
    comparison.plot("both.png")
    ```
    """
    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Sequence):
        raise TypeError(f"`runs` must be a list of runs or directories. Received: runs={runs!r}")
    if len(runs) < 2:
        raise ValueError(f"`runs` must hold two runs or more. Received: runs={runs!r}")
    if not isinstance(tolerance, Real):
        raise TypeError(f"`tolerance` must be a number. Received: tolerance={tolerance!r}")
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be 0 or more. Received: tolerance={tolerance!r}")
    return RunComparison([r if isinstance(r, Run) else read_run(r) for r in runs], tolerance)


class RunComparison:
    """In what some runs differ; `compare_runs` returns it.

    Attributes:
        runs: list of `Run`.
        names: list of strings, the last parts of their directories, as many as tell them apart.
        tolerance: float, the relative difference up to which values count as equal.
        settings: dictionary, the name of a setting in which the runs differ -> list of its values,
            None in a run that has no such setting, or none at all: such a run differs in none.
        parted: dictionary, the tag of each scalar that two runs have -> the first step at which a
            run's value differs from the first one's, None if none does. Steps that both have are
            compared, and two NaN are equal.
        missing: dictionary, the tag of a scalar that not all runs have -> list of the names of
            those without it.
    """

    def __init__(self, runs: list[Run], tolerance: float) -> None:
        self.runs, self.tolerance = runs, tolerance
        self.names = _names([run.directory for run in runs])
        every = [_compared(run.settings or {}) for run in runs]
        keys = dict.fromkeys(key for each in every for key in each)
        values = {key: [each.get(key) for each in every] for key in keys}
        written = [i for i, run in enumerate(runs) if run.settings is not None]
        self.settings = {
            k: v for k, v in values.items() if any(v[i] != v[written[0]] for i in written)
        }
        self.parted: dict[str, int | None] = {}
        self.missing: dict[str, list[str]] = {}
        for tag in dict.fromkeys(tag for run in runs for tag in run.tags):
            having = [run for run in runs if tag in run.tags]
            if len(having) > 1:
                self.parted[tag] = self._parts(tag, having)
            if len(having) < len(runs):
                lacking = zip(self.names, runs, strict=True)
                self.missing[tag] = [name for name, run in lacking if tag not in run.tags]

    def _parts(self, tag, runs):
        """Return the first step at which runs have another value than the first of them."""
        first, *others = [_by_step(*run.series(tag)) for run in runs]
        found = []
        for steps, values in others:
            common, ours, theirs = np.intersect1d(first[0], steps, return_indices=True)
            a, b = np.float64(first[1][ours]), np.float64(values[theirs])
            with np.errstate(invalid="ignore"):
                near = np.abs(a - b) <= self.tolerance * np.maximum(np.abs(a), np.abs(b))
            differs = ~((a == b) | near | np.isnan(a) & np.isnan(b))
            found += [int(step) for step in common[differs][:1]]
        return min(found, default=None)

    @property
    def first_step(self) -> int | None:
        """The first step at which any curve parts, or None."""
        return min((step for step in self.parted.values() if step is not None), default=None)

    @property
    def table(self) -> dict[str, list]:
        """A row for each scalar: `"tag"`, the step `"parted"`, and each run's last value, or None.

        A dictionary of lists of one length, the runs' by their names. Those that part first come
        first, and of these the scalars of layers last. The last values are of different steps
        where one run is longer.
        """
        tags = [*self.parted, *(tag for tag in self.missing if tag not in self.parted)]
        parted = {tag: self.parted.get(tag) for tag in tags}

        def place(tag):
            step = parted[tag]
            return float("inf") if step is None else step, layer_of(tag) is not None

        tags.sort(key=place)
        columns: dict[str, list] = {"tag": tags, "parted": [parted[tag] for tag in tags]}
        for name, run in zip(self.names, self.runs, strict=True):
            columns[name] = [
                float(run.series(tag)[1][-1]) if tag in run.tags else None for tag in tags
            ]
        return columns

    def plot(
        self, path: str | os.PathLike[str] | None = None, tags: Sequence[str] | None = None
    ) -> Any:
        """Draw the runs' curves in one chart per scalar, with a mark where they part.

        Args:
            path: string or `os.PathLike`, the file for the picture, or `None` for none.
            tags: list of the scalars to draw, or `None`: the batch's and the validation loss, the
                global gradient norm and the learning rate, of those that there are; else the first
                four that part.

        Returns:
            The Matplotlib figure.

        Raises:
            ImportError: if Matplotlib is not installed.
            ValueError: if no run has one of the `tags`.
        """
        known = self.table["tag"]
        usual = [tag for tag in _CHARTS if tag in self.parted]
        tags = list(tags or usual or known[:4])
        for tag in tags:
            if tag not in known:
                raise ValueError(f"`tags` must be scalars of the runs. Received: {tag!r}")
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError(
                "plot needs Matplotlib: `pip install matplotlib`. `table` holds the numbers"
            ) from error
        columns = len(tags) if len(tags) < 4 else 2
        rows = -(-len(tags) // columns)
        size = 0.6 + 4.2 * columns, 0.6 + 2.7 * rows
        figure = pyplot.figure(figsize=size, layout="constrained")
        for place, tag in enumerate(tags, 1):
            self._draw(figure.add_subplot(rows, columns, place), tag)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
        if path is not None:
            figure.savefig(path, dpi=100)
        return figure

    def _draw(self, ax, tag):
        known = [run.series(tag)[1] for run in self.runs if tag in run.tags]
        values = np.concatenate([np.zeros(0), *known])
        values = values[np.isfinite(values)]
        for number, (name, run) in enumerate(zip(self.names, self.runs, strict=True)):
            points = _by_step(*run.series(tag)) if tag in run.tags else ([], [])
            few = "o" if len(points[0]) == 1 else None
            ax.plot(*points, marker=few, color=_COLORS[number % 7], lw=1.2, alpha=0.85, label=name)
        if len(values) and values.min() > 0 and values.max() > 20 * values.min():
            ax.set_yscale("log")
        title = tag
        if (step := self.parted.get(tag)) is not None:
            ax.axvline(step, color="0.4", lw=0.8, ls=":")
            title += f"  (they part at step {step})"
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("update step")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)

    def __str__(self) -> str:
        return comparison_text(self)

    def __repr__(self) -> str:
        return f"<RunComparison of {', '.join(self.names)}: apart from step {self.first_step}>"


def _by_step(steps, values):
    """Return a series with each step once, its last value."""
    unique, place = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][place]


def _compared(settings):
    """Return the settings that are compared: the layers by path, without the model's summary."""
    layers = settings.get("layers", ())
    by_path = {each["path"]: f"{each['class']}, {each['parameters']}" for each in layers}
    return flat_settings({**settings, "layers": by_path, "summary": None})


def _names(directories):
    """Return the last parts of some paths, as many as tell them apart; else with a number."""
    parts = [os.path.abspath(directory).split(os.sep) for directory in directories]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-number:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {each[-1]}" for i, each in enumerate(parts, 1)]
