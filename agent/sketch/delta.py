"""Delta: the sketches of one kernel thread's rows since the last cut.

A *group* is all rows of one (stream, window). Each lane of its stream that has had a value, or a
null, has a cell of its own: a numeric cell for numbers, booleans, norms of vectors and others,
a string cell for texts. Nothing is decided here (kind, admission, lateness of sealed windows): deltas of
several threads and agents must add up to the same base, so the fold decides.

Numbers wait in their group, up to 256 rows, and are counted together (`kernels.buffers`): a group that never has
more has no numeric cells. Cells begin small and grow (`kernels.layout`).

Invariants
 1. One owner, the kernel thread. Every row added is in exactly one group.
 2. Memory is used again only after `freeze` packed all cells into memory of their own (invariant 10 of state.md).
 3. Lanes are append-only while groups exist: the stream table is cleared only behind a freeze.
 4. Bounded by its owner: it cuts at `size_bytes` or `n_windows`. The delta never refuses rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arena import Arena
from agent.sketch.arrays import address_of
from agent.sketch.cells import STRING_CELL_BYTES, Bytes, unset, zeroed
from agent.sketch.kernels import buffers, freeze, layout, route, strings
from agent.sketch.kernels.bucket_index import MAGNITUDE_MASK, MANTISSA_MASK
from agent.sketch.packed import PIECE_BYTES, PackedCells, joined, no_cells
from agent.sketch.pair_scorer import PairScorer, Tables
from agent.sketch.pair_sums import with_sums
from agent.sketch.sampled_block import SampledBlock
from agent.sketch.vector_adder import BaselineTables, VectorAdder
from agent.types import (
    WINDOW_FUTURE,
    WINDOW_LATE,
    Block,
    BlockAddresses,
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

#: A cell that reaches this many values is full: half of what uint32 holds, so that a block and over-range
#: values can never make a count wrap around.
FULL: Final = 1 << 31
MAX_BLOCK_ROWS: Final = 1 << 24

_FIRST_SLOTS = 256
#: What a group costs apart from its cells: its row here, its `Group` when frozen, its stream's name.
_GROUP_BYTES = 1024
_F64, _U64, _I64 = np.dtype(np.float64), np.dtype(np.uint64), np.dtype(np.int64)
_I32, _U8 = np.dtype(np.int32), np.dtype(np.uint8)
_ROWS, _LANES = (1 << 28) - 1, (1 << 56) - 1  # parts of what `update_strings` returns


class Lanes(Protocol):
    """What the delta needs of the stream table (`decode.lanes.StreamTable`)."""

    keys: list[StreamKey]
    numeric_lanes: list[list[tuple[Column, JsonType]]]
    string_lanes: list[list[Column]]


class Delta:
    """Rows by (stream, window), sketched by (column, JSON type). See the module's invariants.

    Memory: 1 kB and 8 to 16 bytes a number for a group of up to 256 rows; 4.3 to 10.4 kB a numeric lane
    besides its 2 kB of waiting rows from then on; 0.7 kB for a string lane of up to eight texts, 15.4 kB for
    one of more.
    Exact: rows, errors, event time extremes. The cells' bounds are those of `sketch.merge`.
    """

    def __init__(self, table: Lanes) -> None:
        self._table = table
        self._numbers = Arena(buffers.SIZE_CLASSES)
        self._strings = Arena(1)
        self._work = zeroed(buffers.WORK_BYTES + layout.FORM_BYTES[layout.SHORT_BOTH])
        self._work[:16].view(np.uint64)[:] = MAGNITUDE_MASK, MANTISSA_MASK
        self._work_at = address_of(self._work)
        self._group_of_row = np.zeros(0, np.int32)
        self._scorer: PairScorer | None = None
        self._vectors = VectorAdder(table.keys)
        self._start()

    def _start(self) -> None:
        self._slots = np.zeros(_FIRST_SLOTS, np.int32)
        self._groups = np.zeros((_FIRST_SLOTS // 2 + 1, layout.GROUP_FIELDS), np.int64)
        self.n_groups = 0
        self._windows: set[int] = set()

    def score(self, tables: Tables, max_bytes: int, full_rows: int | None = None) -> None:
        """Add up pairs of scores too (`sketch.pair_sums`), and waves of vectors (`sketch.waves`), in at most so
        many bytes each, for models that have tables; rows since the last cut are left out.

        full_rows  rows after each cut of which all are scored (`sketch.pair_scorer`); None: all rows
        """
        self._scorer = None
        if len(tables):
            self._scorer = PairScorer(self._table, tables, max_bytes, full_rows)
        waves = tables.waves if isinstance(tables, BaselineTables) else {}
        self._vectors = VectorAdder(self._table.keys, waves, max_bytes)

    @property
    def rows(self) -> int:
        """Rows counted since the last cut."""
        return int(self._groups[: self.n_groups, layout.ROWS].sum())

    @property
    def n_windows(self) -> int:
        """Windows touched, late and future rows left out."""
        return len(self._windows)

    @property
    def size_bytes(self) -> int:
        """Sketch memory in use. Very large when a cell is near the end of its counters: cut at once."""
        if self._numbers.peak >= FULL:
            return 1 << 62
        groups = self.n_groups * _GROUP_BYTES
        pairs = self._scorer.size_bytes if self._scorer is not None else 0
        sums = pairs + self._vectors.size_bytes
        return self._numbers.used_bytes + self._strings.used_bytes + groups + sums

    def add(self, block: Block) -> None:
        """Count the rows of a block. Raises ValueError for arrays that are not what `Block` says.

        The arrays are checked before anything is counted, unless the block's maker gives their addresses;
        rows that do not lie in them end the counting.
        """
        n = block.n
        if n == 0:
            return
        at = block.at
        if at is None:
            _check(block)
            at = _addresses(block)
        if len(self._group_of_row) < n:
            self._group_of_row = np.empty(n, np.int32)
        self._add_rows(block, at.rows)
        if len(block.string_hash):
            self._add_strings(block, at.strings)
        if self._scorer is not None:
            self._scorer.add(block)
        if isinstance(block, SampledBlock):
            self._vectors.add(block)

    def _add_rows(self, block: Block, arguments: tuple[int, ...]) -> None:
        """Groups of all rows, and their numbers."""
        n, done, before = block.n, 0, self.n_groups
        group_of_row = address_of(self._group_of_row)
        n_streams = len(self._table.keys)
        while True:
            answer = route.add_rows(
                *arguments,
                done,
                n,
                n_streams,
                address_of(self._slots),
                len(self._slots) - 1,
                address_of(self._groups),
                self.n_groups,
                group_of_row,
                self._numbers.address,
                self._work_at,
            )
            self.n_groups, why, done = answer >> 32, answer >> 28 & 15, answer & _ROWS
            if why == route.DONE:
                break
            if why == route.SLOTS_FULL:
                self._enlarge()
            elif why == route.NO_MEMORY:
                self._numbers.grow()
            elif why == route.BAD_STREAM:
                raise ValueError(
                    f"row {done} has stream {block.stream[done]}; the table has {n_streams} streams"
                )
            else:
                raise ValueError(f"row {done} does not lie in the {len(block.numbers)} numbers")
        if self.n_groups > before:
            new = set(self._groups[before : self.n_groups, layout.WINDOW].tolist())
            self._windows |= new - {WINDOW_LATE, WINDOW_FUTURE}

    def _add_strings(self, block: Block, arguments: tuple[int, ...]) -> None:
        n, first = block.n, 0
        while True:
            answer = strings.update_strings(
                *arguments,
                first,
                n,
                address_of(self._groups),
                address_of(self._group_of_row),
                self._strings.address,
            )
            why, first = answer >> 56, answer & _LANES
            if why == strings.DONE:
                return
            if why == strings.BAD_ROW:
                raise ValueError(
                    f"row {first & _ROWS} does not lie in the {len(block.string_hash)} strings"
                )
            self._strings.grow()

    def _enlarge(self) -> None:
        """Twice the slots, and room for as many groups."""
        self._slots = np.zeros(2 * len(self._slots), np.int32)
        grown = np.zeros((len(self._slots) // 2 + 1, layout.GROUP_FIELDS), np.int64)
        grown[: self.n_groups] = self._groups[: self.n_groups]
        self._groups = grown
        route.index_groups(
            address_of(grown), self.n_groups, address_of(self._slots), len(self._slots) - 1
        )

    def freeze(self) -> tuple[list[Group], PackedCells, PackedCells]:
        """Groups and their packed cells (`Chunk.groups`, `.numeric`, `.strings`); the delta is then empty."""
        groups = address_of(self._groups)
        done = 0
        while done < self.n_groups:
            done = freeze.flush_groups(
                groups, done, self.n_groups, self._numbers.address, self._work_at
            )
            if done < self.n_groups:
                self._numbers.grow()
        scratch = zeroed(STRING_CELL_BYTES)
        numeric, number_refs = self._packed(freeze.pack_numbers, layout.PITCH, self._work_at)
        texts, text_refs = self._packed(
            freeze.pack_strings, layout.STRING_LANES, address_of(scratch)
        )
        frozen = self._frozen_groups(number_refs, text_refs)
        pairs = self._scorer.freeze() if self._scorer is not None else {}
        vectors = self._vectors.freeze()
        if pairs or vectors:  # of two groups for one stream and window the first has all
            keys = [(g.stream, g.window) for g in frozen]
            frozen = [
                with_sums(g, pairs.pop(key, b""), vectors.pop(key, b""))
                for g, key in zip(frozen, keys, strict=True)
            ]
        self._numbers.reset()
        self._strings.reset()
        self._start()
        return frozen, numeric, texts

    def _packed(
        self, kernel: Callable[..., int], lanes_field: int, scratch: int
    ) -> tuple[PackedCells, NDArray[np.int64]]:
        """Cells of one kind, and where they belong: int64[n, REF_FIELDS], by group and lane."""
        is_string = lanes_field == layout.STRING_LANES
        most = int(self._groups[: self.n_groups, lanes_field].sum())
        refs = np.empty((most, freeze.REF_FIELDS), np.int64)
        if not most:
            return no_cells(is_string), refs
        state = np.zeros(freeze.STATE_FIELDS, np.int64)
        pieces: list[Bytes] = []
        while True:
            piece = unset(PIECE_BYTES)
            pieces.append(piece)
            state[freeze.OUT] = address_of(piece)
            if kernel(
                address_of(self._groups),
                self.n_groups,
                address_of(state),
                address_of(piece) + len(piece),
                address_of(refs),
                scratch,
            ):
                break
        refs = refs[: int(state[freeze.PACKED])].copy()
        return (
            PackedCells(
                is_string,
                refs[:, freeze.REF_ADDRESS].copy(),
                refs[:, freeze.REF_LENGTH].copy(),
                pieces,
            ),
            refs,
        )

    def _frozen_groups(
        self, number_refs: NDArray[np.int64], text_refs: NDArray[np.int64]
    ) -> list[Group]:
        table = self._table
        groups = [
            Group(
                stream=table.keys[stream],
                window=window,
                rows=rows,
                errors=errors,
                min_event_time_ms=low,
                max_event_time_ms=high,
                cells=[],
            )
            for stream, window, rows, errors, low, high in self._groups[
                : self.n_groups, : layout.MAX_TIME + 1
            ].tolist()
        ]
        streams = self._groups[: self.n_groups, layout.STREAM].tolist()
        cells = [group.cells for group in groups]
        places = zip(*number_refs[:, : freeze.REF_LANE + 1].T.tolist(), strict=True)
        for cell, (g, lane) in enumerate(places):
            column, kind = table.numeric_lanes[streams[g]][lane]
            cells[g].append(CellRef(column, kind, cell))
        places = zip(*text_refs[:, : freeze.REF_LANE + 1].T.tolist(), strict=True)
        for cell, (g, lane) in enumerate(places):
            cells[g].append(CellRef(table.string_lanes[streams[g]][lane], JsonType.STRING, cell))
        return groups


def _addresses(block: Block) -> BlockAddresses:
    return BlockAddresses(
        (
            address_of(block.stream),
            address_of(block.window),
            address_of(block.event_time_ms),
            address_of(block.is_error),
            address_of(block.numbers),
            address_of(block.number_start),
            len(block.numbers),
        ),
        (
            address_of(block.string_hash),
            address_of(block.string_start),
            address_of(block.string_length),
            address_of(block.text),
            len(block.text),
            address_of(block.string_first),
            len(block.string_hash),
        ),
    )


def _check(block: Block) -> None:
    """Raise ValueError unless dtypes, shapes and order are as `Block` says."""
    n, texts = block.n, len(block.string_hash)
    if n > MAX_BLOCK_ROWS:
        raise ValueError(f"a block has {n} rows; at most {MAX_BLOCK_ROWS}")
    _check_array(block.stream, "stream", _I32, n)
    _check_array(block.window, "window", _I64, n)
    _check_array(block.event_time_ms, "event_time_ms", _I64, n)
    _check_array(block.is_error, "is_error", _U8, n)
    _check_array(block.numbers, "numbers", _F64, len(block.numbers))
    _check_array(block.number_start, "number_start", _I64, n + 1)
    _check_array(block.string_hash, "string_hash", _U64, texts)
    _check_array(block.string_start, "string_start", _I64, texts)
    _check_array(block.string_length, "string_length", _I32, texts)
    _check_array(block.string_first, "string_first", _I64, n + 1)
    _check_array(block.text, "text", _U8, len(block.text))


def _check_array(array: NDArray[Any], name: str, dtype: np.dtype[Any], n: int) -> None:
    if array.dtype != dtype or array.shape != (n,) or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; must be {dtype}[{n}]")


class PartLike(Protocol):
    """What one kernel thread contributes to a chunk."""

    groups: list[Group]
    numeric: PackedCells
    strings: PackedCells
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
        numeric=joined([part.numeric for part in parts], is_string=False),
        strings=joined([part.strings for part in parts], is_string=True),
        tally=tally,
        spans=[s for part in parts for s in part.spans],
        exemplars=[e for part in parts for e in part.exemplars],
    )
