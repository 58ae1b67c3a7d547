"""The events in a run's directory: found at once, decoded when they are asked for."""

import collections
import json
import os
from collections.abc import Sequence

import numpy as np
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.util.tensor_util import make_ndarray

from keras_bp_runs.layouts import Layout, chunks, kind_of, parse
from keras_bp_runs.records import RecordFile, crc32c, masked

SETTINGS, FINDING = "keras_bp/settings", "keras_bp/finding"
_ALL = np.iinfo(np.int64).max
_CHECKED = 2**14  # bytes of the longest record whose checksum is computed as it is found


class RunFiles:
    """Reads the event files in a directory, as they are or while they are written.

    Records are found by their framing, and decoded when they are asked for. A tool writes its
    scalars in records that differ only in step, time and values, so one record of each kind is
    parsed, and NumPy reads the numbers of all others at the same places: of 3 GB of events, a
    drawing of 1,000 points reads 1,000 records. What is read of a record is compared with the one
    that was parsed; checksums of the data are computed by `verify` only.

    Files are joined as TensorBoard does: in the order of their names, and where a training starts
    again at a step, what was written before of this step and later ones is left out.

    Not for several threads at a time.

    Args:
        directory: string or `os.PathLike`; one without event files has no tags.

    Attributes:
        directory: string, the directory.
        rewrites: integer, how often `refresh` has found that steps read before are no longer there:
            made again by a training that starts again, or in a file that was removed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        self._files: dict[str, _EventFile] = {}
        self.rewrites = self._left_out = 0
        self.refresh()

    def refresh(self) -> bool:
        """Read what was written since the last time, and tell whether that was anything."""
        paths, known = event_files(self.directory), [*self._files.values()]
        before = [(path, len(file.steps)) for path, file in self._files.items()]
        files = {path: self._files.get(path) for path in paths}
        self._files = {path: file or _EventFile(path) for path, file in files.items()}
        for path, file in self._files.items():
            if not file.refresh():  # another file has its name now
                self._files[path] = _EventFile(path)
                self._files[path].refresh()
        limit = _ALL
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
        return [fault for file in self._files.values() for fault in file.faults]

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
        for columns, _, at, part in parts:
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


class _EventFile:
    """The events of one file.

    Args:
        path: string, the file.

    Attributes:
        steps: int64 array, the step of each record.
        tags: dictionary, tag -> kind.
    """

    def __init__(self, path):
        self.tags: dict[str, str] = {}
        self._first: dict[str, int] = {}  # tag -> its first record
        self.steps = np.zeros(0, np.int64)
        self._records, self._faults = RecordFile(path), []
        self._layouts: list[Layout] = []
        self._alone: dict[tuple[str, ...], Layout] = {}
        self._unchecked: set[int] = set()
        self._layout_of = np.zeros(0, np.int32)
        # By length and mask of their layouts: hash of a record -> number of its layout.
        self._known: dict[int, dict[bytes, dict[int, int]]] = {}
        self._others = collections.defaultdict(list)  # tag that is no scalar -> records
        self._starts: list[tuple[int, int]] = []  # (record, step) where a training starts
        self._limits = np.zeros(0, np.int64)

    @property
    def faults(self):
        """What cannot be read, in words."""
        name = os.path.basename(self._records.path)
        return [*self._records.faults, *(f"{name}: {fault}" for fault in self._faults)]

    def refresh(self):
        """Read what was appended; tell whether it is the same file still."""
        if not self._records.refresh():
            return False
        first, number = len(self.steps), len(self._records.starts)
        self.steps = np.append(self.steps, np.zeros(number - first, np.int64))
        self._layout_of = np.append(self._layout_of, np.full(number - first, -1, np.int32))
        self._limits = np.append(self._limits, np.full(number - first, _ALL))
        lengths = self._records.lengths[first:]
        order = np.argsort(lengths, kind="stable") + first
        groups = np.split(order, np.flatnonzero(np.diff(self._records.lengths[order])) + 1)
        for group in groups if number > first else ():
            self._place(group)
        self.tags = dict(sorted(self.tags.items(), key=lambda each: self._first[each[0]]))
        return True

    def _place(self, numbers):
        """Find the layouts of new records of one length."""
        known = self._known.setdefault(int(self._records.lengths[numbers[0]]), {})
        for layouts in list(known.values()):
            numbers = self._match(numbers, layouts)
        alone = []
        while len(numbers):
            event, layout = self._parse(numbers[0])
            self._add(numbers[0], event, layout)
            if layout is None or layout.places is None or not self._is_whole(numbers[:1]):
                alone.append(numbers[0])
                numbers = numbers[1:]
                continue
            layouts = known.setdefault(layout.mask.tobytes(), {})
            layouts[int(layout.hashes(self._records, numbers[:1])[0])] = layout.number
            numbers = self._match(numbers, layouts)
        self._check(np.array(alone, np.int64))

    def _match(self, numbers, layouts):
        """Give records to the layouts of one mask, and return those that have another one."""
        like = self._layouts[next(iter(layouts.values()))]
        hashes = like.hashes(self._records, numbers)
        found, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        for value, number in zip(found.tolist(), numbers[first], strict=True):
            if value not in layouts:
                event, layout = self._parse(number)
                same = layout is not None and np.array_equal(layout.mask, like.mask)
                if same and self._is_whole(number[None]):
                    self._add(number, event, layout)
                    layouts[value] = layout.number
        chosen = np.array([layouts.get(value, -1) for value in found.tolist()], np.int32)[group]
        self._layout_of[numbers] = chosen
        for number in set(chosen.tolist()) - {-1}:
            some = numbers[chosen == number]
            self.steps[some] = self._layouts[number].steps(self._records, some)
        return numbers[chosen < 0]

    def _parse(self, number, alone=False):
        """Return the event in a record and its layout, None if it cannot be read."""
        data = self._records.data(number)
        event = parse(data)
        return event, None if event is None else Layout(data, event, self.tags, alone)

    def _add(self, number, event, layout):
        """Take down what a record holds."""
        if event is None:
            return
        self.steps[number] = event.step
        if event.session_log.status == SessionLog.START:
            self._starts.append((number, event.step))
        for value in event.summary.value:
            self.tags.setdefault(value.tag, kind_of(value, self.tags))
            self._first[value.tag] = min(number, self._first.get(value.tag, number))
            if value.tag not in layout.columns:
                self._others[value.tag].append(number)
        if layout.places is None:  # one for all that are decoded one by one
            layout = self._alone.setdefault(layout.tags, layout)
        if layout.number is None:
            layout.number = len(self._layouts)
            self._layouts.append(layout)
        self._layout_of[number] = layout.number

    def _is_whole(self, numbers):
        """Tell of records of one length whether their checksums are correct."""
        length = int(self._records.lengths[numbers[0]])
        sums = crc32c(self._records.columns(numbers, 0, length))
        return masked(sums) == self._records.checksums(numbers)

    def _check(self, numbers):
        """Leave out those of some records of one length that are damaged; large ones later."""
        if not len(numbers):
            return
        length = int(self._records.lengths[numbers[0]])
        if length > _CHECKED:
            self._unchecked.update(numbers.tolist())
            return
        for part in chunks(len(numbers), length):
            self._lose(numbers[part][~self._is_whole(numbers[part])])

    def _check_now(self, numbers):
        """Leave out those of some records that are damaged."""
        for number in numbers:
            self._unchecked.discard(number)
            if not self._is_whole(np.array([number])):
                self._lose(np.array([number]))

    def _lose(self, numbers):
        """Leave out damaged records."""
        if not len(numbers):
            return
        lost = set(numbers.tolist())
        self._layout_of[numbers] = -1
        self.steps[numbers] = 0
        self._starts = [start for start in self._starts if start[0] not in lost]
        for tag, held in self._others.items():
            self._others[tag] = [number for number in held if number not in lost]
        first = self._records.starts[numbers.min()]
        records = "1 record is" if len(lost) == 1 else f"{len(lost)} records are"
        self._faults.append(f"{records} damaged, the first at byte {first}")

    def usable(self):
        """Tell which records are not left out, a bool array."""
        return self.steps < self._limits

    def usable_tags(self):
        """Return the tags, and their kinds, of the records that are there and not left out."""
        usable = self.usable()
        held = {tag for tag, numbers in self._others.items() if usable[numbers].any()}
        for number in np.flatnonzero(np.bincount(self._layout_of[usable] + 1)[1:]):
            held.update(self._layouts[number].tags)
        return {tag: kind for tag, kind in self.tags.items() if tag in held}

    def leave_out_from(self, limit):
        """Leave out steps from `limit` on, where later files have them again.

        Also those that were made again in this file. Returns the limit for earlier files.
        """
        self._limits[:] = limit
        for number, step in self._starts:
            self._limits[:number] = np.minimum(self._limits[:number], step)
        return min([limit, *(step for _, step in self._starts)])

    def find(self, tags, first=None, last=None):
        """Return the records with some of these scalars: {the tags that they hold: numbers}."""
        low, high = -_ALL if first is None else first, _ALL if last is None else last
        usable = self.usable() & (self.steps >= low) & (self.steps <= high)
        held = [tuple(tag for tag in tags if tag in lay.columns) for lay in self._layouts]
        found = {}
        for some in dict.fromkeys(filter(None, held)):
            is_held = np.array([some == other for other in held] + [False])  # -1 is the last
            found[some] = np.flatnonzero(is_held[self._layout_of] & usable)
        return found

    def scalars(self, numbers, tags):
        """Return the values of some records, float32 (records, tags).

        None if records were found to be of another kind than they seemed.
        """
        values = np.zeros((len(numbers), len(tags)), np.float32)
        moved = False
        for number in np.unique(self._layout_of[numbers]):
            places = np.flatnonzero(self._layout_of[numbers] == number)
            layout = self._layouts[number]
            values[places], same = layout.values(self._records, numbers[places], tags)
            moved |= self._move(numbers[places[~same]])
        return None if moved else values

    def _move(self, numbers):
        """Decode some records one by one from now on; tell whether there are any."""
        for number in numbers:
            self._layout_of[number] = -1
            self._add(number, *self._parse(number, alone=True))
            self._check_now([number])
        return len(numbers) > 0

    def values(self, tag):
        """Return what is no scalar: a list of (step, value of the event)."""
        self._check_now([n for n in self._others.get(tag, ()) if n in self._unchecked])
        found = []
        for number in self._others.get(tag, ()):
            if self.steps[number] < self._limits[number]:
                event = parse(self._records.data(number))
                found += [(event.step, value) for value in event.summary.value if value.tag == tag]
        return found

    def verify(self):
        """Leave out all damaged records."""
        for number, layout in enumerate(list(self._layouts)):
            if layout.places is not None:
                numbers = np.flatnonzero(self._layout_of == number)
                same, whole = layout.verify(self._records, numbers)
                self._move(numbers[~same])
                self._lose(numbers[same & ~whole])
        self._check_now(list(self._unchecked))


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
