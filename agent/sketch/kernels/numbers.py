"""Update numeric cells with a block of rows: histogram, moments, extremes, distinct values.

Rows come in any order, each with its own cells. The counts lie in a different cache line for nearly
every value, so they are incremented late: the first pass takes the moments and notes (and prefetches)
the address of each count, the second increments them, which keeps many cache misses in flight. It beats
sorting the rows by cell. A value outside its histogram's extents is rare: the notes are settled
first, since a change of scale moves counts.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.bucket_index import (
    DOMAIN_SPAN,
    INFINITY_BITS,
    LOW_BITS,
    TOP_INDEX,
    bucket_index,
)
from agent.sketch.kernels.cardinality import add_hash, hash_value
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.histogram import admit, count_address
from agent.sketch.kernels.layout import (
    ABSENT_BITS,
    EXTENTS,
    NON_FINITE,
    NULL_BITS,
    NULLS,
    NUMERIC_PRECISION,
    NUMERIC_REGISTERS,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    SHIFT,
    ZEROS,
    N,
)
from agent.sketch.kernels.memory import (
    f64_of,
    load_i32,
    load_i64,
    load_u32,
    load_u64,
    prefetch,
    store_i64,
    store_u32,
)
from agent.sketch.kernels.moments import add_value, take_extremes

U = np.uint64
ABSENT, NULL = U(ABSENT_BITS), U(NULL_BITS)
PENDING = 256  #: notes settled at once; the owner's buffer holds this many and one row more


@inlined
def settle(first, last):
    """Increment the uint32 counts whose addresses are noted in [first, last)."""
    while first < last:
        p = load_i64(first)
        store_u32(p, load_u32(p) + 1)
        first += 8


@inlined
def increment(address):
    store_i64(address, load_i64(address) + 1)


@outlined
def add_over_range(cell, value, negative):
    """A finite value beyond 2^64: top bucket, true extremes, but neither sum nor moments.

    Returns the number of such values, this one included.
    """
    over = load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE)
    take_extremes(cell, value, load_i64(cell + N) + over == 0)
    increment(cell + OVER_NEGATIVE if negative else cell + OVER_POSITIVE)
    shift = admit(cell, TOP_INDEX, negative, 4)
    p = count_address(cell, TOP_INDEX >> shift, negative, 4)
    store_u32(p, load_u32(p) + 1)
    return over + 1


@kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, uint64, uint64)")
def update_numbers(
    numbers, first, n, lanes, group, lane_cell, addresses, pending, magnitude_mask, mantissa_mask
):
    """Count every value of a block in its narrow cell, in place. All arguments but n, lanes are addresses.

    numbers    float64[...]             first      int64[n + 1], where each row begins
    group      int32[n], -1: skip the row; no other row has more than `lanes` numbers
    lane_cell  int32[groups, lanes], -1: no cell   addresses  int64[cells]
    pending    int64[PENDING + lanes], scratch

    Returns the largest n, or number of over-range values, that a touched cell now has: the sum of
    the two must stay below 2^32, where narrow counts wrap around.
    """
    peak = 0
    note = pending
    limit = pending + 8 * PENDING
    for r in range(n):
        g = load_i32(group + 4 * r)
        if g < 0:
            continue
        begin = load_i64(first + 8 * r)
        v = numbers + 8 * begin
        ids = lane_cell + 4 * g * lanes
        for lane in range(load_i64(first + 8 * r + 8) - begin):
            cell_id = load_i32(ids + 4 * lane)
            if cell_id < 0:
                continue
            cell = load_i64(addresses + 8 * cell_id)
            bits = load_u64(v + 8 * lane)
            magnitude = bits & magnitude_mask
            if magnitude - (LOW_BITS + U(1)) < DOMAIN_SPAN:
                negative = np.int64(bits >> U(63))
                index = bucket_index(magnitude, mantissa_mask)
                k = index >> load_i32(cell + SHIFT)
                extent = cell + EXTENTS + 8 * negative
                if U(k - load_i32(extent)) >= U(load_u32(extent + 4)):
                    settle(pending, note)
                    note = pending
                    k = index >> admit(cell, index, negative, 4)
                p = count_address(cell, k, negative, 4)
                prefetch(p)
                store_i64(note, p)
                note += 8
            elif magnitude <= LOW_BITS:
                increment(cell + ZEROS)
                if magnitude == U(0):
                    bits = U(0)  # -0.0 is 0.0
            else:
                if bits == ABSENT:
                    continue
                if bits == NULL:
                    increment(cell + NULLS)
                elif magnitude >= INFINITY_BITS:
                    increment(cell + NON_FINITE)
                else:
                    settle(pending, note)
                    note = pending
                    over = add_over_range(cell, f64_of(bits), np.int64(bits >> U(63)))
                    peak = max(peak, over)
                    add_hash(cell + NUMERIC_REGISTERS, hash_value(bits), NUMERIC_PRECISION)
                continue
            peak = max(peak, add_value(cell, f64_of(bits)))
            add_hash(cell + NUMERIC_REGISTERS, hash_value(bits), NUMERIC_PRECISION)
        if note >= limit:
            settle(pending, note)
            note = pending
    settle(pending, note)
    return peak
