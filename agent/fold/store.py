"""The cells of the base, and a chunk's cells merged into them in one compiled call per kind.

Three kinds of pages: wide numeric cells (totals), numeric cells of open windows, string cells (both).
Cells in use are what counts against the memory budget; pages grow by 64 cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.fold.costs import window_cell_bytes
from agent.fold.profile import Facts
from agent.sketch.cardinality import estimates
from agent.sketch.cells import (
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    Bytes,
    CellPages,
)
from agent.sketch.kernels import layout
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.packed import PackedCells
from agent.types import Chunk

_PAGE_CELLS = 64


class Store:
    """Cells of totals and open windows. One owner, the fold."""

    def __init__(self, width_s: float) -> None:
        self.window_bytes = window_cell_bytes(width_s)
        self.totals = CellPages(NUMERIC_WIDE_CELL_BYTES, _PAGE_CELLS)
        self.windows = CellPages(self.window_bytes, _PAGE_CELLS)
        self.strings = CellPages(STRING_CELL_BYTES, _PAGE_CELLS)

    @property
    def used_bytes(self) -> int:
        """Bytes of the cells in use."""
        return sum(p.used * p.cell_bytes for p in (self.totals, self.windows, self.strings))

    def total_pages(self, is_string: bool) -> CellPages:
        return self.strings if is_string else self.totals

    def window_pages(self, is_string: bool) -> CellPages:
        return self.strings if is_string else self.windows


class Merges:
    """Pairs (cell of the chunk, cell of the base), merged by `run`."""

    def __init__(self, store: Store, chunk: Chunk) -> None:
        self._store = store
        self._chunk = chunk
        self._pairs: dict[str, tuple[list[int], list[int]]] = {
            name: ([], []) for name in ("totals", "windows", "strings")
        }

    def total(self, is_string: bool, cell: int, row: int) -> None:
        """Merge row `row` of the chunk into a cell of totals."""
        self._note("strings" if is_string else "totals", cell, row)

    def window(self, is_string: bool, cell: int, row: int) -> None:
        """Merge row `row` of the chunk into a cell of an open window."""
        self._note("strings" if is_string else "windows", cell, row)

    def _note(self, pages: str, cell: int, row: int) -> None:
        cells, rows = self._pairs[pages]
        cells.append(cell)
        rows.append(row)

    def run(self) -> None:
        """Merge what was noted, and forget it."""
        store, chunk = self._store, self._chunk
        for name, (cells, rows) in self._pairs.items():
            if not cells:
                continue
            pages: CellPages = getattr(store, name)
            targets = pages.addresses[np.array(cells, np.int64)]
            sources = np.array(rows, np.int64)
            if name == "strings":
                merge_strings(targets, chunk.strings, sources)
            else:
                merge_numeric(targets, chunk.numeric, sources, pages.cell_bytes)
            cells.clear()
            rows.clear()


def numbers_present(numeric: PackedCells) -> list[int]:
    """Values in each numeric cell of a chunk: finite and non-finite, nulls left out."""
    total = numeric.field(layout.N)
    for part in (layout.OVER_POSITIVE, layout.OVER_NEGATIVE, layout.NON_FINITE):
        total += numeric.field(part)
    found: list[int] = total.tolist()
    return found


def strings_present(strings: PackedCells) -> list[int]:
    """Texts in each string cell of a chunk."""
    found: list[int] = strings.field(layout.COUNT).tolist()
    return found


def read_facts(records: Bytes, *, strings: bool) -> list[Facts]:
    """Distinct values and extremes of many cells, uint8[n, cell bytes], at once."""
    if not len(records):
        return []
    first = layout.STRING_REGISTERS if strings else layout.NUMERIC_REGISTERS
    length = 1 << layout.PRECISION
    distinct = np.rint(estimates(records[:, first : first + length])).tolist()
    if strings:
        counts = _field(records, layout.COUNT).tolist()
        return [Facts(int(d)) if n else Facts() for d, n in zip(distinct, counts, strict=True)]
    counts = _sum_of(records, (layout.N, layout.OVER_POSITIVE, layout.OVER_NEGATIVE)).tolist()
    low = _field(records, layout.MIN).view(np.float64).tolist()
    high = _field(records, layout.MAX).view(np.float64).tolist()
    return [
        Facts(int(d), a, b) if n else Facts()
        for d, n, a, b in zip(distinct, counts, low, high, strict=True)
    ]


def _sum_of(records: Bytes, offsets: tuple[int, ...]) -> NDArray[np.uint64]:
    """Sum of uint64 fields of every record."""
    total = np.zeros(len(records), np.uint64)
    for offset in offsets:
        total += _field(records, offset)
    return total


def _field(records: Bytes, offset: int) -> NDArray[np.uint64]:
    """A uint64 field of every record."""
    return np.ascontiguousarray(records[:, offset : offset + 8]).view(np.uint64)[:, 0]
