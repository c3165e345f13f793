"""Fleet mode: chunks go to the chunk topic, one fenced commit makes them count, aggregators fold them.

Invariants
 1. A chunk is committed only when all its records are acknowledged; its commit names all its partitions.
 2. At most one chunk is unanswered. What its commit came to, when no answer said it, the next owners
    read in the group's offsets; this process forgets it.
 3. `prev` is only ever a chunk that counts: taken from the group's offsets when an epoch begins, or from
    an accepted commit of this epoch.
 4. Request spans leave when their chunk counts, and are in no record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agent.delivery.cut import Outcome, Position
from agent.errors import FencedError, SourceError, UnsentError
from agent.fleet.chunk_topic import ChunkTopic
from agent.fleet.chunk_writer import ChunkWriter
from agent.fold.effects import Effects
from agent.ingest.announcer import Announcer
from agent.ingest.lineages import Chain, Place
from agent.state.heads import Head, chunk_id, head_of, new_id
from agent.state.parts import records_of
from agent.state.shards import split
from agent.telemetry import Telemetry
from agent.types import Chunk, Json, Partition, Snapshot

if TYPE_CHECKING:
    from agent.delivery.mode import Mode

    def _is_a_mode(mode: FleetMode) -> Mode:
        return mode


log = logging.getLogger(__name__)

#: Between attempts to commit where the group may not be used.
RETRY_S: Final = 1.0
#: A chunk without a row is written this often, for its word that partitions are caught up.
IDLE_EVERY_S: Final = 5.0
#: Accepted chunks that a manifest names: so many records in a row must be lost to hide one.
CONFIRMS: Final = 4

Commit = Callable[
    [int, Mapping[Partition, int], Mapping[Partition, str]], Awaitable[Mapping[Partition, str]]
]


class FleetMode:
    """See `delivery.mode.Mode`, and `ingest.lineages.Chain`. Nothing is folded here."""

    exports_first: bool = False

    def __init__(
        self,
        topic: ChunkTopic,
        writer: ChunkWriter,
        commit: Commit,
        telemetry: Telemetry,
        *,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """`prepare` makes and checks the chunk topic, before the group is joined."""
        self.chain: Chain | None = self
        self.run_id = new_id()
        self._topic = topic
        self._writer = writer
        self._commit = commit
        self._telemetry = telemetry
        self._prepare = prepare
        self._epoch = 0
        self._ended = asyncio.Event()  # the epoch's
        self._found: dict[Partition, Head] = {}  # in the group's offsets, before the epoch
        self._heads: dict[Partition, Head] = {}  # of the epoch
        self._number = 0
        self._confirmed: deque[str] = deque(maxlen=CONFIRMS)
        self._unclear_epoch = 0  # whose last commit had no clear answer
        self._idle_at = 0.0
        self._caught_up: tuple[bool, ...] = ()
        self._trouble = ""
        self._announcer = Announcer(10.0)

    # -- life

    async def open(self) -> None:
        """Raises ConfigError when the chunk topic is not fit, SourceError when it cannot be had."""
        await self._prepare()

    async def finish(self) -> None:
        """What was cut has been committed, or is forgotten."""

    def close(self) -> None:
        self._ended.set()

    # -- epochs

    def begin(self, epoch: int) -> None:
        self._ended.set()
        self._ended = asyncio.Event()
        self._epoch = epoch
        self._idle_at = 0.0

    def lineages(self, partitions: Iterable[Partition]) -> dict[Partition, str]:
        return {partition: self._heads[partition].lineage for partition in partitions}

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
        heads = {}
        for partition, offset in offsets.items():
            head = self._found.get(partition)
            if head is None or head.offset != offset:
                head = Head(new_id(), offset, self.run_id, 0)
            heads[partition] = head
        self._heads = heads
        return {partition: head.metadata for partition, head in heads.items()}

    def is_genesis(self, metadata: str) -> bool:
        """See `Chain`."""
        head = head_of(0, metadata)
        return head is not None and head.number == 0

    # -- chunks

    def may_cut(self) -> bool:
        return not self._unclear_epoch or self._unclear_epoch != self._epoch

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
        for at in chunk.ranges:
            at.prev = self._heads[at.partition].chunk_id
        name = chunk_id(chunk.run_id, chunk.number)
        confirms = tuple(self._confirmed)
        records = await asyncio.to_thread(_records, chunk, self._topic.shards, confirms)
        try:
            await self._writer.write(name, records, ended=ended)
        except FencedError as error:
            log.info("chunk %s is forgotten: %s", name, error)
            return None
        if not await self._commit_chunk(chunk, ended):
            return None
        self._confirmed.append(name)
        if chunk.epoch == self._epoch:
            self._heads |= heads_of(chunk)
        return Outcome(Effects(spans=list(chunk.spans)), {})

    def _is_idle(self, chunk: Chunk) -> bool:
        """Nothing was read, and nothing new is said of what there is to read."""
        caught_up = tuple(at.caught_up for at in chunk.ranges)
        is_empty = chunk.tally.records == 0 and all(
            at.to_offset == at.from_offset for at in chunk.ranges
        )
        now = time.monotonic()
        if is_empty and caught_up == self._caught_up and now < self._idle_at:
            return True
        self._caught_up = caught_up
        self._idle_at = now + IDLE_EVERY_S
        return False

    async def _commit_chunk(self, chunk: Chunk, ended: asyncio.Event) -> bool:
        """True when the commit was accepted, and this process knows."""
        heads = heads_of(chunk)
        offsets = {partition: head.offset for partition, head in heads.items()}
        metadata = {partition: head.metadata for partition, head in heads.items()}
        while True:
            try:
                refused = await self._commit(chunk.epoch, offsets, metadata)
            except UnsentError as error:
                log.info("chunk %d is forgotten: %s", chunk.number, error)
                return False
            except FencedError as error:
                log.warning("chunk %d: %s; the group's offsets will tell", chunk.number, error)
                self._unclear_epoch = chunk.epoch
                return False
            except SourceError as error:
                self._trouble = str(error)
                if self._announcer.may_say("commit"):
                    log.warning("chunk %d is not committed: %s", chunk.number, error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await ended.wait()
            else:
                self._trouble = ""
                if len(refused) < len(offsets):
                    return True
                # Refused for each of its partitions it is named nowhere: it does not count.
                self._unclear_epoch = chunk.epoch
                return False

    # -- what leaves

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        """Nothing of what is folded: an aggregator is the one writer of those series."""
        return Snapshot(now_ns, [], {})

    def accepted(self, snapshot: Snapshot) -> None:
        pass

    def positions_accepted(self, positions: Mapping[Partition, Position]) -> None:
        """Commits do not wait for exports here."""

    # -- what others see

    def reasons(self) -> list[str]:
        return [self._trouble] if self._trouble else []

    def describe(self) -> Json:
        out: dict[str, Any] = {
            "topic": self._topic.name,
            "shards": self._topic.shards,
            "run_id": self.run_id,
            "confirmed": self._confirmed[-1] if self._confirmed else None,
            "producers_replaced": self._writer.n_restarts,
            "trouble": self._trouble or None,
        }
        return {"fleet": out}

    def observe(self) -> None:
        pass


def heads_of(chunk: Chunk) -> dict[Partition, Head]:
    """Where its partitions stand when it counts."""
    return {
        at.partition: Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
        for at in chunk.ranges
    }


def _records(chunk: Chunk, n_shards: int, confirms: tuple[str, ...]) -> list[list[bytes]]:
    """Off the loop: a large chunk takes milliseconds to write out."""
    return [
        records_of(part, shard, n_shards, confirms)
        for shard, part in enumerate(split(chunk, n_shards))
    ]
