"""Agents in fleet mode and an aggregator on a real Apache Kafka: each row once, whoever wakes late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from agent.aggregate.accept import Fate, Verdict
from agent.aggregate.intake import Intake
from agent.aggregate.shard import Batch, ShardReader
from agent.config import Config, Delivery, Kafka
from agent.fleet.chunk_topic import ChunkTopic, ensure_chunk_topic
from agent.fleet.chunk_writer import ChunkWriter
from agent.fleet.mode import FleetMode
from agent.fold.base import Fold
from agent.ingest.fence import Committed, CoordinatorLink, Fence, commit_offsets, fetch_offsets
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.state.shards import split
from agent.types import Chunk, Partition, StreamKey
from tests.support.blocks import Row, chunk_of, feature, range_of
from tests.support.kafka_real import RealKafka, unique
from tests.support.wait import eventually

SHARDS = 2
T0_MS = 1_700_000_000_000
KEYS = [StreamKey(f"m{n}", "1") for n in range(6)]


@dataclass
class Member:
    """A fleet agent without decoders: its chunks are made by hand."""

    mode: FleetMode
    consumer: Any
    writer: ChunkWriter
    partition: Partition
    fence: Fence
    next_offset: int = 0
    counted: list[Row] = field(default_factory=list)

    async def begin(self, epoch: int) -> None:
        """An epoch begins: starts from the group's offsets, genesis, as `LineageStarts` does."""
        coordinator = self.consumer._coordinator
        self.fence = Fence(self.fence.group_id, coordinator.generation, coordinator.member_id)
        link = CoordinatorLink(coordinator)
        ended = asyncio.Event()
        stored = await fetch_offsets(link, self.fence.group_id, [self.partition], ended=ended)
        places = await self.mode.settle([self.partition], stored)
        place = places.get(self.partition)
        self.next_offset = 0 if place is None else place.offset
        metadata = await self.mode.place(epoch, {self.partition: self.next_offset})
        if place is None or not place.is_committed:
            genesis = {self.partition: Committed(self.next_offset, metadata[self.partition])}
            assert await commit_offsets(link, self.fence, genesis, ended=ended) == {}
        self.mode.begin(epoch)

    def chunk(self, rows: list[Row], epoch: int) -> Chunk:
        at = range_of(self.partition, rows, from_offset=self.next_offset)
        at.lineage = self.mode.lineages([self.partition])[self.partition]
        chunk = chunk_of([[rows]], digest=merge_digest(Config()), ranges=[at])
        chunk.epoch = epoch
        return chunk

    async def deliver(self, rows: list[Row], epoch: int) -> bool:
        chunk = self.chunk(rows, epoch)
        outcome = await self.mode.deliver(chunk)
        if outcome is not None:
            self.next_offset += len(rows)
            self.counted += rows
        return outcome is not None


def rows_of(n: int, start: int) -> list[Row]:
    return [
        Row(KEYS[i % len(KEYS)], T0_MS + i, {feature("x"): float(i % 17)})
        for i in range(start, start + n)
    ]


@dataclass
class Fleet:
    broker: RealKafka
    kafka: Kafka
    topic: ChunkTopic
    partition: Partition
    members: list[Member] = field(default_factory=list)

    async def join(self) -> Member:
        consumer = AIOKafkaConsumer(
            self.partition.topic,
            bootstrap_servers=self.broker.bootstrap,
            group_id=self.kafka.group_id,
            enable_auto_commit=False,
            session_timeout_ms=3000,
            heartbeat_interval_ms=300,
        )
        await consumer.start()
        await eventually(consumer.assignment)
        writer = ChunkWriter(self.kafka, self.topic)
        made: list[Member] = []

        async def commit(
            epoch: int, offsets: Mapping[Partition, int], metadata: Mapping[Partition, str]
        ) -> Mapping[Partition, str]:
            wanted = {p: Committed(at, metadata[p]) for p, at in offsets.items()}
            link = CoordinatorLink(consumer._coordinator)
            return await commit_offsets(link, made[0].fence, wanted, ended=asyncio.Event())

        delivery = Delivery(mode="fleet", chunk_topic=self.topic.name, shards=SHARDS)
        mode = FleetMode(
            Config(kafka=self.kafka, delivery=delivery),
            writer,
            commit,
            prepare=lambda: ensure_chunk_topic(self.kafka, self.topic),
        )
        await mode.open()
        member = Member(mode, consumer, writer, self.partition, Fence(self.kafka.group_id, 0, ""))
        made.append(member)
        self.members.append(member)
        return member

    async def aggregated(self, n_rows: int) -> list[Fold]:
        """Folds of fresh aggregators, once they have so many rows together and nothing more comes."""
        folds = [Fold(Config(), start_ns=time.time_ns()) for _ in range(SHARDS)]
        said: list[Verdict] = []
        readers = []
        for shard, fold in enumerate(folds):

            async def done(batch: Batch, fold: Fold = fold) -> None:
                for what in batch.work:
                    if isinstance(what, Verdict):
                        said.append(what)
                    else:
                        fold.apply(what.chunk, time.time_ns())

            intake = Intake(shard, SHARDS, max_bytes=1 << 20, missing_timeout_s=2.0)
            readers.append(ShardReader(self.kafka, self.topic, shard, intake, done, poll_s=0.1))
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.run())
            await eventually(lambda: sum(rows_in(fold) for fold in folds) >= n_rows)
            for reader in readers:
                reader.stop()
        assert {one.fate for one in said} <= {Fate.ORPHANED}
        return folds


