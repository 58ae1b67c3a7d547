"""The records of a TFRecord file: where they lie, and whether they are whole."""

import mmap
import os
import struct

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_HEADER, _FRAME = struct.Struct("<QI"), 16  # length and its checksum before, the data's after
_SEARCHED = 2**20


class RecordFile:
    """Finds the records of a TFRecord file, also of one that grows, and reads them where they lie.

    A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4).
    Where a length is damaged, the next whole header is looked for.

    Args:
        path: string, the file.

    Attributes:
        starts: int64 array (records,), where the data of each record begins.
        lengths: int64 array (records,), their lengths in bytes.
        damaged: list of strings, what cannot be read.
        cut: list of strings, an end that is no whole record: it may be being written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.starts = self.lengths = np.zeros(0, np.int64)
        self._inode: int | None = None
        self._end = 0
        self.damaged: list[str] = []
        self.cut: list[str] = []
        self._bytes = np.zeros(0, np.uint8)

    def refresh(self) -> bool:
        """Find the records that were appended; tell whether the file is still the same one."""
        with open(self.path, "rb") as file:
            about = os.fstat(file.fileno())
            inode, size = about.st_ino, about.st_size
            if self._inode not in (None, inode) or size < len(self._bytes):
                return False
            self._inode = inode
            if size > len(self._bytes):
                self._buffer = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                self._bytes, self.cut = np.frombuffer(self._buffer, np.uint8), []
                while self._scan():
                    pass
        return True

    def _scan(self) -> bool:
        """Add the records from where the last scan ended; tell whether there may be more."""
        begins, lengths, position, size = [], [], self._end, len(self._bytes)
        while position + _HEADER.size <= size:
            length = _HEADER.unpack_from(self._buffer, position)[0]
            begins.append(position)
            lengths.append(length)
            position += length + _FRAME
        headers = self._rows(np.array(begins, np.int64), 0, _HEADER.size)
        whole = masked(crc32c(headers[:, :8])) == as_integers(headers[:, 8:])
        number = len(begins) if whole.all() else int(np.argmin(whole))
        damaged = number < len(begins)
        cut = number and begins[number - 1] + lengths[number - 1] + _FRAME > size
        number -= cut
        ends = [b + n + _FRAME for b, n in zip(begins[:number], lengths[:number], strict=True)]
        self._end = ends[-1] if ends else self._end
        self.starts = np.append(self.starts, np.array(begins[:number], np.int64) + _HEADER.size)
        self.lengths = np.append(self.lengths, np.array(lengths[:number], np.int64))
        if damaged and not cut:
            found = self._next_header(self._end + 1)
            lost = f"{(found or size) - self._end} bytes from byte {self._end} on are damaged"
            if found is None:
                self.cut = [lost]
                return False
            self.damaged.append(lost)
            self._end = found
            return True
        if self._end < size:
            self.cut = [
                f"the last {size - self._end} bytes are no whole record: the process that wrote "
                "them was interrupted, or still writes"
            ]
        return False

    def _next_header(self, first: int) -> int | None:
        """Return where the next header with a correct checksum begins, None if there is none."""
        size = len(self._bytes)
        for begin in range(first, size - _FRAME, _SEARCHED):
            part = self._bytes[begin : begin + _SEARCHED + _HEADER.size]
            # A length of less than 2 ** 32 has four zeros.
            zeros: np.ndarray = np.all(sliding_window_view(part == 0, 4), axis=1)
            places = np.flatnonzero(zeros[4:-4]) + begin
            headers = self._rows(places, 0, _HEADER.size)
            whole = masked(crc32c(headers[:, :8])) == as_integers(headers[:, 8:])
            for place in places[whole]:
                if place + _HEADER.unpack_from(self._buffer, place)[0] + _FRAME <= size:
                    return int(place)
        return None

    def _rows(self, places, first, last):
        if not len(places):
            return np.zeros((0, last - first), np.uint8)
        return sliding_window_view(self._bytes, last - first)[places + first]

    def data(self, number: int) -> bytes:
        """Return the data of one record."""
        start = self.starts[number]
        return self._bytes[start : start + self.lengths[number]].tobytes()

    def columns(self, numbers: np.ndarray, first: int, last: int) -> np.ndarray:
        """Return the bytes from `first` to `last` of some records: (records, last - first)."""
        return self._rows(self.starts[numbers], first, last)

    def checksums(self, numbers: np.ndarray) -> np.ndarray:
        """Return the checksums that stand behind the data of some records: uint32 (records,)."""
        return as_integers(self._rows(self.starts[numbers] + self.lengths[numbers], 0, 4))


def as_integers(rows: np.ndarray) -> np.ndarray:
    """Read four bytes of each row as an unsigned integer: (n, 4) -> uint32 (n,)."""
    return np.ascontiguousarray(rows).view("<u4")[:, 0]


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


TABLE = _table()
_BYTES = TABLE.tolist()


def crc32c(rows: np.ndarray) -> np.ndarray:
    """Return the CRC-32C of each row of bytes: uint8 (n, length) -> uint32 (n,)."""
    if len(rows) < 16:  # NumPy's call costs more than a few steps of Python
        return np.array([_crc32c(row.tobytes()) for row in rows], np.uint32)
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crc = TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return ~crc


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _BYTES[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: np.ndarray) -> np.ndarray:
    """Return checksums as TFRecord files hold them: rotated, with a constant added."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
