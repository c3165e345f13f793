"""The journal's files: entries, numbered without gaps, in files that follow one another.

Bytes of a file (little-endian)

    header   magic "IFJL", version uint16, 0 uint16, salt uint32, length uint32,
             `Origin` as msgpack, crc32 of all before it
    entry    marker "IFJE", length uint32, number uint64, durable uint64, crc32, payload

The crc of an entry begins with the salt, so entries of another file never pass for one of this.
`durable` is the number up to which all entries were synced when this one was written.

Invariants
 1. A file is made whole with its header (`files.write_whole`), so a bad header is damage.
 2. A file is the word on entries from its first up to the next file's first. What lies behind that was
    given up: it was never synced, or a sync of it failed.
 3. Reading stops at the first entry that is not whole. When a whole one behind it says that the broken
    one was synced, that is damage; else it is what a crash tore off, and was never relied upon.
"""

from __future__ import annotations

import enum
import secrets
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.errors import DecodeError
from agent.state.files import Files, write_whole

MAGIC = b"IFJL"
VERSION = 1
SUFFIX = ".ifj"
_PREFIX = "journal-"
_HEADER = struct.Struct("<4sHHII")
_CRC = struct.Struct("<I")
_MARKER = b"IFJE"
_ENTRY = struct.Struct("<4sIQQI")
_CHECKED = struct.Struct("<IQQ")


class Origin(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Whose state it is. The same record stands in snapshots."""

    group: str
    topics: list[str]
    instance_id: str
    run_id: str
    entry: int  # journal: number of the first entry; snapshot: of the last one that is in it


class NewerVersionError(DecodeError):
    """Whole, but written by a newer version of this program."""


def journal_path(directory: Path, first: int) -> Path:
    return directory / f"{_PREFIX}{first:020d}{SUFFIX}"


def first_of(name: str) -> int | None:
    """The number in a journal file's name; None for other names."""
    middle = name.removeprefix(_PREFIX).removesuffix(SUFFIX)
    is_journal = name == f"{_PREFIX}{middle}{SUFFIX}"
    return int(middle) if is_journal and middle.isascii() and middle.isdigit() else None


# ---------------------------------------------------------------- writing


class JournalWriter:
    """Appends to one file. Raises OSError; the file must then be left for another."""

    def __init__(self, files: Files, directory: Path, origin: Origin) -> None:
        """Make the file `journal_path(directory, origin.entry)`, empty, and open it."""
        self._files = files
        self._salt = secrets.randbits(32)
        self._next = origin.entry
        self._durable = origin.entry - 1
        path = journal_path(directory, origin.entry)
        write_whole(files, path, [_header(origin, self._salt)])
        self._fd = files.reopen(path)

    def append(self, payloads: list[bytes]) -> int:
        """Write these entries and sync; returns the bytes that took."""
        size_bytes = 0
        for payload in payloads:
            frame = _entry_frame(payload, self._next, self._durable, self._salt)
            self._files.write(self._fd, frame)
            self._files.write(self._fd, payload)
            self._next += 1
            size_bytes += len(frame) + len(payload)
        self._files.sync(self._fd)
        self._durable = self._next - 1
        return size_bytes

    def close(self) -> None:
        self._files.close(self._fd)


def _header(origin: Origin, salt: int) -> bytes:
    body = msgspec.msgpack.encode(origin)
    data = _HEADER.pack(MAGIC, VERSION, 0, salt, len(body)) + body
    return data + _CRC.pack(zlib.crc32(data))


def _entry_frame(payload: bytes, number: int, durable: int, salt: int) -> bytes:
    checksum = _checksum(payload, number, durable, salt)
    return _ENTRY.pack(_MARKER, len(payload), number, durable, checksum)


def _checksum(payload: bytes | memoryview, number: int, durable: int, salt: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_CHECKED.pack(len(payload), number, durable), salt))


# ---------------------------------------------------------------- reading


class End(enum.StrEnum):
    """How the reading of a file ended."""

    WHOLE = "whole"  # with the last byte, or the entry that was asked for
    TORN = "torn"  # at an entry that was never synced
    DAMAGED = "damaged"  # at an entry that was


@dataclass(slots=True)
class JournalFile:
    """One file: its origin, its entries from `origin.entry` on, and how it ends."""

    origin: Origin
    payloads: list[memoryview]
    end: End
    n_cut_bytes: int  # not read: torn off, damaged, or given up

    @property
    def last(self) -> int:
        """Number of the last entry read; one below the first when there is none."""
        return self.origin.entry + len(self.payloads) - 1


def read_journal(data: bytes, name: str, upto: int | None) -> JournalFile:
    """Entries up to number `upto`, or as far as they are whole (None: the last file).

    Raises DecodeError when the header is not whole, NewerVersionError.
    """
    origin, salt, at = _read_header(data, name)
    view = memoryview(data)
    payloads: list[memoryview] = []
    number = origin.entry
    while at < len(data) and (upto is None or number <= upto):
        found = _read_entry(view, at, salt)
        if found is None or found[0] != number:
            end = End.DAMAGED if _is_synced(data, at, salt, number) else End.TORN
            return JournalFile(origin, payloads, end, len(data) - at)
        payloads.append(found[2])
        at += _ENTRY.size + len(found[2])
        number += 1
    return JournalFile(origin, payloads, End.WHOLE, len(data) - at)


def _read_header(data: bytes, name: str) -> tuple[Origin, int, int]:
    """Origin, salt, and where entries begin."""
    if len(data) < _HEADER.size + _CRC.size:
        raise DecodeError(f"{name}: {len(data)} bytes; a journal's header is longer")
    magic, version, reserved, salt, length = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise DecodeError(f"{name}: starts with {magic!r}, not {MAGIC!r}")
    end = _HEADER.size + length
    if end + _CRC.size > len(data):
        raise DecodeError(f"{name}: its header is cut short")
    if _CRC.unpack_from(data, end) != (zlib.crc32(memoryview(data)[:end]),):
        raise DecodeError(f"{name}: the checksum of its header does not match")
    if version > VERSION:
        raise NewerVersionError(f"{name} has version {version}; this program reads up to {VERSION}")
    if version < 1 or reserved:
        raise DecodeError(f"{name}: version {version}, reserved field {reserved}")
    try:
        origin = msgspec.msgpack.decode(data[_HEADER.size : end], type=Origin)
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"{name}: header: {error}") from None
    if origin.entry < 1:
        raise DecodeError(f"{name}: begins with entry {origin.entry}")
    return origin, salt, end + _CRC.size


def _read_entry(view: memoryview, at: int, salt: int) -> tuple[int, int, memoryview] | None:
    """Number, durable number and payload of the entry at `at`; None when it is not whole."""
    if at + _ENTRY.size > len(view):
        return None
    marker, length, number, durable, checksum = _ENTRY.unpack_from(view, at)
    payload = view[at + _ENTRY.size : at + _ENTRY.size + length]
    if marker != _MARKER or len(payload) != length:
        return None
    if _checksum(payload, number, durable, salt) != checksum:
        return None
    return number, durable, payload


def _is_synced(data: bytes, at: int, salt: int, number: int) -> bool:
    """Whether a whole entry from `at` on says that entry `number` had been synced."""
    view = memoryview(data)
    at = data.find(_MARKER, at)
    while at >= 0:
        found = _read_entry(view, at, salt)
        if found is not None and found[1] >= number:
            return True
        at = data.find(_MARKER, at + 1)
    return False
