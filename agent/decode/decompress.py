"""Opens the payload of a record batch into memory that is there already.

Each codec is the client library's (cramjam), but LZ4 frames are taken apart here: a block at a time goes
straight to its place, twice as fast as through cramjam's reader of whole frames. Frames with anything
but independent blocks without checksums, as all Kafka clients write them, still go through that reader.
"""

from __future__ import annotations

from typing import Any

import cramjam

#: Codecs by their number in a batch's attributes.
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

_XERIAL = bytes((0x82, *b"SNAPPY", 0, 0, 0, 0, 1, 0, 0, 0, 1))
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
#: Version 1, independent blocks; neither checksums nor a dictionary. The content size is let through.
_LZ4_FLAGS, _LZ4_FLAGS_MASK, _LZ4_HAS_SIZE = 0x60, 0xF7, 0x08
_LZ4_HEADER = 7  # magic, flags, block size, header checksum
_LZ4_STORED = 1 << 31
_NO_ROOM = "failed to write whole buffer"  # what cramjam says of its output


class NoRoom(Exception):
    """What is in the payload is larger than the room it was given, or may be."""


class BadPayload(Exception):
    """The payload is not what its codec writes; the message says why."""


def open_payload(codec: int, payload: memoryview, room: memoryview) -> int:
    """Decompress `payload` to the start of `room`; returns the number of bytes written.

    Raises NoRoom and BadPayload; the room is then overwritten in part.
    """
    try:
        if codec == LZ4:
            return _open_lz4(payload, room)
        if codec == NONE:
            size = len(payload)
            if size > len(room):
                raise NoRoom
            room[:size] = payload
            return size
        if codec == SNAPPY:
            return _open_snappy(payload, room)
        if codec == ZSTD:
            return int(cramjam.zstd.decompress_into(payload, room))
        if codec == GZIP:
            return int(cramjam.gzip.decompress_into(payload, room))
    except cramjam.DecompressionError as error:
        message = str(error)
        if message == _NO_ROOM:
            raise NoRoom from None
        raise BadPayload(message) from None
    raise BadPayload(f"unknown compression codec {codec}")


def _open_snappy(payload: memoryview, room: memoryview) -> int:
    if payload[:16] != _XERIAL:
        return _open_snappy_block(payload, room)
    at, end, n = 16, 0, len(payload)
    while at < n:
        size = int.from_bytes(payload[at : at + 4], "big")
        at += 4
        if size > n - at:
            raise BadPayload("a block of snappy reaches beyond the batch")
        end += _open_snappy_block(payload[at : at + size], room[end:])
        at += size
    return end


def _open_snappy_block(block: memoryview, room: memoryview) -> int:
    # Asked first: a lie about the size is found out when the block is opened.
    if cramjam.snappy.decompress_raw_len(block) > len(room):
        raise NoRoom
    return int(cramjam.snappy.decompress_raw_into(block, room))


def _open_lz4(payload: memoryview, room: memoryview) -> int:
    n = len(payload)
    if (
        n < _LZ4_HEADER
        or payload[:4] != _LZ4_MAGIC
        or payload[4] & _LZ4_FLAGS_MASK != _LZ4_FLAGS
        or not 4 <= payload[5] >> 4 <= 7
    ):
        return int(cramjam.lz4.decompress_into(payload, room))
    block_bytes = 1 << (2 * (payload[5] >> 4) + 8)
    at = _LZ4_HEADER + (8 if payload[4] & _LZ4_HAS_SIZE else 0)
    end = 0
    open_block: Any = cramjam.lz4.decompress_block_into
    while True:
        size = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if size == 0 or at > n:
            break
        stored = size & _LZ4_STORED
        size &= _LZ4_STORED - 1
        if size > block_bytes or size > n - at:
            raise BadPayload("a block of lz4 reaches beyond its frame")
        block = payload[at : at + size]
        left = min(block_bytes, len(room) - end)
        if stored:
            if size > left:
                raise NoRoom
            room[end : end + size] = block
            end += size
        else:
            try:
                end += open_block(block, room[end : end + left], output_len=left)
            except cramjam.DecompressionError:
                # It does not say whether the room was too small.
                if left < block_bytes:
                    raise NoRoom from None
                raise
        at += size
    if at > n:
        raise BadPayload("a frame of lz4 has no end")
    if at < n:  # another frame, or something else
        return int(cramjam.lz4.decompress_into(payload, room))
    return end
