"""Dead letters: unaltered originals with their reason, bounded, and every one accounted for."""

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from agent.config import Config
from agent.demo.broker import EmbeddedBroker
from agent.errors import ConfigError
from agent.ingest.dead_letter import DeadLetters
from agent.telemetry import Telemetry
from agent.types import Drop, Partition, Record
from tests.support.kafka_real import RealKafka
from tests.support.kafka_source import kafka_config
from tests.support.wait import eventually

FROM = Partition("events", 3)
RECORDS = [
    Record(10, 1_600_000_000_000, b"k", b"{broken", (("traceparent", b"00-1"), ("n", None))),
    Record(11, -1, None, b"\xff\xfe\x00", ()),
    Record(12, 1_600_000_000_001, b"key", None, ()),
    Record(13, 1_600_000_000_002, None, None, ()),
    Record(14, 1_600_000_000_003, b"", b"", ()),
]


def config_for(bootstrap: str, topic: str | None, **options: Any) -> Config:
    config = kafka_config(bootstrap, ["events"], **options)
    decode = msgspec.structs.replace(config.decode, dead_letter_topic=topic)
    return msgspec.structs.replace(config, decode=decode)


def outcomes(telemetry: Telemetry) -> dict[str, float]:
    names = ("sent", "failed", "dropped")
    return {n: telemetry.value("inferometer.dead_letters", outcome=n) for n in names}


async def read_all(bootstrap: str, topic: str, count: int) -> list[Any]:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]


async def check_round_trip(bootstrap: str, topic: str) -> None:
    telemetry = Telemetry()
    letters = DeadLetters(config_for(bootstrap, topic), telemetry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.run())
        assert all(letters.put(FROM, record, Drop.INVALID_JSON) for record in RECORDS)
        assert await letters.flush(20.0)
        await letters.stop(1.0)
    assert outcomes(telemetry) == {"sent": 5, "failed": 0, "dropped": 0}
    assert letters.held_bytes == 0
    got = await read_all(bootstrap, topic, len(RECORDS))
    by_offset = {dict(r.headers)["inferometer.offset"]: r for r in got}
    for record in RECORDS:
        found = by_offset[b"%d" % record.offset]
        assert found.value == record.value
        # aiokafka cannot send a record without key and value: it gets an empty key.
        assert found.key == (b"" if record.key is record.value is None else record.key)
        assert found.headers[: len(record.headers)] == record.headers
        assert found.headers[len(record.headers) :] == (
            ("inferometer.reason", b"invalid_json"),
            ("inferometer.topic", b"events"),
            ("inferometer.partition", b"3"),
            ("inferometer.offset", b"%d" % record.offset),
        )
        if record.timestamp_ms >= 0:
            assert found.timestamp == record.timestamp_ms


async def test_originals_arrive_unaltered_with_their_reason(embedded_kafka: EmbeddedBroker) -> None:
    embedded_kafka.create_topic("dead", 1)
    await check_round_trip(embedded_kafka.bootstrap, "dead")


async def test_originals_arrive_unaltered_on_the_real_broker(real_kafka: RealKafka) -> None:
    await check_round_trip(real_kafka.bootstrap, real_kafka.fresh_topic("dead"))


async def test_full_queue_drops_and_counts_without_blocking() -> None:
    telemetry = Telemetry()
    letters = DeadLetters(config_for("127.0.0.1:1", "dead"), telemetry, max_bytes=10_000)
    record = Record(1, 0, None, b"x" * 3000, ())
    taken = [letters.put(FROM, record, Drop.TOO_LARGE) for _ in range(10)]
    assert taken == [True, True, True, *[False] * 7]
    assert letters.held_bytes <= 10_000
    assert outcomes(telemetry) == {"sent": 0, "failed": 0, "dropped": 7}
    await letters.stop(0.05)
    assert outcomes(telemetry) == {"sent": 0, "failed": 3, "dropped": 7}
    assert letters.held_bytes == 0
    assert not letters.put(FROM, record, Drop.TOO_LARGE), "closed"


