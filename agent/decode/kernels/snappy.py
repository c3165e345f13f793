"""Opens Snappy: a bare block, or the framing of the xerial library that Java clients write.

Framing  \\x82SNAPPY\\0, two versions (4 bytes each, both 1), then blocks: size (4 bytes, highest first), data
Block    length when opened (unsigned varint), then elements by the lower two bits of their tag:
         0 literals: length - 1 in the other six bits; 60 to 63: in 1 to 4 bytes behind
         1 match: length - 4 in three bits, distance in the upper three and one byte behind
         2, 3 match: length - 1 in six bits, distance in 2 or 4 bytes behind

Source: the format's public description. Every length is checked against what is there.

Elements are short and their kinds follow no pattern, so most of them go without a branch on the kind: a
table gives length and size of any tag, and 64 bytes are copied from wherever the element says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.decode.kernels.batch_table import BROKEN, NO_ROOM
from agent.decode.kernels.copies import copy64, copy_exact, copy_match, load_u16
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import load_u8, load_u32, load_u64

U = np.uint64
_XERIAL_BYTES = 16
_XERIAL_NAME = U(int.from_bytes(b"\x82SNAPPY\0", "little"))
_XERIAL_VERSIONS = U(int.from_bytes(b"\0\0\0\1\0\0\0\1", "little"))
#: Elements that begin this close to the end of their block are read and copied exactly: tag, four bytes
#: behind it, and 64 of literals.
_MARGIN = 72


def _table() -> NDArray[np.int64]:
    """int64[256], by tag: length | bytes behind the tag << 8 | bits of the distance in the tag << 16.

    0 for literals whose length is not in their tag.
    """
    table = np.zeros(256, np.int64)
    for tag in range(256):
        kind, upper = tag & 3, tag >> 2
        if kind == 0 and upper < 60:
            table[tag] = upper + 1
        elif kind == 1:
            table[tag] = ((upper & 7) + 4) | 1 << 8 | (tag >> 5 << 8) << 16
        elif kind >= 2:
            table[tag] = (upper + 1) | (2 * kind - 2) << 8
    return table


_TAGS = _table()
_MASKS = np.array([0, 0xFF, 0xFFFF, 0, 0xFFFFFFFF], np.int64)  # by bytes behind the tag


@inlined
def _open_block(p, end, to, stop):
    """Open the block [p, end) to `to`; the position behind it, BROKEN, or NO_ROOM past `stop`.

    Writes up to 63 bytes past what it has; reads nothing outside of [p, end) and of what it wrote.
    """
    size = shift = 0
    while True:
        if p >= end or shift > 28:
            return BROKEN
        byte = load_u8(p)
        p += 1
        size |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    if size > stop - to:
        return NO_ROOM
    start, limit = to, to + size
    near_end = end - _MARGIN
    while p < end:
        tag = load_u8(p)
        p += 1
        kind = tag & 3
        if p <= near_end:
            entry = _TAGS[tag]
            length = entry & 0xFF
            extra = (entry >> 8) & 0xFF
            distance = (load_u32(p) & _MASKS[extra]) + (entry >> 16)
            is_literal = extra == 0
            fits = (length != 0) & (length <= limit - to)
            reaches = (distance >= length) & (distance <= to - start)
            if fits & (is_literal | reaches):
                copy64(to, p if is_literal else to - distance)
                p += length if is_literal else extra
                to += length
                continue
        if kind == 0:
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                if extra > end - p:
                    return BROKEN
                length = 1
                for i in range(extra):
                    length += load_u8(p + i) << (8 * i)
                p += extra
            if length > limit - to:
                return BROKEN
            if length > end - p:
                return BROKEN
            copy_exact(to, p, length)
            p += length
        else:
            if kind == 1:
                if p >= end:
                    return BROKEN
                length = ((tag >> 2) & 7) + 4
                distance = (tag >> 5) << 8 | load_u8(p)
                p += 1
            elif kind == 2:
                if end - p < 2:
                    return BROKEN
                length = (tag >> 2) + 1
                distance = load_u16(p)
                p += 2
            else:
                if end - p < 4:
                    return BROKEN
                length = (tag >> 2) + 1
                distance = load_u32(p)
                p += 4
            if distance == 0 or distance > to - start or length > limit - to:
                return BROKEN
            copy_match(to, distance, length)
        to += length
    return to if to == limit else BROKEN


@outlined
def open_snappy(source, size, target, room):
    """Open `size` bytes at `source`; the number of bytes written to `target`, BROKEN, or NO_ROOM.

    Writes up to 63 bytes past `room`; reads nothing outside of the payload.
    """
    to, stop = target, target + room
    p, end = source, source + size
    if size <= _XERIAL_BYTES or load_u64(p) != _XERIAL_NAME or load_u64(p + 8) != _XERIAL_VERSIONS:
        to = _open_block(p, end, to, stop)
        return to - target if to >= 0 else to
    p += _XERIAL_BYTES
    while p < end:
        if end - p < 4:
            return BROKEN
        n_bytes = load_u8(p) << 24 | load_u8(p + 1) << 16 | load_u8(p + 2) << 8 | load_u8(p + 3)
        p += 4
        if n_bytes > end - p:
            return BROKEN
        to = _open_block(p, p + n_bytes, to, stop)
        if to < 0:
            return to
        p += n_bytes
    return to - target
