"""Opens the payloads of batches into the arena, one behind the other, without the GIL.

LZ4, Snappy and what is not compressed; the rest is left to a library, batch by batch.
"""

from __future__ import annotations

from agent.decode.kernels.batch_table import (
    BATCH_CODEC,
    BATCH_COUNT,
    BATCH_END,
    BATCH_FIELDS,
    BATCH_MOST,
    BATCH_SOURCE,
    BATCH_SOURCE_BYTES,
    BATCH_START,
    BATCH_STATE,
    NO_ROOM,
    OPENED,
    OTHER,
    SMALLEST_RECORD,
)
from agent.decode.kernels.copies import copy_exact
from agent.decode.kernels.lz4 import open_lz4
from agent.decode.kernels.snappy import open_snappy
from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_i64, store_i64

#: Codecs by their number in a batch's attributes.
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


@kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def open_batches(arena, batches, first, n_batches, end, room_end, max_records):
    """Open batches from `first` on; the index of the first that was not opened here, or `n_batches`.

    arena        address
    batches      address of int64[n_batches, BATCH_FIELDS]; BATCH_STATE says why one was not opened
    end          position in the arena behind the batch before `first`
    room_end     position up to which there is room; 64 bytes behind it belong to the arena, too
    max_records  NO_ROOM for a batch that would exceed it behind others

    Behind others, a batch is not begun when it would not fit if it opened to as many times its size
    as the last one did: to open a part of it would be for nothing.
    Writes inside of [end, room_end + 64) only; reads only the payloads.
    """
    most = 0
    if first > 0:
        most = load_i64(batches + 8 * (BATCH_FIELDS * (first - 1) + BATCH_MOST))
    size_before, opened_before = 1, 0
    for b in range(first, n_batches):
        batch = batches + 8 * BATCH_FIELDS * b
        source = load_i64(batch + 8 * BATCH_SOURCE)
        size = load_i64(batch + 8 * BATCH_SOURCE_BYTES)
        codec = load_i64(batch + 8 * BATCH_CODEC)
        room = room_end - end
        if codec != NONE and size * opened_before > room * size_before:
            written = NO_ROOM
        elif codec == NONE:
            written = NO_ROOM
            if size <= room:
                copy_exact(arena + end, source, size)
                written = size
        elif codec == LZ4:
            written = open_lz4(source, size, arena + end, room)
        elif codec == SNAPPY:
            written = open_snappy(source, size, arena + end, room)
        else:
            written = OTHER
        if written < 0:
            store_i64(batch + 8 * BATCH_STATE, written)
            return b
        before = most
        count = max(load_i64(batch + 8 * BATCH_COUNT), 0)
        most += min(count, written // SMALLEST_RECORD)
        if most > max_records and before > 0:
            store_i64(batch + 8 * BATCH_STATE, NO_ROOM)
            return b
        store_i64(batch + 8 * BATCH_STATE, OPENED)
        store_i64(batch + 8 * BATCH_START, end)
        end += written
        size_before, opened_before = max(size, 1), written
        store_i64(batch + 8 * BATCH_END, end)
        store_i64(batch + 8 * BATCH_MOST, most)
    return n_batches
