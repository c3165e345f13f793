"""The embedded broker does what the demo and the tests without Java take for granted."""

import asyncio
import importlib.util

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import NotCoordinatorForGroupError

import agent.demo.broker as broker_module
from agent.errors import ConfigError, SourceError
from tests.support.kafka_embedded import API_OFFSET_COMMIT, FaultyBroker, leaders_sync_late
from tests.support.wait import eventually


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_record_comes_back_with_key_headers_and_time(
    embedded_kafka: FaultyBroker, codec: str | None
) -> None:
    topic = embedded_kafka.create_topic("events", 2)
    address = embedded_kafka.bootstrap
    async with AIOKafkaProducer(bootstrap_servers=address, compression_type=codec) as producer:
        await producer.send_and_wait(
            topic, b"v" * 500, b"k", 1, timestamp_ms=1_700_000_000_123, headers=[("h", b"1")]
        )
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id="g", auto_offset_reset="earliest"
    )
    async with consumer:
        got = await asyncio.wait_for(consumer.getone(), 20)
        await consumer.commit()
        committed = await consumer.committed(TopicPartition(topic, 1))
    assert (got.value, got.key, got.partition) == (b"v" * 500, b"k", 1)
    assert (got.timestamp, got.headers, committed) == (1_700_000_000_123, (("h", b"1"),), 1)


async def test_two_members_share_a_topic_when_the_leader_syncs_late(
    embedded_kafka: FaultyBroker,
) -> None:
    topic = embedded_kafka.create_topic("shared", 4)
    members = [
        AIOKafkaConsumer(topic, bootstrap_servers=embedded_kafka.bootstrap, group_id="pair")
        for _ in range(2)
    ]
    with leaders_sync_late():
        try:
            await asyncio.wait_for(asyncio.gather(*(m.start() for m in members)), 30)
            await eventually(lambda: [len(m.assignment()) for m in members] == [2, 2])
        finally:
            for member in members:
                await member.stop()
    owned = [tp.partition for member in members for tp in member.assignment()]
    assert len(owned) == len(set(owned))


async def test_injected_error_reaches_the_client_once(embedded_kafka: FaultyBroker) -> None:
    topic = embedded_kafka.create_topic("t")
    partition = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=embedded_kafka.bootstrap, group_id="g", enable_auto_commit=False
    )
    async with consumer:
        consumer.assign([partition])
        await consumer.commit({partition: 1})
        embedded_kafka.fail_next(API_OFFSET_COMMIT, [NotCoordinatorForGroupError.errno])
        await consumer.commit({partition: 2})  # aiokafka looks for the coordinator and repeats
        assert await consumer.committed(partition) == 2


async def test_moved_leader_and_returned_broker_are_found_again() -> None:
    with FaultyBroker(3) as broker:
        topic = broker.create_topic("moving", 1, 3)
        async with AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap, retry_backoff_ms=20, metadata_max_age_ms=500
        ) as producer:
            for leader in (1, 2, 3):
                broker.move_leader(topic, 0, leader)
                done = await asyncio.wait_for(producer.send_and_wait(topic, b"x"), 20)
                assert done.offset == leader - 1
            broker.broker_down(3)
            pending = await producer.send(topic, b"late")
            broker.broker_up(3)
            assert (await asyncio.wait_for(pending, 20)).offset == 3


async def test_deleted_records_move_the_start_of_the_log(embedded_kafka: FaultyBroker) -> None:
    topic = embedded_kafka.create_topic("short")
    async with AIOKafkaProducer(bootstrap_servers=embedded_kafka.bootstrap) as producer:
        for _ in range(3):
            await producer.send_and_wait(topic, b"x")
    embedded_kafka.delete_records(topic, 0, 2)
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=embedded_kafka.bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        assert (await asyncio.wait_for(consumer.getone(), 20)).offset == 2


def test_closed_broker_says_so_and_closes_twice() -> None:
    broker = FaultyBroker()
    broker.close()
    broker.close()
    with pytest.raises(SourceError, match="closed"):
        broker.create_topic("t")


def test_refused_call_names_the_call(embedded_kafka: FaultyBroker) -> None:
    embedded_kafka.create_topic("once")
    with pytest.raises(SourceError, match=r"mock_topic_create.*once"):
        embedded_kafka.create_topic("once")


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_library", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"inferometer\[demo\]"):
        FaultyBroker()
