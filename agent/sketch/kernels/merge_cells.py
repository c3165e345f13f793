"""Merge cells into cells: counts, buckets, registers and extremes exactly, moments within their bounds."""

from __future__ import annotations

from agent.sketch.kernels.cardinality import merge_registers
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.heavy_hitters import merge_tables
from agent.sketch.kernels.histogram import (
    count_address,
    load_count,
    make_room,
    store_count,
)
from agent.sketch.kernels.layout import (
    COUNT,
    EXTENTS,
    HASHED,
    HASHED_BUCKETS,
    LENGTH_MAX,
    LENGTH_MIN,
    LENGTH_SUM,
    MAX,
    MIN,
    NON_FINITE,
    NULLS,
    NUMERIC_PRECISION,
    NUMERIC_REGISTERS,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    SHIFT,
    STRING_NULLS,
    STRING_PRECISION,
    STRING_REGISTERS,
    ZEROS,
    N,
)
from agent.sketch.kernels.memory import (
    load_f64,
    load_i32,
    load_i64,
    load_u32,
    store_i64,
    store_u32,
)
from agent.sketch.kernels.moments import merge_moments, take_extremes

NARROW_LIMIT = (1 << 32) - 1


@inlined
def finite_values(cell):
    return load_i64(cell + N) + load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE)


@inlined
def merge_buckets(target, source, target_size, source_size):
    """Add the histogram of `source`, in place; first both scales fall to what holds both."""
    shift = load_i32(source + SHIFT)
    lp, sp = load_i32(source + EXTENTS), load_i32(source + EXTENTS + 4)
    ln, sn = load_i32(source + EXTENTS + 8), load_i32(source + EXTENTS + 12)
    steps = make_room(target, lp, lp + sp - 1, ln, ln + sn - 1, shift, target_size) - shift
    for negative in range(2):
        low, span = (ln, sn) if negative else (lp, sp)
        for k in range(low, low + span):
            count = load_count(count_address(source, k, negative, source_size), source_size)
            if count:
                p = count_address(target, k >> steps, negative, target_size)
                store_count(p, target_size, load_count(p, target_size) + count)


@outlined
def merge_numeric_cell(target, source, target_size, source_size):
    values = finite_values(source)
    if values:
        first = finite_values(target) == 0
        low, high = load_f64(source + MIN), load_f64(source + MAX)
        take_extremes(target, low, first)
        take_extremes(target, high, False)
        merge_buckets(target, source, target_size, source_size)
        merge_moments(target, source)
        merge_registers(
            target + NUMERIC_REGISTERS, source + NUMERIC_REGISTERS, 1 << NUMERIC_PRECISION
        )
    for field in (NULLS, NON_FINITE, ZEROS, OVER_POSITIVE, OVER_NEGATIVE):
        store_i64(target + field, load_i64(target + field) + load_i64(source + field))


@kernel("int64(int64, int64, int64, int64)")
def merge_numeric(targets, sources, n, widths):
    """Merge numeric cells pairwise, in place: targets and sources are addresses of int64[n] of addresses.

    widths: 0 narrow into narrow, 1 narrow into wide, 2 wide into wide.

    Returns -1, or i when pair i's narrow target would hold more than 2^32 - 1 values. Pairs are
    checked first, and nothing is merged then; a target that occurs twice is caught at its turn.
    """
    target_size = 4 if widths == 0 else 8
    source_size = 8 if widths == 2 else 4
    for merging in range(2):
        for i in range(n):
            target, source = load_i64(targets + 8 * i), load_i64(sources + 8 * i)
            if target_size == 4 and finite_values(target) + finite_values(source) > NARROW_LIMIT:
                return i
            if merging:
                merge_numeric_cell(target, source, target_size, source_size)
    return -1


@kernel("void(int64, int64, int64)")
def merge_strings(targets, sources, n):
    """Merge string cells pairwise, in place: targets and sources are addresses of int64[n] of addresses."""
    for i in range(n):
        target, source = load_i64(targets + 8 * i), load_i64(sources + 8 * i)
        count = load_i64(source + COUNT)
        if count:
            low, high = load_u32(source + LENGTH_MIN), load_u32(source + LENGTH_MAX)
            if load_i64(target + COUNT) == 0 or low < load_u32(target + LENGTH_MIN):
                store_u32(target + LENGTH_MIN, low)
            if high > load_u32(target + LENGTH_MAX):
                store_u32(target + LENGTH_MAX, high)
            merge_tables(target, source)
            merge_registers(
                target + STRING_REGISTERS, source + STRING_REGISTERS, 1 << STRING_PRECISION
            )
            for field in range(HASHED, HASHED + 8 * HASHED_BUCKETS, 8):
                store_i64(target + field, load_i64(target + field) + load_i64(source + field))
        for field in (COUNT, STRING_NULLS, LENGTH_SUM):
            store_i64(target + field, load_i64(target + field) + load_i64(source + field))
