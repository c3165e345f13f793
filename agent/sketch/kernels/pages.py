"""Clear and copy cells by their addresses."""

from __future__ import annotations

from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_i64, store_i64


@kernel("void(int64, int64, int64, int64)")
def clear_cells(addresses, ids, n, cell_bytes):
    """Zero the cells ids int64[n]; cell_bytes is a multiple of 64."""
    for i in range(n):
        cell = load_i64(addresses + 8 * load_i64(ids + 8 * i))
        for j in range(0, cell_bytes, 8):
            store_i64(cell + j, 0)


@kernel("void(int64, int64, int64, int64, int64)")
def copy_cells(addresses, ids, n, cell_bytes, out):
    """out uint8[n, cell_bytes] = the cells ids int64[n]."""
    for i in range(n):
        cell = load_i64(addresses + 8 * load_i64(ids + 8 * i))
        target = out + i * cell_bytes
        for j in range(0, cell_bytes, 8):
            store_i64(target + j, load_i64(cell + j))
