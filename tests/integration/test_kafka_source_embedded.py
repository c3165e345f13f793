"""The source against the embedded broker: what a machine without Java can prove.

Injected here and not on the real broker, because one node has nowhere to move to: top-level errors
of OffsetFetch, and damaged batches (the real broker refuses to store them).
"""

import asyncio
from typing import Any

import msgspec
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from agent.config import Config
from agent.delivery.alignment import ahead_of
from agent.errors import SourceError
from agent.ingest.batches import FramedRecords
from agent.ingest.raw import RawFrames
from agent.types import Drop, Partition, PartitionRange
from tests.support.kafka_embedded import (
    API_FIND_COORDINATOR,
    API_OFFSET_COMMIT,
    API_OFFSET_FETCH,
    FaultyBroker,
    leaders_sync_late,
)
from tests.support.kafka_source import QUICK, Ledger, Member, kafka_config, produce
from tests.support.wait import eventually

TOPIC = "events"
P0, P1 = Partition(TOPIC, 0), Partition(TOPIC, 1)
NOT_COORDINATOR, LOADING, NOT_AVAILABLE, REBALANCING = 16, 14, 15, 27


def numbers(count: int, begin: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(begin, begin + count)]


def config_of(broker: FaultyBroker, **options: Any) -> Config:
    """Short sessions: the mock keeps a member that comes back under a new id until its session ends."""
    sessions = {"session_timeout_s": 2.0, "rebalance_timeout_s": 3.0}
    return kafka_config(broker.bootstrap, [TOPIC], **(sessions | options))


async def test_every_record_arrives_once_and_in_order(embedded_kafka: FaultyBroker) -> None:
    embedded_kafka.create_topic(TOPIC, 2)
    sent = numbers(1000)
    await produce(embedded_kafka.bootstrap, TOPIC, sent, partitions=2)
    member = Member(config_of(embedded_kafka))
    async with member.running():
        await eventually(lambda: len(member.records) >= 1000)
        assert member.offsets(P0) == list(range(500))
        assert member.offsets(P1) == list(range(500))
        assert sorted(member.values) == sorted(sent)
        await eventually(lambda: all(p["lag"] == 0 for p in member.source.positions()))
        assert member.telemetry.value("inferometer.rebalances") == 1
    assert member.revoked == []


async def test_end_of_a_log_without_news_is_told(embedded_kafka: FaultyBroker) -> None:
    """Only so can the reader know that the partition is caught up, and not hold the watermark."""
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(5))
    config = config_of(embedded_kafka, auto_offset_reset="latest")
    async with Member(config).running() as member:
        await eventually(lambda: member.fetches)
        fetch = member.fetches[0]
        assert (fetch.from_offset, fetch.to_offset, fetch.high_watermark) == (5, 5, 5)
        assert fetch.records == []


async def test_partition_whose_leader_is_away_stops_no_other_and_is_said() -> None:
    """What the cutter does, with numbers for clocks: P1 stays far behind P0, and cannot be read."""
    with FaultyBroker(2) as broker:
        broker.create_topic(TOPIC, 2)
        broker.move_leader(TOPIC, 0, 1)
        broker.move_leader(TOPIC, 1, 2)
        await produce(broker.bootstrap, TOPIC, numbers(2), partitions=2)
        config = config_of(broker, session_timeout_s=20.0)
        windows = msgspec.structs.replace(config.windows, owner_timeout_s=1.0)
        async with Member(msgspec.structs.replace(config, windows=windows)).running() as member:
            source = member.source

            def align() -> bool:
                clocks = {p: int(record.value or b"-1") for p, record in member.records}
                ranges = [
                    PartitionRange(p, 0, 0, "", "", clock, -1, caught_up=False, last_row_ns=0)
                    for p, clock in clocks.items()
                ]
                source.set_ahead(ahead_of(ranges, source.unheard(), 1000))
                return any(at["paused"] for at in source.positions())

            def said() -> float | None:
                return member.telemetry.value("inferometer.partitions.unheard")

            await eventually(lambda: len(member.records) == 2)
            await eventually(lambda: said() == 0)
            assert (source.unheard(), source.notes()) == (set(), [])
            broker.move_leader(TOPIC, 1, -1)
            await produce(broker.bootstrap, TOPIC, numbers(500, 5000))
            await eventually(align)  # P0 waits for P1 ...
            await eventually(lambda: not align())  # ... and no more
            assert source.unheard() == {P1}
            await produce(broker.bootstrap, TOPIC, numbers(500, 6000))
            await eventually(lambda: not align() and len(member.offsets(P0)) == 1001)
            await eventually(lambda: said() == 1)
            assert [
                note.startswith("nothing was heard of events/1") for note in source.notes()
            ] == [True]
            broker.move_leader(TOPIC, 1, 2)
            await produce(broker.bootstrap, TOPIC, numbers(2, 7000), partitions=2)
            await eventually(lambda: member.offsets(P1) == [0, 1] and not source.unheard())


