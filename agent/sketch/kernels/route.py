"""Send rows to groups: one group for each (stream, window) of a delta.

Open addressing in caller-owned arrays, with the last group as a cache: events of one producer come in
runs. The key is compared in full, so a collision costs a step and never mixes rows.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u8,
    multiply_fold,
    store_i64,
    store_u32,
)

U = np.uint64
K0, K1 = U(0x9E3779B97F4A7C15), U(0xD6E8FEB86659FD93)

#: int64 fields of one group, in this order (`Delta` reads them as int64[groups, FIELDS]).
STREAM, WINDOW, ROWS, ERRORS, MIN_TIME, MAX_TIME = range(6)
FIELDS = 6


@inlined
def slot_of(stream, window, mask):
    """Where the search for this key begins."""
    return np.int64(multiply_fold(U(stream) ^ K0, U(window) ^ K1)) & mask


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def route_rows(
    stream, window, event_time, is_error, first, n, slots, mask, groups, n_groups, group_of_row
):
    """Give rows first..n-1 their groups and count them there, in place. All but numbers are addresses.

    stream int32[n], below 0: the row is not counted   window, event_time int64[n]   is_error uint8[n]
    slots         int32[mask + 1], group + 1 or 0 where free; mask + 1 is a power of two
    groups        int64[capacity, FIELDS], the first n_groups are in use; capacity > (mask + 1) / 2
    group_of_row  int32[n], written; -1 for rows that are not counted

    Returns new n_groups * 2^32 + rows done. It stops early, before a row, when half of the slots are
    taken: the caller enlarges `slots` and `groups` and goes on from that row.
    """
    last_stream, last_window = np.int64(-1), np.int64(0)
    g = np.int64(0)
    r = first
    while r < n:
        s = load_i32(stream + 4 * r)
        if s < 0:
            store_u32(group_of_row + 4 * r, -1)
            r += 1
            continue
        w = load_i64(window + 8 * r)
        if s != last_stream or w != last_window:
            at = slot_of(s, w, mask)
            g = np.int64(-1)
            while g < 0:
                taken = load_i32(slots + 4 * at)
                if taken == 0:
                    if 2 * n_groups > mask:
                        return (n_groups << 32) | r
                    g = n_groups
                    n_groups += 1
                    store_u32(slots + 4 * at, n_groups)
                    fields = groups + 8 * FIELDS * g
                    store_i64(fields + 8 * STREAM, s)
                    store_i64(fields + 8 * WINDOW, w)
                    store_i64(fields + 8 * ROWS, 0)
                    store_i64(fields + 8 * ERRORS, 0)
                    store_i64(fields + 8 * MIN_TIME, load_i64(event_time + 8 * r))
                    store_i64(fields + 8 * MAX_TIME, load_i64(event_time + 8 * r))
                else:
                    fields = groups + 8 * FIELDS * (taken - 1)
                    if load_i64(fields + 8 * STREAM) == s and load_i64(fields + 8 * WINDOW) == w:
                        g = taken - 1
                    else:
                        at = (at + 1) & mask
            last_stream, last_window = s, w
        fields = groups + 8 * FIELDS * g
        store_i64(fields + 8 * ROWS, load_i64(fields + 8 * ROWS) + 1)
        store_i64(fields + 8 * ERRORS, load_i64(fields + 8 * ERRORS) + load_u8(is_error + r))
        t = load_i64(event_time + 8 * r)
        if t < load_i64(fields + 8 * MIN_TIME):
            store_i64(fields + 8 * MIN_TIME, t)
        if t > load_i64(fields + 8 * MAX_TIME):
            store_i64(fields + 8 * MAX_TIME, t)
        store_u32(group_of_row + 4 * r, g)
        r += 1
    return (n_groups << 32) | r


@kernel("void(int64, int64, int64, int64)")
def index_groups(groups, n_groups, slots, mask):
    """Enter groups 0..n_groups-1 into empty `slots` (int32[mask + 1]), in place."""
    for g in range(n_groups):
        fields = groups + 8 * FIELDS * g
        at = slot_of(load_i64(fields + 8 * STREAM), load_i64(fields + 8 * WINDOW), mask)
        while load_i32(slots + 4 * at) != 0:
            at = (at + 1) & mask
        store_u32(slots + 4 * at, g + 1)
