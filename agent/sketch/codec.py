"""Cells <-> bytes: versioned, checksummed, and only as long as what the cell has seen.

    magic (4)   "IFNC" numeric, "IFSC" string
    version u8, flags u8 (1: wide), zero u16
    length u32, crc u32      of the payload; the crc32 covers all before it, too
    payload

Little-endian. Registers and counts are written dense or sparse, whichever is shorter, counts in the
smallest of 1, 2, 4, 8 bytes. Damaged, truncated or foreign bytes and newer versions raise DecodeError.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.sketch.arrays import address_of
from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    Bytes,
    zeroed,
)
from agent.sketch.kernels import layout
from agent.sketch.kernels.pack import DENSE, SPARSE
from agent.sketch.packed import pack

VERSION: Final = 1
_NUMERIC, _STRING = b"IFNC", b"IFSC"
_WIDE = 1
_HEAD = struct.Struct("<4sBBHI")
_CRC = struct.Struct("<I")
_PART = struct.Struct("<BBH")  # form, bytes per count, entries
_WAY = struct.Struct("<BBQQQIH")  # way, text kept, key, count, overestimate, full and kept length
_SLOT = struct.Struct("<II")  # of a text: full and kept length; the text behind
_DENSE, _SPARSE = DENSE, SPARSE
_OVER_RANGE = (layout.OVER_POSITIVE, layout.OVER_NEGATIVE)
_UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}
_EXTENTS = struct.Struct("<iiiii")
_COUNT_BITS = 53  #: so that 1024 counts never add up to 2^64
_SLOTS = layout.SETS * layout.WAYS


def _frame(magic: bytes, flags: int, payload: bytes) -> bytes:
    head = _HEAD.pack(magic, VERSION, flags, 0, len(payload))
    return head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def _unframe(data: bytes, magic: bytes, what: str) -> tuple[int, bytes]:
    start = _HEAD.size + _CRC.size
    if len(data) < start:
        raise DecodeError(f"{what}: {len(data)} bytes; at least {start} are needed")
    found, version, flags, zero, length = _HEAD.unpack_from(data)
    if found != magic:
        raise DecodeError(f"{what}: starts with {found!r}; must be {magic!r}")
    if version != VERSION:
        raise DecodeError(
            f"{what}: version {version}; this program reads version {VERSION}: use a newer one"
        )
    if len(data) - start != length:
        raise DecodeError(f"{what}: {len(data) - start} bytes of {length}: truncated or joined")
    payload = data[start:]
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if zlib.crc32(payload, zlib.crc32(data[: _HEAD.size])) != crc or zero or flags & ~_WIDE:
        raise DecodeError(f"{what}: checksum does not match: the bytes are damaged")
    return flags, payload


class _Reader:
    """Takes parts off a payload; every part is checked against what is left."""

    def __init__(self, payload: bytes, what: str) -> None:
        self._left = memoryview(payload)
        self._what = what

    def wrong(self, why: str) -> DecodeError:
        return DecodeError(f"{self._what}: {why}; the checksum matches, so it was written wrong")

    def take(self, size: int) -> memoryview:
        if size > len(self._left):
            raise self.wrong(f"{len(self._left)} bytes left where {size} are needed")
        part, self._left = self._left[:size], self._left[size:]
        return part

    def counts(self, n: int, most_width: int = 8) -> NDArray[np.uint64]:
        """n counts as `kernels.pack` wrote them, in at most so many bytes each."""
        form, width, entries = _PART.unpack(self.take(_PART.size))
        kind = _UNSIGNED.get(width)
        if kind is None or width > most_width or form not in (_DENSE, _SPARSE):
            raise self.wrong(f"counts have form {form} and width {width}")
        out = np.zeros(n, np.uint64)
        if form == _SPARSE:
            places = np.frombuffer(self.take(2 * entries), "<u2")
            if entries and int(places.max()) >= n:
                raise self.wrong(f"count {int(places.max())} of {n}")
            if (places[1:] <= places[:-1]).any():  # a merge would add both
                raise self.wrong("places of counts do not rise")
            out[places] = np.frombuffer(self.take(width * entries), kind)
        elif entries == n:
            out[:] = np.frombuffer(self.take(width * n), kind)
        else:
            raise self.wrong(f"{entries} counts of {n}")
        if n and int(out.max()) >> _COUNT_BITS:
            raise self.wrong(f"a count of {int(out.max())}")
        return out

    def end(self) -> None:
        if len(self._left):
            raise self.wrong(f"{len(self._left)} bytes too many")


def _field(record: Bytes | bytes, offset: int) -> int:
    return int.from_bytes(bytes(record[offset : offset + 8]), "little")


def frame_numeric(payload: bytes) -> bytes:
    """A packed numeric cell (`sketch.packed`) in its frame: wide when its counts need it."""
    values = sum(_field(payload, at) for at in (layout.N, *_OVER_RANGE))
    return _frame(_NUMERIC, _WIDE if values >> 32 else 0, payload)


def frame_string(payload: bytes) -> bytes:
    """A packed string cell in its frame."""
    return _frame(_STRING, 0, payload)


def payload_of(data: bytes) -> bytes:
    """What is in the frame; the bytes have been checked (`numeric_from_bytes`, `string_from_bytes`)."""
    return data[_HEAD.size + _CRC.size :]


def numeric_to_bytes(record: Bytes) -> bytes:
    """A narrow or wide numeric record as bytes. Raises ValueError for another size."""
    if len(record) not in (NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES):
        raise ValueError(f"a numeric record has {len(record)} bytes")
    flags = _WIDE if len(record) == NUMERIC_WIDE_CELL_BYTES else 0
    return _frame(_NUMERIC, flags, _packed(record))


def _packed(record: Bytes) -> bytes:
    data = zeroed(len(record))
    data[:] = record
    return pack(np.array([address_of(data)], np.int64), len(data)).payload(0)


def numeric_from_bytes(data: bytes) -> Bytes:
    """The record that `numeric_to_bytes` wrote, uint8[...], byte for byte. Raises DecodeError."""
    flags, payload = _unframe(data, _NUMERIC, "numeric sketch")
    reader = _Reader(payload, "numeric sketch")
    wide = bool(flags & _WIDE)
    record = np.zeros(NUMERIC_WIDE_CELL_BYTES if wide else NUMERIC_CELL_BYTES, np.uint8)
    head = reader.take(layout.NUMERIC_REGISTERS)
    record[: layout.NUMERIC_REGISTERS] = np.frombuffer(head, np.uint8)
    registers = reader.counts(layout.BUCKETS - layout.NUMERIC_REGISTERS, 1)
    record[layout.NUMERIC_REGISTERS : layout.BUCKETS] = registers
    extents = _EXTENTS.unpack_from(head, layout.EXTENTS)
    shift = extents[4]
    if not 0 <= shift <= layout.MAX_SCALE - layout.MIN_SCALE:
        raise reader.wrong(f"scale {layout.MAX_SCALE - shift}")
    edge = (layout.DOMAIN_EXPONENT << layout.MAX_SCALE) >> shift
    rings = record[layout.BUCKETS :].view(np.uint64 if wide else np.uint32)
    total = _field(record, layout.ZEROS)
    for sign in range(2):
        first, span = extents[2 * sign], extents[2 * sign + 1]
        if not 0 <= span <= layout.RING or (span and not -edge <= first <= edge - span):
            raise reader.wrong(f"{span} buckets from {first} on")
        counts = reader.counts(span)
        if span and not (counts[0] and counts[-1]):
            raise reader.wrong("the outermost bucket is empty")
        if not wide and span and int(counts.max()) >> 32:
            raise reader.wrong("a count is too large for a narrow cell")
        total += int(counts.sum())
        rings[(np.arange(first, first + span) & (layout.RING - 1)) + sign * layout.RING] = counts
    reader.end()
    finite = sum(_field(record, at) for at in (layout.N, *_OVER_RANGE))
    if total != finite:
        raise reader.wrong(f"{total} values in buckets, {finite} counted")
    return record


def string_to_bytes(record: Bytes) -> bytes:
    """A string record as bytes. Raises ValueError for another size."""
    if len(record) != STRING_CELL_BYTES:
        raise ValueError(f"a string record has {len(record)} bytes; must be {STRING_CELL_BYTES}")
    return _frame(_STRING, 0, _packed(record))


def string_from_bytes(data: bytes) -> Bytes:
    """The record that `string_to_bytes` wrote, uint8[STRING_CELL_BYTES]; the place of a text that is not
    kept is zero. Raises DecodeError."""
    flags, payload = _unframe(data, _STRING, "string sketch")
    reader = _Reader(payload, "string sketch")
    if flags:
        raise reader.wrong(f"flags {flags}")
    record = np.zeros(STRING_CELL_BYTES, np.uint8)
    record[: layout.KEYS] = np.frombuffer(reader.take(layout.KEYS), np.uint8)
    raw = record.data
    ways: list[int] = []
    found: list[tuple[int, int, int]] = []
    last = -1
    for _ in range(reader.take(1)[0]):
        way, has_text, key, count, over, length, kept = _WAY.unpack(reader.take(_WAY.size))
        if (
            not last < way < _SLOTS
            or key & (layout.SETS - 1) != way // layout.WAYS
            or not over < count < 1 << 62
            or kept > layout.TEXT_BYTES
            or has_text > 1
        ):
            raise reader.wrong(f"key {way} of the heavy hitters")
        last = way
        ways.append(way)
        found.append((key, count << 1 | has_text, over))
        slot = layout.TEXTS + way * layout.TEXT_SLOT
        _SLOT.pack_into(raw, slot, length, kept)
        raw[slot + _SLOT.size : slot + _SLOT.size + kept] = reader.take(kept)
    if ways:
        table = record[layout.KEYS : layout.HASHED].view(np.uint64).reshape(3, _SLOTS)
        table[:, ways] = np.array(found, np.uint64).T
    hashed = reader.counts(layout.HASHED_BUCKETS)
    record[layout.HASHED : layout.STRING_REGISTERS].view(np.uint64)[:] = hashed
    registers = reader.counts(layout.TEXTS - layout.STRING_REGISTERS, 1)
    record[layout.STRING_REGISTERS : layout.TEXTS] = registers
    reader.end()
    if int(hashed.sum()) != _field(record, layout.COUNT):
        raise reader.wrong(f"{int(hashed.sum())} hashed, {_field(record, layout.COUNT)} counted")
    return record
