"""Many packed cells: what a chunk holds. The bytes are those of `codec`, without frames."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arrays import address_of
from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    Bytes,
    unset,
    zeroed,
)
from agent.sketch.kernels import merge_cells
from agent.sketch.kernels.pack import MAX_PACKED_NUMERIC, MAX_PACKED_STRING

#: Memory that cells are packed into, at a time. The system gives it when it is written.
PIECE_BYTES = 1 << 20
assert max(MAX_PACKED_NUMERIC, MAX_PACKED_STRING) < PIECE_BYTES
_COUNT_BYTES = {NUMERIC_CELL_BYTES: 4, NUMERIC_WIDE_CELL_BYTES: 8, STRING_CELL_BYTES: 0}


@dataclass(slots=True, eq=False)
class PackedCells:
    """Packed cells of one kind, in memory that is never moved. Read-only once made.

    address  int64[n]    length  int64[n], bytes    pieces  what the addresses point into

    Indexing gives a cell's record (`sketch.cells`), a copy; narrow if numeric.
    """

    is_string: bool
    address: NDArray[np.int64]
    length: NDArray[np.int64]
    pieces: list[Bytes]

    def __len__(self) -> int:
        return len(self.address)

    @property
    def size_bytes(self) -> int:
        """Bytes of all cells."""
        return int(self.length.sum())

    def __getitem__(self, i: int) -> Bytes:
        if not 0 <= i < len(self):
            raise IndexError(f"cell {i} of {len(self)}")
        record = zeroed(STRING_CELL_BYTES if self.is_string else NUMERIC_CELL_BYTES)
        target = np.array([address_of(record)], np.int64)
        source = self.address[i : i + 1].copy()
        if self.is_string:
            scratch = zeroed(STRING_CELL_BYTES)
            merge_cells.merge_strings(
                address_of(target), address_of(source), 1, address_of(scratch)
            )
        elif merge_cells.merge_numeric(address_of(target), address_of(source), 1, 4) >= 0:
            raise OverflowError(f"cell {i} holds more than {2**32 - 1} values")
        return record

    def payload(self, i: int) -> bytes:
        """Bytes of cell i, which `codec` puts a frame around."""
        return ctypes.string_at(int(self.address[i]), int(self.length[i]))

    def field(self, offset: int) -> NDArray[np.uint64]:
        """The uint64 field at `offset` (`kernels.layout`, below the registers) of every cell, uint64[n]."""
        out = np.empty(len(self), np.int64)
        if len(self):
            at = np.ascontiguousarray(self.address)
            merge_cells.read_fields(address_of(at), len(at), offset, address_of(out))
        return out.view(np.uint64)


def no_cells(is_string: bool) -> PackedCells:
    return PackedCells(is_string, np.zeros(0, np.int64), np.zeros(0, np.int64), [])


def joined(parts: Sequence[PackedCells], is_string: bool) -> PackedCells:
    """All cells, in order; only addresses are copied."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        return no_cells(is_string)
    return PackedCells(
        is_string,
        np.concatenate([part.address for part in filled]),
        np.concatenate([part.length for part in filled]),
        [piece for part in filled for piece in part.pieces],
    )


def pack(cells: NDArray[np.int64], cell_bytes: int) -> PackedCells:
    """Pack cells at these addresses, int64[n], all of one size: one compiled call for each megabyte.

    Raises ValueError for a size that no cell has.
    """
    size = _COUNT_BYTES.get(cell_bytes)
    if size is None:
        raise ValueError(f"a cell has {cell_bytes} bytes; must be one of {sorted(_COUNT_BYTES)}")
    n = len(cells)
    at = np.ascontiguousarray(cells, np.int64)
    address, length = np.empty(n, np.int64), np.empty(n, np.int64)
    pieces: list[Bytes] = []
    done = 0
    while done < n:
        piece = unset(PIECE_BYTES)
        pieces.append(piece)
        start = address_of(piece)
        done = merge_cells.pack_cells(
            address_of(at),
            done,
            n,
            size,
            start,
            start + len(piece),
            address_of(address),
            address_of(length),
        )
    return PackedCells(size == 0, address, length, pieces)


def from_payloads(payloads: Sequence[bytes], is_string: bool) -> PackedCells:
    """Payloads that `codec` has checked, as packed cells."""
    length = np.array([len(p) for p in payloads], np.int64)
    start = np.cumsum((length + 7) & ~7) - ((length + 7) & ~7) if len(payloads) else length
    body = zeroed(int(((length + 7) & ~7).sum()))
    for at, data in zip(start.tolist(), payloads, strict=True):
        body[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return PackedCells(is_string, start + address_of(body), length, [body])
