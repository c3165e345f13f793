"""Chunks: made of what the kernel threads froze, and written as bytes that can be trusted.

Bytes (little-endian)

    0   magic "IFCH"    4   version uint16    6   0 uint16
    8   header length uint32    12   body length uint64
    20  header: msgpack of everything but the cells; each cell as its length in the body
    ..  body: the compact cells, numeric first, one behind the other (`sketch.codec`)
    -4  crc32 of all before it

A reader takes versions up to its own. Anything else that is wrong is a DecodeError: bytes are never
half believed.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Annotated

import msgspec

from agent.config import Config
from agent.errors import DecodeError
from agent.sketch.cells import NUMERIC_CELL_BYTES, SKETCH_PARAMETERS, STRING_CELL_BYTES, Bytes
from agent.sketch.codec import (
    frame_numeric,
    frame_string,
    numeric_from_bytes,
    payload_of,
    string_from_bytes,
)
from agent.sketch.packed import PackedCells, from_payloads
from agent.sketch.pair_sums import PairSums, ScoredGroup, pairs_of, vectors_of, with_sums
from agent.sketch.vector_sums import from_bytes as vectors_from_bytes
from agent.types import (
    CellRef,
    Chunk,
    Exemplar,
    JsonType,
    PartitionRange,
    RequestSpan,
    Tally,
)

MAGIC = b"IFCH"
VERSION = 1
#: As many as `overload.max_halvings` may be: a row stands for 65,536 at most.
ShedBits = Annotated[int, msgspec.Meta(ge=0, le=16)]
_FRAME = struct.Struct("<4sHHIQ")
_CRC = struct.Struct("<I")


def merge_digest(config: Config) -> str:
    """What must agree for two chunks to fold into the same windows: `width in ms;sketch parameters`."""
    return f"{int(config.windows.width_s * 1000)};{SKETCH_PARAMETERS}"


# ---------------------------------------------------------------- bytes


class _Tally(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    records: int
    events: int
    rows: int
    labels: int
    size_bytes: int
    rows_by_tier: dict[str, int]
    dropped: dict[str, int]
    irregular: dict[str, int]
    labels_by_model: dict[str, int]


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    run_id: str
    number: int
    epoch: int
    digest: str
    ranges: list[PartitionRange]
    groups: list[ScoredGroup]  # only those that have pair sums are written with them
    tally: _Tally
    spans: list[RequestSpan]
    exemplars: list[Exemplar]
    numeric_lengths: list[int]
    string_lengths: list[int]
    shed_bits: ShedBits = 0


def to_bytes(chunk: Chunk) -> bytes:
    """The chunk as bytes; `from_bytes` gives an equal one."""
    numeric = [frame_numeric(chunk.numeric.payload(i)) for i in range(len(chunk.numeric))]
    strings = [frame_string(chunk.strings.payload(i)) for i in range(len(chunk.strings))]
    t = chunk.tally
    header = msgspec.msgpack.encode(
        _Header(
            chunk.run_id,
            chunk.number,
            chunk.epoch,
            chunk.digest,
            chunk.ranges,
            chunk.groups,  # type: ignore[arg-type]  # a Group is a ScoredGroup that lacks an optional key
            _Tally(
                t.records,
                t.events,
                t.rows,
                t.labels,
                t.size_bytes,
                dict(t.rows_by_tier),
                dict(t.dropped),
                dict(t.irregular),
                dict(t.labels_by_model),
            ),
            chunk.spans,
            chunk.exemplars,
            [len(b) for b in numeric],
            [len(b) for b in strings],
            chunk.shed_bits,
        )
    )
    return seal_frame(MAGIC, VERSION, header, b"".join(numeric + strings))


def from_bytes(data: bytes) -> Chunk:
    """The chunk that `to_bytes` wrote. Raises DecodeError when the bytes are not exactly that."""
    raw, body = open_frame(MAGIC, VERSION, data, "chunk")
    try:
        header = msgspec.msgpack.decode(raw, type=_Header)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        raise DecodeError(f"chunk header: {error}") from None
    lengths = header.numeric_lengths + header.string_lengths
    if any(length < 0 for length in lengths) or sum(lengths) != len(body):
        raise DecodeError(f"chunk: cells take {sum(lengths)} bytes, the body has {len(body)}")
    at = 0
    numeric, at = _cells(body, at, header.numeric_lengths, NUMERIC_CELL_BYTES, numeric_from_bytes)
    strings, _ = _cells(body, at, header.string_lengths, STRING_CELL_BYTES, string_from_bytes)
    for group in header.groups:
        for ref in group.cells:
            _check_cell(ref, len(numeric), len(strings))
        if group.pairs:
            PairSums.from_bytes(group.pairs)
        vectors_from_bytes(group.vectors)
    t = header.tally
    return Chunk(
        run_id=header.run_id,
        number=header.number,
        epoch=header.epoch,
        digest=header.digest,
        ranges=header.ranges,
        groups=[with_sums(g, pairs_of(g), vectors_of(g)) for g in header.groups],
        numeric=numeric,
        strings=strings,
        tally=Tally(
            records=t.records,
            events=t.events,
            rows=t.rows,
            labels=t.labels,
            size_bytes=t.size_bytes,
            rows_by_tier=Counter(t.rows_by_tier),
            dropped=Counter(t.dropped),
            irregular=Counter(t.irregular),
            labels_by_model=Counter(t.labels_by_model),
        ),
        spans=header.spans,
        exemplars=header.exemplars,
        shed_bits=header.shed_bits,
    )


def _cells(
    body: memoryview,
    at: int,
    lengths: list[int],
    cell_bytes: int,
    read: Callable[[bytes], Bytes],
) -> tuple[PackedCells, int]:
    """Cells of `lengths` bytes from `at` on, each read once to see that it is sound; and where they end."""
    payloads = []
    for i, length in enumerate(lengths):
        data = bytes(body[at : at + length])
        record = read(data)
        if len(record) != cell_bytes:
            raise DecodeError(f"chunk: cell {i} has {len(record)} bytes, not {cell_bytes}")
        payloads.append(payload_of(data))
        at += length
    return from_payloads(payloads, is_string=cell_bytes == STRING_CELL_BYTES), at


def _check_cell(ref: CellRef, n_numeric: int, n_strings: int) -> None:
    limit = n_strings if ref.type is JsonType.STRING else n_numeric
    if not 0 <= ref.cell < limit:
        raise DecodeError(f"chunk: column {ref.column.name!r} names cell {ref.cell} of {limit}")


# ---------------------------------------------------------------- the frame, shared with profiles


def seal_frame(magic: bytes, version: int, header: bytes, body: bytes) -> bytes:
    """Magic, version, lengths, header, body, checksum."""
    data = _FRAME.pack(magic, version, 0, len(header), len(body)) + header + body
    return data + _CRC.pack(zlib.crc32(data))


def open_frame(magic: bytes, version: int, data: bytes, what: str) -> tuple[memoryview, memoryview]:
    """Header and body of a frame. Raises DecodeError when it is cut short, changed, or newer than `version`."""
    if len(data) < _FRAME.size + _CRC.size:
        raise DecodeError(
            f"{what}: {len(data)} bytes; a frame has at least {_FRAME.size + _CRC.size}"
        )
    found, written, reserved, header_length, body_length = _FRAME.unpack_from(data)
    if found != magic:
        raise DecodeError(f"{what}: starts with {found!r}, not {magic!r}")
    if written > version:
        raise DecodeError(
            f"{what}: version {written}; this program reads up to {version}: upgrade it"
        )
    if written < 1 or reserved:
        raise DecodeError(f"{what}: version {written}, reserved field {reserved}")
    expected = _FRAME.size + header_length + body_length + _CRC.size
    if len(data) != expected:
        raise DecodeError(f"{what}: {len(data)} bytes; its lengths say {expected}")
    (checksum,) = _CRC.unpack_from(data, len(data) - _CRC.size)
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != checksum:
        raise DecodeError(f"{what}: checksum does not match: the bytes were changed")
    view = memoryview(data)
    split = _FRAME.size + header_length
    return view[_FRAME.size : split], view[split : -_CRC.size]
