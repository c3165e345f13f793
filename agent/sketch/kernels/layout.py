"""Byte layout of the two cell records: the one place where sizes and offsets are written down.

A record of zero bytes is an empty cell. All fields are little-endian and naturally aligned.

Numeric cell (narrow: uint32 buckets; wide: uint64 buckets; everything before the buckets is the same)

    0    sums        float64[4]  sums of d, d^2, d^3, d^4, d = value - pivot
    32   rests       float64[4]  what the sums are too large by (Kahan)
    64   pivot       float64     mean of the first n/8 values or more (see `moments`)
    72   n           uint64      values inside the domain: zeros and buckets without over-range
    80   threshold   uint64      at this n the pivot moves to the mean
    88   min, max    float64[2]  of all finite values, over-range included
    104  extents     int32[2][2] lowest bucket index and number of buckets spanned, for + and -
    120  shift       int32       MAX_SCALE - scale, both signs
    128  nulls, non_finite, zeros, over_positive, over_negative   uint64 each
    168  form        int64        how buckets are kept, see below; 0 in every record that leaves a delta
    192  registers   uint8[2048] UltraLogLog, p = 11, of the values' bits
    2240 buckets     uint32 or uint64 [2][1024]: + then -; bucket i lies at i & 1023

Forms of a numeric cell while a delta fills it; a cell moves on when it must

    SHORT_ONE    uint16 buckets, + only          4288 bytes
    SHORT_BOTH   uint16 buckets                  6336
    NARROW_ONE   uint32 buckets, + only          6336
    NARROW       uint32 buckets                 10432

String cell

    0     count, nulls, length_sum  uint64; length_min, length_max  uint32 (bytes)
    64    keys       uint64[16][8]   hash, 0 = free
    1088  counts     uint64[16][8]   count << 1 | text is kept
    2112  overs      uint64[16][8]   overestimate
    3136  hashed     uint64[256]     counts by hash bits 4..11
    5184  registers  uint8[2048]     UltraLogLog, p = 11, of the hashes
    7232  texts      128 x (uint32 full length, uint32 kept length, 56 bytes of UTF-8)

Small string cell, in a delta: all texts while there are at most eight different ones

    0     as above; 32  form int64, SMALL; 40  number of texts int64
    64    keys uint64[8]       128  counts uint64[8]: count << 1 | 1       192  texts, as above

Group of a delta: int64 fields, `GROUP_FIELDS` of them

    stream, window, rows, errors, min_time, max_time
    next_row, end_rows, buffer    addresses: rows of numbers that wait to be counted, `pitch` words each
    pitch                         words a row: lanes, or one more
    cells, string_cells           addresses of int64[lanes]: address of each lane's cell, 0 none; or 0
    flushed                       lanes whose waiting numbers are counted; not 0 only while memory is awaited
    string_lanes                  length of string_cells
"""

from __future__ import annotations

# ---------------------------------------------------------------- histogram
MAX_SCALE = 8  #: base 2^(1/256), relative error 0.14 %
RING = 1024  #: buckets a sign; a power of two
MIN_SCALE = 3  #: 128 octaves at 8 buckets each = RING: everything in the domain always fits
DOMAIN_EXPONENT = 64  #: domain 2^-64 < |x| <= 2^64
assert 2 * DOMAIN_EXPONENT * 2**MIN_SCALE <= RING

# ---------------------------------------------------------------- numeric cell
SUMS, RESTS, PIVOT, N, THRESHOLD, MIN, MAX = 0, 32, 64, 72, 80, 88, 96
EXTENTS, SHIFT = 104, 120
NULLS, NON_FINITE, ZEROS, OVER_POSITIVE, OVER_NEGATIVE = 128, 136, 144, 152, 160
PRECISION = 11  #: p of the UltraLogLog
NUMERIC_REGISTERS = 192
BUCKETS = NUMERIC_REGISTERS + (1 << PRECISION)
FORM = 168
NARROW, SHORT_ONE, SHORT_BOTH, NARROW_ONE = range(4)
FORM_COUNT_BYTES, FORM_SIGNS = (4, 2, 2, 4), (2, 1, 2, 1)
FORM_BYTES = tuple(
    BUCKETS + size * signs * RING for size, signs in zip(FORM_COUNT_BYTES, FORM_SIGNS, strict=True)
)
NUMERIC_CELL_BYTES = FORM_BYTES[NARROW]
NUMERIC_WIDE_CELL_BYTES = BUCKETS + 2 * RING * 8

# ---------------------------------------------------------------- string cell
COUNT, STRING_NULLS, LENGTH_SUM, LENGTH_MIN, LENGTH_MAX = 0, 8, 16, 24, 28
SETS, WAYS = 16, 8
KEYS = 64
COUNTS = KEYS + SETS * WAYS * 8
OVERS = COUNTS + SETS * WAYS * 8
HASHED = OVERS + SETS * WAYS * 8
HASHED_BUCKETS = 256
STRING_REGISTERS = HASHED + HASHED_BUCKETS * 8
TEXTS = STRING_REGISTERS + (1 << PRECISION)
TEXT_BYTES, TEXT_SLOT = 56, 64
STRING_CELL_BYTES = TEXTS + SETS * WAYS * TEXT_SLOT

SMALL = 1  # form
STRING_FORM, SMALL_USED = 32, 40
SMALL_KEYS, SMALL_COUNTS, SMALL_TEXTS = 64, 128, 192
SMALL_STRING_BYTES = SMALL_TEXTS + WAYS * TEXT_SLOT

# ---------------------------------------------------------------- group of a delta
STREAM, WINDOW, ROWS, ERRORS, MIN_TIME, MAX_TIME = range(6)
NEXT_ROW, END_ROWS, BUFFER, PITCH, CELLS, STRING_CELLS, FLUSHED, STRING_LANES = range(6, 14)
GROUP_FIELDS = 16
BATCH = 256  #: rows that wait at most; values of a lane counted at once

# ---------------------------------------------------------------- absence
ABSENT_BITS = 0x7FF8000000000001  #: float64 lane: the field was not in the event
NULL_BITS = 0x7FF8000000000002  #: float64 lane: the field was null
HASH_ABSENT, HASH_NULL = 0, 1  #: string lane
HASH_VERSION = 1
PADDING = 64  #: readable bytes behind the last string of a text
