"""What the journal of a shard says beside the fold: which chunks are decided on, and where to read on.

Invariant: a function of the journal's entries, live and in replay (`state.journalled.Beside`). It is written
into each snapshot in front of the fold, so that both are of the same entry.

Bytes of a snapshot's body: length of what stands here (uint32, little-endian), that, the fold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection

import msgspec

from agent.aggregate.accept import Verdict
from agent.aggregate.chains import Chains, End, ends_of
from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.state.heads import chunk_id
from agent.state.journalled import MakeFold
from agent.state.recovery import FoldCodec
from agent.types import Chunk, Partition

_LENGTH = struct.Struct("<I")


class _Note(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One entry's word."""


class _Judged(_Note, tag=1, frozen=True):
    """A chunk is decided on, and not folded."""

    chunk_id: str
    ends: list[End]


class _ReadTo(_Note, tag=2, frozen=True):
    """No record below this position is needed any more."""

    position: int


class _State(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    position: int
    chains: bytes
    folded: int = 0


_notes: msgspec.msgpack.Decoder[_Judged | _ReadTo] = msgspec.msgpack.Decoder(_Judged | _ReadTo)


def judged(verdict: Verdict) -> bytes:
    """The note of a verdict that folds nothing."""
    return msgspec.msgpack.encode(_Judged(verdict.chunk_id, list(verdict.ends)))


def read_to(position: int) -> bytes:
    """The note of a position."""
    return msgspec.msgpack.encode(_ReadTo(position))


class ShardLog:
    """One owner, the fold thread."""

    def __init__(self) -> None:
        self.chains = Chains()
        self.position = 0
        self.folded = 0  # chunks, ever

    # -- entries: `state.journalled.Beside`

    def counted(self, chunk: Chunk) -> None:
        self.folded += 1
        self.chains.decide(chunk_id(chunk.run_id, chunk.number), ends_of(chunk.ranges))

    def noted(self, data: bytes) -> None:
        """Raises DecodeError."""
        try:
            note = _notes.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"note of the aggregator: {error}") from None
        match note:
            case _Judged():
                self.chains.decide(note.chunk_id, note.ends)
            case _ReadTo():
                self.position = note.position

    def forgot(self, partitions: Collection[Partition]) -> None:
        self.chains.forget(partitions)

    # -- snapshots

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(_State(self.position, self.chains.to_bytes(), self.folded))

    def restore(self, data: bytes) -> None:
        """Raises DecodeError."""
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"state of the aggregator: {error}") from None
        self.chains = Chains.from_bytes(state.chains)
        self.position, self.folded = state.position, state.folded

    def codec(
        self, make: MakeFold, dump: Callable[[Fold], bytes], load: Callable[[bytes], Fold]
    ) -> FoldCodec:
        """How a volume writes fold and this together."""

        def dump_both(fold: Fold) -> bytes:
            own = self.to_bytes()
            return b"".join((_LENGTH.pack(len(own)), own, dump(fold)))

        def load_both(data: bytes) -> Fold:
            if len(data) < _LENGTH.size:
                raise DecodeError("state of the aggregator: it is empty")
            (length,) = _LENGTH.unpack_from(data)
            end = _LENGTH.size + length
            self.restore(data[_LENGTH.size : end])
            return load(data[end:])

        return FoldCodec(make, dump_both, load_both, beside=self)
