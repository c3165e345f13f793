"""The chunk writer when a broker refuses, forgets or loses what it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from agent.config import Kafka
from agent.errors import FencedError, SourceError
from agent.fleet.chunk_topic import ChunkTopic
from agent.fleet.chunk_writer import ChunkWriter
from agent.state.parts import Manifest, read_record, records_of
from agent.types import Partition
from tests.support.fleet import bare_chunk, range_at
from tests.support.kafka_embedded import FaultyBroker

API_PRODUCE = 0
OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH, NOT_LEADER, TOO_LARGE, UNAUTHORISED = (
    45,
    47,
    6,
    10,
    29,
)
SHARDS = 2


@pytest.fixture
def topic(embedded_kafka: FaultyBroker) -> ChunkTopic:
    embedded_kafka.create_topic("chunks", SHARDS)
    return ChunkTopic("chunks", SHARDS)


def records(number: int) -> list[list[bytes]]:
    chunk = bare_chunk(
        "ab" * 8, number, [range_at(Partition("events", 0), "1" * 16, 0, number, "")]
    )
    return [records_of(chunk, shard, SHARDS, ()) for shard in range(SHARDS)]


def stored(broker: FaultyBroker, shard: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "r", "log_level": 0})
    try:
        at = TopicPartition("chunks", shard, 0)
        _, end = consumer.get_watermark_offsets(at, timeout=10)
        consumer.assign([at])
        found: list[Any] = []
        while len(found) < end:
            found += consumer.consume(end - len(found), 10)
        return [message.value() for message in found]
    finally:
        consumer.close()


def writer_of(broker: FaultyBroker, topic: ChunkTopic) -> ChunkWriter:
    kafka = Kafka(bootstrap_servers=[broker.bootstrap], topics=["events"], request_timeout_s=5)
    return ChunkWriter(kafka, topic)


async def test_every_record_of_all_shards_is_there_when_it_is_durable(
    embedded_kafka: FaultyBroker, topic: ChunkTopic
) -> None:
    writer = writer_of(embedded_kafka, topic)
    try:
        for number in (1, 2):
            await writer.write(f"run;{number}", records(number), ended=asyncio.Event())
            for shard in range(SHARDS):
                expected = [value for n in range(1, number + 1) for value in records(n)[shard]]
                assert await asyncio.to_thread(stored, embedded_kafka, shard) == expected
        assert writer.n_restarts == 0
    finally:
        await writer.stop()


@pytest.mark.parametrize("code", [OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH])
async def test_a_poisoned_producer_is_replaced_and_the_whole_chunk_written_again(
    embedded_kafka: FaultyBroker, topic: ChunkTopic, code: int
) -> None:
    writer = writer_of(embedded_kafka, topic)
    try:
        await writer.write("run;1", records(1), ended=asyncio.Event())
        embedded_kafka.fail_next(API_PRODUCE, [code])
        await writer.write("run;2", records(2), ended=asyncio.Event())
        assert writer.n_restarts >= 1
        for shard in range(SHARDS):
            values = await asyncio.to_thread(stored, embedded_kafka, shard)
            read = [read_record(value) for value in values]
            whole = [one.number for one in read if isinstance(one, Manifest)]
            assert set(whole) == {1, 2}
            assert set(values) == {*records(1)[shard], *records(2)[shard]}
    finally:
        await writer.stop()


async def test_a_leader_that_moved_is_found_without_another_producer(
    embedded_kafka: FaultyBroker, topic: ChunkTopic
) -> None:
    writer = writer_of(embedded_kafka, topic)
    try:
        embedded_kafka.fail_next(API_PRODUCE, [NOT_LEADER, NOT_LEADER])
        await writer.write("run;1", records(1), ended=asyncio.Event())
        assert writer.n_restarts == 0
        assert await asyncio.to_thread(stored, embedded_kafka, 0) == records(1)[0]
    finally:
        await writer.stop()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (TOO_LARGE, "refuses records of 921600 bytes; set its max.message.bytes"),
        (UNAUTHORISED, "is not authorised; grant Write"),
    ],
)
async def test_what_cannot_be_mended_is_said(
    embedded_kafka: FaultyBroker, topic: ChunkTopic, code: int, message: str
) -> None:
    writer = writer_of(embedded_kafka, topic)
    try:
        embedded_kafka.fail_next(API_PRODUCE, [code])
        with pytest.raises(SourceError, match=message):
            await writer.write("run;1", records(1), ended=asyncio.Event())
    finally:
        await writer.stop()


async def test_nothing_is_durable_while_the_broker_is_away_and_the_end_of_the_epoch_ends_the_wait(
    embedded_kafka: FaultyBroker, topic: ChunkTopic
) -> None:
    writer = writer_of(embedded_kafka, topic)
    ended = asyncio.Event()
    try:
        await writer.write("run;1", records(1), ended=ended)
        embedded_kafka.broker_down(1)
        writing = asyncio.ensure_future(writer.write("run;2", records(2), ended=ended))
        done, _ = await asyncio.wait({writing}, timeout=1)
        assert not done
        ended.set()
        with pytest.raises(FencedError, match=r"writing chunk run;2 .* epoch ended"):
            await asyncio.wait_for(writing, 10)
        embedded_kafka.broker_up(1)
        await writer.write("run;3", records(3), ended=asyncio.Event())
        assert records(3)[0][-1] in await asyncio.to_thread(stored, embedded_kafka, 0)
    finally:
        await writer.stop()


async def test_another_number_of_partitions_is_refused(embedded_kafka: FaultyBroker) -> None:
    embedded_kafka.create_topic("chunks", 3)
    writer = writer_of(embedded_kafka, ChunkTopic("chunks", SHARDS))
    try:
        with pytest.raises(SourceError, match=r"has 3 partitions now; .* started for 2"):
            await writer.write("run;1", records(1), ended=asyncio.Event())
    finally:
        await writer.stop()
