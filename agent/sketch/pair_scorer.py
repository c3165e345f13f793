"""Scores the rows of one kernel thread and adds up their pair sums, by stream and window.

Rows are scored as the blocks bring them, a byte a score; when 2,048 wait (more where streams are many), or at a
freeze, they are multiplied at once. Sums of scores of 2,048 rows fit the 24 bits of a float32, so products
run in single precision and are exact all the same. Nothing branches on data: searching sorted cuts takes ten
times as long.

Where a table takes one row in 2^k it is that of a golden-ratio sequence: evenly spread, and in step with no
pattern that producers have. Where rows abound (`full_rows`, since the last freeze) one block in 64 is taken,
by the same sequence: scores cost several times what sketching a row does, and those rows are plenty.

Invariants
 1. One owner, the kernel thread; nothing is counted here, so what is left out is only not compared.
 2. A row's sums are in one (stream, window): late and future rows are in none.
 3. Bounded: at most `max_bytes` of sums; streams and windows past that are left out until the next freeze.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.sketch.cells import HASH_NULL
from agent.sketch.pair_sums import PairSums, ScoredColumn, ScoreTable
from agent.types import WINDOW_FUTURE, WINDOW_LATE, Block, Column, JsonType, StreamKey

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Rows multiplied at once: (2,048 rows) * (77 units)^2 < 2^24, above which float32 is not exact.
_AT_ONCE: Final = 2048
#: Rows of a stream and window that a product is worth: it takes 5 us besides.
_ROWS_A_GROUP: Final = 128
#: Waiting rows of all tables together.
_WAITING_BYTES: Final = 8 << 20
#: Windows of a block further apart than this, times a stream's number, might not fit 63 bits.
_MOST_SPAN: Final = 1 << 32
_MAGNITUDE: Final = np.int64(0x7FFFFFFFFFFFFFFF)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio

_WORD: Final = (1 << 64) - 1
#: Of blocks where rows abound, one in 2^_BLOCK_BITS is taken.
_BLOCK_BITS: Final = 6

#: Tables by (model, version); (model, None): of versions that have none of their own.
Tables = Mapping[tuple[str, str | None], ScoreTable]


class Lanes(Protocol):
    """What is needed of the stream table (`decode.lanes.StreamTable`)."""

    keys: list[StreamKey]
    numeric_lanes: list[list[tuple[Column, JsonType]]]
    string_lanes: list[list[Column]]


class _Cells:
    """Cells of the columns of numbers of a table, all at once.

    Arrays int64[k, 1], one row a column, but for the two of levels: int8, all columns' cells one behind the
    other, each with a last one for rows that have no value.
    """

    def __init__(self, columns: list[ScoredColumn]) -> None:
        halves = [len(c.levels) // c.n_scores // 2 for c in columns]
        starts = np.cumsum([0, *(2 * half + 2 for half in halves)])[:-1]
        self._centre = np.array([c.centre for c in columns])[:, None]
        self._shift = _upright([c.shift for c in columns])
        self._half_cell = np.int64(1) << (self._shift - 1)
        self._low = _upright([c.low for c in columns])
        self._high = _upright(halves)
        self._zero = starts[:, None] + self._high
        self._none = self._zero + self._high + 1
        self._has_second = np.array([c.n_scores > 1 for c in columns], np.bool_)
        padded = [np.pad(c.cells, ((0, 2 - c.n_scores), (0, 1))) for c in columns]
        self._levels = np.concatenate(padded, axis=1) if padded else np.zeros((2, 0), np.int8)

    def scores(self, values: Floats) -> list[NDArray[np.int8]]:
        """First and second scores, int8[k, n] and int8[those that have one, n], of values float64[k, n]."""
        values = values - self._centre
        bits = values.view(np.int64)
        cells = bits & _MAGNITUDE
        cells += self._half_cell
        cells >>= self._shift
        cells -= self._low
        np.minimum(cells, self._high, out=cells)
        np.maximum(cells, 0, out=cells)
        cells *= (bits >> 63) | 1
        cells += self._zero
        np.copyto(cells, self._none, where=np.isnan(values))
        return [self._levels[0].take(cells), self._levels[1].take(cells[self._has_second])]


def _upright(values: list[int]) -> Ints:
    return np.array(values, np.int64)[:, None]


@dataclass(slots=True)
class _Bound:
    """A table and the lanes of one shape: where its columns lie in a row. -1: not seen yet.

    waiting  (scores int8[scores, n], place of their sums int64[n]) of rows to be multiplied
    """

    table: ScoreTable
    cells: _Cells
    numeric: list[tuple[Column, JsonType]]  # of the shape: append-only
    strings: list[Column]
    number_lanes: Ints
    text_lanes: Ints
    n_known: tuple[int, int] = (-1, -1)
    waiting: list[tuple[NDArray[np.int8], Ints]] = field(default_factory=list)
    n_waiting: int = 0

    def learn(self) -> None:
        """Look for lanes that the shape has learned since."""
        known = len(self.numeric), len(self.strings)
        if known == self.n_known:
            return
        self.n_known = known
        numbers = {lane: i for i, lane in enumerate(self.numeric)}
        texts = {column: i for i, column in enumerate(self.strings)}
        self.number_lanes[:] = [numbers.get((c.column, c.type), -1) for c in self.table.numbers]
        self.text_lanes[:] = [texts.get(c.column, -1) for c in self.table.texts]


class PairScorer:
    """See the module. `tables` is asked once for each stream and freeze."""

    def __init__(
        self, lanes: Lanes, tables: Tables, max_bytes: int, full_rows: int | None = None
    ) -> None:
        """`full_rows`: rows after each freeze of which all are taken, to the end of their block; None: all."""
        self._full_rows = full_rows
        self._n_blocks = 0  # that came by where rows abound
        self._lanes = lanes
        self._tables = tables
        self._max_bytes = max_bytes
        self._n_rows = 0  # that came by: says which are taken
        self._cells: dict[bytes, _Cells] = {}  # by table
        self._start()

    def _start(self) -> None:
        self._bounds: list[_Bound] = []
        self._bound_of = np.zeros(0, np.int64)  # by stream number; -1: has no table
        self._by_lanes: dict[tuple[int, bytes], int] = {}
        self._groups: dict[tuple[int, int], int] = {}  # (stream, window) -> place in `_sums`
        self._sums: list[tuple[ScoreTable, Floats]] = []
        self._sums_bytes = 0
        self._waiting_bytes = 0
        self._n_fresh = 0  # rows since the last freeze

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self._sums_bytes + self._waiting_bytes

    # ------------------------------------------------------------ rows

    def add(self, block: Block) -> None:
        """Take the rows of a block that was found sound."""
        n = block.n
        if self._full_rows is not None:
            are_plenty = self._n_fresh >= self._full_rows
            self._n_fresh += n
            if are_plenty and not self._is_taken():
                return
        if len(self._bound_of) < len(self._lanes.keys):
            self._meet_streams()
        if not self._bounds:
            self._n_rows += n
            return
        # A row that is not to be counted has stream -1, which is the last place.
        bound_of = np.append(self._bound_of, -1)[block.stream]
        window = block.window
        bound_of[(window == WINDOW_LATE) | (window == WINDOW_FUTURE)] = -1
        place = np.arange(self._n_rows, self._n_rows + n, dtype=np.uint64)
        self._n_rows += n
        place *= _GOLDEN
        low, high = int(bound_of.min()), int(bound_of.max())
        for number in [high] if low == high else np.unique(bound_of).tolist():
            if number < 0:
                continue
            bound = self._bounds[number]
            taken = bound_of == number
            if bound.table.sample_bits:
                taken &= place >> np.uint64(64 - bound.table.sample_bits) == 0
            rows = np.flatnonzero(taken)
            if len(rows):
                self._take(bound, block, rows)

    def _is_taken(self) -> bool:
        """Whether the block at hand is the one in 2^_BLOCK_BITS."""
        self._n_blocks += 1
        return (self._n_blocks * int(_GOLDEN) & _WORD) >> (64 - _BLOCK_BITS) == 0

    def _meet_streams(self) -> None:
        """Streams that are new since the last block."""
        lanes, found = self._lanes, []
        for number in range(len(self._bound_of), len(lanes.keys)):
            key = lanes.keys[number]
            table = self._tables.get((key.model, key.version))
            if table is None:
                table = self._tables.get((key.model, None))
            found.append(-1 if table is None else self._bind(table, number))
        self._bound_of = np.concatenate((self._bound_of, np.array(found, np.int64)))

    def _bind(self, table: ScoreTable, stream: int) -> int:
        """Streams of one shape share its lanes, so they are scored together."""
        numeric = self._lanes.numeric_lanes[stream]
        known = self._by_lanes.get((id(numeric), table.id))
        if known is not None:
            return known
        cells = self._cells.get(table.id)
        if cells is None:
            cells = self._cells[table.id] = _Cells(table.numbers)
        self._bounds.append(
            _Bound(
                table,
                cells,
                numeric,
                self._lanes.string_lanes[stream],
                np.full(len(table.numbers), -1),
                np.full(len(table.texts), -1),
            )
        )
        self._by_lanes[id(numeric), table.id] = len(self._bounds) - 1
        return len(self._bounds) - 1

    def _take(self, bound: _Bound, block: Block, rows: Ints) -> None:
        bound.learn()
        groups = self._groups_of(bound, block.stream[rows], block.window[rows])
        fits = groups >= 0
        if not fits.all():
            rows, groups = rows[fits], groups[fits]
            if not len(rows):
                return
        scores = self._scores(bound, block, rows)
        bound.waiting.append((scores, groups))
        bound.n_waiting += len(rows)
        self._waiting_bytes += scores.nbytes + groups.nbytes
        if bound.n_waiting >= max(_AT_ONCE, _ROWS_A_GROUP * len(self._groups)):
            self._multiply(bound)
        elif self._waiting_bytes > _WAITING_BYTES:
            for other in self._bounds:
                self._multiply(other)

    def _scores(self, bound: _Bound, block: Block, rows: Ints) -> NDArray[np.int8]:
        """int8[scores, n], in the order of the table."""
        numbers = _values(block.numbers, block.number_start, rows, bound.number_lanes, np.nan)
        found = bound.cells.scores(numbers)
        hashes = _values(block.string_hash, block.string_first, rows, bound.text_lanes, 0)
        for column, own in zip(bound.table.texts, hashes, strict=True):
            cells = np.full(len(own), len(column.keys))
            for cell, key in enumerate(column.keys):
                cells[own == np.uint64(key)] = cell
            scores = column.cells.take(cells, axis=1)
            scores[:, own <= np.uint64(HASH_NULL)] = 0
            found.append(scores)
        return np.concatenate(found)

    def _groups_of(self, bound: _Bound, stream: NDArray[np.int32], window: Ints) -> Ints:
        """Where each row's sums are kept, int64[n]; -1: there is no room for them."""
        if bool((stream == stream[0]).all()) and bool((window == window[0]).all()):
            return np.full(len(stream), self._group(bound, int(stream[0]), int(window[0])))
        first, n_streams = int(window.min()), len(self._lanes.keys)
        if int(window.max()) - first > _MOST_SPAN:  # times that are wrong, but not late: one by one
            rows = zip(stream.tolist(), window.tolist(), strict=True)
            return np.array([self._group(bound, s, w) for s, w in rows])
        several, which = np.unique((window - first) * n_streams + stream, return_inverse=True)
        named = (divmod(code, n_streams) for code in several.tolist())
        return np.array([self._group(bound, s, first + w) for w, s in named])[which]

    def _group(self, bound: _Bound, stream: int, window: int) -> int:
        place = self._groups.get((stream, window))
        if place is None:
            order = bound.table.n_scores + 1
            size = 8 * order * order
            if self._sums_bytes + size > self._max_bytes:
                return -1
            place = self._groups[stream, window] = len(self._sums)
            self._sums.append((bound.table, np.zeros((order, order))))
            self._sums_bytes += size
        return place

    # ------------------------------------------------------------ sums

    def _multiply(self, bound: _Bound) -> None:
        """Add up the products of the rows that wait."""
        if not bound.waiting:
            return
        waiting = np.concatenate([scores for scores, _ in bound.waiting], axis=1)
        groups = np.concatenate([own for _, own in bound.waiting])
        bound.waiting, bound.n_waiting = [], 0
        self._waiting_bytes -= waiting.nbytes + groups.nbytes
        scores = np.ones((1 + len(waiting), len(groups)), np.float32)
        starts = [0, len(groups)]
        if groups.min() != groups.max():
            order = np.argsort(groups, kind="stable")
            groups, waiting = groups[order], waiting[:, order]
            starts[1:1] = (np.flatnonzero(np.diff(groups)) + 1).tolist()
        scores[1:] = waiting
        for start, end in pairwise(starts):
            sums = self._sums[int(groups[start])][1]
            for at in range(start, end, _AT_ONCE):
                part = scores[:, at : min(end, at + _AT_ONCE)]
                sums += part @ part.T

    def freeze(self) -> dict[tuple[StreamKey, int], bytes]:
        """Sums by stream and window, as `PairSums.to_bytes`; nothing waits then, and streams are forgotten."""
        for bound in self._bounds:
            self._multiply(bound)
        found: dict[tuple[StreamKey, int], PairSums] = {}
        for (stream, window), place in self._groups.items():
            table, sums = self._sums[place]
            triangle = sums[np.triu_indices(len(sums))].astype(np.int64)
            if not triangle[0]:
                continue
            key, own = (self._lanes.keys[stream], window), PairSums(table.id, triangle)
            known = found.get(key)  # a model that moved has two numbers for one stream
            found[key] = own if known is None else known + own
        self._start()
        return {key: sums.to_bytes() for key, sums in found.items()}


def _values(
    flat: NDArray[Any], start: Ints, rows: Ints, lanes: Ints, absent: float
) -> NDArray[Any]:
    """[lanes, rows] of row-wise values; `absent` where a row is not so wide, or a lane not known."""
    if not len(lanes) or not len(flat):
        return np.full((len(lanes), len(rows)), absent, flat.dtype)
    first = start[rows]
    at = lanes[:, None] + first
    width = start[rows + 1] - first
    if lanes.min() >= 0 and lanes.max() < width.min():
        return flat.take(at)
    there = (lanes[:, None] >= 0) & (lanes[:, None] < width)
    return np.where(there, flat.take(np.where(there, at, 0)), flat.dtype.type(absent))
