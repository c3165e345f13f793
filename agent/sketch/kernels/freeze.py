"""A delta's groups as packed cells, when it is cut."""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.buffers import COLUMN, TILE, WORK_BYTES, flush, gather, waiting_rows
from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.layout import (
    ABSENT_BITS,
    BUFFER,
    CELLS,
    FORM,
    GROUP_FIELDS,
    PITCH,
    SMALL,
    STRING_CELL_BYTES,
    STRING_CELLS,
    STRING_FORM,
    STRING_LANES,
)
from agent.sketch.kernels.memory import load_i64, load_u64, store_i64
from agent.sketch.kernels.numbers import (
    HIGH,
    LOW,
    add_batch,
    bytes_of_form,
    bytes_per_count,
    needed_form,
)
from agent.sketch.kernels.pack import (
    MAX_PACKED_NUMERIC,
    MAX_PACKED_STRING,
    pack_numeric,
    pack_string,
)
from agent.sketch.kernels.strings import expand
from agent.sketch.kernels.vectors import ALL_ABSENT, ANY_NEGATIVE, fill8, fill_words, survey

U = np.uint64
GROUP_BYTES = 8 * GROUP_FIELDS

#: int64 fields of a packing in progress: next group and lane, where to write, cells packed.
GROUP, LANE, OUT, PACKED = range(4)
STATE_FIELDS = 4
#: int64 fields of a packed cell: group, lane, address, length.
REF_GROUP, REF_LANE, REF_ADDRESS, REF_LENGTH = range(4)
REF_FIELDS = 4


@inlined
def leave(state, group, lane, out, packed):
    store_i64(state + 8 * GROUP, group)
    store_i64(state + 8 * LANE, lane)
    store_i64(state + 8 * OUT, out)
    store_i64(state + 8 * PACKED, packed)


@inlined
def note(ref, group, lane, address, length):
    store_i64(ref + 8 * REF_GROUP, group)
    store_i64(ref + 8 * REF_LANE, lane)
    store_i64(ref + 8 * REF_ADDRESS, address)
    store_i64(ref + 8 * REF_LENGTH, length)


@kernel("int64(int64, int64, int64, int64, int64)")
def flush_groups(groups, first, n_groups, arena, work):
    """Count the waiting rows of groups first..n_groups-1 that have cells. Returns groups done; it stops
    when the arena has no room, and goes on from there when called again."""
    for g in range(first, n_groups):
        group = groups + GROUP_BYTES * g
        if load_i64(group + 8 * CELLS) and not flush(arena, group, work):
            return g
    return n_groups


@kernel("int64(int64, int64, int64, int64, int64, int64)")
def pack_numbers(groups, n_groups, state, out_end, refs, work):
    """Pack all numeric cells of groups, and waiting rows of those without cells. Addresses but for n_groups.

    state    int64[STATE_FIELDS]     out_end  end of the memory that state's OUT lies in
    refs     int64[..., REF_FIELDS], one for each packed cell
    work     see `buffers`; behind it, at work + WORK_BYTES, uint8[FORM_BYTES[SHORT_BOTH]] of scratch

    Returns 1 when all is packed, 0 when the memory is used up: give other memory, call again.
    """
    magnitude_mask, mantissa_mask = load_u64(work), load_u64(work + 8)
    scratch = work + 16
    young = work + WORK_BYTES
    g, lane = load_i64(state + 8 * GROUP), load_i64(state + 8 * LANE)
    out, done = load_i64(state + 8 * OUT), load_i64(state + 8 * PACKED)
    while g < n_groups:
        group = groups + GROUP_BYTES * g
        pitch, cells = load_i64(group + 8 * PITCH), load_i64(group + 8 * CELLS)
        n = waiting_rows(group)
        tile, tile_end = lane, lane  # lanes that are gathered
        while lane < pitch:
            if out_end - out < MAX_PACKED_NUMERIC:
                leave(state, g, lane, out, done)
                return 0
            cell = np.int64(0)
            if cells:
                cell = load_i64(cells + 8 * lane)
            elif n > 0:
                if lane == tile_end:
                    tile, tile_end = lane, min(lane + TILE, pitch)
                    row = load_i64(group + 8 * BUFFER) + 8 * lane
                    gather(scratch, row, 8 * pitch, n, tile_end - tile)
                values = scratch + (lane - tile) * COLUMN
                fill8(values + 8 * n, load_u64(values))
                answers = survey(values, n, LOW, HIGH, U(ABSENT_BITS))
                if not answers & ALL_ABSENT:
                    cell = young
                    form = needed_form(answers & ANY_NEGATIVE, n)
                    fill_words(cell, U(0), bytes_of_form(form) >> 3)
                    store_i64(cell + FORM, form)
                    add_batch(cell, values, n, answers, scratch, 2, magnitude_mask, mantissa_mask)
            if cell:
                length = pack_numeric(cell, bytes_per_count(load_i64(cell + FORM)), out)
                note(refs + 8 * REF_FIELDS * done, g, lane, out, length)
                done += 1
                out += (length + 7) & ~7
            lane += 1
        lane = 0
        g += 1
    leave(state, g, lane, out, done)
    return 1


@kernel("int64(int64, int64, int64, int64, int64, int64)")
def pack_strings(groups, n_groups, state, out_end, refs, scratch):
    """The same for string cells; scratch: uint8[STRING_CELL_BYTES]."""
    g, lane = load_i64(state + 8 * GROUP), load_i64(state + 8 * LANE)
    out, done = load_i64(state + 8 * OUT), load_i64(state + 8 * PACKED)
    while g < n_groups:
        group = groups + GROUP_BYTES * g
        cells, lanes = load_i64(group + 8 * STRING_CELLS), load_i64(group + 8 * STRING_LANES)
        while lane < lanes:
            if out_end - out < MAX_PACKED_STRING:
                leave(state, g, lane, out, done)
                return 0
            cell = load_i64(cells + 8 * lane)
            if cell:
                if load_i64(cell + STRING_FORM) == SMALL:
                    fill_words(scratch, U(0), STRING_CELL_BYTES >> 3)
                    expand(cell, scratch)
                    cell = scratch
                length = pack_string(cell, out)
                note(refs + 8 * REF_FIELDS * done, g, lane, out, length)
                done += 1
                out += (length + 7) & ~7
            lane += 1
        lane = 0
        g += 1
    leave(state, g, lane, out, done)
    return 1
