"""Records of the fold's bytes: what is written of a stream, and how a body is put together and taken apart."""

from __future__ import annotations

import ctypes
import struct
from typing import TypeVar

import msgspec
import numpy as np

from agent.errors import DecodeError
from agent.fold.histograms import HistogramState
from agent.fold.profile import Facts
from agent.fold.series import SeriesState
from agent.sketch.arrays import address_of
from agent.types import Column, Exemplar, Kind, StreamKey

WHAT = "state of a stream"
LENGTH = struct.Struct("<I")
T = TypeVar("T")

#: Copied at once, with the interpreter's lock held: 0.1 ms.
_PIECE_BYTES = 1 << 18


class _Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of what is below."""


class ColumnRecord(_Record):
    column: Column
    kind: Kind | None
    present: list[int]
    length: int
    exemplars: tuple[Exemplar, ...]
    recent: tuple[Exemplar, ...]
    missing: SeriesState | None
    counters: SeriesState | None
    histogram: HistogramState | None
    gauges: SeriesState | None
    categories: list[tuple[str, SeriesState]]


class WindowColumnRecord(_Record):
    column: Column
    present: list[int]
    length: int


class WindowRecord(_Record):
    window: int
    rows: int
    errors: int
    columns: list[WindowColumnRecord]
    unseen: int = 0
    pairs: bytes = b""
    vectors: bytes = b""


class ProfileColumnRecord(_Record):
    column: Column
    kind: Kind | None
    present: list[int]
    length: int
    facts: Facts


class ProfileRecord(_Record):
    window: int
    rows: int
    errors: int
    coverage: float
    columns: list[ProfileColumnRecord]
    unseen: int = 0
    pairs: bytes = b""
    vectors: bytes = b""


class StreamRecord(_Record):
    key: StreamKey
    seen_ns: int
    rows: int
    errors: int
    late: int
    future: int
    first_event_ms: int
    last_event_ms: int
    unsketched: list[Column]  # sorted
    unsketched_values: int
    counters: SeriesState
    gauges: SeriesState
    columns: list[ColumnRecord]
    open: list[WindowRecord]
    sealed: list[ProfileRecord]
    unseen: int = 0


stream_decoder = msgspec.msgpack.Decoder(StreamRecord)


def decoded(decoder: msgspec.msgpack.Decoder[T], data: memoryview, what: str) -> T:
    """Raises DecodeError when these bytes are no such record."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise DecodeError(f"{what}: {error}") from None


class Parts:
    """Collects bytes in pieces of some 256 kB. (One buffer that grows is copied as a whole now and then.)"""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._last: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._last.append(data)
        self._size += len(data)
        if self._size >= _PIECE_BYTES:
            self._close()

    def _close(self) -> None:
        self._pieces.append(b"".join(self._last))
        self._last.clear()
        self._size = 0

    def taken(self) -> list[bytes]:
        """What was collected."""
        self._close()
        return self._pieces


def joined(pieces: list[bytes]) -> bytes:
    """`b"".join(pieces)`, but other threads run between two pieces: that one holds the interpreter's lock
    for 10 ms with 25 MB. Memory of zeros is given by the system when it is written."""
    whole = bytes(sum(map(len, pieces)))
    at = address_of(np.frombuffer(whole, np.uint8))  # nobody else has seen these bytes yet
    for piece in pieces:
        ctypes.memmove(at, piece, len(piece))
        at += len(piece)
    return whole


class Body:
    """Takes parts off the body of a frame, in order."""

    def __init__(self, data: memoryview) -> None:
        self._left = data

    def take(self, length: int) -> memoryview:
        """The next bytes. Raises DecodeError when there are not so many."""
        if not 0 <= length <= len(self._left):
            raise DecodeError(f"{WHAT}: {length} bytes announced, {len(self._left)} left")
        part, self._left = self._left[:length], self._left[length:]
        return part

    def record(self) -> memoryview:
        """The next record."""
        (length,) = LENGTH.unpack(self.take(LENGTH.size))
        return self.take(length)

    def end(self) -> None:
        """Raises DecodeError when something is left."""
        if len(self._left):
            raise DecodeError(f"{WHAT}: {len(self._left)} bytes too many")
