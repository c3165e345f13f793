"""Finds the records of decompressed batches: one call for all batches of an arena.

A batch of format version 2 holds `count` records, each (all numbers are zigzag varints of at most ten
bytes, but the attributes):

    length | attributes (1 byte) | timestamp delta | offset delta | key length | key |
    value length | value | number of headers | per header: name length | name | value length | value

A length below zero means null, but for names. Reads at most 64 bytes past the end of a batch (the
arena's padding), whatever the batch claims; positions that it writes lie inside the batch.
Same verdicts as aiokafka's reader on whatever a broker accepts. On the rest: a record whose offset lies
behind its batch is damage here; attributes are one byte, not a varint; names need not be UTF-8.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.batch_table import (
    BATCH_COUNT,
    BATCH_DAMAGE,
    BATCH_END,
    BATCH_FIELDS,
    BATCH_MIN_OFFSET,
    BATCH_NEXT_OFFSET,
    BATCH_OFFSET,
    BATCH_REACHED,
    BATCH_ROWS,
    BATCH_START,
    BATCH_TIME,
    BATCH_TIME_MASK,
    DAMAGE_FIELD,
    DAMAGE_HEADERS,
    DAMAGE_LENGTH,
    DAMAGE_NONE,
    DAMAGE_NUMBER,
    DAMAGE_OFFSET,
    DAMAGE_REST,
    DAMAGE_SHORT,
    SMALLEST_BODY,
)
from agent.decode.kernels.simd import prefetch_read
from agent.sketch.kernels.compile import inlined, kernel
from agent.sketch.kernels.memory import load_i64, load_u8, load_u64, store_i64

U = np.uint64
#: Records whose memory is asked for before it is looked at: each says where the next one is.
_AHEAD = 4

#: Columns of `rows`, int64[N_COLUMNS, capacity]; positions in the arena, lengths in bytes, -1 null.
(
    OFFSET,
    TIMESTAMP_MS,
    VALUE,
    VALUE_LENGTH,
    KEY,
    KEY_LENGTH,
    HEADERS,
    HEADERS_LENGTH,
    N_HEADERS,
    TRACEPARENT,
    TRACEPARENT_LENGTH,
) = range(11)
N_COLUMNS = 11

_LOWER = U(0x2020202020202020)
_NAME_LENGTH = 11
_NAME_START = U(int.from_bytes(b"tracepar", "little"))
_NAME_END = U(
    int.from_bytes(b"ceparent", "little")
)  # overlaps by five: its load ends with the name


@inlined
def _varint(p):
    """The zigzag varint at `p`: (value, position behind it, whether it does not end in ten bytes)."""
    bits = load_u8(p)
    p += 1
    endless = False
    if bits > 127:
        byte = load_u8(p)
        p += 1
        bits = (bits & 127) | (byte << 7)
        if byte > 127:
            bits &= 0x3FFF
            shift = 14
            while byte > 127 and shift < 70:
                byte = load_u8(p)
                p += 1
                bits |= (byte & 127) << shift
                shift += 7
            endless = byte > 127
    return np.int64((U(bits) >> U(1)) ^ U(-(bits & 1))), p, endless


@inlined
def _is_traceparent(name):
    """Whether the eleven bytes at `name` are `traceparent`, in any case."""
    return (load_u64(name) | _LOWER) == _NAME_START and (load_u64(name + 3) | _LOWER) == _NAME_END


@kernel("int64(int64, int64, int64, int64, int64)")
def index_records(arena, batches, n_batches, rows, capacity):
    """Write one row for each record at or above its batch's least offset; returns the number of rows.

    arena     address; 64 readable bytes behind every batch
    batches   address of int64[n_batches, BATCH_FIELDS]; a batch is read up to its first damage
    rows      address of int64[N_COLUMNS, capacity]; capacity: at least the records that fit all batches

    Offsets written ascend within a batch: a record at or below the one before it is passed over, as
    aiokafka does. O(bytes of headers + records); values are not read.
    """
    column = 8 * capacity
    n = 0
    for b in range(n_batches):
        batch = batches + 8 * BATCH_FIELDS * b
        p = arena + load_i64(batch + 8 * BATCH_START)
        end = arena + load_i64(batch + 8 * BATCH_END)
        count = load_i64(batch + 8 * BATCH_COUNT)
        base = load_i64(batch + 8 * BATCH_OFFSET)
        next_offset = load_i64(batch + 8 * BATCH_NEXT_OFFSET)
        floor = load_i64(batch + 8 * BATCH_MIN_OFFSET)
        time = load_i64(batch + 8 * BATCH_TIME)
        time_mask = load_i64(batch + 8 * BATCH_TIME_MASK)
        damage = DAMAGE_NONE
        while count > 0:
            count -= 1
            if p >= end:
                damage = DAMAGE_SHORT
                break
            length, body, endless = _varint(p)
            if endless:
                damage = DAMAGE_NUMBER
                break
            if length < SMALLEST_BODY or length > end - body:
                damage = DAMAGE_LENGTH
                break
            stop = body + length
            # Records are about as long as each other: near here one's headers end and the next begins.
            prefetch_read(stop + _AHEAD * length - 64)
            prefetch_read(stop + _AHEAD * length)
            # At most 31 bytes from here to the next check: within the padding.
            time_delta, q, endless_time = _varint(body + 1)
            offset_delta, q, endless_offset = _varint(q)
            key_length, key, endless_key = _varint(q)
            if endless_time or endless_offset or endless_key:
                damage = DAMAGE_NUMBER
                break
            key_length = max(key_length, -1)
            if key >= stop or key_length >= stop - key:
                damage = DAMAGE_FIELD
                break
            value_length, value, endless = _varint(key + max(key_length, 0))
            if endless:
                damage = DAMAGE_NUMBER
                break
            value_length = max(value_length, -1)
            if value >= stop or value_length >= stop - value:
                damage = DAMAGE_FIELD
                break
            n_headers, q, endless = _varint(value + max(value_length, 0))
            headers = q
            if endless or n_headers < 0 or q > stop:
                damage = DAMAGE_HEADERS
                break
            traceparent, traceparent_length = -1, -1
            left = n_headers
            while left > 0 and q < stop:
                left -= 1
                name_length, name, endless = _varint(q)
                if endless or name_length < 0 or name_length >= stop - name:
                    left = -1
                    break
                content_length, content, endless = _varint(name + name_length)
                if endless or content_length > stop - content or content > stop:
                    left = -1
                    break
                if name_length == _NAME_LENGTH and content_length > 0 and _is_traceparent(name):
                    traceparent, traceparent_length = content - arena, content_length
                q = content + max(content_length, 0)
            if left != 0 or q != stop:
                damage = DAMAGE_HEADERS
                break
            offset = base + offset_delta
            if offset >= next_offset:
                damage = DAMAGE_OFFSET
                break
            p = stop
            if offset >= floor:
                floor = offset + 1
                row = rows + 8 * n
                store_i64(row + OFFSET * column, offset)
                store_i64(row + TIMESTAMP_MS * column, time + (time_delta & time_mask))
                store_i64(row + VALUE * column, value - arena)
                store_i64(row + VALUE_LENGTH * column, value_length)
                store_i64(row + KEY * column, key - arena)
                store_i64(row + KEY_LENGTH * column, key_length)
                store_i64(row + HEADERS * column, headers - arena)
                store_i64(row + HEADERS_LENGTH * column, stop - headers)
                store_i64(row + N_HEADERS * column, n_headers)
                store_i64(row + TRACEPARENT * column, traceparent)
                store_i64(row + TRACEPARENT_LENGTH * column, traceparent_length)
                n += 1
        if damage == DAMAGE_NONE and p != end:
            damage = DAMAGE_REST
        store_i64(batch + 8 * BATCH_ROWS, n)
        store_i64(batch + 8 * BATCH_REACHED, floor)
        store_i64(batch + 8 * BATCH_DAMAGE, damage)
    return n
