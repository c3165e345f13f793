"""Opens LZ4 frames.

Frame   magic | flags | block size | content size (8 bytes) | header checksum | blocks | size 0 |
        content checksum (4 bytes); flags say whether content size and checksums are there
Block   size (4 bytes, the highest bit: stored as it is) | data | checksum (4 bytes)
Data    sequences: token (4 bits each: number of literals, length of the match - 4; 15: more bytes follow,
        up to one below 255), literals, distance of the match (2 bytes). The last ends with its literals

The checksums of the frame are passed over: the batch's own, over the same bytes, has been verified.
Every length is checked against what is there. Source: the format's two public documents
(lz4_Frame_format, lz4_Block_format).
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.batch_table import BROKEN, NO_ROOM, OTHER
from agent.decode.kernels.copies import (
    copy16,
    copy32,
    copy_exact,
    copy_generous,
    copy_match,
    load_u16,
)
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import load_u8, load_u32

_MAGIC = 0x184D2204
_VERSION, _VERSION_MASK = 0x40, 0xC0
_INDEPENDENT, _BLOCK_CHECKSUM, _CONTENT_SIZE, _CONTENT_CHECKSUM = 0x20, 0x10, 0x08, 0x04
_RESERVED_OR_DICTIONARY = 0x03
_HEADER_BYTES = 7
_STORED = 1 << 31
_MIN_MATCH = 4
#: Literals that end this close to the end of their block are copied exactly.
_MARGIN = 32
#: A plain sequence (see `_open_block`) has at most 18 bytes, of which 19 are looked at when it turns out
#: not to be plain, and opens to at most 14 literals and a
#: match of 15 + 4 + 254.
_PLAIN_READS, _PLAIN_WRITES = 19, 287


@inlined
def _more(p, end, length):
    """A length that goes on behind its four bits: (length, position); position is past `end` when it is cut."""
    byte = 255
    while byte == 255:
        if p >= end:
            p = end + 1
            break
        byte = load_u8(p)
        p += 1
        length += byte
    return length, p


@inlined
def _open_block(p, end, first, start, limit):
    """Open the block [p, end) to `start`; the position behind it, BROKEN, or NO_ROOM at `limit`.

    Matches may reach back to `first`. Writes up to 31 bytes past `limit`; reads nothing outside of
    [p, end) and [first, limit + 31].
    """
    near_end = end - _MARGIN
    plain_end, plain_limit = end - _PLAIN_READS, limit - _PLAIN_WRITES
    to = start
    while True:
        # Plain sequences, nearly all: at most one more byte of length, that of the match, and a distance
        # of at least 32. Two checks of the bounds cover all of one. Whether the byte of length is
        # there is not branched on, because no CPU can foretell it.
        while p <= plain_end and to <= plain_limit:
            token = load_u8(p)
            n_literals = token >> 4
            is_longer = np.int64(token & 15 == 15)
            behind = p + n_literals + 3
            distance = load_u16(behind - 2)
            more = load_u8(behind) & -is_longer
            match = to + n_literals
            if n_literals == 15 or more == 255 or distance < 32 or distance > match - first:
                break
            copy16(to, p + 1)
            p = behind + is_longer
            to = match + _MIN_MATCH + (token & 15) + more
            copy32(match, match - distance)
            match += 32
            while match < to:
                copy32(match, match - distance)
                match += 32
        if p >= end:
            return BROKEN
        token = load_u8(p)
        p += 1
        n_literals = token >> 4
        if n_literals == 15:
            n_literals, p = _more(p, end, n_literals)
        if n_literals > limit - to:
            return NO_ROOM
        if p + n_literals <= near_end:
            copy_generous(to, p, n_literals)
            p += n_literals
            to += n_literals
        else:
            if n_literals > end - p:
                return BROKEN
            copy_exact(to, p, n_literals)
            p += n_literals
            to += n_literals
            if p == end:
                return to
            if p > end - 2:
                return BROKEN
        distance = load_u16(p)
        p += 2
        if distance == 0 or distance > to - first:
            return BROKEN
        length = token & 15
        if length == 15:
            length, p = _more(p, end, length)
        length += _MIN_MATCH
        if length > limit - to:
            return NO_ROOM
        copy_match(to, distance, length)
        to += length


@outlined
def open_lz4(source, size, target, room):
    """Open the frame of `size` bytes at `source`; the number of bytes written to `target`.

    BROKEN, NO_ROOM when it has more than `room` bytes, OTHER for what is not one frame without a
    dictionary, which is for the library to judge. Writes up to 31 bytes past `room`; reads nothing
    outside of the frame.
    """
    if size < _HEADER_BYTES or load_u32(source) != _MAGIC:
        return OTHER
    flags, block_code = load_u8(source + 4), load_u8(source + 5) >> 4
    if flags & _VERSION_MASK != _VERSION or flags & _RESERVED_OR_DICTIONARY:
        return OTHER
    if block_code < 4 or block_code > 7:
        return OTHER
    block_bytes = 1 << (2 * block_code + 8)
    p, end = source + _HEADER_BYTES, source + size
    if flags & _CONTENT_SIZE:
        p += 8
    behind_block = 4 if flags & _BLOCK_CHECKSUM else 0
    to, stop = target, target + room
    while True:
        if p > end - 4:
            return BROKEN
        n_bytes = load_u32(p)
        p += 4
        if n_bytes == 0:
            break
        is_stored = n_bytes >= _STORED
        n_bytes &= _STORED - 1
        if n_bytes > end - p or n_bytes > block_bytes:
            return BROKEN
        limit = min(stop, to + block_bytes)
        if is_stored:
            if n_bytes > limit - to:
                return NO_ROOM
            copy_exact(to, p, n_bytes)
            to += n_bytes
        else:
            first = to if flags & _INDEPENDENT else target
            behind = _open_block(p, p + n_bytes, first, to, limit)
            if behind < 0:
                # Past the size of a block there is never room.
                return BROKEN if limit != stop else behind
            to = behind
        p += n_bytes + behind_block
    if flags & _CONTENT_CHECKSUM:
        p += 4
    return to - target if p == end else OTHER  # another frame behind it, or a part of one