async def test_idle_partition_is_told_again_and_again_only_while_its_broker_answers(
    embedded_kafka: FaultyBroker,
) -> None:
    """So the reader can tell an idle log, whose windows may seal, from one that is out of reach."""
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(5))
    config = config_of(embedded_kafka, session_timeout_s=20.0)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.fetches) >= 4)
        for fetch in member.fetches[-2:]:
            assert (fetch.from_offset, fetch.to_offset, fetch.high_watermark) == (5, 5, 5)
            assert fetch.records == []
            assert fetch.size_bytes > 0, "those that wait for a reader are bounded"
        embedded_kafka.broker_down(1)
        await asyncio.sleep(QUICK.heartbeat_s * 2)  # one answer may still have been on its way
        told = len(member.fetches)
        await asyncio.sleep(QUICK.heartbeat_s * 5)  # the state under test: a silent broker
        assert len(member.fetches) == told
        embedded_kafka.broker_up(1)
        await eventually(lambda: len(member.fetches) > told, timeout_s=40)
        assert member.fetches[-1].high_watermark == 5


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_top_level_error_of_offset_fetch_never_reads_as_nothing_committed(
    embedded_kafka: FaultyBroker, policy: str
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(50))
    early = config_of(embedded_kafka)
    async with Member(early).running() as first:
        await eventually(lambda: len(first.records) == 50)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(10, 50))
    embedded_kafka.fail_next(
        API_OFFSET_FETCH, [NOT_COORDINATOR, LOADING, NOT_AVAILABLE, NOT_COORDINATOR, LOADING]
    )
    config = config_of(embedded_kafka, auto_offset_reset=policy)
    async with Member(config).running() as second:
        await eventually(lambda: second.assigned)
        assert second.assigned[0][1] == {P0: 50}
        await eventually(lambda: second.values == numbers(10, 50))


async def test_commit_is_sent_again_until_it_is_accepted(embedded_kafka: FaultyBroker) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(50))
    config = config_of(embedded_kafka)
    ledger = Ledger()
    async with Member(config, ledger=ledger).running() as member:
        await eventually(lambda: len(member.records) == 50)
        embedded_kafka.fail_next(
            API_OFFSET_COMMIT, [NOT_AVAILABLE, REBALANCING, NOT_COORDINATOR, LOADING]
        )
        await member.commit()
        assert member.source.positions()[0]["committed"] == 50
        assert member.telemetry.value("inferometer.commits", outcome="accepted") == 2  # + genesis
    assert sum(ledger.counted.values()) == 50


@pytest.mark.parametrize("code", [22, 25])
async def test_member_whose_commit_is_refused_forgets_and_joins_anew(
    embedded_kafka: FaultyBroker, code: int
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(50))
    config = config_of(embedded_kafka)
    ledger = Ledger()
    async with Member(config, ledger=ledger).running() as member:
        await eventually(lambda: len(member.records) == 50)
        embedded_kafka.fail_next(API_OFFSET_COMMIT, [code])
        await member.commit()
        assert ledger.forgotten == 50
        assert ledger.counted == {}
        await produce(embedded_kafka.bootstrap, TOPIC, numbers(10, 50))
        # The mock still knows the member, so its heartbeats go on: make it forget as a broker would.
        coordinator = member.source._member.consumer._coordinator
        coordinator.reset_generation()
        await eventually(lambda: member.source.epoch >= 2 and len(member.records) >= 110)
    assert ledger.counted == {(P0, offset): 1 for offset in range(60)}


async def test_damaged_batch_is_counted_and_reading_goes_on(
    embedded_kafka: FaultyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    embedded_kafka.create_topic(TOPIC, 2)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(20), partitions=2)
    await send_raw(embedded_kafka, 0, damaged(7))
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(20, 20), partitions=2)
    await send_raw(embedded_kafka, 1, damaged(3))  # the last batch of its log
    config = config_of(embedded_kafka)
    ledger = Ledger()
    async with Member(config, ledger=ledger).running() as member:
        await eventually(lambda: all(p["lag"] == 0 for p in member.source.positions()))
        await eventually(lambda: len(member.records) == 40)
        assert member.offsets(P0) == [*range(10), *range(17, 27)]
        assert member.offsets(P1) == list(range(20))
        dropped = {P0: 0, P1: 0}
        for fetch in member.fetches:
            dropped[fetch.partition] += fetch.n_corrupt
        assert dropped == {P0: 7, P1: 3}
        await produce(embedded_kafka.bootstrap, TOPIC, numbers(2, 40), partitions=2)
        await eventually(lambda: len(member.records) == 42)
        assert member.offsets(P1)[-1] == 23
    text = f"{TOPIC}/0: offsets 10 to 16 cannot be read (Invalid CRC"
    assert text in caplog.text.replace("[Error 2] CorruptRecordException: ", "")
    assert f"at most 7 records dropped as {Drop.CORRUPT_BATCH}" in caplog.text


