"""Rows of numbers that wait to be counted: each group of a delta has room for up to 256.

Counting a value costs a handful of cache misses in its cell, so a cell is given up to 256 values at a time. A
group with fewer rows has no cells yet: its rows are all there is, at most 2 kB a lane instead of 4 to 10. Rows lie one behind the other, `pitch` words each, as they came; lanes that a row does not have are
absent. The pitch is odd, so that the rows of one lane do not fall into one set of the cache.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.arena import PEAK, give_back_sized, has_room, take, take_sized
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.layout import (
    ABSENT_BITS,
    BATCH,
    BUCKETS,
    BUFFER,
    CELLS,
    END_ROWS,
    FLUSHED,
    FORM,
    NEXT_ROW,
    NUMERIC_REGISTERS,
    PITCH,
)
from agent.sketch.kernels.memory import (
    load_i64,
    load_u64,
    prefetch,
    store_i64,
    store_u64,
    trailing_zeros,
)
from agent.sketch.kernels.numbers import (
    HIGH,
    LOW,
    SCRATCH_WORDS,
    add_batch,
    bytes_per_count,
    fitting_cell,
    held_values,
)
from agent.sketch.kernels.vectors import (
    ALL_ABSENT,
    ANY_NEGATIVE,
    copy4,
    copy_words,
    fill8,
    fill_words,
    survey,
)

U = np.uint64
ABSENT = U(ABSENT_BITS)
FIRST_ROWS = 8  #: room of a new group; it doubles up to BATCH
TILE = 8  #: lanes that are gathered at once: a cache line of each row
COLUMN = 8 * (BATCH + 8)  #: bytes from one gathered lane to the next
#: Size classes in an arena of numbers: forms of cells, then buffers by their rows, 8 to 256. Buffers of one class
#: may differ in their pitch.
BUFFERS = 3
SIZE_CLASSES = BUFFERS + (BATCH // FIRST_ROWS).bit_length()
WORK_BYTES = (16 + 8 * SCRATCH_WORDS + 63) & ~63


@inlined
def rounded(size_bytes):
    return (size_bytes + 63) & ~63


@inlined
def class_of_buffer(rows):
    return BUFFERS + trailing_zeros(U(rows // FIRST_ROWS))


@inlined
def room_of(group):
    """Rows that the group's buffer can hold: 0, or FIRST_ROWS times a power of two."""
    pitch = load_i64(group + 8 * PITCH)
    if pitch == 0:
        return 0
    return (load_i64(group + 8 * END_ROWS) - load_i64(group + 8 * BUFFER)) // (8 * pitch)


@inlined
def waiting_rows(group):
    """Rows in the buffer."""
    pitch = load_i64(group + 8 * PITCH)
    if pitch == 0:
        return 0
    return (load_i64(group + 8 * NEXT_ROW) - load_i64(group + 8 * BUFFER)) // (8 * pitch)


@outlined
def move_rows(arena, group, pitch, capacity):
    """Give the group a buffer of `capacity` rows, and a table of cells if it has one, of this pitch. In place.

    capacity: FIRST_ROWS times a power of two, at least what the buffer can hold now.

    False when the arena has no room.
    """
    old_pitch, rows, room = load_i64(group + 8 * PITCH), waiting_rows(group), room_of(group)
    old_cells = load_i64(group + 8 * CELLS)
    size = rounded(8 * pitch * capacity)
    table = rounded(8 * pitch) if old_cells and pitch > old_pitch else 0
    if not has_room(arena, size + table):
        return False
    buffer = take_sized(arena, class_of_buffer(capacity), size)
    old = load_i64(group + 8 * BUFFER)
    for r in range(rows):
        copy_words(buffer + 8 * pitch * r, old + 8 * old_pitch * r, old_pitch)
        fill_words(buffer + 8 * (pitch * r + old_pitch), ABSENT, pitch - old_pitch)
    if room:
        give_back_sized(arena, class_of_buffer(room), old, rounded(8 * old_pitch * room))
    if table:
        cells = take(arena, table)
        copy_words(cells, old_cells, old_pitch)
        fill_words(cells + 8 * old_pitch, U(0), pitch - old_pitch)
        store_i64(group + 8 * CELLS, cells)
    store_i64(group + 8 * PITCH, pitch)
    store_i64(group + 8 * BUFFER, buffer)
    store_i64(group + 8 * NEXT_ROW, buffer + 8 * pitch * rows)
    store_i64(group + 8 * END_ROWS, buffer + 8 * pitch * capacity)
    return True


