"""Bucket counts of exponential histograms -> protobuf's wire format, many at once.

Buckets { sint32 offset = 1; repeated uint64 bucket_counts = 2 [packed] }, as a field of its point.
Field numbers are arguments or asserted by the caller (`otlp_points`) against the descriptors.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.memory import (
    leading_zeros,
    load_i64,
    load_u64,
    store_i64,
    store_u8,
)

U = np.uint64
#: Keys of a Buckets message: offset (varint) and bucket_counts (length-delimited).
OFFSET_KEY, COUNTS_KEY = 0x08, 0x12
#: A varint takes at most this many bytes; so does a field but for its counts: 5 parts.
MAX_VARINT, MAX_AROUND = 10, 40


@inlined
def varint_size(value):
    """Bytes of a varint: one for each 7 bits begun."""
    return ((64 - leading_zeros(value | U(1))) * 9 + 64) >> 6


@inlined
def put_varint(at, value):
    """Write a varint at the address; returns the one behind it."""
    while value >= U(128):
        store_u8(at, np.int64(value & U(127)) | 128)
        value >>= U(7)
        at += 1
    store_u8(at, np.int64(value))
    return at + 1


@kernel("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def write_buckets(n, counts, start, offset, even_key, odd_key, out, end):
    """Write n fields Buckets one behind the other; those without counts take no bytes.

    counts   uint64[...]; start int64[n + 1]: field i's are counts[start[i] : start[i + 1]]
    offset   int64[n], of the first bucket, within 31 bits
    even_key, odd_key   first byte of fields 0, 2, ... and 1, 3, ...
    out      uint8[...] with MAX_VARINT bytes a count and MAX_AROUND a field; written
    end      int64[n]: where field i ends in `out`; written
    """
    at = out
    for i in range(n):
        first = counts + 8 * load_i64(start + 8 * i)
        behind = counts + 8 * load_i64(start + 8 * i + 8)
        if first < behind:
            size = 0
            for p in range(first, behind, 8):
                size += varint_size(load_u64(p))
            shift = load_i64(offset + 8 * i)
            zigzag = U((shift << 1) ^ (shift >> 63))
            inner = 2 + varint_size(zigzag) + varint_size(U(size)) + size
            store_u8(at, even_key if i & 1 == 0 else odd_key)
            at = put_varint(at + 1, U(inner))
            store_u8(at, OFFSET_KEY)
            at = put_varint(at + 1, zigzag)
            store_u8(at, COUNTS_KEY)
            at = put_varint(at + 1, U(size))
            for p in range(first, behind, 8):
                at = put_varint(at, load_u64(p))
        store_i64(end + 8 * i, at - out)
