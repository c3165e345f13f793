"""The chunk topic on a real Apache Kafka: made, checked, written; and the heads of another group."""

from __future__ import annotations

import asyncio

import pytest

from agent.config import Kafka
from agent.errors import ConfigError
from agent.fleet.chunk_topic import ChunkTopic, ensure_chunk_topic
from agent.fleet.chunk_writer import ChunkWriter
from agent.state.parts import read_record, records_of
from agent.types import Partition
from tests.support.fleet import bare_chunk, range_at
from tests.support.kafka_real import RealKafka, unique
from tests.support.produce import consume_all


def kafka_of(broker: RealKafka) -> Kafka:
    return Kafka(bootstrap_servers=[broker.bootstrap], topics=["events"], request_timeout_s=5)


async def test_missing_topic_is_made_with_a_partition_for_each_shard(real_kafka: RealKafka) -> None:
    topic = ChunkTopic(unique("chunks"), 3)
    # Two agents at once: one is told that the topic exists already.
    await asyncio.gather(*(ensure_chunk_topic(kafka_of(real_kafka), topic) for _ in range(2)))
    settings = await asyncio.to_thread(real_kafka.topic_config, topic.name)
    assert settings["cleanup.policy"] == "delete"
    assert settings["max.message.bytes"] == str(1 << 20)
    await ensure_chunk_topic(kafka_of(real_kafka), topic)
    with pytest.raises(ConfigError, match=r"delivery.shards is 4, .* has 3 partitions"):
        await ensure_chunk_topic(kafka_of(real_kafka), ChunkTopic(topic.name, 4))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cleanup_policy", "compact", "cleanup.policy=compact"),
        ("max_message_bytes", "100000", "max.message.bytes=100000"),
        ("retention_ms", "1000", "retention.ms=1000"),
    ],
)
async def test_topic_that_would_lose_chunks_is_refused(
    real_kafka: RealKafka, setting: str, value: str, message: str
) -> None:
    name = await asyncio.to_thread(lambda: real_kafka.fresh_topic("chunks", 1, **{setting: value}))
    with pytest.raises(ConfigError, match=message):
        await ensure_chunk_topic(kafka_of(real_kafka), ChunkTopic(name, 1))


async def test_records_of_full_size_pass_and_survive_a_restart_of_the_broker(
    real_kafka: RealKafka,
) -> None:
    topic = ChunkTopic(unique("chunks"), 1)
    await ensure_chunk_topic(kafka_of(real_kafka), topic)
    at = [range_at(Partition("t" * 100, n), "1" * 16, 0, n, "") for n in range(3000)]
    wide = records_of(bare_chunk("ab" * 8, 1, at), 0, 1, ())
    assert max(map(len, wide)) > 600_000
    writer = ChunkWriter(kafka_of(real_kafka), topic)
    try:
        await writer.write("run;1", [wide], ended=asyncio.Event())
        await asyncio.to_thread(real_kafka.stop)
        writing = asyncio.ensure_future(writer.write("run;2", [wide], ended=asyncio.Event()))
        done, _ = await asyncio.wait({writing}, timeout=0.5)
        assert not done
        await asyncio.to_thread(real_kafka.start)
        await asyncio.wait_for(writing, 60)
    finally:
        await writer.stop()
    found = await asyncio.to_thread(consume_all, real_kafka.bootstrap, topic.name, 2 * len(wide))
    assert [message.value() for message in found][: 2 * len(wide)] == wide * 2  # type: ignore[attr-defined]
    for message in found:
        read_record(message.value())  # type: ignore[attr-defined]
