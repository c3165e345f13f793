"""Send rows to groups: one group for each (stream, window) of a delta.

Open addressing in caller-owned arrays, with the last group as a cache: events of one producer come in
runs. The key is compared in full, so a collision costs a step and never mixes rows.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.buffers import append_row, fetch_next_row, make_room_for_row
from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.layout import (
    END_ROWS,
    ERRORS,
    GROUP_FIELDS,
    MAX_TIME,
    MIN_TIME,
    NEXT_ROW,
    PITCH,
    ROWS,
    STREAM,
    WINDOW,
)
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u8,
    multiply_fold,
    store_i64,
    store_u32,
)
from agent.sketch.kernels.vectors import fill_words

U = np.uint64
K0, K1 = U(0x9E3779B97F4A7C15), U(0xD6E8FEB86659FD93)
GROUP_BYTES = 8 * GROUP_FIELDS
#: Rows that are routed before their numbers are moved, and how far ahead their places are asked for.
TILE_ROWS, ROWS_AHEAD = 64, 6

#: Why `add_rows` came back.
DONE, SLOTS_FULL, NO_MEMORY, BAD_STREAM, BAD_ROW = range(5)


@inlined
def slot_of(stream, window, mask):
    """Where the search for this key begins."""
    return np.int64(multiply_fold(U(stream) ^ K0, U(window) ^ K1)) & mask


@inlined
def start_group(group, stream, window, time):
    fill_words(group, U(0), GROUP_FIELDS)
    store_i64(group + 8 * STREAM, stream)
    store_i64(group + 8 * WINDOW, window)
    store_i64(group + 8 * MIN_TIME, time)
    store_i64(group + 8 * MAX_TIME, time)


@kernel(
    "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64,"
    " int64, int64, int64, int64, int64, int64, int64, int64)"
)
def add_rows(
    stream,
    window,
    event_time,
    is_error,
    numbers,
    number_start,
    n_numbers,
    first,
    n,
    n_streams,
    slots,
    mask,
    groups,
    n_groups,
    group_of_row,
    arena,
    work,
):
    """Give rows first..n-1 their groups, count them there, and let their numbers wait there, in place.

    All but numbers are addresses.

    stream int32[n], below 0: the row is not counted   window, event_time int64[n]   is_error uint8[n]
    numbers       float64[n_numbers]                   number_start int64[n + 1]
    slots         int32[mask + 1], group + 1 or 0 where free; mask + 1 is a power of two
    groups        int64[capacity, GROUP_FIELDS], the first n_groups are in use; capacity > (mask + 1) / 2
    group_of_row  int32[n], written: number of the row's group; -1 for rows that are not counted
    arena, work   see `arena` and `buffers`

    Returns new n_groups << 32 | why << 28 | rows done; n < 2^28. It stops before a row when half of the
    slots are taken (SLOTS_FULL), when the arena has no room (NO_MEMORY), at a stream that is not below
    n_streams (BAD_STREAM), at a row that does not lie in `numbers` (BAD_ROW). The first two the caller
    can mend, and go on from that row.
    """
    last_stream, last_window = np.int64(-1), np.int64(0)
    group = np.int64(0)
    why = DONE
    r = first
    while why == DONE and r < n:
        # A tile of rows is routed first. Then it is known where each will be put, and asked for in time.
        tile = r
        tile_end = min(r + TILE_ROWS, n)
        while tile < tile_end:
            s = load_i32(stream + 4 * tile)
            if s < 0:
                store_u32(group_of_row + 4 * tile, -1)
                tile += 1
                continue
            begin = load_i64(number_start + 8 * tile)
            width = load_i64(number_start + 8 * tile + 8) - begin
            if s >= n_streams or begin < 0 or width < 0 or begin + width > n_numbers:
                why = BAD_STREAM if s >= n_streams else BAD_ROW
                break
            w = load_i64(window + 8 * tile)
            if s != last_stream or w != last_window:
                at = slot_of(s, w, mask)
                group = np.int64(0)
                while group == 0:
                    taken = load_i32(slots + 4 * at)
                    if taken == 0:
                        if 2 * n_groups > mask:
                            why = SLOTS_FULL
                            break
                        group = groups + GROUP_BYTES * n_groups
                        n_groups += 1
                        store_u32(slots + 4 * at, n_groups)
                        start_group(group, s, w, load_i64(event_time + 8 * tile))
                    else:
                        group = groups + GROUP_BYTES * (taken - 1)
                        if load_i64(group + 8 * STREAM) != s or load_i64(group + 8 * WINDOW) != w:
                            group = np.int64(0)
                            at = (at + 1) & mask
                if why != DONE:
                    break
                last_stream, last_window = s, w
            store_u32(group_of_row + 4 * tile, (group - groups) // GROUP_BYTES)
            tile += 1
        tile_end = tile
        while r < tile_end:
            ahead = load_i32(group_of_row + 4 * min(r + ROWS_AHEAD, tile_end - 1))
            fetch_next_row(groups + GROUP_BYTES * max(ahead, 0))
            number = load_i32(group_of_row + 4 * r)
            if number < 0:
                r += 1
                continue
            its = groups + GROUP_BYTES * number
            begin = load_i64(number_start + 8 * r)
            width = load_i64(number_start + 8 * r + 8) - begin
            t = load_i64(event_time + 8 * r)
            if width > 0:
                is_full = load_i64(its + 8 * NEXT_ROW) == load_i64(its + 8 * END_ROWS)
                if (is_full or width > load_i64(its + 8 * PITCH)) and not make_room_for_row(
                    arena, its, width, work
                ):
                    why = NO_MEMORY
                    break
                append_row(its, numbers + 8 * begin, width)
            store_i64(its + 8 * ROWS, load_i64(its + 8 * ROWS) + 1)
            store_i64(its + 8 * ERRORS, load_i64(its + 8 * ERRORS) + load_u8(is_error + r))
            if t < load_i64(its + 8 * MIN_TIME):
                store_i64(its + 8 * MIN_TIME, t)
            if t > load_i64(its + 8 * MAX_TIME):
                store_i64(its + 8 * MAX_TIME, t)
            r += 1
    return n_groups << 32 | why << 28 | r


@kernel("void(int64, int64, int64, int64)")
def index_groups(groups, n_groups, slots, mask):
    """Enter groups 0..n_groups-1 into empty `slots` (int32[mask + 1]), in place."""
    for g in range(n_groups):
        group = groups + GROUP_BYTES * g
        at = slot_of(load_i64(group + 8 * STREAM), load_i64(group + 8 * WINDOW), mask)
        while load_i32(slots + 4 * at) != 0:
            at = (at + 1) & mask
        store_u32(slots + 4 * at, g + 1)
