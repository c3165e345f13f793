"""Cells: fixed-size records of bytes, in pages that grow without copying.

Two kinds. A *numeric* cell is the summary of one column of numbers, a *string* cell of one column of
texts; the fields are laid down in `kernels.layout`. A record of zero bytes is an empty cell, and a
record has no pointers: copying bytes copies the sketch, so a chunk is uint8[n, cell bytes].

Narrow numeric cells count in uint32 and hold at most 2^32 - 1 values: a delta is cut (`delta.FULL`), and
`merge.merge_numeric` refuses (OverflowError), before a count could wrap around. Wide ones (cumulative
totals) and string cells count in uint64. A delta's own cells begin smaller (`kernels.layout`).

What a numeric cell counts:
    finite values   = zeros + buckets; |x| <= 2^-64 is zero, |x| > 2^64 is over-range: counted in the
                      top bucket and in min/max, left out of sum and moments, so one sentinel of 1e308
                      cannot ruin a series
    nulls, non-finite values apart; absent values nowhere (rows - counted)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arrays import address_of
from agent.sketch.kernels import layout
from agent.sketch.kernels.pages import clear_cells, copy_cells

ABSENT_BITS: Final = layout.ABSENT_BITS
NULL_BITS: Final = layout.NULL_BITS
HASH_ABSENT: Final = layout.HASH_ABSENT
HASH_NULL: Final = layout.HASH_NULL
NUMERIC_CELL_BYTES: Final = layout.NUMERIC_CELL_BYTES
NUMERIC_WIDE_CELL_BYTES: Final = layout.NUMERIC_WIDE_CELL_BYTES
STRING_CELL_BYTES: Final = layout.STRING_CELL_BYTES
#: What must agree for two cells to be merged; part of a chunk's merge digest.
SKETCH_PARAMETERS: Final = (
    f"hash{layout.HASH_VERSION}-scale{layout.MAX_SCALE}-ring{layout.RING}"
    f"-p{layout.PRECISION}-p{layout.PRECISION}-sets{layout.SETS}x{layout.WAYS}"
)

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]
_LINE = 64


def zeroed(size_bytes: int) -> Bytes:
    """Zero bytes, aligned to a cache line."""
    return _aligned(np.zeros(size_bytes + _LINE, np.uint8))


def unset(size_bytes: int) -> Bytes:
    """Bytes of any content, aligned to a cache line: for what is written before it is read."""
    return _aligned(np.empty(size_bytes + _LINE, np.uint8))


def _aligned(raw: Bytes) -> Bytes:
    start = -raw.ctypes.data % _LINE
    return raw[start : start + len(raw) - _LINE]


class CellPages:
    """Cells of one size, in pages of flat arrays. One owner, no lock.

    Memory: page_cells * cell_bytes for each page; the system gives a page's memory when its cells are
    first written. A cell's address never changes while it is in use.
    """

    def __init__(self, cell_bytes: int, page_cells: int = 256) -> None:
        if cell_bytes <= 0 or cell_bytes % _LINE or page_cells <= 0:
            raise ValueError(
                f"cell_bytes is {cell_bytes}, page_cells {page_cells}; "
                f"must be a positive multiple of {_LINE}, and positive"
            )
        self.cell_bytes = cell_bytes
        self.page_cells = page_cells
        self._pages: list[Bytes] = []
        self._addresses = np.zeros(0, np.int64)
        self._in_use = np.zeros(0, np.bool_)
        self._free: list[int] = []  # written before: must be cleared
        self._fresh = 0  # cells from here on have never been handed out

    @property
    def used(self) -> int:
        """Cells handed out and not freed."""
        return self._fresh - len(self._free)

    @property
    def size_bytes(self) -> int:
        """Bytes of all pages."""
        return len(self._pages) * self.page_cells * self.cell_bytes

    @property
    def addresses(self) -> NDArray[np.int64]:
        """Address of each cell id, for kernels. Fetch it again after an `alloc`: growth replaces it."""
        return self._addresses

    def _grow(self, cells: int) -> None:
        pages = -(-(cells - len(self._addresses)) // self.page_cells)
        parts = [self._addresses]
        for _ in range(pages):
            page = zeroed(self.page_cells * self.cell_bytes)
            self._pages.append(page)
            parts.append(page.ctypes.data + self.cell_bytes * np.arange(self.page_cells))
        self._addresses = np.concatenate(parts)
        in_use = np.zeros(len(self._addresses), np.bool_)
        in_use[: len(self._in_use)] = self._in_use
        self._in_use = in_use

    def alloc(self) -> int:
        """An empty cell's id."""
        return int(self.alloc_many(1)[0])

    def alloc_many(self, n: int) -> Ids:
        """Ids of `n` empty cells."""
        recycled = min(n, len(self._free))
        ids = np.empty(n, np.int64)
        if recycled:
            ids[:recycled] = self._free[-recycled:]
            del self._free[-recycled:]
            clear_cells(address_of(self._addresses), address_of(ids), recycled, self.cell_bytes)
        new = n - recycled
        if self._fresh + new > len(self._addresses):
            self._grow(self._fresh + new)
        ids[recycled:] = np.arange(self._fresh, self._fresh + new)
        self._fresh += new
        self._in_use[ids] = True
        return ids

    def free(self, ids: Ids | list[int]) -> None:
        """Give cells back. Raises ValueError for an id that is not in use."""
        given = self._checked(ids)
        if len(np.unique(given)) != len(given):
            raise ValueError("a cell id is given twice")
        self._in_use[given] = False
        self._free.extend(given.tolist())

    def reset(self, keep_pages: int | None = None) -> None:
        """Free every cell; keep at most `keep_pages` pages (default: all)."""
        pages = len(self._pages) if keep_pages is None else min(keep_pages, len(self._pages))
        del self._pages[pages:]
        cells = pages * self.page_cells
        self._addresses = self._addresses[:cells].copy()
        self._in_use = np.zeros(cells, np.bool_)
        self._fresh = min(self._fresh, cells)
        self._free = list(range(self._fresh - 1, -1, -1))

    def _checked(self, ids: Ids | list[int]) -> Ids:
        given = np.ascontiguousarray(ids, np.int64)
        if len(given) and (
            int(given.min()) < 0
            or int(given.max()) >= len(self._in_use)
            or not bool(self._in_use[given].all())
        ):
            raise ValueError("a cell id is not in use")
        return given

    def copy_out(self, ids: Ids | list[int]) -> Bytes:
        """Copies of cells: uint8[n, cell_bytes]. Raises ValueError for an id that is not in use."""
        given = self._checked(ids)
        out = np.empty((len(given), self.cell_bytes), np.uint8)
        copy_cells(
            address_of(self._addresses),
            address_of(given),
            len(given),
            self.cell_bytes,
            address_of(out),
        )
        return out

    def record(self, cell: int) -> Bytes:
        """One cell's own bytes, not a copy: for its owner only."""
        self._checked([cell])
        page, place = divmod(cell, self.page_cells)
        return self._pages[page][place * self.cell_bytes : (place + 1) * self.cell_bytes]
