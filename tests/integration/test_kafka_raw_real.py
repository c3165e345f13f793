"""Raw batches and stock records of one real log are the same: codecs, offsets, times, transactions."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer

from agent.types import Partition, Record
from tests.support.kafka_real import RealKafka, unique
from tests.support.kafka_source import Member, kafka_config
from tests.support.wait import eventually

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
T0 = 1_700_000_000_000


def settings(kafka: RealKafka, codec: str, **more: object) -> dict[str, object]:
    """Batches of several records; a first one that waits until they have come."""
    return {
        "bootstrap.servers": kafka.bootstrap,
        "compression.type": codec,
        "linger.ms": 50,
        "batch.num.messages": 7,
        "log_level": 0,
        **more,
    }


def put_all_kinds(producer: Producer, topic: str, name: str, n: int = 30) -> None:
    """Keys, tombstones, empty values, headers, and times that go back and forth."""
    for i in range(n):
        value = (None, b"", b'{"n":%d}' % i, name.encode() * (i + 1) * 20)[i % 4]
        headers = [("traceparent", b"00-%d" % i), ("none", None)] if i % 3 == 0 else []
        key = b"key%d" % i if i % 5 else None
        if key is None and value is None:
            key = b""
        producer.produce(
            topic, value, key, headers=headers, timestamp=T0 + (i * 37) % 100, partition=0
        )


def fill(kafka: RealKafka, topic: str) -> int:
    """One log with every codec, plain and in transactions that overlap; its end, markers included."""
    n_markers = 0
    for codec in CODECS:
        plain = Producer(settings(kafka, codec))
        put_all_kinds(plain, topic, f"plain {codec}")
        assert plain.flush(20) == 0
        pair = [
            Producer(settings(kafka, codec, **{"transactional.id": unique("tx")})) for _ in range(2)
        ]
        for producer in pair:
            producer.init_transactions(20)
            producer.begin_transaction()
            put_all_kinds(producer, topic, f"transaction {codec}", 10)
            assert producer.flush(20) == 0
        put_all_kinds(pair[0], topic, f"transaction {codec}, more", 10)
        assert pair[0].flush(20) == 0
        pair[0].abort_transaction(20)
        pair[1].commit_transaction(20)
        pair[0].begin_transaction()
        put_all_kinds(pair[0], topic, f"transaction {codec}, after an abort", 5)
        pair[0].commit_transaction(20)
        n_markers += 3
    return len(CODECS) * (30 + 10 + 10 + 10 + 5) + n_markers


async def read(
    kafka: RealKafka, topic: str, fetch: str, isolation: str, begin: int, end: int
) -> list[Record]:
    """All records from `begin` on, until the position has reached the end of the log."""
    group = unique("group")
    await asyncio.to_thread(commit, kafka, group, topic, begin)
    config = kafka_config(
        kafka.bootstrap, [topic], group_id=group, fetch=fetch, isolation_level=isolation
    )
    async with Member(config).running() as member:
        await eventually(lambda: member.reached.get(Partition(topic, 0), -1) >= end)
        assert (member.n_raw > 0) == (fetch == "raw")
        assert sum(one.n_corrupt for one in member.fetches) == 0
        return [record for _, record in member.records]


def commit(kafka: RealKafka, group: str, topic: str, offset: int) -> None:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])
    kafka.admin.alter_consumer_group_offsets([wanted])[group].result(20)


@pytest.mark.parametrize("isolation", ["read_uncommitted", "read_committed"])
async def test_every_codec_reads_the_same_both_ways_from_any_offset(
    real_kafka: RealKafka, isolation: str
) -> None:
    topic = real_kafka.fresh_topic()
    end = await asyncio.to_thread(fill, real_kafka, topic)
    whole = await read(real_kafka, topic, "stock", isolation, 0, end)
    per_codec = 65 if isolation == "read_uncommitted" else 45
    assert len(whole) == per_codec * len(CODECS)
    assert await read(real_kafka, topic, "raw", isolation, 0, end) == whole
    # Inside of batches of every codec (they hold seven records), and at markers.
    for begin in range(3, end, 31):
        expected = [record for record in whole if record.offset >= begin]
        assert await read(real_kafka, topic, "raw", isolation, begin, end) == expected, begin


async def test_times_of_the_broker_are_those_of_all_records_of_a_batch(
    real_kafka: RealKafka,
) -> None:
    topic = real_kafka.fresh_topic("appended", message_timestamp_type="LogAppendTime")
    for codec in CODECS:
        producer = Producer(settings(real_kafka, codec))
        put_all_kinds(producer, topic, codec)
        assert producer.flush(20) == 0
    end = 30 * len(CODECS)
    stock = await read(real_kafka, topic, "stock", "read_uncommitted", 0, end)
    assert len(stock) == end
    assert min(record.timestamp_ms for record in stock) > T0 + 1000
    assert await read(real_kafka, topic, "raw", "read_uncommitted", 0, end) == stock
