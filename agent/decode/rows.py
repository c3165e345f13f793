"""Rows being gathered: values go into flat lists, one pass a row; `blocks()` scatters them into arrays.

Invariants
 1. A row has at most one value a column. Names that meet after flattening or cutting: the last wins.
 2. `rollback(mark)` takes back all rows and values since `mark()`; lanes learned meanwhile stay, unused.
 3. Lanes a stream may have are bounded, and blocks are cut so that their arrays stay below
    MAX_BLOCK_BYTES, whatever producers invent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.decode.lanes import ColumnLanes, OwnShape, StreamLanes, StreamTable
from agent.decode.scalars import cut_name, norm, number_text
from agent.decode.vector_sample import RowSample, is_vector
from agent.sketch.cells import ABSENT_BITS, HASH_NULL, NULL_BITS
from agent.sketch.hash import hash_spans
from agent.sketch.sampled_block import Vector, with_vectors
from agent.types import (
    WINDOW_FUTURE,
    WINDOW_LATE,
    Block,
    Column,
    Drop,
    Irregular,
    JsonType,
    Kind,
    Role,
)

#: Bytes of one block's arrays, text left out.
MAX_BLOCK_BYTES = 8 << 20
#: Zero bytes at both ends of a block's text.
TEXT_PADDING = 64

LATENCY = Column(Role.LATENCY, "latency")
#: Objects nested deeper than this are flattened row by row.
_MAX_NESTING = 8
_DAY_MS = 86_400_000


class Rejected(Exception):
    """An event that cannot become rows."""

    def __init__(self, reason: Drop) -> None:
        super().__init__(reason)
        self.reason = reason


#: Lengths of the lists of rows, numbers, strings, null numbers, null strings, sampled vectors: where to
#: roll back to.
Mark = tuple[int, int, int, int, int, int]
_EMPTY: Mark = (0, 0, 0, 0, 0, 0)


class RowBuffer:
    """Rows of one slice. One owner; emptied by `clear()`."""

    def __init__(self, config: Config, table: StreamTable) -> None:
        self._table = table
        self._declared = config.features
        self._max_values = config.decode.max_features
        self._max_lanes = 2 * config.decode.max_features + 16
        self._max_name_bytes = config.decode.max_name_bytes
        self._width_ms = int(config.windows.width_s) * 1000
        self._max_skew_ms = round(config.windows.max_skew_s * 1000)
        self._max_jump_ms = round(config.windows.max_jump_s * 1000)
        #: What was odd about the event in hand; the caller empties and counts it.
        self.odd: set[Irregular] = set()
        self._streams: list[StreamLanes] = []
        self._times: list[int] = []
        self._timestamps: list[int] = []
        self._errors: list[bool] = []
        self._number_ends: list[int] = []  # of each row, in _numbers
        self._string_ends: list[int] = []
        self._numbers: list[float] = []
        self._number_lanes: list[int] = []
        self._strings: list[str] = []
        self._string_lanes: list[int] = []
        self._null_numbers: list[tuple[int, int]] = []  # (row, lane)
        self._null_strings: list[tuple[int, int]] = []
        #: Which rows' vectors are kept (None: no row's), and the place of the row in hand: offset, row.
        self.sample: RowSample | None = None
        self.place = (0, 0)
        self._vectors: list[Vector] = []
        self._n_values = 0  # of all rows that are closed

    @property
    def n_rows(self) -> int:
        return len(self._streams)

    @property
    def n_values(self) -> int:
        """Values of all rows that are closed, nulls included: a bound for the cells they may need."""
        return self._n_values

    def clear(self) -> None:
        if self.mark() != _EMPTY:
            self.rollback(_EMPTY)

    def mark(self) -> Mark:
        return (
            len(self._streams),
            len(self._numbers),
            len(self._strings),
            len(self._null_numbers),
            len(self._null_strings),
            len(self._vectors),
        )

    def rollback(self, mark: Mark) -> None:
        """Take back everything since `mark`, which was taken between two rows."""
        for rows in (
            self._streams,
            self._times,
            self._timestamps,
            self._errors,
            self._number_ends,
            self._string_ends,
        ):
            del rows[mark[0] :]
        self._take_back_values(mark)
        self._n_values = mark[1] + mark[2] + mark[3] + mark[4]

    def _take_back_values(self, mark: Mark) -> None:
        del self._numbers[mark[1] :]
        del self._number_lanes[mark[1] :]
        del self._strings[mark[2] :]
        del self._string_lanes[mark[2] :]
        del self._null_numbers[mark[3] :]
        del self._null_strings[mark[4] :]
        del self._vectors[mark[5] :]

    # ------------------------------------------------------------ writing

    def end_row(self, stream: StreamLanes, time_ms: int, timestamp_ms: int, is_error: bool) -> None:
        """Close the row made of all values put since the row before.

        Raises Rejected when it has more values than allowed.
        """
        n_numbers = len(self._numbers)
        n_strings = len(self._strings)
        n_values = n_numbers + n_strings + len(self._null_numbers) + len(self._null_strings)
        if n_values - self._n_values > self._max_values:
            raise Rejected(Drop.TOO_WIDE)
        self._n_values = n_values
        self._streams.append(stream)
        self._times.append(time_ms)
        self._timestamps.append(timestamp_ms)
        self._errors.append(is_error)
        self._number_ends.append(n_numbers)
        self._string_ends.append(n_strings)

    def put(
        self,
        stream: StreamLanes,
        columns: dict[str, ColumnLanes],
        role: Role,
        items: dict[str, Any],
    ) -> None:
        """Add the values of one object to the row in hand; nested objects are flattened with dots.

        columns: the stream's columns of `role` by wire name. Raises Rejected (TOO_WIDE).
        """
        if len(items) > self._max_values:
            raise Rejected(Drop.TOO_WIDE)
        start = self.mark()
        if stream.shape.is_ambiguous or not self._put_as_seen(stream, columns, role, items, ""):
            # Flattened first, so that no column gets two values.
            self._take_back_values(start)
            for name, value in self.flatten(items).items():
                self.put_one(stream, columns, role, name, value)

    def _put_as_seen(
        self,
        stream: StreamLanes,
        columns: dict[str, ColumnLanes],
        role: Role,
        items: dict[str, Any],
        prefix: str,
    ) -> bool:
        """Add values straight to the lanes of their wire names; False when the row must be flattened."""
        add_number = self._numbers.append
        add_number_lane = self._number_lanes.append
        for name, value in items.items():
            column = columns.get(name)
            if column is None:
                found = self._learn(stream, columns, role, prefix, name)
                if found is None:
                    return False
                column = found
            kind = type(value)
            if (kind is float or kind is int) and column.number >= 0:
                add_number(value)
                add_number_lane(column.number)
            elif kind is str and column.string >= 0:
                self._strings.append(value)
                self._string_lanes.append(column.string)
            elif kind is dict:
                below = f"{column.column.name}."
                if prefix.count(".") >= _MAX_NESTING or not self._put_as_seen(
                    stream, column.inner, role, value, below
                ):
                    return False
            else:
                self._put_odd(stream, column, value)
        return True

    def put_one(
        self,
        stream: StreamLanes,
        columns: dict[str, ColumnLanes],
        role: Role,
        name: str,
        value: Any,
    ) -> None:
        """Add one value that is not an object, under a name that needs no cutting."""
        column = columns.get(name)
        if column is None:
            column, is_kept = self._learned(stream, role, name)
            if is_kept:
                columns[name] = column
        kind = type(value)
        if (kind is float or kind is int) and column.number >= 0:
            self._numbers.append(value)
            self._number_lanes.append(column.number)
        elif kind is str and column.string >= 0:
            self._strings.append(value)
            self._string_lanes.append(column.string)
        else:
            self._put_odd(stream, column, value)

    def put_latency(self, stream: StreamLanes, latency_s: float) -> None:
        column = stream.columns.get(LATENCY)
        if column is None:
            column = ColumnLanes(LATENCY)
            self._table.add_numeric(stream, column, JsonType.NUMBER)
            stream.columns[LATENCY] = column
        self._numbers.append(latency_s)
        self._number_lanes.append(column.number)

    def flatten(self, items: dict[str, Any]) -> dict[str, Any]:
        """Leaves by dotted, cut name, in document order. Raises Rejected (TOO_WIDE)."""
        flat: dict[str, Any] = {}
        limit = self._max_name_bytes
        # Iterative: one (prefix, iterator) for each open object.
        open_objects: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter(items.items()))]
        while open_objects:
            prefix, rest = open_objects[-1]
            for key, value in rest:
                name = prefix + key
                if type(value) is dict:
                    # Prefixes of deep objects must not grow without bound. Four bytes more than
                    # the limit stay, so that the first `limit` bytes of a leaf's name are its own.
                    open_objects.append((cut_name(name, limit + 4) + ".", iter(value.items())))
                    break
                if len(name) * 4 > limit and self._is_long(name):
                    self.odd.add(Irregular.LONG_NAME)
                    name = cut_name(name, limit)
                if name in flat:
                    self.odd.add(Irregular.DUPLICATE_KEY)
                flat[name] = value
                if len(flat) > self._max_values:
                    raise Rejected(Drop.TOO_WIDE)
            else:
                open_objects.pop()
        return flat

    def _is_long(self, name: str) -> bool:
        return len(name.encode("utf-8", "replace")) > self._max_name_bytes

    def _learn(
        self,
        stream: StreamLanes,
        columns: dict[str, ColumnLanes],
        role: Role,
        prefix: str,
        name: str,
    ) -> ColumnLanes | None:
        """A wire name seen for the first time in this place; None when rows must be flattened for it."""
        whole = prefix + name
        if len(whole) * 4 > self._max_name_bytes and self._is_long(whole):
            return None
        if Column(role, whole) in stream.columns:
            stream.shape.is_ambiguous = True
            return None
        found, is_kept = self._learned(stream, role, whole)
        if is_kept:
            columns[name] = found
        return found

    def _learned(self, stream: StreamLanes, role: Role, name: str) -> tuple[ColumnLanes, bool]:
        """The column of this whole name, and whether it is kept: the stream may have no more room.

        Without room `_has_room` leaves its values out.
        """
        column = Column(role, name)
        found = stream.columns.get(column)
        if found is not None:
            return found, True
        found = self._declare(column)
        is_kept = (
            stream.shape.n_lanes < self._max_lanes and len(stream.columns) < 2 * self._max_lanes
        )
        if is_kept:
            self._table.charge(stream)  # also without a lane: a name whose value is an object
            stream.columns[column] = found
        elif len(stream.shape.models) > 1:
            raise OwnShape(stream.key.model)
        return found, is_kept

    def _declare(self, column: Column) -> ColumnLanes:
        declared = self._declared.get(column.name) if column.role is Role.FEATURE else None
        if declared is None:
            return ColumnLanes(column)
        bounds = None
        if declared.min is not None or declared.max is not None:
            bounds = (
                -math.inf if declared.min is None else declared.min,
                math.inf if declared.max is None else declared.max,
            )
        return ColumnLanes(column, declared.kind is Kind.CATEGORICAL, bounds)

    def _put_odd(self, stream: StreamLanes, column: ColumnLanes, value: Any) -> None:
        """Any value that is not an object: the general path."""
        kind = type(value)
        if kind is float or kind is int:
            if column.is_code:
                self._put_string(stream, column, number_text(value))
            else:
                self._put_number(stream, column, JsonType.NUMBER, column.number, value)
        elif kind is str:
            self._put_string(stream, column, value)
        elif value is None:
            self._put_null(stream, column)
        elif kind is bool:
            if column.is_code:
                self._put_string(stream, column, number_text(value))
            else:
                self._put_number(stream, column, JsonType.BOOLEAN, column.boolean, float(value))
        elif is_vector(value):
            self._put_number(stream, column, JsonType.VECTOR, column.vector, norm(value))
            if self.sample is not None and self.sample.takes(*self.place) and column.vector >= 0:
                self._vectors.append((len(self._streams), column.column, value))
        else:
            self._put_number(stream, column, JsonType.OTHER, column.other, math.nan)

    def _put_number(
        self, stream: StreamLanes, column: ColumnLanes, kind: JsonType, lane: int, value: float
    ) -> None:
        if lane < 0:
            if not self._has_room(stream):
                return
            lane = self._table.add_numeric(stream, column, kind)
        self._numbers.append(value)
        self._number_lanes.append(lane)

    def _put_string(self, stream: StreamLanes, column: ColumnLanes, value: str) -> None:
        lane = column.string
        if lane < 0:
            if not self._has_room(stream):
                return
            lane = self._table.add_string(stream, column)
        self._strings.append(value)
        self._string_lanes.append(lane)

    def _put_null(self, stream: StreamLanes, column: ColumnLanes) -> None:
        if column.first < 0:
            if not self._has_room(stream):
                return
            if column.is_code:
                self._table.add_string(stream, column)
            else:
                self._table.add_numeric(stream, column, JsonType.NUMBER)
        nulls = self._null_strings if column.first_is_string else self._null_numbers
        nulls.append((len(self._streams), column.first))

    def _has_room(self, stream: StreamLanes) -> bool:
        """Whether the stream may have one more lane; if not, the value in hand is left out."""
        if stream.shape.n_lanes < self._max_lanes:
            return True
        if len(stream.shape.models) > 1:
            raise OwnShape(stream.key.model)
        self.odd.add(Irregular.TOO_MANY_COLUMNS)
        return False

    # ------------------------------------------------------------ reading

    def streams(self, low: int, high: int) -> list[StreamLanes]:
        """Streams of rows [low, high)."""
        return self._streams[low:high]

    @property
    def times(self) -> list[int]:
        """Event times of all rows."""
        return self._times

    def last_stream(self) -> StreamLanes:
        """The stream of the last row."""
        return self._streams[-1]

    def blocks(
        self, sealed_until: int, now_ms: int, median_ms: int | None = None
    ) -> tuple[list[Block], int]:
        """All rows as blocks, in order, and the largest admissible event time (-1: none).

        Rows of windows below `sealed_until` get WINDOW_LATE; rows too far ahead of the record's
        timestamp (or, without one, of the slice's median event time) get WINDOW_FUTURE. So do rows
        more than a day ahead of `now_ms`: a record's timestamp is a producer's word, and one that is
        wrong by a factor of a thousand must not end all windows. `median_ms`: of the slice, where these
        rows are only a part of it.
        """
        n = len(self._streams)
        if not n:
            return [], -1
        times = np.array(self._times, np.int64)
        timestamps = np.array(self._timestamps, np.int64)
        latest = np.where(
            timestamps >= 0,
            np.minimum(timestamps + self._max_skew_ms, now_ms + _DAY_MS),
            (int(np.median(times)) if median_ms is None else median_ms) + self._max_jump_ms,
        )
        is_future = times > latest
        windows = times // self._width_ms
        windows[windows < sealed_until] = WINDOW_LATE
        windows[is_future] = WINDOW_FUTURE
        admissible = times[~is_future]
        newest = int(admissible.max()) if admissible.size else -1

        streams = np.fromiter((stream.idx for stream in self._streams), np.int32, n)
        errors = np.array(self._errors, np.uint8)
        seen = set(streams.tolist())
        lanes, string_lanes = self._table.numeric_lanes, self._table.string_lanes
        width = np.zeros(len(lanes), np.int64)
        string_width = np.zeros(len(lanes), np.int64)
        for idx in seen:
            width[idx], string_width[idx] = len(lanes[idx]), len(string_lanes[idx])
        number_start = _starts(width[streams])
        string_first = _starts(string_width[streams])
        size_bytes = 8 * number_start + 20 * string_first
        number_ends = np.array([0, *self._number_ends], np.int64)
        string_ends = np.array([0, *self._string_ends], np.int64)
        blocks = []
        high = 0
        while high < n:
            low = high
            bound = int(size_bytes[low]) + MAX_BLOCK_BYTES
            high = max(low + 1, int(np.searchsorted(size_bytes, bound, "right")) - 1)
            starts = number_start[low : high + 1] - number_start[low]
            firsts = string_first[low : high + 1] - string_first[low]
            numbers = self._scatter_numbers(low, high, number_ends, starts)
            hashes, begins, lengths, text = self._scatter_strings(low, high, string_ends, firsts)
            block = Block(
                high - low,
                streams[low:high],
                times[low:high],
                windows[low:high],
                errors[low:high],
                numbers,
                starts,
                hashes,
                begins,
                lengths,
                firsts,
                text,
            )
            own = [(r - low, c, v) for r, c, v in self._vectors if low <= r < high]
            blocks.append(with_vectors(block, own))
        return blocks, max(newest, -1)

    def _scatter_numbers(
        self, low: int, high: int, ends: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        numbers = np.empty(int(starts[-1]), np.float64)
        bits = numbers.view(np.uint64)
        bits[:] = ABSENT_BITS
        first, last = int(ends[low]), int(ends[high])
        if last > first:
            values = np.array(self._numbers[first:last], np.float64)
            # A NaN of a table may carry any payload, also one of the markers.
            values[np.isnan(values)] = math.nan
            of_row = np.repeat(starts[:-1], np.diff(ends[low : high + 1]))
            numbers[of_row + np.array(self._number_lanes[first:last], np.int64)] = values
        _mark(bits, self._null_numbers, low, high, starts, NULL_BITS)
        return numbers

    def _scatter_strings(
        self, low: int, high: int, ends: NDArray[np.int64], firsts: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        total = int(firsts[-1])
        hashes = np.zeros(total, np.uint64)
        starts = np.zeros(total, np.int64)
        lengths = np.zeros(total, np.int32)
        first, last = int(ends[low]), int(ends[high])
        text, start, length = _packed(self._strings[first:last])
        if last > first:
            made = np.empty(last - first, np.uint64)
            hash_spans(text, start, length, made)
            of_row = np.repeat(firsts[:-1], np.diff(ends[low : high + 1]))
            places = of_row + np.array(self._string_lanes[first:last], np.int64)
            hashes[places] = made
            starts[places] = start
            lengths[places] = length
        _mark(hashes, self._null_strings, low, high, firsts, HASH_NULL)
        return hashes, starts, lengths, text


def _starts(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row begins, and behind the last where all end: int64[n + 1]."""
    starts = np.zeros(len(widths) + 1, np.int64)
    np.cumsum(widths, out=starts[1:])
    return starts


def _mark(
    cells: NDArray[np.uint64],
    places: list[tuple[int, int]],
    low: int,
    high: int,
    starts: NDArray[np.int64],
    bits: int,
) -> None:
    """Write `bits` at each (row, lane) of rows [low, high), which begin at `starts`."""
    if places:
        at = np.array(places, np.int64)
        at = at[(at[:, 0] >= low) & (at[:, 0] < high)]
        cells[starts[at[:, 0] - low] + at[:, 1]] = bits


def _packed(
    strings: Sequence[str],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    """UTF-8 of all strings in one padded buffer, and where each lies."""
    joined = "".join(strings)
    raw = joined.encode("utf-8", "replace")
    if len(raw) == len(joined):  # ASCII: lengths in characters are lengths in bytes
        length = np.fromiter(map(len, strings), np.int32, len(strings))
    else:
        sizes = (len(text.encode("utf-8", "replace")) for text in strings)
        length = np.fromiter(sizes, np.int32, len(strings))
    text = np.zeros(len(raw) + 2 * TEXT_PADDING, np.uint8)
    text[TEXT_PADDING : TEXT_PADDING + len(raw)] = np.frombuffer(raw, np.uint8)
    start = np.cumsum(length, dtype=np.int64) - length + TEXT_PADDING
    return text, start, length
