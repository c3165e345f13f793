"""Batches of values into one numeric cell: histogram, moments, extremes, distinct values.

Values are counted up to 256 at a time, all of one cell: sums and extremes are taken with vectors, room in the
histogram is made once (the batch's extremes tell), and the cell's cache lines are fetched once. The
counts' addresses are noted first and incremented later, which keeps many cache misses in flight.

Ordinary values, 2^-64 < |x| <= 2^64, are all that most batches have. Of the others, zeros and smaller values
go behind the ordinary ones: they count in moments and extremes, not in buckets.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.arena import give_back, has_room, take_block
from agent.sketch.kernels.bucket_index import (
    DOMAIN_SPAN,
    INFINITY_BITS,
    LOW_BITS,
    TOP_INDEX,
    bucket_index,
)
from agent.sketch.kernels.cardinality import add_hash, hash_value
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.histogram import (
    RING_MASK,
    admit,
    count_address,
    load_count,
    make_room,
    store_count,
)
from agent.sketch.kernels.layout import (
    ABSENT_BITS,
    BATCH,
    BUCKETS,
    DOMAIN_EXPONENT,
    EXTENTS,
    FORM,
    FORM_BYTES,
    MAX,
    MIN,
    NARROW,
    NARROW_ONE,
    NON_FINITE,
    NULL_BITS,
    NULLS,
    NUMERIC_REGISTERS,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    PIVOT,
    RING,
    SHIFT,
    SHORT_BOTH,
    SHORT_ONE,
    SUMS,
    THRESHOLD,
    ZEROS,
    N,
)
from agent.sketch.kernels.memory import (
    f64_of,
    load_f64,
    load_i32,
    load_i64,
    load_u16,
    load_u32,
    load_u64,
    prefetch,
    store_f64,
    store_i64,
    store_u16,
    store_u32,
    store_u64,
)
from agent.sketch.kernels.moments import move_pivot_for, take_extremes
from agent.sketch.kernels.vectors import (
    ALL_WITHIN,
    add_compensated4,
    batch_sums,
    copy_words,
    fill8,
    fill_words,
)

U = np.uint64
ABSENT, NULL = U(ABSENT_BITS), U(NULL_BITS)
LOW, HIGH = 2.0**-DOMAIN_EXPONENT, 2.0**DOMAIN_EXPONENT
REGISTERS_END = BUCKETS
SHORT_LIMIT = 65535  #: uint16 buckets hold this many values

#: Scratch memory of a batch: places in float64.
ODD = 8 * (BATCH + 8)  # behind eight columns of BATCH values, each with room for eight more
SUMS_OUT = ODD + BATCH
SCRATCH_WORDS = SUMS_OUT + 8


# ---------------------------------------------------------------- forms


@inlined
def bytes_per_count(form):
    return 2 if form in (SHORT_ONE, SHORT_BOTH) else 4


@inlined
def bytes_of_form(form):
    if form == NARROW:
        return FORM_BYTES[NARROW]
    return FORM_BYTES[SHORT_ONE] if form == SHORT_ONE else FORM_BYTES[SHORT_BOTH]


@inlined
def class_of_form(form):
    """Size class in an arena: forms of one size share it."""
    if form == NARROW:
        return 2
    return 0 if form == SHORT_ONE else 1


@inlined
def needed_form(is_negative, n):
    """The smallest form for n values, some of them negative."""
    if n > SHORT_LIMIT:
        return NARROW if is_negative else NARROW_ONE
    return SHORT_BOTH if is_negative else SHORT_ONE


@outlined
def new_cell(arena, form):
    """An empty cell; the arena has room for the largest form."""
    cell = take_block(arena, class_of_form(form), bytes_of_form(form))
    fill_words(cell, U(0), bytes_of_form(form) >> 3)
    store_i64(cell + FORM, form)
    return cell


@outlined
def moved(arena, cell, form):
    """The cell in another form, which holds more; the old one is given back."""
    old_form = load_i64(cell + FORM)
    new = new_cell(arena, form)
    copy_words(new, cell, BUCKETS >> 3)
    store_i64(new + FORM, form)
    old_size, size = bytes_per_count(old_form), bytes_per_count(form)
    for negative in range(2):
        if load_i32(cell + EXTENTS + 8 * negative + 4) == 0:
            continue  # this ring may not be there
        source, target = cell + BUCKETS + negative * RING * old_size, new + BUCKETS
        target += negative * RING * size
        for i in range(RING):
            store_count(target + i * size, size, load_count(source + i * old_size, old_size))
    give_back(arena, class_of_form(old_form), cell)
    return new


@inlined
def held_values(cell):
    """Finite values of a cell: none of its counts is larger."""
    return load_i64(cell + N) + load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE)


@inlined
def fitting_cell(arena, cell, is_negative, n):
    """This cell (0: none yet), or a larger form of it, for n more values; 0 when the arena has no room."""
    if cell == 0:
        if not has_room(arena, FORM_BYTES[NARROW]):
            return 0
        return new_cell(arena, needed_form(is_negative, n))
    form = load_i64(cell + FORM)
    if form == NARROW:
        return cell
    held = held_values(cell)
    two_signs = is_negative or form == SHORT_BOTH
    wanted = needed_form(two_signs, held + n)
    if form == NARROW_ONE:
        wanted = NARROW if two_signs else NARROW_ONE
    if wanted == form:
        return cell
    if not has_room(arena, FORM_BYTES[NARROW]):
        return 0
    return moved(arena, cell, wanted)


# ---------------------------------------------------------------- counting


@outlined
def add_over_range(cell, value, negative, size):
    """A finite value beyond 2^64: top bucket, true extremes, but neither sum nor moments."""
    over = load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE)
    take_extremes(cell, value, load_i64(cell + N) + over == 0)
    field = cell + (OVER_NEGATIVE if negative else OVER_POSITIVE)
    store_i64(field, load_i64(field) + 1)
    shift = admit(cell, TOP_INDEX, negative, size)
    p = count_address(cell, TOP_INDEX >> shift, negative, size)
    store_count(p, size, load_count(p, size) + 1)


@outlined
def sort_out(cell, values, n, odd, size, magnitude_mask):
    """Count nulls, non-finite and over-range values; leave the others in `values`, in place.

    Ordinary ones come first, then smaller ones, then zeros, with 0.0 for -0.0.
    Returns their numbers: ordinary | smaller << 16 | zeros << 32.
    """
    ordinary, n_odd = 0, 0
    for i in range(n):
        bits = load_u64(values + 8 * i)
        is_ordinary = np.int64((bits & magnitude_mask) - (LOW_BITS + U(1)) < DOMAIN_SPAN)
        store_u64(values + 8 * ordinary, bits)  # at most over what has been read
        store_u64(odd + 8 * n_odd, bits)
        ordinary += is_ordinary  # type: ignore[assignment]
        n_odd += 1 - is_ordinary  # type: ignore[assignment]
    smaller, zeros, nulls, non_finite = 0, 0, 0, 0
    for i in range(n_odd):
        bits = load_u64(odd + 8 * i)
        magnitude = bits & magnitude_mask
        if magnitude == U(0):
            zeros += 1
        elif bits == ABSENT:
            pass
        elif bits == NULL:
            nulls += 1
        elif magnitude >= INFINITY_BITS:
            non_finite += 1
        elif magnitude <= LOW_BITS:
            store_u64(values + 8 * (ordinary + smaller), bits)
            smaller += 1
        else:
            add_over_range(cell, f64_of(bits), np.int64(bits >> U(63)), size)
            add_hash(cell + NUMERIC_REGISTERS, hash_value(bits))
    fill_words(values + 8 * (ordinary + smaller), U(0), zeros)
    store_i64(cell + NULLS, load_i64(cell + NULLS) + nulls)
    store_i64(cell + NON_FINITE, load_i64(cell + NON_FINITE) + non_finite)
    store_i64(cell + ZEROS, load_i64(cell + ZEROS) + smaller + zeros)
    for i in range(smaller):
        bits = load_u64(values + 8 * (ordinary + i))
        add_hash(cell + NUMERIC_REGISTERS, hash_value(bits))
    if zeros:
        add_hash(cell + NUMERIC_REGISTERS, hash_value(U(0)))
    return ordinary | smaller << 16 | zeros << 32


@inlined
def lies_within(cell, negative, low, high):
    """Whether buckets low..high are among those that this sign spans."""
    extent = cell + EXTENTS + 8 * negative
    first = load_i32(extent)
    return low >= first and high < first + load_i32(extent + 4)


@inlined
def shift_for(cell, sums, size, magnitude_mask, mantissa_mask):
    """Make room for a batch whose extremes lie in `sums`; returns the cell's shift."""
    low_positive, high_positive, low_negative, high_negative = 0, -1, 0, -1
    shift = load_i32(cell + SHIFT)
    fits = True
    if load_f64(sums + 48) <= HIGH:
        low_positive = bucket_index(load_u64(sums + 48), mantissa_mask)
        high_positive = bucket_index(load_u64(sums + 40), mantissa_mask)
        fits = lies_within(cell, 0, low_positive >> shift, high_positive >> shift)
    if load_f64(sums + 56) >= -HIGH:
        low_negative = bucket_index(load_u64(sums + 56) & magnitude_mask, mantissa_mask)
        high_negative = bucket_index(load_u64(sums + 32) & magnitude_mask, mantissa_mask)
        fits = fits and lies_within(cell, 1, low_negative >> shift, high_negative >> shift)
    if fits:
        return shift
    return make_room(cell, low_positive, high_positive, low_negative, high_negative, 0, size)


