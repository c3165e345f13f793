"""Scan tier: one pass over a JSON event in any key order, with any white space, escapes, nesting.

A row is scanned first into a flat list of leaves (path, kind, value or place of its text), because what
to do with a leaf depends on the model, which may come last. Then the shape is looked up by the hash of
the model's name (all streams of a model share one), and each leaf goes where (shape, path, kind) says.

Whatever is unknown or doubtful makes the row a misfit: a key that comes twice (also an object's), a
number that the parsers leave to orjson, more depth or length than allowed; also an unknown key, but at
the top of an event, where all keys that lead anywhere are known from the configuration.

Its tables are described in `scan_layout`.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.escapes import keep_text, text_any
from agent.decode.kernels.hashing import keyed_hash, segment_hash
from agent.decode.kernels.put_leaves import write_row
from agent.decode.kernels.scan_layout import (
    ARRAY,
    BOOL,
    EMPTY,
    FIRST_LEAF,
    FOUND_TEXT,
    FRAME,
    IS_OPEN,
    IS_SEGMENT,
    MAX_DEPTH,
    MAX_LEAVES,
    MAX_OTHER_KEYS,
    MIX,
    NULL,
    NUMBER,
    OTHER_KEYS,
    OTHER_SLOT,
    SCRATCH,
    SLOT_BYTES,
    SLOT_HASH,
    SLOT_IS_SKIPPED,
    SLOT_KEY,
    SLOT_KEY_BYTES,
    SLOT_KEY_MASK,
    SLOT_MASK,
    SLOT_NEXT,
    SLOT_PARENT,
    SLOT_PATH,
    SLOT_SALT,
    SLOT_STAMP,
    SLOT_STREAM,
    SLOTS,
    STACK,
    STAMP,
    STREAM,
    STRING,
    TOP_SLOT,
    VECTOR,
    WORD,
)
from agent.decode.kernels.simd import different32, nondigit32, prefetch_read, special32
from agent.decode.kernels.skip import behind_space, skip_value
from agent.decode.kernels.values import (
    NAME_KEY,
    NAME_LIMIT,
    RECORD_LIMIT,
    begin_rows,
    canonical_integer,
    leave_row,
    literal_bool,
    number,
    number_with_exponent,
    past,
    text_end,
    vector,
)
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.memory import (
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_f64,
    store_i64,
    store_u64,
    trailing_zeros,
)

U = np.uint64


# ---------------------------------------------------------------- a record to its leaves


@outlined
def _key_rare(at, end, zone, tables):
    """A key that is long, not ASCII or escaped: its hash to WORD; address of its closing quote, or 0."""
    scratch = load_i64(tables + SCRATCH)
    at = text_any(at, end, zone, scratch)
    if past(at, end):
        return 0
    h = keyed_hash(
        load_i64(scratch + FOUND_TEXT),
        load_i64(scratch + FOUND_TEXT + 8),
        load_i64(load_i64(tables + FRAME) + NAME_KEY),
    )
    store_u64(scratch + WORD, h)
    return at


@outlined
def _part_of_stream(part, at, length, salt, tables):
    """Take in a model, a version or a segment's value; 0 when its text is too long, else 1."""
    if length > load_i64(load_i64(tables + FRAME) + NAME_LIMIT):
        return 0
    key = load_i64(load_i64(tables + FRAME) + NAME_KEY)
    h = keyed_hash(at, length, key)
    out = load_i64(tables + SCRATCH) + STREAM
    if part == IS_SEGMENT:
        store_u64(out + 16, load_u64(out + 16) + segment_hash(h, salt, key))
    else:
        store_u64(out + 8 * (part - 1), h)
    return 1


@outlined
def _array(at, end, levels, zone, tables, leaf):
    """An array at its bracket, to the value of `leaf`: VECTOR or ARRAY. Address behind it and kind; 0: misfit."""
    start = at
    if levels < 1:
        return 0, ARRAY
    at = vector(at + 1, end, leaf + 8)
    if not past(at, end):
        return at, VECTOR
    # Arrays of numbers whose norm is not for this tier come here too; as ARRAY they are at most skipped.
    return skip_value(start, end, levels, zone, tables), ARRAY


