"""The smallest and the largest value of each tag in columns of steps."""

import typing

import numpy as np

# So many values are read while a request waits: about a fifth of a second.
AT_ONCE = 4_000_000
_CHUNK = 1_000_000
# As many columns are kept of a whole run, so that one may zoom in without reading again.
_KEPT = 8192


class Columns(typing.NamedTuple):
    """Columns of steps, those without a record left out.

    Attributes:
        width: the number of steps of a column, a power of 2.
        starts: int64 array, the first step of each; multiples of `width`.
        low: float32 array of shape (columns, tags), the smallest values; NaN if there is a NaN,
            infinity where a tag has no value.
        high: likewise, the largest; -infinity where a tag has no value.
        exact: whether they are those of all records, and not of some.
    """

    width: int
    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    exact: bool = True

    @classmethod
    def of(cls, width: int, steps: np.ndarray, low: np.ndarray, high: np.ndarray) -> "Columns":
        """Return the columns of rows in the order of their steps."""
        starts = steps // width * width
        begins = np.flatnonzero(np.diff(starts, prepend=-1))
        if not len(begins):
            return cls(width, starts, low, high)
        with np.errstate(invalid="ignore"):
            least = np.minimum.reduceat(low, begins, axis=0)
            most = np.maximum.reduceat(high, begins, axis=0)
        return cls(width, starts[begins], least, most)


class Extremes:
    """The extremes of some tags of a run, over all its steps, kept up while the run grows.

    Args:
        files: a `RunFiles`.
        tags: list of strings, scalars' tags that are written in the same steps.

    Attributes:
        tags: list of strings, the tags.
    """

    def __init__(self, files, tags):
        self._files, self.tags = files, list(tags)
        self._all_steps: np.ndarray | None = None
        self._forget()

    def _forget(self):
        """Read the records again."""
        none = np.zeros((0, len(self.tags)), np.float32)
        self._known = Columns(1, np.zeros(0, np.int64), none, none)
        self._read_to = -1  # the last step that they hold
        self._rewrites = self._files.rewrites

    def columns(self, first: int, last: int, most: int) -> Columns:
        """Return at most `most` columns of the steps from `first` to `last`.

        They are exact if all records of the range have been read before, or are few; else call
        `read_more` until it returns False, and ask again.
        """
        width = 1
        while last // width - first // width >= most:
            width *= 2
        first, last = first // width * width, last // width * width + width - 1  # whole columns
        steps = self._steps()
        inside = np.searchsorted(steps, last, "right") - np.searchsorted(steps, first)
        if inside * len(self.tags) <= AT_ONCE:
            return Columns.of(width, *self._rows(first, last))
        if self._waiting() * len(self.tags) <= AT_ONCE:
            while self.read_more():
                pass
            width = max(width, self._known.width)
            first = first // width * width
            _, starts, low, high, _ = self._known
            shown = (starts >= first) & (starts <= last)
            return Columns.of(width, starts[shown], low[shown], high[shown])
        return Columns.of(width, *self._rows(first, last, most))._replace(exact=False)

    def refresh(self) -> None:
        """Take notice that the run has grown, or that some of its steps were made again."""
        self._all_steps = None
        if self._files.rewrites != self._rewrites:
            self._forget()

    def read_more(self) -> bool:
        """Read some records that were not read before; tell whether there are others."""
        waiting = self._waiting()
        if not waiting:
            return False
        steps = self._steps()[-waiting:]
        last = int(steps[: max(_CHUNK // len(self.tags), 1)][-1])
        new, low, high = self._rows(self._read_to + 1, last)
        self._read_to = last
        _, starts, least, most, _ = self._known
        # The last known column and the first new one may be one: `of` joins them.
        both = zip((starts, least, most), (new, low, high), strict=True)
        rows_of_all = [np.concatenate(pair) for pair in both]
        width = self._known.width
        while self._read_to // width - rows_of_all[0][0] // width >= _KEPT:
            width *= 2
        self._known = Columns.of(width, *rows_of_all)
        return last < steps[-1]

    def _steps(self):
        """Return the steps of the records, as far as two tags tell."""
        if self._all_steps is None:
            # A layer that was frozen at first has fewer. Of one tag alone little is read.
            first, last = (self._files.series(tag)[0] for tag in (self.tags[0], self.tags[-1]))
            self._all_steps = np.union1d(first, last)
        return self._all_steps

    def _waiting(self):
        """Return the number of records that were not read yet."""
        steps = self._steps()
        return len(steps) - int(np.searchsorted(steps, self._read_to, "right"))

    def _rows(self, first, last, most=None):
        # What a layer has no value of is no NaN.
        steps, high = self._files.rows(self.tags, first, last, most, missing=-np.inf)
        return steps, np.where(high == -np.inf, np.inf, high), high