@outlined
def add_batch(cell, values, n, answers, scratch, size, magnitude_mask, mantissa_mask):
    """Count 1 <= n <= BATCH values in a cell, in place. All but n, answers, size and masks are addresses.

    values   float64[n], padded to a multiple of eight, with room for eight more; overwritten
    answers  what `survey` says of them
    scratch  float64[SCRATCH_WORDS]
    size     bytes of a bucket count: 2 or 4; `fitting_cell` has been asked
    """
    ordinary, every = n, n
    if not answers & ALL_WITHIN:
        sorts = sort_out(cell, values, n, scratch + 8 * ODD, size, magnitude_mask)
        ordinary = sorts & 0xFFFF
        every = ordinary + ((sorts >> 16) & 0xFFFF) + (sorts >> 32)
        if every == 0:
            return
        fill8(values + 8 * every, load_u64(values))
    before = load_i64(cell + N)
    if before + every > load_i64(cell + THRESHOLD):
        move_pivot_for(cell, values, every)
    sums = scratch + 8 * SUMS_OUT
    batch_sums(values, every, load_f64(cell + PIVOT), LOW, sums)
    add_compensated4(cell + SUMS, sums)
    is_first = before + load_i64(cell + OVER_POSITIVE) + load_i64(cell + OVER_NEGATIVE) == 0
    low, high = load_f64(sums + 32), load_f64(sums + 40)
    if is_first or low < load_f64(cell + MIN):
        store_f64(cell + MIN, low)
    if is_first or high > load_f64(cell + MAX):
        store_f64(cell + MAX, high)
    store_i64(cell + N, before + every)
    if ordinary == 0:
        return
    shift = shift_for(cell, sums, size, magnitude_mask, mantissa_mask)
    notes = scratch + 8 * ODD
    buckets, registers = cell + BUCKETS, cell + NUMERIC_REGISTERS
    scale = 1 if size == 2 else 2
    for i in range(ordinary):
        bits = load_u64(values + 8 * i)
        index = bucket_index(bits & magnitude_mask, mantissa_mask) >> shift
        place = (index & RING_MASK) + np.int64((bits >> U(63)) * U(RING))
        p = buckets + (place << scale)
        prefetch(p)
        store_i64(notes + 8 * i, p)
    for i in range(ordinary):
        add_hash(registers, hash_value(load_u64(values + 8 * i)))
    if size == 2:
        for i in range(ordinary):
            p = load_i64(notes + 8 * i)
            store_u16(p, load_u16(p) + 1)
    else:
        for i in range(ordinary):
            p = load_i64(notes + 8 * i)
            store_u32(p, load_u32(p) + 1)
