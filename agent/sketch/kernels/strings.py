"""Update string cells with a block of rows: lengths, heavy hitters, hashed buckets, distinct values."""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.cardinality import add_hash
from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.heavy_hitters import add_key
from agent.sketch.kernels.layout import (
    COUNT,
    COUNTS,
    HASHED,
    HASHED_BUCKETS,
    KEYS,
    LENGTH_MAX,
    LENGTH_MIN,
    LENGTH_SUM,
    SETS,
    STRING_NULLS,
    STRING_PRECISION,
    STRING_REGISTERS,
)
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u32,
    load_u64,
    prefetch,
    store_i64,
    store_u32,
)

U = np.uint64
AHEAD = 8  #: rows between the prefetch of a record's lines and their use


@kernel("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def update_strings(
    hashes, start, length, text, text_size, first, n, lanes, group, lane_cell, addresses
):
    """Count every string of a block in its cell, in place. All arguments but text_size, n, lanes are addresses.

    hashes  uint64[...]   start  int64[...]   length  int32[...]   text  uint8[text_size]
    first   int64[n + 1], where each row begins     group  int32[n], -1: skip the row; no other row has
    more than `lanes` strings     lane_cell  int32[groups, lanes], -1: no cell     addresses  int64[cells]

    A key that is in the table of heavy hitters has entered the registers before: it is not hashed in again.
    """
    for lane in range(lanes):
        for r in range(n):
            if r + AHEAD < n:
                g = load_i32(group + 4 * (r + AHEAD))
                at = load_i64(first + 8 * (r + AHEAD)) + lane
                if g >= 0 and at < load_i64(first + 8 * (r + AHEAD) + 8):
                    cell_id = load_i32(lane_cell + 4 * (g * lanes + lane))
                    if cell_id >= 0:
                        cell = load_i64(addresses + 8 * cell_id)
                        h = load_u64(hashes + 8 * at)
                        line = 64 * np.int64(h & U(SETS - 1))
                        prefetch(cell)
                        prefetch(cell + KEYS + line)
                        prefetch(cell + COUNTS + line)
                        prefetch(cell + HASHED + 8 * np.int64((h >> U(4)) & U(HASHED_BUCKETS - 1)))
            g = load_i32(group + 4 * r)
            at = load_i64(first + 8 * r) + lane
            if g < 0 or at >= load_i64(first + 8 * r + 8):
                continue
            cell_id = load_i32(lane_cell + 4 * (g * lanes + lane))
            h = load_u64(hashes + 8 * at)
            if cell_id < 0 or h == U(0):
                continue
            cell = load_i64(addresses + 8 * cell_id)
            if h == U(1):
                store_i64(cell + STRING_NULLS, load_i64(cell + STRING_NULLS) + 1)
                continue
            size = load_i32(length + 4 * at)
            count = load_i64(cell + COUNT)
            store_i64(cell + COUNT, count + 1)
            store_i64(cell + LENGTH_SUM, load_i64(cell + LENGTH_SUM) + size)
            low, high = load_u32(cell + LENGTH_MIN), load_u32(cell + LENGTH_MAX)
            if count == 0 or size < low:
                store_u32(cell + LENGTH_MIN, size)
            if size > high:
                store_u32(cell + LENGTH_MAX, size)
            p = cell + HASHED + 8 * np.int64((h >> U(4)) & U(HASHED_BUCKETS - 1))
            store_i64(p, load_i64(p) + 1)
            begin = load_i64(start + 8 * at)
            if add_key(cell, h, text, text_size, begin, size):
                add_hash(cell + STRING_REGISTERS, h, STRING_PRECISION)
