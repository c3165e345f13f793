"""Why offsets are not committed in transactions: what a stock client can do on a real Apache Kafka.

`docs/decisions/0008-transactions.md` draws the conclusions; each of its claims has its test here. An
agent is a stock consumer and a stock transactional producer that copies rows from one topic to
another and commits its position with `send_offsets_to_transaction`, as tutorials have it.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiokafka.errors as kafka_errors
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.transaction import TxnOffsetCommitRequest

from agent.errors import FencedError
from agent.ingest.fence import Committed, CoordinatorLink, Fence, commit_offsets, fetch_offsets
from agent.types import Partition
from tests.support.kafka_real import RealKafka, unique
from tests.support.produce import produce
from tests.support.wait import eventually

N = 10
SESSION_MS = 1000


@dataclass
class Copier:
    """A stock agent: rows it has read, but neither written nor committed."""

    consumer: AIOKafkaConsumer
    producer: AIOKafkaProducer
    source: TopicPartition
    target: str
    group: str
    rows: list[Any]

    @property
    def fence(self) -> Fence:
        coordinator = self.consumer._coordinator
        return Fence(self.group, coordinator.generation, coordinator.member_id)

    async def write(self) -> None:
        """Begin a transaction and write the rows."""
        await self.producer.begin_transaction()
        for row in self.rows:
            await self.producer.send(self.target, row.value, partition=0)

    async def add_offsets(self) -> None:
        end = {self.source: self.rows[-1].offset + 1}
        await self.producer.send_offsets_to_transaction(end, self.group)

    async def copy(self) -> None:
        await self.write()
        await self.add_offsets()
        await self.producer.commit_transaction()

    def fall_asleep(self) -> None:
        """No heartbeats and no answers, as after SIGSTOP."""
        for name in ("_heartbeat_task", "_coordination_task"):
            task = getattr(self.consumer._coordinator, name)
            if task is not None:
                task.cancel()


Start = Callable[[str], Awaitable[Copier]]


@asynccontextmanager
async def copiers(kafka: RealKafka) -> AsyncIterator[tuple[Start, str, str]]:
    """Gives a function that starts a copier with a transactional id, and the names of target and group."""
    source, target = kafka.fresh_topic("rows"), kafka.fresh_topic("copies")
    group = unique("group")
    produce(kafka.bootstrap, source, [b"%d" % i for i in range(N)])
    running: list[Copier] = []

    async def start(transactional_id: str) -> Copier:
        """Join, wait for the partition, read all rows from the committed offset on."""
        consumer = AIOKafkaConsumer(
            source,
            bootstrap_servers=kafka.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=200,
        )
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap, transactional_id=transactional_id
        )
        await consumer.start()
        copier = Copier(consumer, producer, TopicPartition(source, 0), target, group, [])
        running.append(copier)
        await producer.start()
        await eventually(consumer.assignment)
        position = await consumer.position(copier.source)
        while len(copier.rows) < N - position:
            got = await consumer.getmany(timeout_ms=5000)
            copier.rows += got.get(copier.source, [])
        return copier

    try:
        yield start, target, group
    finally:
        for copier in running:
            for client in (copier.producer, copier.consumer):
                end = asyncio.ensure_future(client.stop())
                await asyncio.wait({end}, timeout=10)
                end.cancel()
                await asyncio.gather(end, return_exceptions=True)
        # A fenced producer leaves futures unread; the loop says so when they are collected: now.
        running.clear()
        gc.collect()


async def copies(kafka: RealKafka, target: str) -> list[int]:
    """The rows in the target that a `read_committed` reader is given, once no transaction is open."""
    tp = TopicPartition(target, 0)
    found: list[int] = []
    async with (
        AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap) as all_reader,
        AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        ) as reader,
    ):
        all_reader.assign([tp])
        reader.assign([tp])
        end = (await all_reader.end_offsets([tp]))[tp]  # the markers of a commit may come later
        while await reader.position(tp) < end:
            for records in (await reader.getmany(timeout_ms=1000)).values():
                found += [int(record.value) for record in records]
    return sorted(found)


async def test_agent_that_wakes_after_its_eviction_copies_its_rows_again(
    real_kafka: RealKafka,
) -> None:
    """One transactional id an agent: `TxnOffsetCommit` v0 says nothing of generation or member.

    The transaction begins after the waking, so that no transaction time-out, however short, helps.
    """
    async with copiers(real_kafka) as (start, target, group):
        first = await start("agent-1-" + group)
        fence = first.fence
        first.fall_asleep()
        second = await start("agent-2-" + group)  # joins when the session of the first is over
        assert second.fence.generation > fence.generation
        await second.copy()
        assert await copies(real_kafka, target) == list(range(N))

        with pytest.raises(FencedError):  # the same offset, by OffsetCommit: refused
            await commit_offsets(
                CoordinatorLink(second.consumer._coordinator),
                fence,
                {Partition(*first.source): Committed(N, "")},
                ended=asyncio.Event(),
            )
        await first.copy()  # by TxnOffsetCommit: accepted
        assert await copies(real_kafka, target) == sorted([*range(N), *range(N)])


async def test_offsets_of_an_open_transaction_do_not_hold_up_the_next_owner(
    real_kafka: RealKafka,
) -> None:
    """OffsetFetch up to v3 answers with the old offset instead of UNSTABLE_OFFSET_COMMIT, so a hand-over
    with the commit unanswered copies the rows twice, without any pause or eviction."""
    async with copiers(real_kafka) as (start, target, group):
        first = await start("agent-1-" + group)
        await first.write()
        await first.add_offsets()
        await first.consumer.stop()  # leaves the group while the commit is under way
        second = await start("agent-2-" + group)
        assert [row.offset for row in second.rows] == list(range(N))
        await first.producer.commit_transaction()
        await second.copy()
        assert await copies(real_kafka, target) == sorted([*range(N), *range(N)])


async def test_producer_that_never_joined_commits_for_the_group(real_kafka: RealKafka) -> None:
    """While a member holds the partition, and without any rebalance."""
    async with copiers(real_kafka) as (start, _, group):
        owner = await start("agent-1-" + group)
        stranger = AIOKafkaProducer(
            bootstrap_servers=real_kafka.bootstrap, transactional_id="stranger-" + group
        )
        await stranger.start()
        try:
            await stranger.begin_transaction()
            await stranger.send_offsets_to_transaction({owner.source: 3}, group)
            await stranger.commit_transaction()
        finally:
            await stranger.stop()
        link = CoordinatorLink(owner.consumer._coordinator)
        partition = Partition(*owner.source)

        async def stored() -> dict[
            Partition, Committed
        ]:  # the markers are written after the answer
            return await fetch_offsets(link, group, [partition], ended=asyncio.Event())

        assert (await eventually(stored))[partition].offset == 3


async def test_transactional_id_of_the_input_partition_fences_the_former_owner(
    real_kafka: RealKafka,
) -> None:
    """(T2): sound without patches, at the price of a producer for each input partition."""
    async with copiers(real_kafka) as (start, target, group):
        name = f"{group}-0"
        first = await start(name)
        first.fall_asleep()
        second = await start(name)
        await second.copy()
        with pytest.raises((kafka_errors.ProducerFenced, kafka_errors.KafkaError)):
            await first.copy()
        # Nothing brings this producer back: its sender has ended.
        await eventually(lambda: first.producer._sender.sender_task.done())
        assert await copies(real_kafka, target) == list(range(N))


async def test_transactional_id_of_the_input_partition_aborts_what_the_former_owner_left_open(
    real_kafka: RealKafka,
) -> None:
    async with copiers(real_kafka) as (start, target, group):
        name = f"{group}-0"
        first = await start(name)
        await first.write()
        await first.add_offsets()
        first.fall_asleep()
        second = await start(name)
        with pytest.raises((kafka_errors.ProducerFenced, kafka_errors.KafkaError)):
            await first.producer.commit_transaction()
        await second.copy()
        assert await copies(real_kafka, target) == list(range(N))


def test_client_library_speaks_only_the_versions_without_a_fence() -> None:
    """When this fails, aiokafka has learned more: read the decision again."""
    commit = [struct.API_VERSION for struct in _structs(TxnOffsetCommitRequest)]
    fetch = [struct.API_VERSION for struct in _structs(OffsetFetchRequest)]
    assert max(commit) == 0  # generation and member: from 3
    assert max(fetch) == 3  # require_stable: from 7


def _structs(request: Any) -> list[Any]:
    from aiokafka.protocol import api

    key = request.API_KEY
    found: list[Any] = []
    todo = list(api.RequestStruct.__subclasses__())
    while todo:
        struct = todo.pop()
        todo += struct.__subclasses__()
        if getattr(struct, "API_KEY", None) == key and "aiokafka" in struct.__module__:
            found.append(struct)
    return found
