"""Chunks: made of what the kernel threads froze, and written as bytes that can be trusted.

Bytes: a frame (`state.frame`, magic "IFCH").

    header  msgpack of everything but the cells; each cell as its length in the body
    body    the compact cells, numeric first, one behind the other (`sketch.codec`)
"""

from __future__ import annotations

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
from agent.state.frame import open_frame, seal_frame
from agent.state.tally import WrittenTally
from agent.types import (
    CellRef,
    Chunk,
    Exemplar,
    JsonType,
    PartitionRange,
    RequestSpan,
)

MAGIC = b"IFCH"
VERSION = 1
#: As many as `overload.max_halvings` may be: a row stands for 65,536 at most.
ShedBits = Annotated[int, msgspec.Meta(ge=0, le=16)]


def merge_digest(config: Config) -> str:
    """What must agree for two chunks to fold into the same windows: `width in ms;sketch parameters`."""
    return f"{int(config.windows.width_s * 1000)};{SKETCH_PARAMETERS}"


# ---------------------------------------------------------------- bytes


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    run_id: str
    number: int
    epoch: int
    digest: str
    ranges: list[PartitionRange]
    groups: list[ScoredGroup]  # only those that have pair sums are written with them
    tally: WrittenTally
    spans: list[RequestSpan]
    exemplars: list[Exemplar]
    numeric_lengths: list[int]
    string_lengths: list[int]
    shed_bits: ShedBits = 0


def to_bytes(chunk: Chunk) -> bytes:
    """The chunk as bytes; `from_bytes` gives an equal one."""
    numeric = [frame_numeric(chunk.numeric.payload(i)) for i in range(len(chunk.numeric))]
    strings = [frame_string(chunk.strings.payload(i)) for i in range(len(chunk.strings))]
    header = msgspec.msgpack.encode(
        _Header(
            chunk.run_id,
            chunk.number,
            chunk.epoch,
            chunk.digest,
            chunk.ranges,
            chunk.groups,  # type: ignore[arg-type]  # a Group is a ScoredGroup that lacks an optional key
            WrittenTally.of(chunk.tally),
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
    return Chunk(
        run_id=header.run_id,
        number=header.number,
        epoch=header.epoch,
        digest=header.digest,
        ranges=header.ranges,
        groups=[with_sums(g, pairs_of(g), vectors_of(g)) for g in header.groups],
        numeric=numeric,
        strings=strings,
        tally=header.tally.tally(),
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
