"""The frame of all that is written as bytes: a magic word, a version, lengths, and a checksum of everything.

Bytes (little-endian)

    0   magic, 4 bytes    4   version uint16    6   0 uint16
    8   header length uint32    12   body length uint64
    20  header, body
    -4  crc32 of all before it

A reader takes versions up to its own. Anything else that is wrong is a DecodeError: bytes are never
half believed.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from agent.errors import DecodeError

#: Public for those who write a large body piece by piece.
FRAME: Final = struct.Struct("<4sHHIQ")
CRC: Final = struct.Struct("<I")


class NewerFrameError(DecodeError):
    """Written by a newer version of this program."""


def seal_frame(magic: bytes, version: int, header: bytes, body: bytes) -> bytes:
    """Magic, version, lengths, header, body, checksum."""
    data = FRAME.pack(magic, version, 0, len(header), len(body)) + header + body
    return data + CRC.pack(zlib.crc32(data))


def open_frame(magic: bytes, version: int, data: bytes, what: str) -> tuple[memoryview, memoryview]:
    """Header and body of a frame. Raises DecodeError when it is cut short, changed, or newer than `version`."""
    if len(data) < FRAME.size + CRC.size:
        raise DecodeError(
            f"{what}: {len(data)} bytes; a frame has at least {FRAME.size + CRC.size}"
        )
    found, written, reserved, header_length, body_length = FRAME.unpack_from(data)
    if found != magic:
        raise DecodeError(f"{what}: starts with {found!r}, not {magic!r}")
    if written > version:
        raise NewerFrameError(
            f"{what}: version {written}; this program reads up to {version}: upgrade the program"
        )
    if written < 1 or reserved:
        raise DecodeError(f"{what}: version {written}, reserved field {reserved}")
    expected = FRAME.size + header_length + body_length + CRC.size
    if len(data) != expected:
        raise DecodeError(f"{what}: {len(data)} bytes; its lengths say {expected}")
    (checksum,) = CRC.unpack_from(data, len(data) - CRC.size)
    if zlib.crc32(memoryview(data)[: -CRC.size]) != checksum:
        raise DecodeError(f"{what}: checksum does not match: the bytes were changed")
    view = memoryview(data)
    split = FRAME.size + header_length
    return view[FRAME.size : split], view[split : -CRC.size]
