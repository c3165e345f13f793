"""Update string cells with a block of rows: lengths, heavy hitters, hashed buckets, distinct values.

A string cell of a delta begins small: it has room for eight texts and their counts. Until a ninth comes that
is all there is to know, and most columns of few categories stay so. Then it becomes a full cell: what the
full one would hold had it been there from the start, since eight keys overflow no set.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.arena import give_back, has_room, take, take_block
from agent.sketch.kernels.cardinality import add_hash
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.heavy_hitters import add_key, copy_slot, keep_text
from agent.sketch.kernels.layout import (
    COUNT,
    COUNTS,
    GROUP_FIELDS,
    HASHED,
    HASHED_BUCKETS,
    KEYS,
    LENGTH_MAX,
    LENGTH_MIN,
    LENGTH_SUM,
    SETS,
    SMALL,
    SMALL_COUNTS,
    SMALL_KEYS,
    SMALL_STRING_BYTES,
    SMALL_TEXTS,
    SMALL_USED,
    STRING_CELL_BYTES,
    STRING_CELLS,
    STRING_FORM,
    STRING_LANES,
    STRING_NULLS,
    STRING_REGISTERS,
    TEXT_SLOT,
    TEXTS,
    WAYS,
)
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u32,
    load_u64,
    match8,
    prefetch,
    smallest8,
    store_i64,
    store_u32,
    store_u64,
    trailing_zeros,
)
from agent.sketch.kernels.vectors import copy_words, fill_words

U = np.uint64
AHEAD = 8  #: rows between the prefetch of a cell's lines and their use
GROUP_BYTES = 8 * GROUP_FIELDS
SMALL_CLASS = 0  #: size class of small cells in the arena of strings

#: Why `update_strings` came back.
DONE, NO_MEMORY, BAD_ROW = range(3)


@inlined
def hashed_bucket(cell, h):
    return cell + HASHED + 8 * np.int64((h >> U(4)) & U(HASHED_BUCKETS - 1))


@inlined
def add_to_full(cell, h, text, text_size, start, length):
    """Count one text in a full cell's hashed buckets, heavy hitters and registers.

    A key that is in the table has entered the registers before: it is not hashed in again.
    """
    p = hashed_bucket(cell, h)
    store_i64(p, load_i64(p) + 1)
    if add_key(cell, h, text, text_size, start, length):
        add_hash(cell + STRING_REGISTERS, h)


@outlined
def expand(small, cell):
    """Write what a small cell has seen into an empty full one."""
    copy_words(cell, small, STRING_FORM >> 3)
    for i in range(load_i64(small + SMALL_USED)):
        h = load_u64(small + SMALL_KEYS + 8 * i)
        word = load_i64(small + SMALL_COUNTS + 8 * i)
        p = hashed_bucket(cell, h)
        store_i64(p, load_i64(p) + (word >> 1))
        s = np.int64(h & U(SETS - 1))
        way = smallest8(cell + COUNTS + 64 * s)  # the first that is free
        store_u64(cell + KEYS + 64 * s + 8 * way, h)
        store_i64(cell + COUNTS + 64 * s + 8 * way, word)
        target = cell + TEXTS + (s * WAYS + way) * TEXT_SLOT
        copy_slot(target, small + SMALL_TEXTS + i * TEXT_SLOT)
        add_hash(cell + STRING_REGISTERS, h)


@outlined
def new_small(arena):
    """An empty small cell; 0 when the arena has no room."""
    if not has_room(arena, SMALL_STRING_BYTES):
        return 0
    cell = take_block(arena, SMALL_CLASS, SMALL_STRING_BYTES)
    fill_words(cell, U(0), SMALL_TEXTS >> 3)
    store_i64(cell + STRING_FORM, SMALL)
    return cell


@outlined
def expanded(arena, small):
    """The small cell as a full one; 0 when the arena has no room."""
    if not has_room(arena, STRING_CELL_BYTES):
        return 0
    cell = take(arena, STRING_CELL_BYTES)
    fill_words(cell, U(0), STRING_CELL_BYTES >> 3)
    expand(small, cell)
    give_back(arena, SMALL_CLASS, small)
    return cell


@outlined
def add_to_small(cell, h, text, text_size, start, length):
    """Enter a new key in a small cell; False when there is no room for it."""
    used = load_i64(cell + SMALL_USED)
    if used == WAYS:
        return False
    store_u64(cell + SMALL_KEYS + 8 * used, h)
    store_i64(cell + SMALL_COUNTS + 8 * used, 3)
    keep_text(cell + SMALL_TEXTS + used * TEXT_SLOT, text, text_size, start, length)
    store_i64(cell + SMALL_USED, used + 1)
    return True


@inlined
def count_length(cell, size):
    count = load_i64(cell + COUNT)
    store_i64(cell + COUNT, count + 1)
    store_i64(cell + LENGTH_SUM, load_i64(cell + LENGTH_SUM) + size)
    low, high = load_u32(cell + LENGTH_MIN), load_u32(cell + LENGTH_MAX)
    if count == 0 or size < low:
        store_u32(cell + LENGTH_MIN, size)
    if size > high:
        store_u32(cell + LENGTH_MAX, size)


@inlined
def fetch_lines(cell, h):
    """Prefetch what counting h will touch, whatever the cell's form."""
    line = 64 * np.int64(h & U(SETS - 1))
    prefetch(cell)
    prefetch(cell + SMALL_KEYS)
    prefetch(cell + SMALL_COUNTS)
    prefetch(cell + KEYS + line)
    prefetch(cell + COUNTS + line)
    prefetch(hashed_bucket(cell, h))


