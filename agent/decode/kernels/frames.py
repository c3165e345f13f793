"""Finds the batches of a fetched buffer that need no second look, and checks their checksums.

A batch needs a second look, by Python, when anything about it is unusual: its length, format version,
checksum, offsets or codec, no records in it, offsets missing before it, or attributes that the caller
asks to be shown.
"""

from __future__ import annotations

from llvmlite import ir

from agent.decode.kernels.batch_table import (
    BATCH_CODEC,
    BATCH_COUNT,
    BATCH_MIN_OFFSET,
    BATCH_NEXT_OFFSET,
    BATCH_OFFSET,
    BATCH_SOURCE,
    BATCH_SOURCE_BYTES,
    BATCH_TIME,
    BATCH_TIME_MASK,
    GIVEN_FIELDS,
    HEADER_BYTES,
)
from agent.decode.kernels.crc import checksum
from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_u8, store_i64
from agent.sketch.kernels.toolchain import intrinsic, types

_LOG_OVERHEAD = 12
_CHECKED_AT = 21
_MAX_DELTA = 1 << 24  # a batch that claims more offsets has a damaged header
_N_CODECS = 5
_CODEC = 0x07
_LOG_APPEND_TIME = 0x08


def _make_load(bits, extend):
    kind, wide = ir.IntType(bits), ir.IntType(64)

    @intrinsic
    def load(typingctx, address):
        """A number of that many bits, highest byte first, as int64."""

        def codegen(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1)
            value = builder.bswap(value)
            return getattr(builder, extend)(value, wide) if extend else value

        return types.int64(types.int64), codegen

    return load


_big_i16, _big_i32, _big_i64 = _make_load(16, "sext"), _make_load(32, "sext"), _make_load(64, "")
_big_u32 = _make_load(32, "zext")


@kernel("int64(int64, int64, int64, int64, int64, int64, int64)", nogil=False)
def find_frames(buffer, size, begin, shown, batches, capacity, max_bytes):
    """Write the batches at the buffer's start, up to the first that needs a second look; their number.

    buffer     address; `size` bytes of it are read
    begin      offset to read from: the first batch holds it, and each goes on where the one before ends
    shown      attributes (bits) with which a batch is to be looked at
    batches    address of int64[capacity, GIVEN_FIELDS]
    max_bytes  also ends behind this many: the caller holds the GIL and the event loop
    """
    n, at = 0, 0
    stop = min(size, max_bytes)
    while n < capacity and at < stop and size - at >= HEADER_BYTES:
        batch = buffer + at
        n_bytes = _LOG_OVERHEAD + _big_i32(batch + 8)
        if n_bytes < HEADER_BYTES or n_bytes > size - at or load_u8(batch + 16) != 2:
            break
        attributes = _big_i16(batch + 21)
        delta = _big_i32(batch + 23)
        n_records = _big_i32(batch + 57)
        if attributes & shown or attributes & _CODEC >= _N_CODECS:
            break
        if delta < 0 or delta >= _MAX_DELTA or n_records <= 0:
            break
        base = _big_i64(batch)
        next_offset = base + delta + 1
        if base > begin or begin >= next_offset:
            break
        if checksum(batch + _CHECKED_AT, n_bytes - _CHECKED_AT) != _big_u32(batch + 17):
            break
        is_append_time = attributes & _LOG_APPEND_TIME != 0
        row = batches + 8 * GIVEN_FIELDS * n
        store_i64(row + 8 * BATCH_SOURCE, batch + HEADER_BYTES)
        store_i64(row + 8 * BATCH_SOURCE_BYTES, n_bytes - HEADER_BYTES)
        store_i64(row + 8 * BATCH_CODEC, attributes & _CODEC)
        store_i64(row + 8 * BATCH_COUNT, n_records)
        store_i64(row + 8 * BATCH_OFFSET, base)
        store_i64(row + 8 * BATCH_NEXT_OFFSET, next_offset)
        store_i64(row + 8 * BATCH_MIN_OFFSET, begin)
        store_i64(row + 8 * BATCH_TIME, _big_i64(batch + (35 if is_append_time else 27)))
        store_i64(row + 8 * BATCH_TIME_MASK, 0 if is_append_time else -1)
        begin = next_offset
        at += n_bytes
        n += 1
    return n
