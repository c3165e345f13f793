"""The fence on a real Apache Kafka: who may commit, and that a refusal changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from agent.errors import FencedError
from agent.ingest.fence import (
    Committed,
    CoordinatorLink,
    Fence,
    InstanceFencedError,
    commit_offsets,
    fetch_offsets,
)
from agent.types import Partition
from tests.support.kafka_real import RealKafka, unique
from tests.support.wait import eventually


@asynccontextmanager
async def joined(
    kafka: RealKafka, group: str, *topics: str, instance: str | None = None
) -> AsyncIterator[tuple[CoordinatorLink, Fence, AIOKafkaConsumer]]:
    """A stock consumer that has joined, and the fence of its assignment."""
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=kafka.bootstrap,
        group_id=group,
        group_instance_id=instance,
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=300,
        metadata_max_age_ms=60_000,
    )
    await consumer.start()
    try:
        coordinator = consumer._coordinator
        fence = Fence(group, coordinator.generation, coordinator.member_id, instance)
        yield CoordinatorLink(coordinator), fence, consumer
    finally:
        await consumer.stop()


async def stored(link: CoordinatorLink, group: str, *partitions: Partition) -> dict[Any, Any]:
    return await fetch_offsets(link, group, partitions, ended=asyncio.Event())


async def test_right_fence_is_accepted_and_metadata_come_back(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0, p1 = Partition(topic, 0), Partition(topic, 1)
    wanted = {p0: Committed(7, "1;lineage;run-ä;42"), p1: Committed(0, "")}
    async with joined(real_kafka, group, topic) as (link, fence, _):
        assert await stored(link, group, p0, p1) == {}
        assert await commit_offsets(link, fence, wanted, ended=asyncio.Event()) == {}
        assert await stored(link, group, p0, p1) == wanted
        assert await fetch_offsets(link, group, None, ended=asyncio.Event()) == wanted
        largest = {p0: Committed(8, "m" * 4096)}
        assert await commit_offsets(link, fence, largest, ended=asyncio.Event()) == {}
        assert (await stored(link, group, p0)) == largest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"generation": 0}, "illegal generation"),
        ({"generation": 99}, "illegal generation"),
        ({"generation": -1}, "illegal generation"),
        ({"member_id": "somebody-else"}, "unknown member"),
        ({"generation": -1, "member_id": ""}, "unknown member"),
    ],
    ids=["old generation", "future generation", "generation -1", "another member", "no member"],
)
async def test_wrong_fence_is_refused_and_changes_nothing(
    real_kafka: RealKafka, change: dict[str, Any], reason: str
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    before = {p0: Committed(5, "kept")}
    async with joined(real_kafka, group, topic) as (link, fence, _):
        assert await commit_offsets(link, fence, before, ended=asyncio.Event()) == {}
        with pytest.raises(FencedError, match=f"{topic}/0 refused .{reason}.*forgotten"):
            await commit_offsets(
                link, replace(fence, **change), {p0: Committed(9, "wrong")}, ended=asyncio.Event()
            )
        assert await stored(link, group, p0) == before


async def test_generation_that_ended_with_a_rebalance_is_refused(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0 = Partition(topic, 0)
    async with joined(real_kafka, group, topic) as (link, fence, consumer):
        assert (
            await commit_offsets(link, fence, {p0: Committed(3, "")}, ended=asyncio.Event()) == {}
        )
        reading = asyncio.ensure_future(consumer.getmany(timeout_ms=30_000))
        async with joined(real_kafka, group, topic):
            await eventually(lambda: consumer._coordinator.generation > fence.generation)
            await eventually(lambda: not consumer._subscription.reassignment_in_progress)
            with pytest.raises(FencedError, match="illegal generation"):
                await commit_offsets(link, fence, {p0: Committed(4, "")}, ended=asyncio.Event())
            assert await stored(link, group, p0) == {p0: Committed(3, "")}
        reading.cancel()


async def test_member_may_still_commit_while_the_group_prepares_a_rebalance(
    real_kafka: RealKafka,
) -> None:
    """The hand-over in the revoked callback rests on this."""
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0 = Partition(topic, 0)
    outcomes: list[Any] = []
    async with joined(real_kafka, group, topic) as (link, fence, consumer):

        async def revoked(*_: Any) -> None:
            outcomes.append(
                await commit_offsets(link, fence, {p0: Committed(11, "")}, ended=asyncio.Event())
            )

        coordinator = consumer._coordinator
        prepare = coordinator._on_join_prepare

        async def prepare_slowly(previous: Any) -> None:
            await prepare(previous)
            await revoked()

        coordinator._on_join_prepare = prepare_slowly
        async with joined(real_kafka, group, topic):
            await eventually(lambda: outcomes)
            assert outcomes == [{}]
            assert await stored(link, group, p0) == {p0: Committed(11, "")}


async def test_partition_of_a_deleted_topic_is_refused_alone(real_kafka: RealKafka) -> None:
    kept, deleted = real_kafka.fresh_topic("kept"), real_kafka.fresh_topic("deleted")
    group = unique("group")
    # Not subscribed to the deleted one: losing a topic is a rebalance, and so a new generation.
    async with joined(real_kafka, group, kept) as (link, fence, _):
        await asyncio.to_thread(real_kafka.delete_topic, deleted)
        refused = await commit_offsets(
            link,
            fence,
            {Partition(kept, 0): Committed(4, ""), Partition(deleted, 0): Committed(6, "")},
            ended=asyncio.Event(),
        )
        assert refused == {Partition(deleted, 0): "UNKNOWN_TOPIC_OR_PARTITION"}
        assert await stored(link, group, Partition(kept, 0)) == {
            Partition(kept, 0): Committed(4, "")
        }


async def test_metadata_too_large_are_refused_alone(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0, p1 = Partition(topic, 0), Partition(topic, 1)
    async with joined(real_kafka, group, topic) as (link, fence, _):
        wanted = {p0: Committed(1, "m" * 4097), p1: Committed(2, "")}
        refused = await commit_offsets(link, fence, wanted, ended=asyncio.Event())
        assert list(refused) == [p0]
        assert await stored(link, group, p0, p1) == {p1: Committed(2, "")}


async def test_static_replacement_fences_the_former_holder_of_the_same_generation(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    async with joined(real_kafka, group, topic, instance="pod-0") as (link, fence, first):
        assert (
            await commit_offsets(link, fence, {p0: Committed(1, "")}, ended=asyncio.Event()) == {}
        )
        # The first must not answer its own eviction by taking the place back.
        first._coordinator._heartbeat_task.cancel()
        async with joined(real_kafka, group, topic, instance="pod-0") as (link2, fence2, _):
            assert fence2.generation == fence.generation
            assert fence2.member_id != fence.member_id
            with pytest.raises(InstanceFencedError, match="fenced instance"):
                await commit_offsets(link, fence, {p0: Committed(2, "")}, ended=asyncio.Event())
            assert await stored(link2, group, p0) == {p0: Committed(1, "")}
            assert (
                await commit_offsets(link2, fence2, {p0: Committed(3, "")}, ended=asyncio.Event())
                == {}
            )


async def test_commit_is_answered_after_a_restart_of_the_broker(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    async with joined(real_kafka, group, topic) as (link, fence, _):
        assert (
            await commit_offsets(link, fence, {p0: Committed(1, "")}, ended=asyncio.Event()) == {}
        )
        await asyncio.to_thread(real_kafka.stop)
        commit = asyncio.ensure_future(
            commit_offsets(link, fence, {p0: Committed(2, "x")}, ended=asyncio.Event())
        )
        fetch = asyncio.ensure_future(stored(link, group, p0))
        await asyncio.to_thread(real_kafka.start)
        # The group's log is loaded again; whichever came first, "nothing committed" is never read.
        assert (await asyncio.wait_for(fetch, 40))[p0].offset in (1, 2)
        assert await asyncio.wait_for(commit, 40) == {}
        assert await stored(link, group, p0) == {p0: Committed(2, "x")}


async def test_epoch_that_ends_stops_a_commit_that_has_no_answer(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    ended = asyncio.Event()
    async with joined(real_kafka, group, topic) as (link, fence, _):
        assert await commit_offsets(link, fence, {p0: Committed(1, "")}, ended=ended) == {}
        real_kafka.pause()
        try:
            commit = asyncio.ensure_future(
                commit_offsets(link, fence, {p0: Committed(2, "")}, ended=ended)
            )
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(commit), 0.3)
            ended.set()
            with pytest.raises(FencedError, match="ended before an answer"):
                await asyncio.wait_for(commit, 5)
            with pytest.raises(FencedError):
                await commit_offsets(link, fence, {p0: Committed(3, "")}, ended=ended)
        finally:
            real_kafka.resume()
