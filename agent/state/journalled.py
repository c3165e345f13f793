"""What the journal's entries make: the fold, and the positions that rest on it.

Invariant: live and in replay, entries pass through `take` alone, so what is here is a function of the
entries and nothing else. `take` reads no clock and makes no random choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.state import chunk as chunk_bytes
from agent.state.entries import (
    Accepted,
    Answered,
    AnyEntry,
    Assigned,
    Began,
    ChunkWritten,
    Done,
    Export,
    Forget,
    Noted,
    Renewed,
    Tick,
)
from agent.state.heads import Head
from agent.types import Chunk, Partition, Snapshot

#: Makes an empty fold whose series start at a time (epoch ns).
MakeFold = Callable[[int], Fold]


class Beside(Protocol):
    """What a process keeps with its fold, as a function of the same entries."""

    def counted(self, chunk: Chunk) -> None:
        """A chunk is folded now."""

    def noted(self, data: bytes) -> None:
        """Its own entry. Raises DecodeError."""

    def forgot(self, partitions: Collection[Partition]) -> None:
        """Nobody speaks for them any more."""


class Journalled:
    """One owner, the fold thread.

    heads       where each partition stands, by the last chunk that counts
    unanswered  the chunk of which it is not known yet whether it counts; at most one
    runs        ids of the processes that wrote the journal, oldest first
    """

    def __init__(
        self, make_fold: MakeFold, fold: Fold | None = None, beside: Beside | None = None
    ) -> None:
        self._make_fold = make_fold
        self._fold = fold
        self._beside = beside
        self.heads: dict[Partition, Head] = {}
        self.unanswered: Chunk | None = None
        self.runs: list[str] = []

    @property
    def fold(self) -> Fold:
        if self._fold is None:
            raise DecodeError("the journal does not begin with the start of a process")
        return self._fold

    def has_fold(self) -> bool:
        return self._fold is not None

    def take(self, entry: AnyEntry, chunk: Chunk | None = None) -> Effects | Snapshot | None:
        """Apply one entry. `chunk`: what `ChunkWritten` holds, when the caller has it at hand.

        Returns what the fold's input of that name returns. Raises DecodeError when the entry does
        not fit what came before.
        """
        match entry:
            case Began():
                self._begin(entry)
            case ChunkWritten():
                if self.unanswered is not None:
                    raise DecodeError("a chunk follows another that has not been answered")
                self.unanswered = chunk_bytes.from_bytes(entry.data) if chunk is None else chunk
            case Answered():
                return self._answer(entry)
            case Tick():
                return self.fold.tick(entry.now_ns)
            case Export():
                return self.fold.export(entry.now_ns, zeros=entry.zeros)
            case Accepted():
                self.fold.accepted(Snapshot(entry.time_ns, [], {}))
            case Forget():
                self._forget(entry)
            case Assigned():
                self.heads.update(entry.heads)
            case Renewed():
                self.fold.renew(entry.now_ns)
            case Noted():
                if self._beside is None:
                    raise DecodeError("an entry of an aggregator; this is none")
                self._beside.noted(entry.data)
            case Done():
                pass
        return None

    def take_all(self, entries: Iterable[AnyEntry]) -> None:
        for entry in entries:
            self.take(entry)

    def _begin(self, entry: Began) -> None:
        if self._fold is None:
            self._fold = self._make_fold(entry.now_ns)
        self.runs.append(entry.run_id)

    def _forget(self, entry: Forget) -> None:
        self.fold.forget(entry.partitions)
        if entry.heads:
            for partition in entry.partitions:
                self.heads.pop(partition, None)
        if self._beside is not None:
            self._beside.forgot(entry.partitions)

    def _answer(self, entry: Answered) -> Effects | None:
        chunk, self.unanswered = self.unanswered, None
        if chunk is None or chunk.number != entry.number:
            raise DecodeError(f"an answer to chunk {entry.number}, which was not asked")
        if not entry.accepted:
            return None
        for at in chunk.ranges:
            self.heads[at.partition] = Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
        if self._beside is not None:
            self._beside.counted(chunk)
        return self.fold.apply(chunk, entry.now_ns)
