"""Entries of the journal: every input of the fold, with its own time, and what positions rest on it.

An entry is msgpack: an array that begins with its type's number. Numbers and fields are never used
again for something else; a new field goes to the end, with a default.
"""

from __future__ import annotations

import msgspec

from agent.errors import DecodeError
from agent.state.heads import Head
from agent.types import Partition


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One input."""


class Began(Entry, tag=1, frozen=True):
    """A process took over the journal. The first one's time is where the fold's series start."""

    run_id: str
    now_ns: int


class ChunkWritten(Entry, tag=2, frozen=True):
    """A chunk is durable; whether it counts is not known yet. Synced before its commit is sent."""

    data: bytes  # `chunk.to_bytes`


class Answered(Entry, tag=3, frozen=True):
    """The group's word on the chunk before: it counts, and is folded here; or it is forgotten.

    `refused`: partitions whose offset alone was refused, because they were deleted. The chunk's rows of them
    count all the same.
    """

    number: int
    accepted: bool
    refused: list[Partition]
    now_ns: int


class Tick(Entry, tag=4, frozen=True):
    """Time has passed."""

    now_ns: int


class Export(Entry, tag=5, frozen=True):
    """An export was written. Synced before its bytes leave."""

    now_ns: int
    zeros: bool


class Accepted(Entry, tag=6, frozen=True):
    """A receiver took the export of this time."""

    time_ns: int


class Forget(Entry, tag=7, frozen=True):
    """These partitions are not ours any more. `heads`: nor is it of interest where they stood."""

    partitions: list[Partition]
    heads: bool = False


class Assigned(Entry, tag=8, frozen=True):
    """Partitions that begin elsewhere than where the journal left them, or for the first time."""

    epoch: int
    heads: list[tuple[Partition, Head]]


class Renewed(Entry, tag=9, frozen=True):
    """Every series takes a new start time, because values before may have been larger."""

    now_ns: int
    reason: str


class Done(Entry, tag=10, frozen=True):
    """Effects of everything before have been made."""


class Noted(Entry, tag=11, frozen=True):
    """Something that stands beside the fold, and is no business of the journal (`journalled.Beside`)."""

    data: bytes


AnyEntry = (
    Began
    | ChunkWritten
    | Answered
    | Tick
    | Export
    | Accepted
    | Forget
    | Assigned
    | Renewed
    | Done
    | Noted
)

_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)


def entry_to_bytes(entry: AnyEntry) -> bytes:
    return msgspec.msgpack.encode(entry)


def entry_from_bytes(data: bytes | memoryview) -> AnyEntry:
    """Raises DecodeError when the bytes are no entry, or one of a type that is not known here."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:  # a string that is not UTF-8: ValueError
        raise DecodeError(f"journal entry: {error}") from None
