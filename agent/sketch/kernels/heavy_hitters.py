"""Set-associative space-saving: 16 sets of 8 ways, one cache line of keys and one of counts each.

A key's hash picks its set; a key that is not there replaces the one with the set's smallest count m and
starts at m + 1 with overestimate m. So count - overestimate <= true <= count, and a key that is not
in the table has occurred at most m times (m of its set; never more than the set's rows / 8). No heap,
no tombstones, no purge. A way's word is count << 1 | text kept: ways without a text go first.

Text is kept when a way is taken for the first time, or at the second sight of a key: unique ids
copy none, yet a rare category of a small vocabulary is always named.

Metwally, Agrawal, El Abbadi. Efficient Computation of Frequent and Top-k Elements in Data Streams.
ICDT 2005. Merge: Agarwal et al. Mergeable Summaries. PODS 2012.
"""

from __future__ import annotations

import numpy as np

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.hashing import MASKS
from agent.sketch.kernels.layout import (
    COUNTS,
    KEYS,
    OVERS,
    SETS,
    TEXT_BYTES,
    TEXT_SLOT,
    TEXTS,
    WAYS,
)
from agent.sketch.kernels.memory import (
    load_i64,
    load_u8,
    load_u64,
    match8,
    smallest8,
    store_i64,
    store_u8,
    store_u32,
    store_u64,
    trailing_zeros,
)

U = np.uint64


@outlined
def keep_text(slot, text, size, start, length):
    """Copy text[start : start + length], cut at 56 bytes between characters, into its slot.

    Reads nothing outside text[0 : size]: a span that is not inside leaves an empty text.
    """
    inside = 0 <= length <= size and 0 <= start <= size - length
    kept = length if inside else 0
    text += start if inside else 0
    if kept > TEXT_BYTES:
        kept = TEXT_BYTES
        while kept > TEXT_BYTES - 4 and load_u8(text + kept) & 0xC0 == 0x80:
            kept -= 1  # the byte behind the cut continues a character
    store_u32(slot, length)
    store_u32(slot + 4, kept)
    if inside and start + TEXT_BYTES <= size:
        for i in range(0, TEXT_BYTES, 8):
            store_u64(slot + 8 + i, load_u64(text + i) & MASKS[U(min(max(kept - i, 0), 8))])
        return
    for i in range(kept):
        store_u8(slot + 8 + i, load_u8(text + i))
    for i in range(kept, TEXT_BYTES):
        store_u8(slot + 8 + i, 0)


@inlined
def add_key(cell, h, text, size, start, length):
    """Count a key in the table, in place. Returns True when it was not in the table."""
    s = np.int64(h & U(SETS - 1))
    keys = cell + KEYS + 64 * s
    counts = cell + COUNTS + 64 * s
    found = match8(keys, h)
    if found != U(0):
        way = trailing_zeros(found)
        word = load_i64(counts + 8 * way) + 2
        if not word & 1:
            keep_text(cell + TEXTS + (s * WAYS + way) * TEXT_SLOT, text, size, start, length)
            word |= 1
        store_i64(counts + 8 * way, word)
        return False
    way = smallest8(counts)
    least = load_i64(counts + 8 * way) >> 1
    store_u64(keys + 8 * way, h)
    store_i64(cell + OVERS + 64 * s + 8 * way, least)
    if least == 0:
        keep_text(cell + TEXTS + (s * WAYS + way) * TEXT_SLOT, text, size, start, length)
        store_i64(counts + 8 * way, 3)
    else:
        store_i64(counts + 8 * way, (least + 1) << 1)
    return True


@inlined
def copy_slot(target, source):
    for i in range(0, TEXT_SLOT, 8):
        store_i64(target + i, load_i64(source + i))


@inlined
def least_way(keys, counts):
    """The way to give up: smallest count, of equals the largest key (an order that does not depend on ways)."""
    least = 0
    for w in range(1, WAYS):
        a, b = load_i64(counts + 8 * w) >> 1, load_i64(counts + 8 * least) >> 1
        if a < b or (a == b and load_u64(keys + 8 * w) > load_u64(keys + 8 * least)):
            least = w
    return least


@outlined
def merge_tables(target, source):
    """Add the table of `source` to `target`, in place: bounds add, then each set keeps its 8 largest.

    A key that only one side holds may have occurred up to the other set's smallest count there.
    """
    for s in range(SETS):
        keys, counts, overs = (
            target + KEYS + 64 * s,
            target + COUNTS + 64 * s,
            target + OVERS + 64 * s,
        )
        from_keys, from_counts, from_overs = (
            source + KEYS + 64 * s,
            source + COUNTS + 64 * s,
            source + OVERS + 64 * s,
        )
        if load_i64(from_counts + 8 * smallest8(from_counts)) == 0:
            from_least = 0
            empty = True
            for w in range(WAYS):
                empty = empty and load_i64(from_counts + 8 * w) == 0
            if empty:
                continue
        else:
            from_least = load_i64(from_counts + 8 * smallest8(from_counts)) >> 1
        least = load_i64(counts + 8 * smallest8(counts)) >> 1
        taken = 0
        for w in range(WAYS):
            word = load_i64(counts + 8 * w)
            if word == 0:
                continue
            found = match8(from_keys, load_u64(keys + 8 * w))
            over = load_i64(overs + 8 * w)
            if found != U(0):
                other = trailing_zeros(found)
                taken |= 1 << other
                from_word = load_i64(from_counts + 8 * other)
                if from_word & 1 and not word & 1:
                    copy_slot(
                        target + TEXTS + (s * WAYS + w) * TEXT_SLOT,
                        source + TEXTS + (s * WAYS + other) * TEXT_SLOT,
                    )
                    word |= 1
                word += (from_word >> 1) << 1
                over += load_i64(from_overs + 8 * other)
            else:
                word += from_least << 1
                over += from_least
            store_i64(counts + 8 * w, word)
            store_i64(overs + 8 * w, over)
        for other in range(WAYS):
            from_word = load_i64(from_counts + 8 * other)
            if from_word == 0 or (taken >> other) & 1:
                continue
            key = load_u64(from_keys + 8 * other)
            word = from_word + (least << 1)
            w = least_way(keys, counts)
            old = load_i64(counts + 8 * w)
            if (
                old == 0
                or word >> 1 > old >> 1
                or (word >> 1 == old >> 1 and key < load_u64(keys + 8 * w))
            ):
                store_u64(keys + 8 * w, key)
                store_i64(counts + 8 * w, word)
                store_i64(overs + 8 * w, load_i64(from_overs + 8 * other) + least)
                if from_word & 1:
                    copy_slot(
                        target + TEXTS + (s * WAYS + w) * TEXT_SLOT,
                        source + TEXTS + (s * WAYS + other) * TEXT_SLOT,
                    )
