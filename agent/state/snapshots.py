"""Snapshots: the fold at one entry of the journal, in one file, so that what came before may go.

Bytes: a frame (`state.frame`) with magic "IFSN"; its header is `Heading` as msgpack, its body the
fold as `fold.persist` writes it. Written whole or not at all (`files.write_whole`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.errors import DecodeError
from agent.state.files import Files, write_whole
from agent.state.frame import CRC, FRAME, open_frame
from agent.state.heads import Head
from agent.state.journal import NewerVersionError, Origin
from agent.types import Partition

MAGIC = b"IFSN"
VERSION = 1
SUFFIX = ".ifs"
_PREFIX = "snapshot-"


class Heading(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What stands beside the fold. `unanswered`: bytes of the chunk that waits for its answer, or none."""

    origin: Origin  # `entry` is the last one that the snapshot holds
    created_ns: int
    runs: list[str]
    heads: list[tuple[Partition, Head]]
    unanswered: bytes = b""


@dataclass(slots=True)
class SnapshotFile:
    heading: Heading
    body: bytes


def snapshot_path(directory: Path, last: int) -> Path:
    return directory / f"{_PREFIX}{last:020d}{SUFFIX}"


def last_of(name: str) -> int | None:
    """The number in a snapshot file's name; None for other names."""
    middle = name.removeprefix(_PREFIX).removesuffix(SUFFIX)
    is_snapshot = name == f"{_PREFIX}{middle}{SUFFIX}"
    return int(middle) if is_snapshot and middle.isascii() and middle.isdigit() else None


def write_snapshot(files: Files, directory: Path, heading: Heading, body: bytes) -> int:
    """Returns the file's size in bytes. Raises OSError."""
    header = msgspec.msgpack.encode(heading)
    head = FRAME.pack(MAGIC, VERSION, 0, len(header), len(body)) + header
    checksum = zlib.crc32(body, zlib.crc32(head))
    path = snapshot_path(directory, heading.origin.entry)
    write_whole(files, path, [head, body, CRC.pack(checksum)])
    return len(head) + len(body) + CRC.size


def read_snapshot(data: bytes, name: str) -> SnapshotFile:
    """Raises DecodeError when the bytes are not what was written, NewerVersionError when they are and
    a newer program wrote them."""
    if is_newer(data):
        raise NewerVersionError(
            f"{name} has version {FRAME.unpack_from(data)[1]}; this program reads up to {VERSION}"
        )
    header, body = open_frame(MAGIC, VERSION, data, name)
    try:
        heading = msgspec.msgpack.decode(header, type=Heading)
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"{name}: header: {error}") from None
    if last_of(name) not in (None, heading.origin.entry):
        raise DecodeError(f"{name} holds the snapshot of entry {heading.origin.entry}")
    return SnapshotFile(heading, bytes(body))


def is_newer(data: bytes) -> bool:
    """A whole frame of ours with a version above ours; damage to the version is not that."""
    if len(data) < FRAME.size + CRC.size:
        return False
    magic, version, *_ = FRAME.unpack_from(data)
    if magic != MAGIC or version <= VERSION:
        return False
    return CRC.unpack_from(data, len(data) - CRC.size) == (
        zlib.crc32(memoryview(data)[: -CRC.size]),
    )
