"""How far the chains of chunks have been decided on: what must be kept beside the fold.

Effective chunks of a lineage form one chain by `prev`; its *tip* is the last chunk of it that was decided
on. All else that an aggregator knows of chunks is read again from the topic.

Memory: some hundred bytes a run; a tip for each of the last lineages of a partition; and the newest tip of
each of the last `MAX_GONE` partitions that are gone, for the case that their topic comes back.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from agent.aggregate.decided import Decided, Intervals
from agent.errors import DecodeError
from agent.types import Partition, PartitionRange

VERSION = 1
#: Lineages of a partition whose tips are remembered.
MAX_LINEAGES: Final = 8
#: Partitions that nobody speaks for any more whose newest tip is remembered.
MAX_GONE: Final = 1024

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
    gone: list[tuple[Partition, str, str, int]] = []


class Chains:
    """Decided chunks and tips. A function of the calls and their order."""

    def __init__(self) -> None:
        self.decided = Decided()
        self._tips: dict[Partition, dict[str, Tip]] = {}
        self._gone: dict[Partition, dict[str, Tip]] = {}  # one tip each; who went last is last

    def tip(self, partition: Partition, lineage: str) -> Tip | None:
        return self._of(partition).get(lineage)

    def newest_tip(self, partition: Partition) -> Tip | None:
        """Of the lineage that was decided on last."""
        tips = self._of(partition)
        return next(reversed(tips.values())) if tips else None

    def decide(self, chunk_id: str, ends: Iterable[End]) -> None:
        """A chunk is decided on. `ends`: where its chains go on behind it; none when it does not count."""
        self.decided.add(chunk_id)
        for partition, lineage, to_offset in ends:
            tips = self._tips.setdefault(partition, self._gone.pop(partition, {}))
            tips.pop(lineage, None)
            tips[lineage] = Tip(chunk_id, to_offset)  # the latest is last
            while len(tips) > MAX_LINEAGES:
                del tips[next(iter(tips))]

    def _of(self, partition: Partition) -> dict[str, Tip]:
        return self._tips.get(partition) or self._gone.get(partition) or {}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Nobody speaks for them any more; of each the newest tip stays for a while."""
        for partition in partitions:
            tips = self._tips.pop(partition, None)
            if tips is not None:
                lineage = next(reversed(tips))
                self._gone[partition] = {lineage: tips[lineage]}
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]

    def forget_but(self, partitions: Container[Partition]) -> None:
        """`forget` all others."""
        self.forget([partition for partition in self._tips if partition not in partitions])

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(
            _State(VERSION, self.decided.runs(), _rows(self._tips), _rows(self._gone))
        )

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
        for partition, lineage, chunk_id, to_offset in state.gone:
            made._gone[partition] = {lineage: Tip(chunk_id, to_offset)}
        return made


def _rows(
    tips: Mapping[Partition, Mapping[str, Tip]],
) -> list[tuple[Partition, str, str, int]]:
    return [
        (partition, lineage, *tip)
        for partition, by_lineage in tips.items()
        for lineage, tip in by_lineage.items()
    ]


def ends_of(ranges: Iterable[PartitionRange]) -> list[End]:
    """Where a chunk of these ranges ends."""
    return [End(at.partition, at.lineage, at.to_offset) for at in ranges]