@inlined
def _slot_of(h, parent, slots, mask):
    """Address of the slot of this key and parent path, or 0."""
    place = (h ^ U(parent) * MIX) & mask
    while True:
        slot = slots + np.int64(place) * SLOT_BYTES
        if load_i64(slot + SLOT_PATH) == 0:
            return 0
        if load_u64(slot + SLOT_HASH) == h and load_i64(slot + SLOT_PARENT) == parent:
            return slot
        place = (place + U(1)) & mask


@outlined
def _other_slot(h, n, tables):
    """The slot of a key at the top that nobody reads, the n-th of its record; 0: it came before, or one too many."""
    scratch = load_i64(tables + SCRATCH)
    if n >= MAX_OTHER_KEYS:
        return 0
    for k in range(n):
        if load_u64(scratch + OTHER_KEYS + 8 * k) == h:
            return 0
    store_u64(scratch + OTHER_KEYS + 8 * n, h)
    store_i64(scratch + OTHER_SLOT + SLOT_STAMP, 0)
    return scratch + OTHER_SLOT


@outlined
def scan_record(at, end, zone, tables):
    """All leaves of the record to SCRATCH: how many, or -1 for a misfit."""
    scratch = load_i64(tables + SCRATCH)
    slots = load_i64(tables + SLOTS)
    mask = U(load_i64(tables + SLOT_MASK))
    key = load_i64(load_i64(tables + FRAME) + NAME_KEY)
    max_depth = load_i64(tables + MAX_DEPTH)
    stamp = load_i64(tables + STAMP) + 1
    store_i64(tables + STAMP, stamp)
    for k in range(3):
        store_u64(scratch + STREAM + 8 * k, U(0))
    leaf = scratch + FIRST_LEAF
    last_leaf = leaf + 32 * (MAX_LEAVES - 1)

    at = behind_space(at, end)
    if at >= end or load_u8(at) != 123:
        return -1
    at += 1
    depth = 1
    parent = 0
    n_others = 0
    slot = scratch + TOP_SLOT
    while True:
        # ---- a key
        if load_u8(at) <= 32:
            at = behind_space(at, end)
        if at >= end or load_u8(at) != 34 or leaf > last_leaf:
            return -1
        at += 1
        guess = load_i64(slot + SLOT_NEXT)
        if (
            guess != 0
            and different32(at, guess + SLOT_KEY) & load_u64(guess + SLOT_KEY_MASK) == U(0)
            and load_i64(guess + SLOT_PARENT) == parent
        ):
            slot = guess
            path = load_i64(slot + SLOT_PATH)
            at += load_i64(slot + SLOT_KEY_BYTES)
        else:
            size = trailing_zeros(special32(at))
            if size < 32 and load_u8(at + size) == 34:
                h = keyed_hash(at, size, key)
                at += size + 1
            else:
                at = _key_rare(at, end, zone, tables)
                if at == 0:
                    return -1
                h = load_u64(scratch + WORD)
                at += 1
            if load_u8(at) <= 32:
                at = behind_space(at, end)
            if load_u8(at) != 58:
                return -1
            at += 1
            before = slot
            slot = _slot_of(h, parent, slots, mask)
            if slot == 0:
                if parent == 0 and load_i64(tables + IS_OPEN) != 0:
                    slot = _other_slot(h, n_others, tables)
                    n_others += 1
                if slot == 0:
                    return -1
            path = load_i64(slot + SLOT_PATH)
            if load_i64(slot + SLOT_KEY_BYTES) != 0:
                store_i64(before + SLOT_NEXT, slot)
        if load_u8(at) <= 32:
            at = behind_space(at, end)
        if at >= end:
            return -1
        if load_i64(slot + SLOT_STAMP) == stamp:
            return -1  # twice
        store_i64(slot + SLOT_STAMP, stamp)

        # ---- its value
        c = load_u8(at)
        if load_i64(slot + SLOT_IS_SKIPPED) != 0:
            at = skip_value(at, end, max_depth - depth, zone, tables)
            if at == 0:
                return -1
        elif c == 34:
            at += 1
            start = at
            stop = text_end(at, end, special32(at))
            if past(stop, end):
                stop = text_any(at, end, zone, scratch)
                if past(stop, end):
                    return -1
                start = load_i64(scratch + FOUND_TEXT)
                length = load_i64(scratch + FOUND_TEXT + 8)
                keep_text(zone, scratch)
            else:
                length = stop - at
            at = stop + 1
            store_i64(leaf, path << 3 | STRING)
            store_i64(leaf + 16, start)
            store_i64(leaf + 24, length)
            leaf += 32
            part = load_i64(slot + SLOT_STREAM) >> 4 * STRING & 15
            if part != 0 and not _part_of_stream(
                part, start, length, load_u64(slot + SLOT_SALT), tables
            ):
                return -1
        elif c == 45 or 48 <= c <= 57:
            start = at
            at = number(start, nondigit32(start), leaf + 8)
            if past(at, end) or (load_u8(at) | 32) == 101:
                at = number_with_exponent(start, end, leaf + 8)
                if past(at, end):
                    return -1
            store_i64(leaf, path << 3 | NUMBER)
            store_i64(leaf + 16, start)
            store_i64(leaf + 24, at - start)
            leaf += 32
            part = load_i64(slot + SLOT_STREAM) >> 4 * NUMBER & 15
            if part != 0 and (
                canonical_integer(start) != at
                or not _part_of_stream(part, start, at - start, load_u64(slot + SLOT_SALT), tables)
            ):
                return -1
        elif c == 123:
            at += 1
            if load_u8(at) <= 32:
                at = behind_space(at, end)
            if depth >= max_depth:
                return -1
            if load_u8(at) != 125:
                store_i64(scratch + STACK + 8 * depth, parent)
                depth += 1
                parent = path
                continue
            at += 1
            store_i64(leaf, path << 3 | EMPTY)
            leaf += 32
        elif c == 110:
            if load_u32(at) != 0x6C6C756E:
                return -1
            at += 4
            store_i64(leaf, path << 3 | NULL)
            leaf += 32
        elif c == 91:
            at, kind = _array(at, end, max_depth - depth, zone, tables, leaf)
            if at == 0:
                return -1
            store_i64(leaf, path << 3 | kind)
            leaf += 32
        else:
            start = at
            at = literal_bool(at)
            if past(at, end):
                return -1
            store_i64(leaf, path << 3 | BOOL)
            store_f64(leaf + 8, 1.0 if at - start == 4 else 0.0)
            store_i64(leaf + 16, start)
            store_i64(leaf + 24, at - start)
            leaf += 32
            part = load_i64(slot + SLOT_STREAM) >> 4 * BOOL & 15
            if part != 0 and not _part_of_stream(
                part, start, at - start, load_u64(slot + SLOT_SALT), tables
            ):
                return -1

        # ---- behind a value
        while True:
            c = load_u8(at)
            if c <= 32:
                at = behind_space(at, end)
                c = load_u8(at)
            if at >= end:
                return -1
            at += 1
            if c == 44:
                break
            if c != 125:
                return -1
            depth -= 1
            if depth == 0:
                if behind_space(at, end) != end:
                    return -1
                return (leaf - scratch - FIRST_LEAF) >> 5
            parent = load_i64(scratch + STACK + 8 * depth)