def rows_in(fold: Fold) -> int:
    return sum(stream.rows for stream in fold.streams.values())


@pytest.fixture(scope="module", autouse=True)
def warm_kernels() -> None:
    """What compiles on the loop costs the session: one chunk of the kind used here, folded first."""
    rows = rows_of(12, 0)
    chunk = chunk_of([[rows]], digest=merge_digest(Config()), ranges=[range_of(0, rows)])
    fold = Fold(Config(), start_ns=time.time_ns())
    for part in split(from_bytes(to_bytes(chunk)), SHARDS):
        fold.apply(part, time.time_ns())


@asynccontextmanager
async def fleet_on(broker: RealKafka) -> AsyncIterator[Fleet]:
    events = broker.fresh_topic("events")
    kafka = Kafka(
        bootstrap_servers=[broker.bootstrap],
        topics=[events],
        group_id=unique("fleet"),
        request_timeout_s=5,
    )
    fleet = Fleet(broker, kafka, ChunkTopic(unique("chunks"), SHARDS), Partition(events, 0))
    try:
        yield fleet
    finally:
        for member in fleet.members:
            await member.mode.close()
            stop = asyncio.ensure_future(member.consumer.stop())
            await asyncio.wait({stop}, timeout=10)
            stop.cancel()
            await asyncio.gather(stop, return_exceptions=True)


def check(folds: list[Fold], counted: list[Row]) -> None:
    """The aggregators together hold what a single fold of these very rows holds; no stream is on two."""
    single = Fold(Config(), start_ns=time.time_ns())
    single.apply(
        chunk_of([[counted]], digest=merge_digest(Config()), ranges=[range_of(0, counted)]),
        time.time_ns(),
    )
    expected = {key: stream.rows for key, stream in single.streams.items() if stream.rows}
    found: dict[StreamKey, int] = {}
    for fold in folds:
        for key, stream in fold.streams.items():
            if stream.rows:
                assert key not in found
                found[key] = stream.rows
    assert found == expected
    assert sum(fold.tally.rows for fold in folds) == len(counted)


async def test_rows_are_counted_once_through_handover_and_a_late_waker(
    real_kafka: RealKafka,
) -> None:
    async with fleet_on(real_kafka) as fleet:
        first = await fleet.join()
        await first.begin(1)
        for n in range(5):
            assert await first.deliver(rows_of(40, 40 * n), 1)
        # It falls asleep with rows in its delta; another takes over and counts them.
        asleep = rows_of(30, 200)
        for name in ("_heartbeat_task", "_coordination_task"):
            getattr(first.consumer._coordinator, name).cancel()
        second = await fleet.join()
        await second.begin(1)
        assert second.next_offset == 200
        for n in range(3):
            assert await second.deliver(rows_of(30, 200 + 30 * n), 1)
        # It wakes: all of its records reach the topic, and its commit is refused.
        assert not await first.deliver(asleep, 1)
        assert not first.mode.may_cut()
        assert await second.deliver(rows_of(10, 290), 1)
        counted = first.counted + second.counted
        assert len(counted) == 300
        folds = await fleet.aggregated(300)
        check(folds, counted)


@pytest.mark.parametrize("n", [1, 12])
async def test_head_alone_confirms_the_newest_chunk(real_kafka: RealKafka, n: int) -> None:
    async with fleet_on(real_kafka) as fleet:
        member = await fleet.join()
        await member.begin(1)
        assert await member.deliver(rows_of(n, 0), 1)
        check(await fleet.aggregated(n), member.counted)
