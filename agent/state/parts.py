"""Records of the chunk topic: a shard's part of a chunk as a manifest and numbered parts.

Both are frames as in `state.chunk` (magic, version, lengths, header, body, checksum), little-endian.

    part      "IFCP"  header: chunk, shard, index;  body: a slice of the body's bytes
    manifest  "IFCM"  header: chunk, shard, shards, parts, length and digest of the body, and the ids
                      that it confirms;  body: the chunk without groups: ranges and tally

The body, all parts joined, is the chunk without ranges and tally (`chunk.to_bytes`); there is none,
and no part, when the shard got no rows. A manifest stands behind its parts, and is written always.

A reader takes versions up to its own. Anything else that is wrong is a DecodeError, ids and offsets that
no agent writes included: whoever may write the topic could stop its aggregators otherwise.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from agent.errors import DecodeError, StateError
from agent.sketch.packed import no_cells
from agent.state.chunk import from_bytes, to_bytes
from agent.state.frame import open_frame, seal_frame
from agent.state.heads import chunk_id, is_chunk_id, is_id
from agent.types import Chunk, PartitionRange, Tally

PART_MAGIC, MANIFEST_MAGIC = b"IFCP", b"IFCM"
VERSION = 1
#: Of one record's value: brokers take 1 MiB by default, batch and record headers included.
MAX_RECORD_BYTES = 900 * 1024
_SLICE_BYTES = MAX_RECORD_BYTES - 1024
_MAGIC = struct.Struct("<4s")


class _PartHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    run_id: str
    number: int
    shard: int
    index: int


class _ManifestHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    run_id: str
    number: int
    shard: int
    n_shards: int
    n_parts: int
    body_bytes: int
    body_digest: bytes
    confirms: list[str]


@dataclass(frozen=True, slots=True)
class Part:
    """One slice of a chunk's body."""

    chunk_id: str
    shard: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a shard must have before it may fold its part of a chunk.

    `confirms`: the last chunks of the same run whose commits were accepted. They tell what counted
    also where no later chunk of the lineage does, because there is none or its manifest is lost.
    """

    run_id: str
    number: int
    shard: int
    n_shards: int
    n_parts: int
    body_bytes: int
    body_digest: bytes
    confirms: tuple[str, ...]
    bare: Chunk  # ranges and tally, nothing else

    @property
    def chunk_id(self) -> str:
        return chunk_id(self.run_id, self.number)

    @property
    def ranges(self) -> list[PartitionRange]:
        return self.bare.ranges


def records_of(chunk: Chunk, shard: int, n_shards: int, confirms: Iterable[str]) -> list[bytes]:
    """Values of the records of one shard's part of a chunk, each at most `MAX_RECORD_BYTES`.

    `chunk` is what `shards.split` made of it. Raises StateError when its ranges do not fit into a
    manifest: some thousands of partitions do.
    """
    body = b""
    if chunk.groups or chunk.exemplars:
        body = to_bytes(replace(chunk, ranges=[], tally=Tally(), spans=[]))
    slices = [body[at : at + _SLICE_BYTES] for at in range(0, len(body), _SLICE_BYTES)]
    records = [
        seal_frame(
            PART_MAGIC,
            VERSION,
            msgspec.msgpack.encode(_PartHeader(chunk.run_id, chunk.number, shard, index)),
            data,
        )
        for index, data in enumerate(slices)
    ]
    header = _ManifestHeader(
        chunk.run_id,
        chunk.number,
        shard,
        n_shards,
        len(slices),
        len(body),
        _digest(body),
        list(confirms),
    )
    manifest = seal_frame(
        MANIFEST_MAGIC, VERSION, msgspec.msgpack.encode(header), to_bytes(_without_rows(chunk))
    )
    if len(manifest) > MAX_RECORD_BYTES:
        raise StateError(
            f"the manifest of a chunk of {len(chunk.ranges)} partitions has {len(manifest)} bytes; "
            f"at most {MAX_RECORD_BYTES} fit: run more agents"
        )
    return [*records, manifest]


def read_record(value: bytes | None) -> Part | Manifest:
    """What a record's value holds. Raises DecodeError when it is not one of ours, whole and unchanged."""
    if value is None or len(value) < _MAGIC.size:
        raise DecodeError(f"chunk topic: a record of {len(value or b'')} bytes is not ours")
    (magic,) = _MAGIC.unpack_from(value)
    try:
        if magic == PART_MAGIC:
            return _read_part(value)
        return _read_manifest(value)
    except (msgspec.DecodeError, ValueError) as error:  # a string that is not UTF-8: ValueError
        raise DecodeError(f"chunk topic: header: {error}") from None


