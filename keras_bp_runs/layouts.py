"""What records of one kind have in common, and where their numbers lie."""

import struct
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util.tensor_util import make_ndarray

from keras_bp_runs.records import TABLE, RecordFile, crc32c, masked

HASHED = 256
"""The first bytes of a record, which tell its tags."""
_CHUNK = 2**25  # bytes that are decoded at once
_NO_ZERO_BYTES = struct.unpack("<f", b"\x01\x01\x01\x01")[0]
_KINDS = {"simple_value": "scalars", "histo": "histograms", "image": "images", "audio": "audio"}


class Layout:
    """Scalars that lie at the same places in all records with the same other bytes.

    A record that TensorBoard's messages cannot make again byte for byte, or that holds more than
    float32 scalars, is decoded alone: then `places` is None.

    Args:
        data: bytes, the data of one record.
        event: the `Event` in it.
        known: dictionary, tag -> kind, of what was read before.
        alone: whether to decode its records one by one in any case.

    Attributes:
        number: integer, given by its file.
        tags: tuple of strings.
        mask: uint8 array, the bits of the record that its kind has in common.
    """

    def __init__(
        self, data: bytes, event: Event, known: dict[str, str], alone: bool = False
    ) -> None:
        scalars = scalars_of(event, known)
        self.number: int | None = None
        self.tags = tuple(scalars)
        self.columns = {tag: column for column, tag in enumerate(self.tags)}
        self.places, self.mask = None, np.zeros(0, np.uint8)
        if alone or not scalars or len(scalars) < len(event.summary.value):
            return
        if not all(_set(value, 0.0) for value in scalars.values()):
            return
        zeros = np.frombuffer(event.SerializeToString(), np.uint8)
        for value in scalars.values():
            _set(value, _NO_ZERO_BYTES)
        others = np.frombuffer(event.SerializeToString(), np.uint8)
        self._template = np.frombuffer(data, np.uint8)
        if len(zeros) != len(data):
            return
        mask = np.where(zeros == others, 0xFF, 0).astype(np.uint8)
        places = np.flatnonzero(mask == 0).reshape(-1, 4)[:, 0]
        # Wall time (field 1) and step (field 2) come first, each left out if it is 0.
        first = 9 if data[0] == 0x09 else 0
        mask[1:first] = 0
        last = first
        if data[first] == 0x10:
            first = last = first + 1
            while data[last - 1] >= 0x80 or last == first:
                last += 1
        mask[first:last] = 0x80  # which tells a number's last byte
        if not ((zeros ^ self._template) & mask).any():
            self.places, self.mask, self._step = places, mask, (first, last)

    def steps(self, file: RecordFile, numbers: np.ndarray) -> np.ndarray:
        """Return the steps of some records."""
        digits = (file.columns(numbers, *self._step) & 0x7F).astype(np.uint64)
        shifts = np.arange(0, 7 * digits.shape[1], 7, dtype=np.uint64)
        return (digits << shifts).sum(axis=1, dtype=np.uint64).astype(np.int64)

    def hashes(self, file: RecordFile, numbers: np.ndarray) -> np.ndarray:
        """Return for each record a number that tells the first bytes of its kind's from others."""
        width = min(HASHED, len(self.mask))
        words = np.zeros((len(numbers), -(-width // 8)), "<u8")
        words.view(np.uint8)[:, :width] = file.columns(numbers, 0, width) & self.mask[:width]
        hashes = np.zeros(len(numbers), np.uint64)
        for word in words.T:
            hashes = (hashes ^ word) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(32)
        return hashes

    def values(
        self, file: RecordFile, numbers: np.ndarray, tags: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode some scalars of some records.

        Returns:
            The values, float32 (records, tags), and which records are of this kind, bool
            (records,).
        """
        columns = [self.columns[tag] for tag in tags]
        values = np.zeros((len(numbers), len(columns)), np.float32)
        if self.places is None:
            for row, number in enumerate(numbers):
                event = Event.FromString(file.data(number))
                found = {value.tag: value for value in event.summary.value}
                values[row] = [_scalar(found[tag]) for tag in tags]
            return values, np.ones(len(numbers), bool)
        begin = self.places[min(columns) - 1] + 4 if min(columns) else 0
        end = self.places[max(columns)] + 4
        places = (self.places[columns, None] + np.arange(4) - begin).ravel()
        same = np.zeros(len(numbers), bool)
        for part in chunks(len(numbers), end - begin):
            rows = file.columns(numbers[part], begin, end)
            values[part] = np.take(rows, places, axis=1).view("<f4")
            same[part] = self._is_same(rows, begin, end)
        return values, same

    def _is_same(self, rows, begin, end):
        return ~((rows ^ self._template[begin:end]) & self.mask[begin:end]).any(axis=1)

    def verify(self, file: RecordFile, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell which records are of this kind in all bytes, and which have a correct checksum.

        A checksum is linear: that of a record differs from the first one's by what each byte that
        differs adds.
        """
        variable = np.flatnonzero(self.mask != 0xFF)
        added = _contributions(len(self.mask), variable)
        same, whole = np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
        checksum = crc32c(self._template[None])[0]
        for part in chunks(len(numbers), len(self.mask)):
            rows = file.columns(numbers[part], 0, len(self.mask))
            same[part] = self._is_same(rows, 0, len(self.mask))
            sums = np.full(len(rows), checksum, np.uint32)
            for table, column in zip(added, variable, strict=True):
                sums ^= table[rows[:, column] ^ self._template[column]]
            whole[part] = masked(sums) == file.checksums(numbers[part])
        return same, whole


def chunks(number: int, width: int) -> list[slice]:
    """Divide rows of so many bytes into parts of some 32 MB."""
    size = max(1, _CHUNK // max(1, width))
    return [slice(first, first + size) for first in range(0, number, size)]


def parse(data: bytes) -> Event | None:
    """Return the event in a record's data, None if there is none."""
    try:
        return Event.FromString(data)
    except DecodeError:
        return None


def kind_of(value: Any, known: dict[str, str]) -> str:
    """Return the name of the TensorBoard plugin that shows a value of an event."""
    named = value.metadata.plugin_data.plugin_name or known.get(value.tag)
    return named or _KINDS.get(value.WhichOneof("value"), "tensors")


def scalars_of(event: Event, known: dict[str, str]) -> dict[str, Any]:
    """Return the scalars of an event by tag."""
    values = event.summary.value
    return {value.tag: value for value in values if kind_of(value, known) == "scalars"}


def _scalar(value):
    if value.WhichOneof("value") == "simple_value":
        return value.simple_value
    return make_ndarray(value.tensor).reshape(-1)[0]


def _set(value, number):
    """Replace the number of a float32 scalar; tell whether it is one."""
    tensor = value.tensor
    if value.WhichOneof("value") == "simple_value":
        value.simple_value = number
    elif tensor.dtype == DT_FLOAT and len(tensor.float_val) == 1:
        tensor.float_val[0] = number
    elif tensor.dtype == DT_FLOAT and len(tensor.tensor_content) == 4:
        tensor.tensor_content = struct.pack("<f", number)
    else:
        return False
    return True


def _contributions(length, places):
    """Return what each value of the bytes at some places adds to a record's checksum.

    Returns:
        A uint32 array of shape (places, 256).
    """
    tables, table, at = np.zeros((len(places), 256), np.uint32), TABLE, length - 1
    for row in reversed(range(len(places))):
        while at > places[row]:
            table, at = TABLE[table & 0xFF] ^ (table >> 8), at - 1
        tables[row] = table
    return tables