@pytest.mark.parametrize(("fetch", "frames"), [("raw", RawFrames), ("stock", FramedRecords)])
async def test_batch_that_was_damaged_on_the_wire_is_read_again(
    embedded_kafka: FaultyBroker, monkeypatch: pytest.MonkeyPatch, fetch: str, frames: Any
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(30))
    intact = frames.__init__
    broken = 0

    def receive(self: Any, buffer: bytes) -> None:
        nonlocal broken
        if buffer and broken < 2:
            broken += 1
            buffer = buffer[:-1] + bytes([buffer[-1] ^ 1])
        intact(self, buffer)

    agent = Member(
        config_of(embedded_kafka, fetch=fetch)
    )  # it makes frames itself, to warm kernels
    monkeypatch.setattr(frames, "__init__", receive)
    async with agent.running() as member:
        await eventually(lambda: member.offsets(P0) == list(range(30)))
        assert sum(one.n_corrupt for one in member.fetches) == 0
        assert broken == 2


def damaged(n: int) -> bytes:
    """A batch of `n` records with a wrong checksum."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    for i in range(n):
        builder.append(i, 1000, None, b"lost%d" % i, [])
    data = bytearray(builder.build())
    data[-1] ^= 0xFF
    return bytes(data)


async def send_raw(broker: FaultyBroker, partition: int, batch: bytes) -> None:
    """Store bytes as they are: the embedded broker does not look into a batch."""
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
    await client.bootstrap()
    try:
        request: Any = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=5000,
            topics=[(TOPIC, [(partition, batch)])],
        )
        response = await client.send(client.get_random_node(), request)
        assert response.topics[0][1][0][1] == 0, response
    finally:
        await client.close()


async def test_every_offset_counts_exactly_once_while_a_member_comes_and_goes(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic(TOPIC, 4)
    config = config_of(embedded_kafka)
    ledger = Ledger()
    total = 0
    with leaders_sync_late():
        async with Member(config, ledger=ledger).running() as first:
            for _ in range(2):
                await produce(embedded_kafka.bootstrap, TOPIC, numbers(200), partitions=4)
                total += 200
                await eventually(lambda: len(first.records) > 50)
                async with Member(config, ledger=ledger).running() as other:
                    await eventually(lambda: len(other.owned()) == len(first.owned()) == 2)
                    await produce(embedded_kafka.bootstrap, TOPIC, numbers(200), partitions=4)
                    total += 200
                    await eventually(lambda: len(other.records) >= 100)
                await eventually(lambda: len(first.owned()) == 4)
            await eventually(lambda: sum(p["position"] for p in first.source.positions()) == total)
    assert ledger.counted == {
        (Partition(TOPIC, p), offset): 1 for p in range(4) for offset in range(total // 4)
    }


async def test_records_deleted_before_they_were_read_are_counted(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    config = config_of(embedded_kafka)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(20))
    async with Member(config).running() as first:
        await eventually(lambda: len(first.records) == 20)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(30, 20), linger_ms=0, max_batch_size=80)
    embedded_kafka.delete_records(TOPIC, 0, 35)
    async with Member(config).running() as second:
        await eventually(lambda: second.offsets(P0)[-1:] == [49])
        lost = second.telemetry.value("inferometer.offset.lost")
        assert second.offsets(P0) == list(range(20 + int(lost), 50))
        assert second.telemetry.value("inferometer.offset.resets") == (1 if lost else 0)
        assert lost > 0


async def test_reading_goes_on_where_it_was_after_the_broker_was_away(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(20))
    config = config_of(embedded_kafka, session_timeout_s=20.0)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 20)
        embedded_kafka.broker_down(1)
        await asyncio.sleep(1.0)  # the state under test: a while without a broker
        embedded_kafka.broker_up(1)
        await produce(embedded_kafka.bootstrap, TOPIC, numbers(20, 20))
        await eventually(lambda: member.offsets(P0)[-1:] == [39], timeout_s=40)
        assert member.offsets(P0)[-20:] == list(range(20, 40))


async def test_unauthorised_group_ends_the_source_with_a_clear_error(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic(TOPIC, 1)
    embedded_kafka.fail_next(API_FIND_COORDINATOR, [30] * 50)
    member = Member(config_of(embedded_kafka))
    await member.source.start()
    try:
        with pytest.raises(SourceError, match=r"kafka\.group_id 'inferometer' is not authorised"):
            await asyncio.wait_for(member.source.run(), 20)
    finally:
        await member.source.stop(2.0)


async def test_failure_in_the_revoked_callback_ends_the_source(
    embedded_kafka: FaultyBroker,
) -> None:
    """aiokafka would log it and go on."""
    embedded_kafka.create_topic(TOPIC, 1)
    await produce(embedded_kafka.bootstrap, TOPIC, numbers(5))
    member = Member(config_of(embedded_kafka))

    async def broken(epoch: int, budget_s: float) -> None:
        raise RuntimeError("a mistake in the pipeline")

    member.source._member._on_revoked = broken
    await member.source.start()
    run = asyncio.ensure_future(member.source.run())
    try:
        await eventually(lambda: len(member.records) == 5)
        member.source._member.consumer._coordinator.reset_generation()
        with pytest.raises(SourceError, match=r"hand-over of epoch 1 failed.*a mistake"):
            await asyncio.wait_for(run, 20)
    finally:
        await member.source.stop(2.0)
