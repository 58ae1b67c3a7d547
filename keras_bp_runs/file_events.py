"""The events of one file."""

import collections
import os

import numpy as np
from tensorboard.compat.proto.event_pb2 import SessionLog

from keras_bp_runs.layouts import Layout, chunks, kind_of, parse
from keras_bp_runs.records import RecordFile, crc32c, masked

NEVER = np.iinfo(np.int64).max
"""A step that no event has."""
_CHECKED = 2**14  # bytes of the longest record whose checksum is computed as it is found


class FileEvents:
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
        self._records = RecordFile(path)
        self._faults: list[str] = []
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
    def damage(self):
        """What cannot be read, in words."""
        return self._named([*self._records.damaged, *self._faults])

    @property
    def cut(self):
        """An end that is no whole record, in words."""
        return self._named(self._records.cut)

    def _named(self, faults):
        return [f"{os.path.basename(self._records.path)}: {fault}" for fault in faults]

    def refresh(self):
        """Read what was appended; tell whether it is the same file still."""
        if not self._records.refresh():
            return False
        first, number = len(self.steps), len(self._records.starts)
        self.steps = np.append(self.steps, np.zeros(number - first, np.int64))
        self._layout_of = np.append(self._layout_of, np.full(number - first, -1, np.int32))
        self._limits = np.append(self._limits, np.full(number - first, NEVER))
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
        low, high = -NEVER if first is None else first, NEVER if last is None else last
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
