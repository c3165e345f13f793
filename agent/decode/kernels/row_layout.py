"""Where the compiled tiers write rows: the order of addresses in `RowArrays.table`.

A kernel gets the address of that table (int64[N_SLOTS]) and loads what it needs once. n is the
number of rows handed to it; rows are written in the order in which they are handed over.

    NUMBERS        float64[...]  lanes of row r: numbers[number_start[r] : number_start[r + 1]]
    NUMBER_START   int64[n + 1]  ascending; a misfit's range is empty
    STRING_HASH    uint64[...]   lanes of row r: from string_first[r] to string_first[r + 1]
    STRING_START   int64[...]    position in the arena
    STRING_LENGTH  int32[...]    bytes
    STRING_FIRST   int64[n + 1]
    EVENT_TIME     int64[n]      epoch milliseconds; TIME_ABSENT without `ts`
    SHAPE          int32[n]      number of the shape
    STATUS         uint8[n]      MISFIT or FITS
    FLAGS          uint8[n]      OR of the flags of all leaves (`leaves`)
    FIELD_START    int64[n, N_FIELDS]  position in the arena; -1 absent
    FIELD_LENGTH   int32[n, N_FIELDS]  bytes
    KEY_HASH       uint64[n]     keyed hash of model, version and segments
    MODEL_HASH     uint64[n]     keyed hash of the model's text; 0 absent

A row that fits has all lanes that its shape had when the block began; absent ones hold ABSENT_BITS
or HASH_ABSENT. Apart from STATUS and the empty ranges, a misfit's entries mean nothing.
"""

from __future__ import annotations

(
    NUMBERS,
    NUMBER_START,
    STRING_HASH,
    STRING_START,
    STRING_LENGTH,
    STRING_FIRST,
    EVENT_TIME,
    SHAPE,
    STATUS,
    FLAGS,
    FIELD_START,
    FIELD_LENGTH,
    KEY_HASH,
    MODEL_HASH,
) = range(14)
N_SLOTS = 14

MISFIT, FITS = 0, 1
TIME_ABSENT = -(1 << 63)
