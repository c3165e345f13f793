"""The table of batches that the kernels of the arena share: int64[n, BATCH_FIELDS], and its codes."""

from __future__ import annotations

# Set by whoever found the batch, for ranges of batches as for the arena.
BATCH_SOURCE, BATCH_SOURCE_BYTES, BATCH_CODEC = 0, 1, 2  # address of the payload; as it arrived
BATCH_COUNT = 3  # of records, as the header claims
BATCH_OFFSET, BATCH_NEXT_OFFSET, BATCH_MIN_OFFSET = 4, 5, 6
BATCH_TIME, BATCH_TIME_MASK = 7, 8  # base of the timestamps; -1, or 0 when deltas do not count
GIVEN_FIELDS = 9
# Written by `open_batches`.
BATCH_STATE = 9  # OPENED, or why not
BATCH_START, BATCH_END = 10, 11  # of its records section, from the arena's start
BATCH_MOST = 12  # records that can be in the batches up to and with this one
# Written by `index_records`.
BATCH_ROWS = 13  # rows written up to and with this batch
BATCH_REACHED = 14  # offset behind the last record that was read
BATCH_DAMAGE = 15  # a DAMAGE_...
BATCH_FIELDS = 16

#: Bytes of a batch before its payload.
HEADER_BYTES = 61

#: What becomes of a payload: opened, more room is needed, it is broken, or the library has to do it.
OPENED, NO_ROOM, BROKEN, OTHER = 0, -1, -2, -3

(
    DAMAGE_NONE,
    DAMAGE_SHORT,
    DAMAGE_LENGTH,
    DAMAGE_NUMBER,
    DAMAGE_FIELD,
    DAMAGE_HEADERS,
    DAMAGE_OFFSET,
    DAMAGE_REST,
) = range(8)
DAMAGE_TEXT = (
    "",
    "fewer records than its header claims",
    "a record's length is wrong",
    "a number of a record does not end",
    "a key or value reaches beyond its record",
    "a record's headers do not fill the record",
    "a record's offset lies behind the batch",
    "bytes left behind the last record",
)

#: The smallest record: six bytes behind a length of one.
SMALLEST_BODY = 6
SMALLEST_RECORD = 7