# ---------------------------------------------------------------- records


@kernel(f"int64({', '.join(['int64'] * 9)})")
def scan(text, position, length, wanted, n, tables, zone, rows, misfits):
    """Decode `n` records of a buffer; returns how many of them were misfits. All arguments but n are addresses.

    text      uint8[...], what all positions count from
    position  int64[...], of each record's value in text
    length    int64[...], bytes; below 0: no value (a misfit)
    wanted    int64[n], which records, by index in position; record wanted[j] becomes row j
    tables    TABLES      zone  ZONE
    rows      `RowArrays.table`, begun anew here
    misfits   int64[n], written: those of `wanted` that are misfits, in order

    A misfit's row has status 0 and no lanes, and gives back what it took of the zone.
    """
    frame = load_i64(tables + FRAME)
    begin_rows(rows, frame, text)
    max_record = load_i64(frame + RECORD_LIMIT)
    n_misfits = 0
    for j in range(n):
        record = load_i64(wanted + 8 * j)
        at = text + load_i64(position + 8 * record)
        size = load_i64(length + 8 * record)
        before = load_i64(zone)
        fits = 0
        if 0 < size <= max_record:
            prefetch_read(at + 2048)
            n_leaves = scan_record(at, at + size, zone, tables)
            if n_leaves > 0:
                fits = write_row(n_leaves, rows, j, tables)
        if fits == 0:
            store_i64(zone, before)
            leave_row(rows, frame, j)
            store_i64(misfits + 8 * n_misfits, record)
            n_misfits += 1
    return n_misfits