@outlined
def make_lanes(arena, group, lanes):
    """A table of cells for so many string lanes; False when the arena has no room."""
    old_lanes, old = load_i64(group + 8 * STRING_LANES), load_i64(group + 8 * STRING_CELLS)
    wider = max(lanes, old_lanes + (old_lanes >> 1))
    size = (8 * wider + 63) & ~63
    if not has_room(arena, size):
        return False
    table = take(arena, size)
    copy_words(table, old, old_lanes)
    fill_words(table + 8 * old_lanes, U(0), wider - old_lanes)
    store_i64(group + 8 * STRING_CELLS, table)
    store_i64(group + 8 * STRING_LANES, wider)
    return True


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def update_strings(
    hashes,
    start,
    length,
    text,
    text_size,
    string_first,
    n_strings,
    first,
    n,
    groups,
    group_of_row,
    arena,
):
    """Count every string of the rows first..n-1 in its cell, in place. All but numbers are addresses.

    hashes  uint64[n_strings]   start  int64[n_strings]   length  int32[n_strings]   text  uint8[text_size]
    string_first   int64[n + 1], where each row begins
    groups         int64[..., GROUP_FIELDS]
    group_of_row   int32[n], -1: skip the row
    arena          see `arena`

    Returns why << 56 | lane << 28 | rows done, both below 2^28. With NO_MEMORY the caller gives memory
    and goes on from there (lanes before `lane` of that row are counted: pass first = lane << 28 | row).
    BAD_ROW: the row does not lie in the arrays.
    """
    r = first & ((1 << 28) - 1)
    lane = first >> 28
    while r < n:
        if r + AHEAD < n:
            g = load_i32(group_of_row + 4 * (r + AHEAD))
            at = load_i64(string_first + 8 * (r + AHEAD))
            if g >= 0 and at >= 0 and at < n_strings:
                group = groups + GROUP_BYTES * g
                cells = load_i64(group + 8 * STRING_CELLS)
                lanes = load_i64(string_first + 8 * (r + AHEAD) + 8) - at
                lanes = min(lanes, min(load_i64(group + 8 * STRING_LANES), n_strings - at))
                for j in range(lanes):
                    fetch_lines(load_i64(cells + 8 * j), load_u64(hashes + 8 * (at + j)))
        g = load_i32(group_of_row + 4 * r)
        begin = load_i64(string_first + 8 * r)
        lanes = load_i64(string_first + 8 * r + 8) - begin
        if g < 0 or lanes == 0:
            r += 1
            continue
        if begin < 0 or lanes < 0 or begin + lanes > n_strings:
            return BAD_ROW << 56 | r
        group = groups + GROUP_BYTES * g
        if lanes > load_i64(group + 8 * STRING_LANES) and not make_lanes(arena, group, lanes):
            return NO_MEMORY << 56 | lane << 28 | r
        cells = load_i64(group + 8 * STRING_CELLS)
        while lane < lanes:
            at = begin + lane
            h = load_u64(hashes + 8 * at)
            if h == U(0):
                lane += 1
                continue
            cell = load_i64(cells + 8 * lane)
            if cell == 0:
                cell = new_small(arena)
                if cell == 0:
                    return NO_MEMORY << 56 | lane << 28 | r
                store_i64(cells + 8 * lane, cell)
            if h == U(1):
                store_i64(cell + STRING_NULLS, load_i64(cell + STRING_NULLS) + 1)
                lane += 1
                continue
            size = load_i32(length + 4 * at)
            if load_i64(cell + STRING_FORM) == SMALL:
                found = match8(cell + SMALL_KEYS, h)
                if found != U(0):
                    p = cell + SMALL_COUNTS + 8 * trailing_zeros(found)
                    store_i64(p, load_i64(p) + 2)
                    count_length(cell, size)
                    lane += 1
                    continue
                if add_to_small(cell, h, text, text_size, load_i64(start + 8 * at), size):
                    count_length(cell, size)
                    lane += 1
                    continue
                cell = expanded(arena, cell)
                if cell == 0:
                    return NO_MEMORY << 56 | lane << 28 | r
                store_i64(cells + 8 * lane, cell)
            count_length(cell, size)
            add_to_full(cell, h, text, text_size, load_i64(start + 8 * at), size)
            lane += 1
        lane = 0
        r += 1
    return r
