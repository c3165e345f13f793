"""Which (group, lane) pairs of a block have values but no cell yet."""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u8,
    load_u64,
    store_i32,
    store_i64,
    store_u8,
)

U = np.uint64
UNKNOWN, COMPLETE, OPEN = 0, 1, 2
MARK = -2


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, uint64)")
def find_missing(values, first, n, lanes, group, lane_cell, state, pairs, capacity, absent):
    """Note each pair once, as group << 32 | lane, and mark it in lane_cell (-2) until the owner fills it.

    values  64-bit [...]        first  int64[n + 1], where each row begins; no row has more than `lanes`
    group   int32[n]            lane_cell  int32[groups, lanes], -1: no cell; written
    state   uint8[groups], zeros; scratch         pairs  int64[capacity]; written
    absent  the bits of a value that is not there

    Returns the number of pairs noted; it stops when `capacity` is reached.
    """
    found = 0
    for r in range(n):
        g = load_i32(group + 4 * r)
        if g < 0:
            continue
        ids = lane_cell + 4 * g * lanes
        known = load_u8(state + g)
        if known == UNKNOWN:
            known = COMPLETE
            for lane in range(lanes):
                if load_i32(ids + 4 * lane) < 0:
                    known = OPEN
            store_u8(state + g, known)
        if known == COMPLETE:
            continue
        begin = load_i64(first + 8 * r)
        v = values + 8 * begin
        for lane in range(load_i64(first + 8 * r + 8) - begin):
            if load_i32(ids + 4 * lane) == -1 and load_u64(v + 8 * lane) != absent:
                if found == capacity:
                    return found
                store_i32(ids + 4 * lane, MARK)
                store_i64(pairs + 8 * found, (g << 32) | lane)
                found += 1
    return found