async def test_broker_that_is_away_delays_nothing_and_stop_is_bounded() -> None:
    telemetry = Telemetry()
    letters = DeadLetters(config_for("127.0.0.1:1", "dead"), telemetry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.run())
        letters.put(FROM, RECORDS[0], Drop.EMPTY)
        assert not await letters.flush(0.3)
        async with asyncio.timeout(6):
            await letters.stop(0.2)
    assert outcomes(telemetry) == {"sent": 0, "failed": 1, "dropped": 0}


async def test_a_letter_that_waits_is_gone_with_a_kill(embedded_kafka: EmbeddedBroker) -> None:
    """Nothing but memory holds it, and no commit waits for it: the next life knows nothing of it."""
    killed = DeadLetters(config_for("127.0.0.1:1", "dead"), Telemetry())
    assert killed.put(FROM, RECORDS[0], Drop.EMPTY)
    assert killed.held_bytes > 0
    telemetry = Telemetry()
    letters = DeadLetters(config_for(embedded_kafka.bootstrap, "dead"), telemetry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.run())
        assert letters.put(FROM, RECORDS[1], Drop.EMPTY)
        assert await letters.flush(20.0)
        await letters.stop(1.0)
    assert outcomes(telemetry) == {"sent": 1, "failed": 0, "dropped": 0}
    (only,) = await read_all(embedded_kafka.bootstrap, "dead", 1)
    assert only.value == RECORDS[1].value


async def test_topic_that_does_not_exist_fails_the_record_and_not_the_agent(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry()
    config = config_for(real_kafka.bootstrap, "no-such-dead-letters", request_timeout_s=1.0)
    letters = DeadLetters(config, telemetry)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(letters.run())
        letters.put(FROM, RECORDS[0], Drop.EMPTY)
        await eventually(lambda: outcomes(telemetry)["failed"] == 1)
        assert not task.done()
        await letters.stop(1.0)
    assert "dead letters to 'no-such-dead-letters': UnknownTopicOrPartitionError" in caplog.text


async def test_record_larger_than_the_broker_takes_fails_and_the_next_is_sent(
    real_kafka: RealKafka,
) -> None:
    topic = real_kafka.fresh_topic("dead", max_message_bytes="100000")
    telemetry = Telemetry()
    letters = DeadLetters(config_for(real_kafka.bootstrap, topic), telemetry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.run())
        letters.put(FROM, Record(1, 0, None, b"x" * 200_000, ()), Drop.TOO_LARGE)
        await eventually(lambda: outcomes(telemetry)["failed"] == 1)
        letters.put(FROM, RECORDS[0], Drop.INVALID_JSON)
        await eventually(lambda: outcomes(telemetry)["sent"] == 1)
        await letters.stop(1.0)
    (found,) = await read_all(real_kafka.bootstrap, topic, 1)
    assert found.value == RECORDS[0].value


async def test_put_from_other_threads_loses_nothing(embedded_kafka: EmbeddedBroker) -> None:
    embedded_kafka.create_topic("dead", 1)
    telemetry = Telemetry()
    letters = DeadLetters(config_for(embedded_kafka.bootstrap, "dead"), telemetry)

    def put_many(begin: int) -> None:
        for i in range(begin, begin + 200):
            assert letters.put(FROM, Record(i, 0, None, b"x%d" % i, ()), Drop.EMPTY)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(letters.run())
        threads = [threading.Thread(target=put_many, args=(n * 200,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await letters.flush(20.0)
        await letters.stop(1.0)
    assert outcomes(telemetry) == {"sent": 800, "failed": 0, "dropped": 0}
    got = await read_all(embedded_kafka.bootstrap, "dead", 800)
    assert {record.value for record in got} == {b"x%d" % i for i in range(800)}


async def test_dead_letter_topic_that_is_consumed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is events, which kafka\.topics reads"):
        config_for("127.0.0.1:1", "events")
    with pytest.raises(ConfigError, match="not set"):
        DeadLetters(config_for("127.0.0.1:1", None), Telemetry())
