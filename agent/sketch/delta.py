"""Delta: the sketches of one kernel thread's rows since the last cut.

A *group* is all rows of one (stream, window). Each lane of its stream that has had a value, or a
null, has a cell of its own: a narrow numeric cell for numbers, booleans, norms of vectors and others,
a string cell for texts. Nothing is decided here (kind, admission, lateness of sealed windows): deltas of
several threads and agents must add up to the same base, so the fold decides.

Invariants
 1. One owner, the kernel thread. Every row added is in exactly one group.
 2. Cells are reused only after `freeze` copied them out (invariant 10 of state.md).
 3. Lanes are append-only while groups exist: the stream table is cleared only behind a freeze.
 4. Bounded by its owner: it cuts at `size_bytes` or `n_windows`. The delta never refuses rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.sketch.cells import NUMERIC_CELL_BYTES, STRING_CELL_BYTES, Bytes, CellPages
from agent.sketch.kernels import route
from agent.sketch.update import (
    missing_numbers,
    missing_strings,
    update_numbers,
    update_strings,
)
from agent.types import (
    WINDOW_FUTURE,
    WINDOW_LATE,
    Block,
    CellRef,
    Chunk,
    Column,
    Exemplar,
    Group,
    JsonType,
    PartitionRange,
    RequestSpan,
    StreamKey,
    Tally,
)

_FIRST_SLOTS = 256
#: What a group costs apart from its cells: its row here, its `Group` when frozen, its stream's name.
_GROUP_BYTES = 1024
#: Cells of a delta come in small pages: an idle agent with one stream touches little memory.
_PAGE_CELLS = 64


class Lanes(Protocol):
    """What the delta needs of the stream table (`decode.lanes.StreamTable`)."""

    keys: list[StreamKey]
    numeric_lanes: list[list[tuple[Column, JsonType]]]
    string_lanes: list[list[Column]]


class _CellsOfGroups:
    """Which cell holds which lane of which group: int32[groups, lanes], -1 for none."""

    def __init__(self, cell_bytes: int) -> None:
        self.pages = CellPages(cell_bytes, _PAGE_CELLS)
        self.lane_cell = np.full((0, 0), -1, np.int32)

    def fit(self, n_groups: int, lanes: int) -> NDArray[np.int32]:
        """The table for a block with `lanes` lanes, enlarged when needed; a view or a copy, to be read."""
        rows, width = self.lane_cell.shape
        if n_groups > rows or lanes > width:
            grown = np.full((max(n_groups, 2 * rows), max(lanes, width)), -1, np.int32)
            grown[:rows, :width] = self.lane_cell
            self.lane_cell = grown
        return np.ascontiguousarray(self.lane_cell[:, :lanes])

    def give(self, pairs: NDArray[np.int64]) -> None:
        """New cells for (group, lane) pairs."""
        self.lane_cell[pairs[:, 0], pairs[:, 1]] = self.pages.alloc_many(len(pairs))

    def empty(self) -> None:
        used = -(-self.pages.used // self.pages.page_cells)
        self.pages.reset(keep_pages=used)
        self.lane_cell = np.full((0, 0), -1, np.int32)

    @property
    def size_bytes(self) -> int:
        return self.pages.used * self.pages.cell_bytes + self.lane_cell.nbytes


def _widest(starts: NDArray[np.int64], name: str, block: Block, size: int) -> int:
    """Lanes of the widest row that counts. Raises ValueError for starts that leave the `size` values."""
    n = block.n
    if starts.dtype != np.int64 or starts.shape != (n + 1,) or not starts.flags.c_contiguous:
        raise ValueError(f"{name} is {starts.dtype}{list(starts.shape)}; must be int64[{n + 1}]")
    widths = np.diff(starts)
    if int(starts[0]) < 0 or int(starts[-1]) > size or int(widths.min()) < 0:
        raise ValueError(f"{name} must ascend within 0..{size}")
    return int(widths.max(initial=0, where=block.stream >= 0))


class Delta:
    """Rows by (stream, window), sketched by (column, JSON type). See the module's invariants.

    Memory: 10.4 kB for a numeric lane of a group, 15.4 kB for a string lane, once it has had a value.
    Exact: rows, errors, event time extremes. The cells' bounds are those of `sketch.merge`.
    """

    def __init__(self, table: Lanes) -> None:
        self._table = table
        self._numeric = _CellsOfGroups(NUMERIC_CELL_BYTES)
        self._strings = _CellsOfGroups(STRING_CELL_BYTES)
        self._start()

    def _start(self) -> None:
        self._slots = np.zeros(_FIRST_SLOTS, np.int32)
        self._groups = np.zeros((_FIRST_SLOTS // 2 + 1, route.FIELDS), np.int64)
        self.n_groups = 0
        self.rows = 0
        self._windows: set[int] = set()
        self._is_full = False

    @property
    def n_windows(self) -> int:
        """Windows touched, late and future rows left out."""
        return len(self._windows)

    @property
    def size_bytes(self) -> int:
        """Sketch memory in use. Very large when a cell is near the end of its counters: cut at once."""
        if self._is_full:
            return 1 << 62
        groups = self.n_groups * _GROUP_BYTES
        return self._numeric.size_bytes + self._strings.size_bytes + groups

    def add(self, block: Block) -> None:
        """Count the rows of a block. Raises ValueError for arrays that are not what `Block` says."""
        if block.n == 0:
            return
        widths = _widest(block.number_start, "number_start", block, len(block.numbers))
        string_widths = _widest(block.string_first, "string_first", block, len(block.string_hash))
        group_of_row = self._route(block)
        if widths:
            first = block.number_start
            cells = self._numeric.fit(self.n_groups, widths)
            pairs = missing_numbers(block.numbers, first, group_of_row, cells)
            if len(pairs):
                self._numeric.give(pairs)
                cells = self._numeric.fit(self.n_groups, widths)
            addresses = self._numeric.pages.addresses
            try:
                update_numbers(block.numbers, first, group_of_row, cells, addresses)
            except OverflowError:  # the block is counted; the next 2^31 values would not be
                self._is_full = True
        if string_widths:
            first = block.string_first
            cells = self._strings.fit(self.n_groups, string_widths)
            pairs = missing_strings(block.string_hash, first, group_of_row, cells)
            if len(pairs):
                self._strings.give(pairs)
                cells = self._strings.fit(self.n_groups, string_widths)
            update_strings(
                block.string_hash,
                block.string_start,
                block.string_length,
                block.text,
                first,
                group_of_row,
                cells,
                self._strings.pages.addresses,
            )
        self.rows += int(np.count_nonzero(group_of_row >= 0))

    def _route(self, block: Block) -> NDArray[np.int32]:
        """Group of each row, int32[n], -1 for rows without a stream; rows, errors and times are counted there."""
        n = block.n
        for array, name, dtype in (
            (block.stream, "stream", np.int32),
            (block.window, "window", np.int64),
            (block.event_time_ms, "event_time_ms", np.int64),
            (block.is_error, "is_error", np.uint8),
        ):
            if array.dtype != dtype or array.shape != (n,) or not array.flags.c_contiguous:
                raise ValueError(
                    f"{name} is {array.dtype}{list(array.shape)}; must be {np.dtype(dtype)}[{n}]"
                )
        low, high = int(block.stream.min()), int(block.stream.max())
        if low < -1 or high >= len(self._table.keys):
            raise ValueError(
                f"stream has {low}..{high}; the table has {len(self._table.keys)} streams"
            )
        group_of_row = np.empty(n, np.int32)
        done, before = 0, self.n_groups
        while True:
            answer = int(
                route.route_rows(
                    block.stream.ctypes.data,
                    block.window.ctypes.data,
                    block.event_time_ms.ctypes.data,
                    block.is_error.ctypes.data,
                    done,
                    n,
                    self._slots.ctypes.data,
                    len(self._slots) - 1,
                    self._groups.ctypes.data,
                    self.n_groups,
                    group_of_row.ctypes.data,
                )
            )
            self.n_groups, done = answer >> 32, answer & 0xFFFFFFFF
            if done == n:
                break
            self._enlarge()
        if self.n_groups > before:
            new = set(self._groups[before : self.n_groups, route.WINDOW].tolist())
            self._windows |= new - {WINDOW_LATE, WINDOW_FUTURE}
        return group_of_row

    def _enlarge(self) -> None:
        """Twice the slots, and room for as many groups."""
        self._slots = np.zeros(2 * len(self._slots), np.int32)
        grown = np.zeros((len(self._slots) // 2 + 1, route.FIELDS), np.int64)
        grown[: self.n_groups] = self._groups[: self.n_groups]
        self._groups = grown
        route.index_groups(
            grown.ctypes.data, self.n_groups, self._slots.ctypes.data, len(self._slots) - 1
        )

    def freeze(self) -> tuple[list[Group], Bytes, Bytes]:
        """Groups and copies of their cells (`Chunk.groups`, `.numeric`, `.strings`); the delta is then empty."""
        groups: list[Group] = []
        numeric_ids: list[int] = []
        string_ids: list[int] = []
        numeric_cells = self._numeric.lane_cell[: self.n_groups].tolist()
        string_cells = self._strings.lane_cell[: self.n_groups].tolist()
        for g, fields in enumerate(self._groups[: self.n_groups].tolist()):
            stream = fields[route.STREAM]
            refs: list[CellRef] = []
            if g < len(numeric_cells):
                lanes = self._table.numeric_lanes[stream]
                for (column, kind), cell in zip(lanes, numeric_cells[g], strict=False):
                    if cell >= 0:
                        refs.append(CellRef(column, kind, len(numeric_ids)))
                        numeric_ids.append(cell)
            if g < len(string_cells):
                texts = self._table.string_lanes[stream]
                for column, cell in zip(texts, string_cells[g], strict=False):
                    if cell >= 0:
                        refs.append(CellRef(column, JsonType.STRING, len(string_ids)))
                        string_ids.append(cell)
            groups.append(
                Group(
                    stream=self._table.keys[stream],
                    window=fields[route.WINDOW],
                    rows=fields[route.ROWS],
                    errors=fields[route.ERRORS],
                    min_event_time_ms=fields[route.MIN_TIME],
                    max_event_time_ms=fields[route.MAX_TIME],
                    cells=refs,
                )
            )
        numeric = self._numeric.pages.copy_out(numeric_ids)
        strings = self._strings.pages.copy_out(string_ids)
        self._numeric.empty()
        self._strings.empty()
        self._start()
        return groups, numeric, strings


class PartLike(Protocol):
    """What one kernel thread contributes to a chunk."""

    groups: list[Group]
    numeric: Bytes
    strings: Bytes
    ranges: list[PartitionRange]
    tally: Tally
    spans: list[RequestSpan]
    exemplars: list[Exemplar]


def concat(
    parts: Sequence[PartLike], *, run_id: str, number: int, epoch: int, digest: str
) -> Chunk:
    """The union of what the kernel threads froze at one cut. Groups stay separate; the fold merges them.

    The parts are taken over: the cell numbers of their groups are shifted in place.
    """
    groups: list[Group] = []
    tally = Tally()
    n_numeric = n_strings = 0
    for part in parts:
        if n_numeric or n_strings:
            for group in part.groups:
                for ref in group.cells:
                    ref.cell += n_strings if ref.type is JsonType.STRING else n_numeric
        groups += part.groups
        n_numeric += len(part.numeric)
        n_strings += len(part.strings)
        tally.add(part.tally)
    return Chunk(
        run_id=run_id,
        number=number,
        epoch=epoch,
        digest=digest,
        ranges=[r for part in parts for r in part.ranges],
        groups=groups,
        numeric=_stacked([part.numeric for part in parts], NUMERIC_CELL_BYTES),
        strings=_stacked([part.strings for part in parts], STRING_CELL_BYTES),
        tally=tally,
        spans=[s for part in parts for s in part.spans],
        exemplars=[e for part in parts for e in part.exemplars],
    )


def _stacked(arrays: list[Bytes], cell_bytes: int) -> Bytes:
    filled = [array for array in arrays if len(array)]
    if not filled:
        return np.zeros((0, cell_bytes), np.uint8)
    return filled[0] if len(filled) == 1 else np.concatenate(filled)
