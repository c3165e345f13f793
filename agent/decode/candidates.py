"""Rows of a block whose requests may become spans, found by one compiled pass.

`RowView` is what a decoder tier shows of its rows, `StreamRules` what is known of their streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.decode.kernels.candidates import (
    BASE_RATE,
    ERROR,
    OUT_OF_RANGE,
    RANGE,
    SHAPE_RULE,
    SLOW,
    STREAM_RULE,
    find_candidates,
)
from agent.decode.trace_context import REJECT_ALL
from agent.sketch.arrays import address_of
from agent.types import Block, Column, JsonType, Role, SpanWhy, StreamKey

#: Beyond this magnitude a value is out of range whatever is declared: histograms end here.
DOMAIN_LIMIT = 2.0**64

LATENCY = Column(Role.LATENCY, "latency")

#: What `Found.why` holds.
WHY = {
    ERROR: SpanWhy.ERROR,
    SLOW: SpanWhy.SLOW,
    OUT_OF_RANGE: SpanWhy.OUT_OF_RANGE,
    BASE_RATE: SpanWhy.BASE_RATE,
}

Limits = Mapping[str, tuple[float, float]]


class Facts(NamedTuple):
    """What a request span says of a row, beyond its values."""

    offset: int
    row: int  # index in its event
    n_rows: int
    latency_s: float | None
    status: str  # "" for a success
    request_id: str
    traceparent: str | None  # valid, or None
    tracestate: str


@dataclass(slots=True)
class RowView:
    """The rows of a block, as sampling sees them.

    offset          int64[n], of each row's record
    row, n_rows     int32[n], index in its event and rows of the event; None: every event is one row
    text            uint8[...] that the positions below count in
    trace_start     int64[n], of the valid traceparent (55 bytes or more); -1: none
    state_start     int64[n], of the tracestate that came with it; -1: none
    state_length    int32[n], bytes
    facts           makes the Facts of one row: called for the few that are kept

    The last three arrays may be strided (columns of a wider array), all others are contiguous.
    """

    block: Block
    offset: NDArray[np.int64]
    row: NDArray[np.int32] | None
    n_rows: NDArray[np.int32] | None
    text: NDArray[np.uint8]
    trace_start: NDArray[np.int64]
    state_start: NDArray[np.int64]
    state_length: NDArray[np.int32]
    facts: Callable[[int], Facts]


@dataclass(slots=True)
class Found:
    """Rows of a block, ascending, and why each is worth a span."""

    rows: NDArray[np.int64]
    why: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)


class Lanes(Protocol):
    """What is needed of `lanes.StreamTable`."""

    keys: list[StreamKey]
    numeric_lanes: list[list[tuple[Column, JsonType]]]
    string_lanes: list[list[Column]]
    generation: int


class StreamRules:
    """What the rows of each stream are held against, as arrays. Belongs to one stream table.

    Memory: 16 bytes a stream; 40 bytes a list of lanes that streams share and 24 each of its
    numeric columns.
    """

    def __init__(self, table: Lanes, limits: Limits) -> None:
        self._table = table
        self._limits = limits
        self._generation = table.generation
        self._slow_above_s: Mapping[StreamKey, float] = {}
        self._rows = np.empty(0, np.int64)
        self._why = np.empty(0, np.uint8)
        self._clear()

    def _clear(self) -> None:
        self._n_streams = 0
        self._streams = np.zeros(64, STREAM_RULE)
        self._shapes = np.zeros(64, SHAPE_RULE)
        self._ranges = np.zeros(256, RANGE)
        self._n_ranges = 0
        self._lists: list[list[tuple[Column, JsonType]]] = []
        self._number_of: dict[int, int] = {}  # id of a list -> its index

    def find(
        self, view: RowView, slow_above_s: Mapping[StreamKey, float], threshold: int, seed: int
    ) -> Found:
        """Rows to keep before any budget; good until the next call.

        slow_above_s  latency above which a stream's rows are slow; replaced, not changed
        threshold     of the base rate; seed: of word 1 of the ids
        """
        if slow_above_s is not self._slow_above_s or self._table.generation != self._generation:
            self._refresh(slow_above_s)
        n = view.block.n
        if len(self._rows) < n:
            self._rows = np.empty(n, np.int64)
            self._why = np.empty(n, np.uint8)
        found = 0
        if n:
            found = self._run(view, threshold, seed)
        if found < 0:  # streams or lanes that are new
            self._refresh(slow_above_s)
            found = self._run(view, threshold, seed)
        if found < 0:
            raise RuntimeError("a row is wider than its stream, or of a stream that does not exist")
        return Found(self._rows[:found], self._why[:found])

    def _run(self, view: RowView, threshold: int, seed: int) -> int:
        block = view.block
        digits = b"%014x" % min(threshold, REJECT_ALL - 1)
        if block.at is not None:
            stream, _, _, is_error, numbers, number_start, _ = block.at.rows
        else:
            stream, is_error = address_of(block.stream), address_of(block.is_error)
            numbers, number_start = address_of(block.numbers), address_of(block.number_start)
        found: int = find_candidates(
            block.n,
            stream,
            is_error,
            numbers,
            number_start,
            address_of(view.offset),
            0 if view.row is None else address_of(view.row),
            0 if view.n_rows is None else address_of(view.n_rows),
            address_of(view.text),
            address_of(view.trace_start),
            view.trace_start.strides[0],
            address_of(view.state_start),
            view.state_start.strides[0],
            address_of(view.state_length),
            view.state_length.strides[0],
            self._n_streams,
            address_of(self._streams),
            address_of(self._shapes),
            address_of(self._ranges),
            threshold,
            int.from_bytes(digits[:8], "big"),
            int.from_bytes(digits[8:], "big"),
            seed - (seed >> 63 << 64),
            address_of(self._rows),
            address_of(self._why),
        )
        return found

    def _refresh(self, slow_above_s: Mapping[StreamKey, float]) -> None:
        """Take in streams and lanes that are new, and thresholds when the mapping is another one."""
        table = self._table
        if self._generation != table.generation:
            self._generation = table.generation
            self._clear()
        old = self._n_streams
        if slow_above_s is not self._slow_above_s:
            self._slow_above_s = slow_above_s
            old = 0
        self._streams = _room(self._streams, len(table.keys))
        for idx in range(self._n_streams, len(table.keys)):
            lanes = table.numeric_lanes[idx]
            number = self._number_of.setdefault(id(lanes), len(self._lists))
            if number == len(self._lists):
                self._lists.append(lanes)
                self._shapes = _room(self._shapes, number + 1)
                self._shapes[number] = (-1, -1, 0, 0, 0)
            self._streams["shape"][idx] = number
        self._n_streams = len(table.keys)
        for idx in range(old, self._n_streams):
            self._streams["slow_above"][idx] = slow_above_s.get(table.keys[idx], math.inf)
        seen = self._shapes["n_lanes"]
        for number, lanes in enumerate(self._lists):
            if seen[number] != len(lanes):
                self._read(number, lanes)

    def _read(self, number: int, lanes: list[tuple[Column, JsonType]]) -> None:
        """Make the record of a list of lanes anew. Ranges of the old one are left behind until all are remade."""
        declared: list[tuple[int, float, float]] = []
        others: list[tuple[int, float, float]] = []
        latency_lane = -1
        for lane, (column, kind) in enumerate(lanes):
            if kind is not JsonType.NUMBER:
                continue
            if column == LATENCY:
                latency_lane = lane
            limits = self._limits.get(column.name) if column.role is Role.FEATURE else None
            if limits is None:
                others.append((lane, -DOMAIN_LIMIT, DOMAIN_LIMIT))
            else:
                low, high = limits
                declared.append((lane, max(low, -DOMAIN_LIMIT), min(high, DOMAIN_LIMIT)))
        first = self._n_ranges
        made = declared + others
        if first + len(made) > 4 * sum(map(len, self._lists)) + 256:  # mostly old ones: begin again
            self._n_ranges = 0
            self._shapes["n_lanes"] = -1
            for other, its in enumerate(self._lists):
                self._read(other, its)
            return
        self._ranges = _room(self._ranges, first + len(made))
        self._ranges[first : first + len(made)] = made
        self._n_ranges = first + len(made)
        end_declared = first + len(declared)
        self._shapes[number] = (len(lanes), latency_lane, first, end_declared, self._n_ranges)


def _room(array: NDArray[Any], n: int) -> NDArray[Any]:
    """The array, or a copy with room for `n`."""
    if n <= len(array):
        return array
    grown = np.zeros(max(n, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
