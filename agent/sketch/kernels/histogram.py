"""Bucket counts of a numeric cell: a ring of 1024 buckets a sign that never moves, only halves its scale.

Bucket i lies at i & 1023, so extending the range of buckets needs no copying and two histograms of the
same scale add position by position. The extents of each sign are the true extreme indices, hence the
scale, the largest at which both signs' extents span at most 1024 buckets, is a function of the
data's extremes alone, whatever the order of updates and merges.
"""

from __future__ import annotations

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.layout import BUCKETS, EXTENTS, RING, SHIFT
from agent.sketch.kernels.memory import (
    load_i32,
    load_i64,
    load_u16,
    load_u32,
    store_i64,
    store_u16,
    store_u32,
)
from agent.sketch.kernels.stack import make_stack_words

RING_MASK = RING - 1
#: Buckets of one sign while they move: their indices, then their counts.
scratch = make_stack_words(2 * RING)


@inlined
def count_address(cell, index, negative, size):
    """Address of the count of bucket `index` (at the cell's scale); size = 2, 4 or 8 bytes."""
    return cell + BUCKETS + ((index & RING_MASK) + negative * RING) * size


@inlined
def load_count(address, size):
    if size == 8:
        return load_i64(address)
    return load_u32(address) if size == 4 else load_u16(address)


@inlined
def store_count(address, size, count):
    if size == 8:
        store_i64(address, count)
    elif size == 4:
        store_u32(address, count)
    else:
        store_u16(address, count)


@outlined
def lower_scale(cell, steps, size):
    """Halve the scale `steps` times, in place: bucket i goes to i >> steps.

    A young cell is nearly empty and lowers its scale most often: whole words of the ring are skipped while
    they are zero.
    """
    index = scratch()
    kept = index + 8 * RING
    for negative in range(2):
        extent = cell + EXTENTS + 8 * negative
        span = load_i32(extent + 4)
        if span == 0:
            continue
        low = load_i32(extent)
        ring = cell + BUCKETS + negative * RING * size
        found = 0
        for word in range(0, RING * size, 8):
            if load_i64(ring + word) != 0:
                for p in range(word, word + 8, size):
                    count = load_count(ring + p, size)
                    if count:
                        store_i64(index + found, low + ((p // size - low) & RING_MASK))
                        store_i64(kept + found, count)
                        found += 8
                store_i64(ring + word, 0)
        for j in range(0, found, 8):
            p = count_address(cell, load_i64(index + j) >> steps, negative, size)
            store_count(p, size, load_count(p, size) + load_i64(kept + j))
        store_u32(extent, low >> steps)
        store_u32(extent + 4, ((low + span - 1) >> steps) - (low >> steps) + 1)
    store_u32(cell + SHIFT, load_i32(cell + SHIFT) + steps)


@inlined
def united_span(cell, negative, steps, low, high):
    """Buckets spanned by a sign after `steps` halvings together with low..high (empty if high < low)."""
    extent = cell + EXTENTS + 8 * negative
    span = load_i32(extent + 4)
    a = load_i32(extent)
    b = (a + span - 1) >> steps
    a = a >> steps
    if span == 0:
        a, b = low, high
    elif high >= low:
        a, b = min(a, low), max(b, high)
    return b - a + 1


@outlined
def make_room(cell, low_positive, high_positive, low_negative, high_negative, shift, size):
    """Lower the scale as far as needed for extents given at `shift`, and extend the cell's extents.

    low..high of a sign are empty when high < low. Returns the cell's new shift, which is not below `shift`.
    """
    own = load_i32(cell + SHIFT)
    new = max(own, shift)
    while True:
        # Shifting an empty pair keeps it empty only if it is far apart: test emptiness first.
        d = new - shift
        lp, hp, ln, hn = 0, -1, 0, -1
        if high_positive >= low_positive:
            lp, hp = low_positive >> d, high_positive >> d
        if high_negative >= low_negative:
            ln, hn = low_negative >> d, high_negative >> d
        if (
            united_span(cell, 0, new - own, lp, hp) <= RING
            and united_span(cell, 1, new - own, ln, hn) <= RING
        ):
            break
        new += 1
    if new > own:
        if load_i32(cell + EXTENTS + 4) or load_i32(cell + EXTENTS + 12):
            lower_scale(cell, new - own, size)
        store_u32(cell + SHIFT, new)
    for negative in range(2):
        low, high = (ln, hn) if negative else (lp, hp)
        if high >= low:
            extent = cell + EXTENTS + 8 * negative
            span = load_i32(extent + 4)
            if span > 0:
                a = load_i32(extent)
                low, high = min(low, a), max(high, a + span - 1)
            store_u32(extent, low)
            store_u32(extent + 4, high - low + 1)
    return new


@outlined
def admit(cell, index, negative, size):
    """Make room for one value with this index at MAX_SCALE; returns the cell's new shift."""
    if negative:
        return make_room(cell, 0, -1, index, index, 0, size)
    return make_room(cell, index, index, 0, -1, 0, size)