@inlined
def gather(tile, row, step, n, lanes):
    """Columns of n rows, `lanes` words from `row` on: column j goes to tile + j * COLUMN."""
    for r in range(n):
        for j in range(lanes):
            store_u64(tile + j * COLUMN + 8 * r, load_u64(row + 8 * j))
        row += step


@inlined
def fetch_registers(cell):
    """A batch of different values touches most of these lines."""
    for at in range(NUMERIC_REGISTERS, BUCKETS, 64):
        prefetch(cell + at)


@outlined
def flush(arena, group, work):
    """Count the waiting rows in the group's cells; the buffer is then empty.

    work  uint8[WORK_BYTES]: two masks (`bucket_index`), then scratch memory

    False when the arena has no room; called again, it goes on where it stopped.
    """
    magnitude_mask, mantissa_mask = load_u64(work), load_u64(work + 8)
    scratch = work + 16
    pitch, buffer = load_i64(group + 8 * PITCH), load_i64(group + 8 * BUFFER)
    cells = load_i64(group + 8 * CELLS)
    n = waiting_rows(group)
    lane = load_i64(group + 8 * FLUSHED)
    while lane < pitch and n > 0:
        lanes = min(TILE, pitch - lane)
        for j in range(lanes):
            cell = load_i64(cells + 8 * (lane + j))
            prefetch(cell)
            prefetch(cell + 64)
            prefetch(cell + FORM)
        gather(scratch, buffer + 8 * lane, 8 * pitch, n, lanes)
        for j in range(lanes):
            values = scratch + j * COLUMN
            cell = load_i64(cells + 8 * (lane + j))
            if cell:
                fetch_registers(cell)
            fill8(values + 8 * n, load_u64(values))
            answers = survey(values, n, LOW, HIGH, ABSENT)
            if answers & ALL_ABSENT:
                continue
            cell = fitting_cell(arena, cell, answers & ANY_NEGATIVE, n)
            if cell == 0:
                store_i64(group + 8 * FLUSHED, lane + j)
                return False
            store_i64(cells + 8 * (lane + j), cell)
            size = bytes_per_count(load_i64(cell + FORM))
            add_batch(cell, values, n, answers, scratch, size, magnitude_mask, mantissa_mask)
            held = held_values(cell)
            if held > load_i64(arena + 8 * PEAK):
                store_i64(arena + 8 * PEAK, held)
        lane += lanes
    store_i64(group + 8 * FLUSHED, 0)
    store_i64(group + 8 * NEXT_ROW, buffer)
    return True


@inlined
def fetch_next_row(group):
    """Ask for the memory that the group's next row will be put to."""
    row = load_i64(group + 8 * NEXT_ROW)
    prefetch(row)
    prefetch(row + 64)


@outlined
def make_room_for_row(arena, group, width, work):
    """Make the buffer ready for one more row of `width` words; False when the arena has no room."""
    pitch = load_i64(group + 8 * PITCH)
    if width > pitch:
        wider = max(width, pitch + (pitch >> 1)) | 1
        if not move_rows(arena, group, wider, max(room_of(group), FIRST_ROWS)):
            return False
        pitch = wider
    if load_i64(group + 8 * NEXT_ROW) < load_i64(group + 8 * END_ROWS):
        return True
    if room_of(group) < BATCH:
        return move_rows(arena, group, pitch, 2 * room_of(group))
    if load_i64(group + 8 * CELLS) == 0:
        if not has_room(arena, rounded(8 * pitch)):
            return False
        cells = take(arena, rounded(8 * pitch))
        fill_words(cells, U(0), pitch)
        store_i64(group + 8 * CELLS, cells)
    return flush(arena, group, work)


@inlined
def append_row(group, numbers, width):
    """Put a row behind the others; there is room."""
    row = load_i64(group + 8 * NEXT_ROW)
    pitch = load_i64(group + 8 * PITCH)
    if width < 4:
        copy_words(row, numbers, width)
    else:
        last = 8 * (width - 4)
        for at in range(0, last, 32):
            copy4(row + at, numbers + at)
        copy4(row + last, numbers + last)  # over some that have been copied
    if width < pitch:
        fill_words(row + 8 * width, ABSENT, pitch - width)
    store_i64(group + 8 * NEXT_ROW, row + 8 * pitch)
