"""Leaves that the scan tier has found go to the lanes, fields and flags of their row."""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.row_layout import TIME_ABSENT
from agent.decode.kernels.scan_layout import (
    FIRST_LEAF,
    FRAME,
    KEEP_NOTHING,
    LEAF_ACTION,
    LEAF_BYTES,
    LEAF_MASK,
    LEAF_OPERAND,
    LEAVES,
    MIX,
    MODEL_MASK,
    MODELS,
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
    STREAM,
    WIDTHS,
)
from agent.decode.kernels.simd import digits32, nondigit32
from agent.decode.kernels.times import epoch_ms_of_float, epoch_ms_of_integer, rfc3339_ms
from agent.decode.kernels.values import (
    HASHES,
    LANES,
    NAME_HASHES,
    SEGMENTS,
    TIME,
    canonical_integer,
    close_row,
    open_row,
    store_field,
    store_string,
)
from agent.sketch.kernels.compile import outlined
from agent.sketch.kernels.layout import HASH_NULL, NULL_BITS
from agent.sketch.kernels.memory import (
    f64_of,
    load_f64,
    load_i64,
    load_u8,
    load_u64,
    store_f64,
    store_i64,
    store_u64,
    trailing_zeros,
)

U = np.uint64


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