def _read_part(value: bytes) -> Part:
    raw, body = open_frame(PART_MAGIC, VERSION, value, "part of a chunk")
    header = msgspec.msgpack.decode(raw, type=_PartHeader)
    if header.index < 0 or header.shard < 0 or not body:
        raise DecodeError(
            f"part of a chunk: part {header.index} of shard {header.shard}, {len(body)} bytes"
        )
    name = chunk_id(header.run_id, header.number)
    _check_ids("part of a chunk", [name])
    return Part(name, header.shard, header.index, bytes(body))


def _read_manifest(value: bytes) -> Manifest:
    raw, body = open_frame(MANIFEST_MAGIC, VERSION, value, "manifest of a chunk")
    h = msgspec.msgpack.decode(raw, type=_ManifestHeader)
    n_parts = -(-h.body_bytes // _SLICE_BYTES)
    if not 0 <= h.shard < h.n_shards or h.body_bytes < 0 or h.n_parts != n_parts:
        raise DecodeError(
            f"manifest of a chunk: shard {h.shard} of {h.n_shards}, {h.body_bytes} bytes in "
            f"{h.n_parts} parts"
        )
    bare = from_bytes(bytes(body))
    if (bare.run_id, bare.number) != (h.run_id, h.number):
        raise DecodeError("manifest of a chunk: its ranges are those of another chunk")
    name = chunk_id(h.run_id, h.number)
    _check_ids(
        "manifest of a chunk", [name, *h.confirms, *(at.prev for at in bare.ranges if at.prev)]
    )
    for at in bare.ranges:
        if not is_id(at.lineage) or not 0 <= at.from_offset <= at.to_offset:
            raise DecodeError(
                f"manifest of a chunk: {at.partition} [{at.from_offset}, {at.to_offset}) of lineage "
                f"{at.lineage[:64]!r}"
            )
    return Manifest(
        h.run_id,
        h.number,
        h.shard,
        h.n_shards,
        h.n_parts,
        h.body_bytes,
        h.body_digest,
        tuple(h.confirms),
        bare,
    )


def _check_ids(what: str, names: Iterable[str]) -> None:
    for name in names:
        if not is_chunk_id(name):
            raise DecodeError(f"{what}: {name[:100]!r} is not the id of a chunk")


def join(manifest: Manifest, parts: Sequence[bytes]) -> Chunk:
    """The shard's part of the chunk, from the data of all its parts in order. Raises DecodeError."""
    bare = manifest.bare
    if manifest.n_parts == 0 and not parts:
        return bare
    body = b"".join(parts)
    if len(body) != manifest.body_bytes or _digest(body) != manifest.body_digest:
        raise DecodeError(
            f"chunk {manifest.chunk_id}: its {len(parts)} parts have {len(body)} bytes, not the "
            f"{manifest.body_bytes} that its manifest names, or other ones"
        )
    chunk = from_bytes(body)
    if (chunk.run_id, chunk.number) != (bare.run_id, bare.number):
        raise DecodeError(f"chunk {manifest.chunk_id}: its parts are those of another chunk")
    return replace(chunk, ranges=bare.ranges, tally=bare.tally)


def _digest(body: bytes) -> bytes:
    """Not a CRC: the body ends with its own, and so all bodies would have the same."""
    return hashlib.blake2b(body, digest_size=16).digest()


def _without_rows(chunk: Chunk) -> Chunk:
    return replace(
        chunk,
        groups=[],
        numeric=no_cells(is_string=False),
        strings=no_cells(is_string=True),
        spans=[],
        exemplars=[],
    )
