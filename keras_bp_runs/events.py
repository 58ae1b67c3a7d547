"""The events in a run's directory: found at once, decoded when they are asked for."""

import json
import os
from collections.abc import Sequence

import numpy as np
from tensorboard.util.tensor_util import make_ndarray

from keras_bp_runs.file_events import NEVER, FileEvents

SETTINGS, FINDING = "keras_bp/settings", "keras_bp/finding"


class RunFiles:
    """Reads the event files in a directory, as they are or while they are written.

    Records are found by their framing, and decoded when they are asked for. A tool writes its
    scalars in records that differ only in step, time and values, so one record of each kind is
    parsed, and NumPy reads the numbers of all others at the same places: of 3 GB of events, a
    drawing of 1,000 points reads 1,000 records. What is read of a record is compared with the one
    that was parsed; checksums of the data are computed by `verify` only.

    Files are joined as TensorBoard does: in the order of their names, and where a training starts
    again at a step, what was written before of this step and later ones is left out.

    Not for several threads at a time. A file that another process cuts short while it is read,
    which no tool does to its own, ends this process, as with all memory maps.

    Args:
        directory: string or `os.PathLike`; one without event files has no tags.

    Attributes:
        directory: string, the directory.
        rewrites: integer, how often `refresh` has found that steps read before are no longer there:
            made again by a training that starts again, or in a file that was removed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        self._files: dict[str, FileEvents] = {}
        self.rewrites = self._left_out = 0
        self.refresh()

    def refresh(self) -> bool:
        """Read what was written since the last time, and tell whether that was anything."""
        paths, known = event_files(self.directory), [*self._files.values()]
        before = [(path, len(file.steps)) for path, file in self._files.items()]
        files = {path: self._files.get(path) for path in paths}
        self._files = {path: file or FileEvents(path) for path, file in files.items()}
        for path, file in self._files.items():
            if not file.refresh():  # another file has its name now
                self._files[path] = FileEvents(path)
                self._files[path].refresh()
        limit = NEVER
        for file in reversed(self._files.values()):
            limit = file.leave_out_from(limit)
        left_out = sum(int((~file.usable()).sum()) for file in self._files.values())
        is_gone = [file not in self._files.values() for file in known]
        self.rewrites += left_out != self._left_out or any(is_gone)
        self._left_out = left_out
        return before != [(path, len(file.steps)) for path, file in self._files.items()]

    def verify(self) -> None:
        """Compute the checksum of every record, and leave out those that are damaged."""
        for file in self._files.values():
            file.verify()

    @property
    def faults(self) -> list[str]:
        """What could not be read, in words; a last record that is cut may be written on."""
        return [*self.damage, *(end for file in self._files.values() for end in file.cut)]

    @property
    def damage(self) -> list[str]:
        """As `faults`, without a last record that is cut."""
        return [fault for file in self._files.values() for fault in file.damage]

    @property
    def tags(self) -> dict[str, str]:
        """Maps each tag to its kind: `"scalars"`, `"histograms"`, `"images"`, `"text"`, ...

        The kind is the name of the TensorBoard plugin that shows it.
        """
        files = self._files.values()
        return {tag: kind for file in files for tag, kind in file.usable_tags().items()}

    @property
    def settings(self) -> dict | None:
        """What the run was made with, None if that was not written."""
        found = self.texts(SETTINGS)
        return json.loads(found[-1][1]) if found else None

    @property
    def findings(self) -> list[dict]:
        """The findings of `TrainingHealth`, in order: each has a tag that begins with `FINDING`."""
        tags = [tag for tag in self.tags if tag.startswith(FINDING)]
        texts = (text for tag in tags for _, text in self.texts(tag))
        return sorted(map(json.loads, texts), key=lambda finding: finding["step"])

    def series(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all points of a scalar, in the order in which they were written.

        Returns:
            Its steps, int64, and its values, float32, two arrays (points,); empty for a tag that is
            no scalar.
        """
        return self.all_series([tag])[tag]

    def all_series(self, tags: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return for each of some tags what `series` returns, reading each record once."""
        tags = list(dict.fromkeys(tags))
        empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        found = [[empty] for _ in tags]
        for columns, order, steps, values in self._parts(tags):
            for column, value in zip(columns, values.T, strict=True):
                found[column].append((order, steps, value))
        series = {}
        for tag, parts in zip(tags, found, strict=True):
            order, steps, values = map(np.concatenate, zip(*parts, strict=True))
            place = np.argsort(order)
            series[tag] = steps[place], values[place]
        return series

    def rows(
        self,
        tags: Sequence[str],
        first: int | None = None,
        last: int | None = None,
        most: int | None = None,
        missing: float = np.nan,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return some scalars by step; of a step that was written twice, what came last.

        Args:
            tags: list of tags.
            first: integer, the first step, or None.
            last: integer, the last step, or None.
            most: integer >= 2, or None: of more records of one kind, every second, third, ... is
                read, and the last.
            missing: float, the value where there is none.

        Returns:
            Steps, int64 (steps,), ascending, and values, float32 (steps, tags), `missing` where
            there is none.
        """
        tags = list(tags)
        parts = self._parts(tags, first, last, most)
        steps = np.unique(np.concatenate([np.zeros(0, np.int64), *(part[2] for part in parts)]))
        values = np.full((len(steps), len(tags)), missing, np.float32)
        for columns, at, part in _in_order(parts):
            values[np.searchsorted(steps, at)[:, None], columns] = part
        return steps, values

    def texts(self, tag: str) -> list[tuple[int, str]]:
        """Return the texts of a tag, a list of (step, text)."""
        return [(step, _text(value)) for step, value in self._values(tag)]

    def histograms(self, tag: str) -> list[tuple[int, np.ndarray]]:
        """Return the histograms of a tag, a list of (step, rows of left edge, right edge, count).

        Each has the shape (buckets, 3).
        """
        return [(step, _histogram(value)) for step, value in self._values(tag)]

    def _values(self, tag):
        return [pair for file in self._files.values() for pair in file.values(tag)]

    def _parts(self, tags, first=None, last=None, most=None):
        """Return (columns, order, steps, values) of records that hold the same ones of some tags.

        The order is a number that grows as records were written.
        """
        column = {tag: number for number, tag in enumerate(tags)}
        while True:
            groups: dict[tuple[str, ...], list] = {}
            for place, file in enumerate(self._files.values()):
                for held, numbers in file.find(tags, first, last).items():
                    groups.setdefault(held, []).append((place << 40, file, numbers))
            parts, moved = [], False
            for held, members in groups.items():
                columns = [column[tag] for tag in held]
                chosen = _thinned(sum(len(numbers) for *_, numbers in members), most)
                for place, file, numbers in members:
                    some = numbers[chosen[chosen < len(numbers)]]
                    chosen = chosen[chosen >= len(numbers)] - len(numbers)
                    values = file.scalars(some, held)
                    moved |= values is None
                    parts.append((columns, some + place, file.steps[some], values))
            if not moved:
                return parts


def _in_order(parts):
    """Yield the (columns, steps, values) of parts cut so that they follow as they were written.

    Records of several kinds may hold a tag, and then a step's last record may be of any of them.
    """
    if not parts:
        return
    sizes = [len(order) for _, order, *_ in parts]
    part_of = np.repeat(np.arange(len(parts)), sizes)
    row_of = np.concatenate([np.arange(size) for size in sizes])
    written = np.argsort(np.concatenate([order for _, order, *_ in parts]), kind="stable")
    cuts = np.flatnonzero(np.diff(part_of[written])) + 1
    for piece in filter(len, np.split(written, cuts)):
        columns, _, steps, values = parts[part_of[piece[0]]]
        yield columns, steps[row_of[piece]], values[row_of[piece]]


def event_files(directory: str) -> list[str]:
    """Return the paths of the event files that lie directly in a directory, in order."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [os.path.join(directory, name) for name in names if "tfevents" in name]
    return [path for path in paths if os.path.isfile(path)]


def _thinned(number, most):
    """Return the places of `most` of so many records, evenly spaced, with the last."""
    if most is None or number <= most:
        return np.arange(number)
    stride = -(-(number - 1) // (most - 1))
    return np.append(np.arange(0, number - 1, stride), number - 1)


def _text(value):
    """Return a text: UTF-8, an array's entries one a line."""
    return "\n".join(each.decode("utf-8", "replace") for each in make_ndarray(value.tensor).flat)


def _histogram(value):
    """Return a histogram's rows, also of the kind that PyTorch writes."""
    if value.WhichOneof("value") != "histo":
        return make_ndarray(value.tensor)
    histogram = value.histo
    right = np.array(histogram.bucket_limit)
    return np.stack([[histogram.min, *right[:-1]], right, histogram.bucket], axis=1)
