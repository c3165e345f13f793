"""Blocks and chunks built by hand from plain rows, without a decoder.

A row says what an event said: its stream, event time and values by column. `LaneTable` hands out
lanes the way a kernel thread's stream table does: append-only, in order of first sight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.sketch.cells import ABSENT_BITS, HASH_ABSENT, HASH_NULL, NULL_BITS
from agent.sketch.delta import Delta, concat
from agent.sketch.hash import merge_hash
from agent.types import (
    WINDOW_FUTURE,
    WINDOW_LATE,
    Block,
    Chunk,
    Column,
    Exemplar,
    JsonType,
    Partition,
    PartitionRange,
    RequestSpan,
    Role,
    StreamKey,
    Tally,
)

WIDTH_MS = 60_000


def feature(name: str) -> Column:
    return Column(Role.FEATURE, name)


def prediction(name: str) -> Column:
    return Column(Role.PREDICTION, name)


LATENCY = Column(Role.LATENCY, "latency")


@dataclass
class Row:
    """One row. A value is a float, bool, str, None (null) or list (a vector of floats)."""

    stream: StreamKey
    time_ms: int
    values: dict[Column, Any] = field(default_factory=dict)
    is_error: bool = False
    future: bool = False


def type_of(value: Any) -> JsonType:
    if isinstance(value, bool):
        return JsonType.BOOLEAN
    if isinstance(value, str):
        return JsonType.STRING
    if isinstance(value, list):
        return JsonType.VECTOR if all(isinstance(x, float) for x in value) else JsonType.OTHER
    return JsonType.NUMBER


class LaneTable:
    """What `Delta` needs of a stream table."""

    def __init__(self) -> None:
        self.generation = 0
        self.keys: list[StreamKey] = []
        self.numeric_lanes: list[list[tuple[Column, JsonType]]] = []
        self.string_lanes: list[list[Column]] = []
        self._numbers: dict[StreamKey, int] = {}
        self._first: dict[tuple[int, Column], tuple[bool, int]] = {}

    def intern(self, key: StreamKey) -> int:
        number = self._numbers.setdefault(key, len(self.keys))
        if number == len(self.keys):
            self.keys.append(key)
            self.numeric_lanes.append([])
            self.string_lanes.append([])
        return number

    def lane(self, stream: int, column: Column, value: Any) -> tuple[bool, int]:
        """(is a string lane, lane) for this value; a null goes to the column's first lane."""
        if value is None and (stream, column) in self._first:
            return self._first[stream, column]
        kind = type_of(value)
        if kind is JsonType.STRING:
            lanes: list[Any] = self.string_lanes[stream]
            entry: Any = column
        else:
            lanes = self.numeric_lanes[stream]
            entry = (column, kind)
        if entry not in lanes:
            lanes.append(entry)
        place = (kind is JsonType.STRING, lanes.index(entry))
        self._first.setdefault((stream, column), place)
        return place


class TwinTable(LaneTable):
    """Every stream has two numbers, each with lanes of its own; rows take turns."""

    def intern(self, key: StreamKey) -> int:
        turns = self._turns = getattr(self, "_turns", 0) + 1
        first = super().intern(StreamKey(f"{key.model}/{turns % 2}", key.version, key.segment))
        self.keys[first] = key
        return first


Placed = list[tuple[tuple[bool, int], Any]]  # of one row: (is a string, lane), value


def starts_of(rows: list[Placed], is_string: bool) -> np.ndarray:
    """Where each row's lanes begin, int64[n + 1]: a row is as wide as its last lane with a value."""
    widths = [
        max((lane + 1 for (of_strings, lane), _ in row if of_strings is is_string), default=0)
        for row in rows
    ]
    return np.cumsum([0, *widths]).astype(np.int64)


