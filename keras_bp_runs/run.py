"""A run as data: tables of what its event files hold."""

import csv
import functools
import itertools
import json
import math
import os
from typing import Any

import numpy as np

from keras_bp_runs.events import RunFiles, event_files

LAYER_KINDS = (
    "gradient_norm",
    "update_ratio",
    "weight_norm",
    "dead_units",
    "saturated_units",
    "alignment_angle",
    "sign_concordance",
)
_NAMED = 10


def read_run(log_dir: str | os.PathLike[str]) -> "Run":
    """Read the event files of a run: `GradientMonitor`'s, or another tool's for TensorBoard.

    Args:
        log_dir: string or `os.PathLike`, the directory in which the files lie directly, on a disk
            of this machine. TensorBoard, too, shows a directory as one run.

    Returns:
        A `Run`. What is damaged or cut off is left out, and told in its `faults`.

    Raises:
        TypeError: if `log_dir` is not a path.
        ValueError: if there is no event file in it; the error names the runs that lie in
            directories inside.

    Example:
    ```python
    run = keras_bp.read_run("tb_logs/first")
    run.table["gradient_norm/global"]  # one float32 per entry of run.table["step"]
    run.to_pandas().plot(y="loss/batch")
    ```
    """
    if not isinstance(log_dir, str | os.PathLike):
        raise TypeError(
            f"`log_dir` must be a string or an os.PathLike. Received: log_dir={log_dir!r}"
        )
    if not event_files(os.fspath(log_dir)):
        raise ValueError(_no_run(os.fspath(log_dir)))
    files = RunFiles(log_dir)
    files.verify()
    return Run(files)


class Run:
    """What a run's event files hold; `read_run` and `GradientMonitor.frame` return it.

    It is what was there when it was read; a run that goes on is read again. A copy, such as one
    for another process, reads the files again.

    Attributes:
        directory: string, where the files lie.
        tags: list of strings, the scalars' tags.
        table: dictionary of NumPy arrays of one length: `"step"`, int64, ascending, and for each
            tag a float32 column, NaN where it was not written. Of a step that was written twice it
            has what was written last. `series` has one tag's points exactly.
        settings: dictionary of what the run was made with, as `GradientMonitor` has written it:
            `"optimizer"`, `"batch_size"`, `"versions"`, `"layers"`, ...; or None.
        findings: list of dictionaries, the findings of `TrainingHealth`.
        texts: dictionary, tag -> list of (step, text).
        inside: list of strings, directories inside this one that hold further runs.
        faults: list of strings, what could not be read; a last record that is cut off may just be
            being written.
    """

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self.directory = files.directory
        kinds = files.tags
        self.tags = [tag for tag, kind in kinds.items() if kind == "scalars"]
        self.settings = files.settings
        self.findings = files.findings
        self.texts = {tag: files.texts(tag) for tag, kind in kinds.items() if kind == "text"}
        self.inside = runs_inside(self.directory)
        self.faults = files.faults

    @functools.cached_property
    def table(self) -> dict[str, np.ndarray]:
        """All scalars by step."""
        every = [steps for steps, _ in self._series.values()]
        table = {"step": np.unique(np.concatenate([np.zeros(0, np.int64), *every]))}
        for tag, (steps, values) in self._series.items():
            table[tag] = np.full(len(table["step"]), np.nan, np.float32)
            table[tag][np.searchsorted(table["step"], steps)] = values
        return table

    @functools.cached_property
    def _series(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return self._files.all_series(self.tags)

    def series(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of one scalar, as they were written.

        Args:
            tag: string, one of `tags`.

        Returns:
            Two arrays of shape (points,): the steps, int64, and the values, float32.

        Raises:
            KeyError: if there is no such scalar.
        """
        if tag not in self.tags:
            raise KeyError(f"`tag` must be one of the run's scalars, `tags`. Received: tag={tag!r}")
        return self._series[tag]

    def histograms(self, tag: str) -> list[tuple[int, np.ndarray]]:
        """Return the histograms of a tag, such as `"weights/hidden/kernel"`.

        Returns:
            A list of (step, rows); the rows (left edge, right edge, count), shape (buckets, 3).
        """
        return self._files.histograms(tag)

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`, its index the step.

        Raises:
            ImportError: if pandas, which nothing else here needs, is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas: `pip install pandas`. `table` holds the same in NumPy"
            ) from error
        return pandas.DataFrame(self.table).set_index("step")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table, one line per step: empty where a tag was not written, or `nan`.

        Numbers have as many digits as float32 needs to be read back the same.
        """
        columns = [self.table["step"].astype(str)]
        for tag in self.tags:
            steps, values = self.series(tag)
            column = np.full(len(columns[0]), "", object)
            column[np.searchsorted(self.table["step"], steps)] = values.astype(str)
            columns.append(column)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *self.tags])
            writer.writerows(zip(*columns, strict=True))

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write all of it but histograms and pictures: settings, findings, texts and scalars.

        `"scalars"` maps each tag to `{"steps": [...], "values": [...]}`. JSON has no word for NaN
        and infinity: they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
        """
        scalars = {}
        for tag in self.tags:
            steps, values = self.series(tag)
            scalars[tag] = {"steps": steps.tolist(), "values": list(map(as_json, values.tolist()))}
        about = {"settings": self.settings, "findings": self.findings, "texts": self.texts}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**about, "scalars": scalars, "faults": self.faults}, file, allow_nan=False)

    def __reduce__(self) -> tuple:
        return read_run, (self.directory,)  # open files have no copy

    def __repr__(self) -> str:
        parts = [_count(self.tags, "scalar")]
        if len(self.table["step"]):
            first, last = self.table["step"][[0, -1]]
            parts[0] += f" of steps {first} to {last}"
        for name in ("text", "finding", "fault"):
            found = getattr(self, f"{name}s")
            parts += [_count(found, name)] * bool(found)
        if self.inside:
            parts.append(f"further runs inside: {_some(self.inside)}")
        return f"<Run {self.directory!r}: {', '.join(parts)}>"


def layer_of(tag: str) -> str | None:
    """Return the path of the layer that a scalar is of, None if it is of none."""
    kind, _, path = tag.partition("/")
    return path if kind in LAYER_KINDS and path != "global" else None


def runs_inside(directory: str) -> list[str]:
    """Return the directories inside a directory, at any depth, that hold event files."""
    found = (os.path.relpath(path, directory) for path, _, _ in os.walk(directory))
    return sorted(path for path in found if path != "." and event_files(f"{directory}/{path}"))


def flat_settings(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary: `{"optimizer.class": ...}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{before}{key}"
        flat |= flat_settings(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def as_json(value: Any) -> Any:
    """Return a value, or the string that stands for a number that JSON does not have."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"


def _no_run(directory):
    expected = "`log_dir` must be the directory of a run, in which TensorBoard event files lie."
    if not os.path.isdir(directory):
        return f"{expected} Received: log_dir={directory!r}, which is no directory"
    inside = runs_inside(directory)
    holds = f"which holds the runs {_some(inside)}" if inside else "which holds none"
    return f"{expected} Received: log_dir={directory!r}, {holds}"


def _count(found, name):
    return f"{len(found)} {name}{'s' * (len(found) != 1)}"


def _some(names):
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, itertools.islice(names, _NAMED))) + more
