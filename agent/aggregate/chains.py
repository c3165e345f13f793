"""How far the chains of chunks have been decided on: what must be kept beside the fold.

Effective chunks of a lineage form one chain by `prev`; its *tip* is the last chunk of it that was decided
on. All else that an aggregator knows of chunks is read again from the topic.

Memory: some hundred bytes a run, and a tip for each of the last lineages of a partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from agent.aggregate.decided import Decided, Intervals
from agent.errors import DecodeError
from agent.types import Partition, PartitionRange

VERSION = 1
#: Lineages of a partition whose tips are remembered.
MAX_LINEAGES = 8

Place = tuple[Partition, str]  # partition and lineage


class Tip(NamedTuple):
    chunk_id: str
    to_offset: int


class End(NamedTuple):
    """Where a chunk ends in one lineage of a partition."""

    partition: Partition
    lineage: str
    to_offset: int


class _State(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    decided: list[tuple[str, Intervals]]
    tips: list[tuple[Partition, str, str, int]]


class Chains:
    """Decided chunks and tips. A function of the calls and their order."""

    def __init__(self) -> None:
        self.decided = Decided()
        self._tips: dict[Partition, dict[str, Tip]] = {}

    def tip(self, partition: Partition, lineage: str) -> Tip | None:
        return self._tips.get(partition, {}).get(lineage)

    def newest_tip(self, partition: Partition) -> Tip | None:
        """Of the lineage that was decided on last."""
        tips = self._tips.get(partition)
        return next(reversed(tips.values())) if tips else None

    def decide(self, chunk_id: str, ends: Iterable[End]) -> None:
        """A chunk is decided on. `ends`: where its chains go on behind it; none when it does not count."""
        self.decided.add(chunk_id)
        for partition, lineage, to_offset in ends:
            tips = self._tips.setdefault(partition, {})
            tips.pop(lineage, None)
            tips[lineage] = Tip(chunk_id, to_offset)  # the latest is last
            while len(tips) > MAX_LINEAGES:
                del tips[next(iter(tips))]

    def to_bytes(self) -> bytes:
        tips = [
            (partition, lineage, *tip)
            for partition, by_lineage in self._tips.items()
            for lineage, tip in by_lineage.items()
        ]
        return msgspec.msgpack.encode(_State(VERSION, self.decided.runs(), tips))

    @classmethod
    def from_bytes(cls, data: bytes) -> Chains:
        """What `to_bytes` gave. Raises DecodeError."""
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"state of the aggregator: {error}") from None
        if state.version != VERSION:
            raise DecodeError(
                f"state of the aggregator: version {state.version}; this program reads version {VERSION}"
            )
        made = cls()
        made.decided = Decided(state.decided)
        for partition, lineage, chunk_id, to_offset in state.tips:
            made._tips.setdefault(partition, {})[lineage] = Tip(chunk_id, to_offset)
        return made


def ends_of(ranges: Iterable[PartitionRange]) -> list[End]:
    """Where a chunk of these ranges ends."""
    return [End(at.partition, at.lineage, at.to_offset) for at in ranges]