def block_of(
    table: LaneTable,
    rows: Sequence[Row],
    *,
    sealed_until: int = -(1 << 61),
    width_ms: int = WIDTH_MS,
) -> Block:
    """The rows as a block; windows below `sealed_until` are marked late, as a decoder would."""
    n = len(rows)
    streams = [table.intern(row.stream) for row in rows]
    placed = [
        [(table.lane(s, c, v), v) for c, v in row.values.items()]
        for s, row in zip(streams, rows, strict=True)
    ]
    number_start, string_first = starts_of(placed, False), starts_of(placed, True)
    bits = np.full(int(number_start[-1]), ABSENT_BITS, np.uint64)
    numbers = bits.view(np.float64)
    string_hash = np.full(int(string_first[-1]), HASH_ABSENT, np.uint64)
    start = np.zeros(len(string_hash), np.int64)
    length = np.zeros(len(string_hash), np.int32)
    text = bytearray(64)
    for r, values in enumerate(placed):
        for (is_string, lane), value in values:
            at = int((string_first if is_string else number_start)[r]) + lane
            if is_string:
                if value is None:
                    string_hash[at] = HASH_NULL
                    continue
                data = value.encode()
                string_hash[at] = merge_hash(data)
                start[at], length[at] = len(text), len(data)
                text += data
            elif value is None:
                bits[at] = NULL_BITS
            elif type_of(value) is JsonType.OTHER:
                numbers[at] = math.nan
            elif isinstance(value, list):
                numbers[at] = math.hypot(*value)
            else:
                numbers[at] = float(value)
    text += bytes(64)
    windows = []
    for row in rows:
        window = row.time_ms // width_ms
        if row.future:
            window = WINDOW_FUTURE
        elif window < sealed_until:
            window = WINDOW_LATE
        windows.append(window)
    return Block(
        n=n,
        stream=np.array(streams, np.int32),
        event_time_ms=np.array([row.time_ms for row in rows], np.int64),
        window=np.array(windows, np.int64),
        is_error=np.array([row.is_error for row in rows], np.uint8),
        numbers=numbers,
        number_start=number_start,
        string_hash=string_hash,
        string_start=start,
        string_length=length,
        string_first=string_first,
        text=np.frombuffer(bytes(text), np.uint8).copy(),
    )


@dataclass
class PartOfChunk:
    """What one kernel thread contributes."""

    groups: list[Any]
    numeric: Any
    strings: Any
    ranges: list[PartitionRange]
    tally: Tally
    spans: list[RequestSpan] = field(default_factory=list)
    exemplars: list[Exemplar] = field(default_factory=list)


def range_of(
    partition: Partition | int,
    rows: Iterable[Row] = (),
    *,
    from_offset: int = 0,
    to_offset: int | None = None,
    max_event_time_ms: int | None = None,
    caught_up: bool = False,
    last_row_ns: int = 0,
    high_watermark: int = -1,
    lineage: str = "1" * 16,
) -> PartitionRange:
    """A partition's range over these rows."""
    rows = list(rows)
    if isinstance(partition, int):
        partition = Partition("events", partition)
    newest = max((row.time_ms for row in rows if not row.future), default=-1)
    return PartitionRange(
        partition=partition,
        from_offset=from_offset,
        to_offset=from_offset + len(rows) if to_offset is None else to_offset,
        lineage=lineage,
        prev="",
        max_event_time_ms=newest if max_event_time_ms is None else max_event_time_ms,
        high_watermark=high_watermark,
        caught_up=caught_up,
        last_row_ns=last_row_ns,
    )


def chunk_of(
    parts: Sequence[Sequence[Sequence[Row]]],
    *,
    digest: str,
    ranges: Sequence[PartitionRange] = (),
    number: int = 1,
    sealed_until: int = -(1 << 61),
    width_ms: int = WIDTH_MS,
    exemplars: Sequence[Exemplar] = (),
    labels_by_model: dict[str, int] | None = None,
    table_of: type[LaneTable] = LaneTable,
) -> Chunk:
    """A chunk of kernel threads (parts), each a list of blocks, each a list of rows."""
    made = []
    for i, blocks in enumerate(parts):
        table = table_of()
        delta = Delta(table)
        tally = Tally()
        for rows in blocks:
            delta.add(block_of(table, rows, sealed_until=sealed_until, width_ms=width_ms))
            tally.rows += len(rows)
            tally.events += len(rows)
            tally.records += len(rows)
        if i == 0 and labels_by_model:
            tally.labels_by_model.update(labels_by_model)
            tally.labels += sum(labels_by_model.values())
        groups, numeric, strings = delta.freeze()
        made.append(
            PartOfChunk(
                groups,
                numeric,
                strings,
                list(ranges) if i == 0 else [],
                tally,
                [],
                list(exemplars) if i == 0 else [],
            )
        )
    return concat(made, run_id="ab" * 8, number=number, epoch=1, digest=digest)
