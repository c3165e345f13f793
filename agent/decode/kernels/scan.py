"""Scan tier: one pass over a JSON event in any key order, with any white space, escapes, nesting.

A row is scanned first into a flat list of leaves (path, kind, value or place of its text), because what
to do with a leaf depends on the model, which may come last. Then the shape is looked up by the hash of
the model's name (all streams of a model share one), and each leaf goes where (shape, path, kind) says.

Whatever is unknown or doubtful makes the row a misfit: an unknown key, a key that comes twice (also an
object's), a number that the parsers leave to orjson, more depth or length than allowed.

Its tables are described in `scan_layout`.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.escapes import keep_text, text_any
from agent.decode.kernels.hashing import keyed_hash, segment_hash
from agent.decode.kernels.row_layout import TIME_ABSENT
from agent.decode.kernels.scan_layout import (
    ARRAY,
    BOOL,
    EMPTY,
    FIRST_LEAF,
    FOUND_TEXT,
    FRAME,
    IS_SEGMENT,
    KEEP_NOTHING,
    LEAF_ACTION,
    LEAF_BYTES,
    LEAF_MASK,
    LEAF_OPERAND,
    LEAVES,
    MAX_DEPTH,
    MAX_LEAVES,
    MIX,
    MODEL_MASK,
    MODELS,
    NULL,
    NUMBER,
    PUT_FIELD,
    PUT_INTEGER_TEXT,
    PUT_NULL_NUMBER,
    PUT_NULL_STRING,
    PUT_NUMBER,
    PUT_SCALED,
    PUT_STRING,
    PUT_TIME_NUMBER,
    PUT_TIME_TEXT,
    S32,
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
    WIDTHS,
    WORD,
)
from agent.decode.kernels.simd import different32, digits32, nondigit32, prefetch_read, special32
from agent.decode.kernels.skip import behind_space, skip_value
from agent.decode.kernels.times import epoch_ms_of_float, epoch_ms_of_integer, rfc3339_ms
from agent.decode.kernels.values import (
    HASHES,
    LANES,
    NAME_HASHES,
    NAME_KEY,
    NAME_LIMIT,
    RECORD_LIMIT,
    SEGMENTS,
    TIME,
    begin_rows,
    canonical_integer,
    close_row,
    leave_row,
    literal_bool,
    number,
    number_with_exponent,
    open_row,
    past,
    store_field,
    store_string,
    text_end,
    vector,
)
from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.layout import HASH_NULL, NULL_BITS
from agent.sketch.kernels.memory import (
    f64_of,
    load_f64,
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
            stop = text_end(at, end)
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
            at = number(start, end, leaf + 8)
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


# ---------------------------------------------------------------- leaves to lanes


@outlined
def _integer_ms(at, length):
    """Event time of the integer whose text this is; TIME_ABSENT when it is 2^63 or more."""
    skip = np.int64(load_u8(at) == 45)
    value = np.int64(digits32(at + length, length - skip, length - skip))
    if value < 0:
        return TIME_ABSENT
    return epoch_ms_of_integer((value ^ -skip) + skip)


@outlined
def _put_rare(action, leaf, lane, frame):
    """What `_put` does not do itself: 1, or 0 for a misfit."""
    at, length = load_i64(leaf + 16), load_i64(leaf + 24)
    if action == PUT_TIME_NUMBER:
        skip = np.int64(load_u8(at) == 45)
        if trailing_zeros(nondigit32(at + skip)) >= length - skip:
            ms = _integer_ms(at, length)
        else:
            ms = epoch_ms_of_float(load_f64(leaf + 8))
        store_i64(frame + TIME, ms)
        return np.int64(ms != TIME_ABSENT)
    if action == PUT_TIME_TEXT:
        ms = rfc3339_ms(at, length)
        store_i64(frame + TIME, ms)
        return np.int64(ms != TIME_ABSENT)
    if action == PUT_NULL_NUMBER:
        store_u64(load_i64(frame + LANES) + 8 * lane, U(NULL_BITS))
        return 1
    if action == PUT_NULL_STRING:
        store_u64(load_i64(frame + HASHES) + 8 * lane, U(HASH_NULL))
        return 1
    # Integers that are taken as text.
    if canonical_integer(at) != at + length:
        return 0
    if action == PUT_INTEGER_TEXT:
        store_string(lane, at, length, frame)
    else:
        store_field(lane, at, length, frame)
    return 1


@outlined
def _shape_of(model, tables):
    """Number of the shape of the model with this hash, or -1."""
    models = load_i64(tables + MODELS)
    mask = U(load_i64(tables + MODEL_MASK))
    place = model & mask
    while True:
        slot = models + 16 * np.int64(place)
        shape = load_i64(slot + 8)
        if shape == 0 or load_u64(slot) == model:
            return shape - 1
        place = (place + U(1)) & mask


@outlined
def write_row(n_leaves, rows, r, tables):
    """All leaves of SCRATCH to row r: 1, or 0 for a misfit."""
    scratch = load_i64(tables + SCRATCH)
    shape = _shape_of(load_u64(scratch + STREAM), tables)
    if shape < 0:
        return 0
    frame = load_i64(tables + FRAME)
    leaves = load_i64(tables + LEAVES)
    mask = U(load_i64(tables + LEAF_MASK))
    n_numbers = load_i64(load_i64(tables + WIDTHS) + 16 * shape)
    n_strings = load_i64(load_i64(tables + WIDTHS) + 16 * shape + 8)
    open_row(rows, frame, r, n_numbers, n_strings)
    store_u64(frame + NAME_HASHES, load_u64(scratch + STREAM))
    store_u64(frame + NAME_HASHES + 8, load_u64(scratch + STREAM + 8))
    store_u64(frame + SEGMENTS, load_u64(scratch + STREAM + 16))
    lanes = load_i64(frame + LANES)
    base = (shape + 1) << 32
    flags = 0
    leaf = scratch + FIRST_LEAF
    for _ in range(n_leaves):
        wanted = base | load_i64(leaf)
        place = (U(wanted) * MIX >> S32) & mask
        while True:
            slot = leaves + np.int64(place) * LEAF_BYTES
            found = load_i64(slot)
            if found == wanted:
                break
            if found == 0:
                return 0
            place = (place + U(1)) & mask
        word = load_i64(slot + LEAF_ACTION)
        action = word & 255
        lane = word >> 32
        flags |= word >> 8 & 255
        if action == PUT_NUMBER:
            store_u64(lanes + 8 * lane, load_u64(leaf + 8))
        elif action == PUT_STRING:
            store_string(lane, load_i64(leaf + 16), load_i64(leaf + 24), frame)
        elif action == PUT_FIELD:
            store_field(lane, load_i64(leaf + 16), load_i64(leaf + 24), frame)
        elif action == PUT_SCALED:
            value = load_f64(leaf + 8)
            if not value >= 0.0:
                return 0
            store_f64(lanes + 8 * lane, value / f64_of(load_u64(slot + LEAF_OPERAND)))
        elif action != KEEP_NOTHING and _put_rare(action, leaf, lane, frame) == 0:
            return 0
        leaf += 32
    close_row(rows, frame, r, n_numbers, n_strings, shape, flags)
    return 1


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
