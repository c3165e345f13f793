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
        self.payload = payload
        self.at = 0
        self._what = what

    def wrong(self, why: str) -> DecodeError:
        return DecodeError(f"{self._what}: {why}; the checksum matches, so it was written wrong")

    def take(self, size: int) -> int:
        """The next bytes are a part; returns where it begins in `payload`."""
        at = self.at
        self.at = at + size
        if self.at > len(self.payload):
            raise self.wrong(f"{len(self.payload) - at} bytes left where {size} are needed")
        return at

    def counts(self, n: int, most_width: int = 8) -> NDArray[Any]:
        """n counts as `kernels.pack` wrote them, in at most so many bytes each: uint64[n], or uint8[n] when
        one byte is the most."""
        payload = self.payload
        form, width, entries = _PART.unpack_from(payload, self.take(_PART.size))
        kind = _UNSIGNED.get(width)
        if kind is None or width > most_width or form not in (_DENSE, _SPARSE):
            raise self.wrong(f"counts have form {form} and width {width}")
        out: NDArray[Any] = np.zeros(n, np.uint8 if most_width == 1 else np.uint64)
        if form == _SPARSE:
            places = np.frombuffer(payload, "<u2", entries, self.take(2 * entries))
            if (places[1:] <= places[:-1]).any():  # a merge would add both
                raise self.wrong("places of counts do not rise")
            if entries and int(places[-1]) >= n:
                raise self.wrong(f"count {int(places[-1])} of {n}")
            out[places] = np.frombuffer(payload, kind, entries, self.take(width * entries))
        elif entries == n:
            out[:] = np.frombuffer(payload, kind, n, self.take(width * n))
        else:
            raise self.wrong(f"{entries} counts of {n}")
        if n and 8 * width > _COUNT_BITS and int(out.max()) >> _COUNT_BITS:
            raise self.wrong(f"a count of {int(out.max())}")
        return out

    def end(self) -> None:
        if self.at < len(self.payload):
            raise self.wrong(f"{len(self.payload) - self.at} bytes too many")


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
    at = reader.take(layout.NUMERIC_REGISTERS)
    record.data[: layout.NUMERIC_REGISTERS] = payload[at : reader.at]
    registers = reader.counts(layout.BUCKETS - layout.NUMERIC_REGISTERS, 1)
    record[layout.NUMERIC_REGISTERS : layout.BUCKETS] = registers
    extents = _EXTENTS.unpack_from(payload, at + layout.EXTENTS)
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
    record.data[: layout.KEYS] = payload[reader.take(layout.KEYS) : reader.at]
    _read_ways(reader, record)
    hashed = reader.counts(layout.HASHED_BUCKETS)
    record[layout.HASHED : layout.STRING_REGISTERS].view(np.uint64)[:] = hashed
    registers = reader.counts(layout.TEXTS - layout.STRING_REGISTERS, 1)
    record[layout.STRING_REGISTERS : layout.TEXTS] = registers
    reader.end()
    if int(hashed.sum()) != _field(record, layout.COUNT):
        raise reader.wrong(f"{int(hashed.sum())} hashed, {_field(record, layout.COUNT)} counted")
    return record


def _read_ways(reader: _Reader, record: Bytes) -> None:
    """The heavy hitters and their texts, into the record. Raises DecodeError.

    A cell has up to 128 of them, and a restart reads thousands of cells: nothing is called for each that
    needs not be.
    """
    payload, raw = reader.payload, record.data
    n = payload[reader.take(1)]
    at, unpack = reader.at, _WAY.unpack_from
    ends = len(payload) - _WAY.size
    found: list[tuple[int, int, int, int, int, int]] = []
    last = -1
    for _ in range(n):
        if at > ends:
            raise reader.wrong("a heavy hitter is cut off")
        way, has_text, key, count, over, length, kept = unpack(payload, at)
        if (
            not last < way < _SLOTS
            or key & (layout.SETS - 1) != way // layout.WAYS
            or not over < count < 1 << 62
            or kept > layout.TEXT_BYTES
            or has_text > 1
        ):
            raise reader.wrong(f"key {way} of the heavy hitters")
        last = way
        found.append((way, key, count << 1 | has_text, over, length, kept))
        at += _WAY.size
        if kept:
            text = layout.TEXTS + way * layout.TEXT_SLOT + _SLOT.size
            part = payload[at : at + kept]
            if len(part) < kept:
                raise reader.wrong(f"{len(part)} bytes left where {kept} are needed")
            raw[text : text + kept] = part
            at += kept
    reader.at = at
    if not found:
        return
    columns = np.array(found, np.uint64).T
    ways = columns[0].astype(np.intp)
    table = record[layout.KEYS : layout.HASHED].view(np.uint64).reshape(3, _SLOTS)
    table[:, ways] = columns[1:4]
    slots = record[layout.TEXTS : layout.TEXTS + _SLOTS * layout.TEXT_SLOT]
    lengths = slots.view(np.uint32).reshape(_SLOTS, layout.TEXT_SLOT // 4)
    lengths[ways, :2] = columns[4:].T
