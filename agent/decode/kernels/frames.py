"""Finds the batches of a fetched buffer that need no second look, and checks their checksums.

A batch needs a second look, by Python, when anything about it is unusual: its length, format version,
checksum, offsets or codec, no records in it, or attributes that the caller asks to be shown.
"""

from __future__ import annotations

from llvmlite import ir

from agent.decode.kernels.crc import checksum
from agent.sketch.kernels.compile import kernel
from agent.sketch.kernels.memory import load_u8, store_i64
from agent.sketch.kernels.toolchain import intrinsic, types

#: int64 fields of a batch that was found; positions from the start of the buffer.
(
    FRAME_AT,
    FRAME_BYTES,
    FRAME_OFFSET,
    FRAME_NEXT_OFFSET,
    FRAME_ATTRIBUTES,
    FRAME_FIRST_MS,
    FRAME_MAX_MS,
    FRAME_RECORDS,
) = range(8)
FRAME_FIELDS = 8

_HEADER_BYTES = 61
_LOG_OVERHEAD = 12
_CHECKED_AT = 21
_MAX_DELTA = 1 << 24  # a batch that claims more offsets has a damaged header
_N_CODECS = 5


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
def find_frames(buffer, size, at, shown, frames, capacity, max_bytes):
    """Write the batches from `at` on, up to the first that needs a second look; returns their number.

    buffer     address; `size` bytes of it are read
    shown      attributes (bits) with which a batch is to be looked at
    frames     address of int64[capacity, FRAME_FIELDS]
    max_bytes  also ends behind this many: the caller holds the GIL and the event loop
    """
    n = 0
    stop = min(size, at + max_bytes)
    while n < capacity and at < stop and size - at >= _HEADER_BYTES:
        batch = buffer + at
        n_bytes = _LOG_OVERHEAD + _big_i32(batch + 8)
        if n_bytes < _HEADER_BYTES or n_bytes > size - at or load_u8(batch + 16) != 2:
            break
        attributes = _big_i16(batch + 21)
        delta = _big_i32(batch + 23)
        n_records = _big_i32(batch + 57)
        if attributes & shown or attributes & 7 >= _N_CODECS:
            break
        if delta < 0 or delta >= _MAX_DELTA or n_records <= 0:
            break
        if checksum(batch + _CHECKED_AT, n_bytes - _CHECKED_AT) != _big_u32(batch + 17):
            break
        frame = frames + 8 * FRAME_FIELDS * n
        base = _big_i64(batch)
        store_i64(frame + 8 * FRAME_AT, at)
        store_i64(frame + 8 * FRAME_BYTES, n_bytes)
        store_i64(frame + 8 * FRAME_OFFSET, base)
        store_i64(frame + 8 * FRAME_NEXT_OFFSET, base + delta + 1)
        store_i64(frame + 8 * FRAME_ATTRIBUTES, attributes)
        store_i64(frame + 8 * FRAME_FIRST_MS, _big_i64(batch + 27))
        store_i64(frame + 8 * FRAME_MAX_MS, _big_i64(batch + 35))
        store_i64(frame + 8 * FRAME_RECORDS, n_records)
        at += n_bytes
        n += 1
    return n
