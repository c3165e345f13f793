"""Records of the fold's bytes: what is written of a stream, and how parts are taken off a body."""

from __future__ import annotations

import struct
from typing import TypeVar

import msgspec

from agent.errors import DecodeError
from agent.fold.histograms import HistogramState
from agent.fold.profile import Facts
from agent.fold.series import SeriesState
from agent.types import Column, Exemplar, Kind, StreamKey

WHAT = "state of a stream"
LENGTH = struct.Struct("<I")
T = TypeVar("T")


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


stream_decoder = msgspec.msgpack.Decoder(StreamRecord)


def decoded(decoder: msgspec.msgpack.Decoder[T], data: memoryview, what: str) -> T:
    """Raises DecodeError when these bytes are no such record."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise DecodeError(f"{what}: {error}") from None


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
