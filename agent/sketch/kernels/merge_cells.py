"""Packed cells merged into cells, cells packed, fields of packed cells read: many at a time."""

from __future__ import annotations

from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_i64, store_i64
from agent.sketch.kernels.pack import (
    MAX_PACKED_NUMERIC,
    MAX_PACKED_STRING,
    finite_values,
    merge_packed_numeric,
    merge_packed_string,
    pack_numeric,
    pack_string,
)

NARROW_LIMIT = (1 << 32) - 1


@kernel("int64(int64, int64, int64, int64)")
def merge_numeric(targets, sources, n, size):
    """Merge packed numeric cells into cells pairwise, in place: both are addresses of int64[n] of addresses.

    size: bytes of the targets' bucket counts, 4 or 8

    Returns -1, or i when pair i's narrow target would hold more than 2^32 - 1 values. Pairs are
    checked first, and nothing is merged then; a target that occurs twice is caught at its turn.
    """
    for merging in range(2):
        for i in range(n):
            target, source = load_i64(targets + 8 * i), load_i64(sources + 8 * i)
            if size == 4 and finite_values(target) + finite_values(source) > NARROW_LIMIT:
                return i
            if merging:
                merge_packed_numeric(target, source, size)
    return -1


@kernel("void(int64, int64, int64, int64)")
def merge_strings(targets, sources, n, scratch):
    """The same for string cells; scratch: uint8[STRING_CELL_BYTES]."""
    for i in range(n):
        merge_packed_string(load_i64(targets + 8 * i), load_i64(sources + 8 * i), scratch)


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def pack_cells(cells, first, n, size, out, out_end, addresses, lengths):
    """Pack cells first..n-1, int64[n] of addresses. Bytes of a bucket count: 4 or 8; 0 for string cells.

    addresses, lengths: int64[n], written. Returns cells done: it stops when less than the longest
    packed cell is left before out_end.
    """
    most = MAX_PACKED_NUMERIC if size else MAX_PACKED_STRING
    for i in range(first, n):
        if out_end - out < most:
            return i
        cell = load_i64(cells + 8 * i)
        length = pack_numeric(cell, size, out) if size else pack_string(cell, out)
        store_i64(addresses + 8 * i, out)
        store_i64(lengths + 8 * i, length)
        out += (length + 7) & ~7
    return n


@kernel("void(int64, int64, int64, int64)")
def read_fields(cells, n, offset, out):
    """out int64[n] = the field at `offset` of each cell, int64[n] of addresses."""
    for i in range(n):
        store_i64(out + 8 * i, load_i64(load_i64(cells + 8 * i) + offset))
