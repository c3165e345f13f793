"""Fleet mode: chunks go to the chunk topic, one fenced commit makes them count, aggregators fold them.

Invariants
 1. A chunk is committed only when all its records are acknowledged; its commit names all its partitions,
    and is sent again unchanged until all that exist are accepted: a chunk counts whole as soon as one of
    them is, and whoever begins at an older offset of another counts its rows again.
 2. What its commit came to, when no answer said it, the next owners read in the group's offsets; this
    process forgets it.
 3. Request spans leave when their chunk counts, and are in no record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from agent.config import Config
from agent.delivery.chained import Chained, Commit
from agent.delivery.outcome import Outcome
from agent.errors import FencedError
from agent.fleet.chunk_topic import ChunkTopic
from agent.fleet.chunk_writer import ChunkWriter
from agent.fold.effects import Effects
from agent.ingest.lineages import Chain, Place
from agent.state.heads import Head, chunk_id, head_of, new_id
from agent.state.parts import records_of
from agent.state.shards import split
from agent.types import Chunk, Json, Partition, Snapshot

if TYPE_CHECKING:
    from agent.delivery.mode import Mode

    def _is_a_mode(mode: FleetMode) -> Mode:
        return mode


log = logging.getLogger(__name__)

#: Accepted chunks that a manifest names: so many records in a row must be lost to hide one.
CONFIRMS: Final = 4


class FleetMode(Chained):
    """See `delivery.mode.Mode`, and `ingest.lineages.Chain`. Nothing is folded here."""

    def __init__(
        self,
        config: Config,
        writer: ChunkWriter,
        commit: Commit,
        *,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """`prepare` makes and checks the chunk topic, before the group is joined."""
        super().__init__(new_id(), commit, config.windows)
        self.chain: Chain | None = self
        self._topic = ChunkTopic.of(config.delivery)
        self._writer = writer
        self._prepare = prepare
        self._found: dict[Partition, Head] = {}  # in the group's offsets, before the epoch
        self._number = 0
        self._confirmed: deque[str] = deque(maxlen=CONFIRMS)
        self._exported_ns = 0

    # -- life

    async def open(self) -> None:
        """Raises ConfigError when the chunk topic is not fit, SourceError when it cannot be had."""
        await self._prepare()

    async def finish(self) -> None:
        """What was cut has been committed, or is forgotten."""

    async def close(self) -> None:
        self._ended.set()
        await self._writer.stop()

    async def forget(self, partitions: Iterable[Partition]) -> None:
        """There is nothing of them here but heads, which the next epoch reads again."""

    # -- starts: `ingest.lineages.Chain`

    async def settle(
        self, wanted: Collection[Partition], committed: Mapping[Partition, tuple[int, str]]
    ) -> Mapping[Partition, Place]:
        """The group's offsets are the only word there is; what a tool has set begins a new lineage."""
        self._found = {}
        places = {}
        for partition in wanted:
            if partition not in committed:
                continue
            offset, metadata = committed[partition]
            head = head_of(offset, metadata)
            if head is not None:
                self._found[partition] = head
            elif self._announcer.may_say(str(partition)):
                log.warning(
                    "%s/%d: its offset %d was set from outside: rows before and behind it may be left "
                    "out, or counted again",
                    *partition,
                    offset,
                )
            places[partition] = Place(offset, is_committed=head is not None)
        return places

    async def place(self, epoch: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        """See `Chain`. A new lineage is durable with its genesis commit."""
        heads = self._heads_at(offsets, self._found)
        self._heads = heads
        return {partition: head.metadata for partition, head in heads.items()}

    # -- chunks

    async def deliver(self, chunk: Chunk) -> Outcome | None:
        """Write, then commit. None: it does not count, or the group's offsets will say.

        Raises SourceError when the chunk topic cannot be written, whatever is tried.
        """
        if not chunk.ranges or self._is_idle(chunk):
            return Outcome(Effects(), {}, is_folded=False)
        if chunk.epoch != self._epoch:
            return None
        ended = self._ended
        self._number += 1  # without the gaps of cuts that were not written
        chunk.run_id, chunk.number = self.run_id, self._number
        self._link(chunk)
        name = chunk_id(chunk.run_id, chunk.number)
        confirms = tuple(self._confirmed)
        records = await asyncio.to_thread(_records, chunk, self._topic.shards, confirms)
        try:
            await self._writer.write(name, records, ended=ended)
        except FencedError as error:
            log.info("chunk %s is forgotten: %s", name, error)
            return None
        try:
            await self._commit_chunk(chunk)
        except FencedError:
            return None
        self._confirmed.append(name)
        self._counts(chunk)
        return Outcome(Effects(spans=list(chunk.spans)), {})

    # -- what leaves

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        """Nothing of what is folded: an aggregator is the one writer of those series."""
        self._exported_ns = max(self._exported_ns + 1, now_ns)  # a clock may go back
        return Snapshot(self._exported_ns, [], {})

    async def scrape(self, now_ns: int) -> Snapshot | None:
        """See `export`."""
        return None

    def accepted(self, snapshot: Snapshot) -> None:
        """Nothing rests on it."""

    # -- what others see

    def reasons(self) -> list[str]:
        return [trouble for trouble in (self._writer.trouble, self._trouble) if trouble]

    def describe(self) -> Json:
        return {
            "fleet": {
                "topic": self._topic.name,
                "shards": self._topic.shards,
                "run_id": self.run_id,
                "confirmed": self._confirmed[-1] if self._confirmed else None,
                "producers_replaced": self._writer.n_restarts,
                "trouble": "; ".join(self.reasons()) or None,
            }
        }

    def observe(self) -> None:
        """It has no gauges."""


def _records(chunk: Chunk, n_shards: int, confirms: tuple[str, ...]) -> list[list[bytes]]:
    """Off the loop: a large chunk takes milliseconds to write out."""
    return [
        records_of(part, shard, n_shards, confirms)
        for shard, part in enumerate(split(chunk, n_shards))
    ]
