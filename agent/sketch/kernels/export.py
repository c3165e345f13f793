"""Read wide numeric cells for export: heads, and bucket counts at a scale of at most so many buckets."""

from __future__ import annotations

from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.histogram import count_address
from agent.sketch.kernels.layout import (
    EXTENTS,
    MAX,
    MAX_SCALE,
    MIN,
    NON_FINITE,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    PIVOT,
    RESTS,
    SHIFT,
    SUMS,
    ZEROS,
    N,
)
from agent.sketch.kernels.memory import (
    load_f64,
    load_i32,
    load_i64,
    load_u64,
    store_f64,
    store_i64,
    store_u64,
)

#: int64 fields of a head, in this order. `IN_DOMAIN` values make up the sum; FIRST is the place of the
#: positive counts in `counts`, the negative ones follow them.
(
    SCALE,
    IN_DOMAIN,
    ZERO_COUNT,
    NOT_FINITE,
    ABOVE,
    BELOW,
    POSITIVE_OFFSET,
    POSITIVE_LENGTH,
    NEGATIVE_OFFSET,
    NEGATIVE_LENGTH,
    FIRST,
) = range(11)
HEAD_FIELDS = 11
#: float64 fields of a head.
SUM, MINIMUM, MAXIMUM = range(3)
VALUE_FIELDS = 3


@kernel("int64(int64, int64, int64, int64, int64, int64, int64)")
def read_totals(cells, n, highest_scale, max_buckets, heads, values, counts):
    """Heads and bucket counts of wide numeric cells. All but n and max_buckets are addresses.

    cells          int64[n], addresses of cells     highest_scale  int64[n]
    heads          int64[n, HEAD_FIELDS], written   values         float64[n, VALUE_FIELDS], written
    counts         uint64[n * 2 * max_buckets], written as far as the returned number says

    A cell is read at the highest scale that is at most `highest_scale` (and its own) and at which
    each sign spans at most `max_buckets`.
    """
    written = 0
    for i in range(n):
        cell = load_i64(cells + 8 * i)
        head = heads + 8 * HEAD_FIELDS * i
        value = values + 8 * VALUE_FIELDS * i
        scale = MAX_SCALE - load_i32(cell + SHIFT)
        steps = max(0, scale - load_i64(highest_scale + 8 * i))
        fits = False
        while not fits:
            fits = True
            for negative in range(2):
                low = load_i32(cell + EXTENTS + 8 * negative)
                span = load_i32(cell + EXTENTS + 8 * negative + 4)
                if span > 0 and ((low + span - 1) >> steps) - (low >> steps) >= max_buckets:
                    fits = False
            if not fits:
                steps += 1
        store_i64(head + 8 * SCALE, scale - steps)
        inside = load_i64(cell + N)
        store_i64(head + 8 * IN_DOMAIN, inside)
        store_i64(head + 8 * ZERO_COUNT, load_i64(cell + ZEROS))
        store_i64(head + 8 * NOT_FINITE, load_i64(cell + NON_FINITE))
        store_i64(head + 8 * ABOVE, load_i64(cell + OVER_POSITIVE))
        store_i64(head + 8 * BELOW, load_i64(cell + OVER_NEGATIVE))
        store_i64(head + 8 * FIRST, written)
        for negative in range(2):
            low = load_i32(cell + EXTENTS + 8 * negative)
            span = load_i32(cell + EXTENTS + 8 * negative + 4)
            first = low >> steps
            length = ((low + span - 1) >> steps) - first + 1 if span > 0 else 0
            store_i64(head + 8 * (POSITIVE_OFFSET + 2 * negative), first if span > 0 else 0)
            store_i64(head + 8 * (POSITIVE_LENGTH + 2 * negative), length)
            target = counts + 8 * written
            for j in range(length):
                store_i64(target + 8 * j, 0)
            for j in range(low, low + span):
                at = target + 8 * ((j >> steps) - first)
                store_u64(at, load_u64(at) + load_u64(count_address(cell, j, negative, 8)))
            written += length
        rest = load_f64(cell + SUMS) - load_f64(cell + RESTS)
        store_f64(value + 8 * SUM, float(inside) * load_f64(cell + PIVOT) + rest)
        store_f64(value + 8 * MINIMUM, load_f64(cell + MIN))
        store_f64(value + 8 * MAXIMUM, load_f64(cell + MAX))
    return written
