"""One shard's aggregator on a real Apache Kafka: crashes, a lost volume, a twin, a chunk that is gone."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from agent.aggregate.guard import Guard
from agent.aggregate.shard import ShardReader
from agent.errors import FencedError, SourceError, StateError
from agent.sketch.kernels.warm import warm
from tests.integration.test_fleet_whole_real import Fleet, Topic, _has, fleet_of
from tests.support.fleet_inside import config_of
from tests.support.kafka_real import RealKafka
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.sent import Sent
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(700)  # the first one may have to compile

PARTITIONS = 8
SENT = Sent(1200, seed=3)
THIRD = len(SENT.values) // 3


@pytest.fixture(scope="module", autouse=True)
def warm_kernels() -> None:
    """Before any clock runs."""
    warm()


@pytest.fixture
async def fleet(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> AsyncIterator[Fleet]:
    topic = Topic(real_kafka, real_kafka.fresh_topic(partitions=PARTITIONS))
    async with fleet_of(topic, tmp_path, otlp_receiver, shards=1) as made:
        yield made


def starts(fleet: Fleet) -> set[int]:
    return {point.start_ns for point in fleet.receiver.points("inference.rows")}


async def test_a_restart_goes_on_with_the_same_series_and_counts_again_within_3_seconds(
    fleet: Fleet,
) -> None:
    fleet.agent()
    fleet.topic.produce(SENT.values[:THIRD])
    first = fleet.aggregator()
    await fleet.counted(THIRD)
    await fleet.inside.kill(first)
    fleet.topic.produce(SENT.values[THIRD : 2 * THIRD])
    await eventually(lambda: sum(fleet.offsets()) == 2 * THIRD)
    began = time.process_time()  # a machine that is shared gives it less than all of each second
    second = fleet.aggregator()
    await eventually(lambda: _has(second, 2 * THIRD), timeout_s=40)
    assert time.process_time() - began < 3.0
    await fleet.counted(2 * THIRD)
    points = fleet.receiver.points()
    assert len(starts(fleet)) == 1
    assert_series_never_reset(points)
    assert second.telemetry.total("inferometer.chunks.missing") == 0


async def test_a_lost_volume_goes_on_at_the_groups_position_under_new_start_times(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.agent()
    fleet.topic.produce(SENT.values[:THIRD])
    first = fleet.aggregator()
    await fleet.counted(THIRD)
    await eventually(lambda: first._intake.oldest == first._intake.position)
    await fleet.inside.stop(first)
    shutil.rmtree(fleet.folder / "volume-0")
    second = fleet.aggregator()
    await eventually(lambda: second._reader is not None and second._reader.has_heads)
    fleet.topic.produce(SENT.values[THIRD:])
    await eventually(lambda: _has(second, 2 * THIRD), timeout_s=30)
    assert "every series begins anew" in caplog.text
    assert second.telemetry.total("inferometer.state.fallbacks") == 1
    await eventually(lambda: len(starts(fleet)) >= 2)


async def test_a_second_aggregator_on_the_same_volume_is_refused(fleet: Fleet) -> None:
    fleet.aggregator()
    with pytest.raises(StateError, match="is in use by process"):
        fleet.aggregator()


async def test_who_comes_back_with_a_volume_that_was_replaced_is_refused_and_disturbs_nobody(
    fleet: Fleet,
) -> None:
    fleet.agent()
    fleet.topic.produce(SENT.values[:THIRD])
    first = fleet.aggregator()
    await fleet.counted(THIRD)
    await fleet.inside.stop(first)
    config = fleet.config(aggregate={"shard": 0})
    second = fleet.inside.aggregator(config, fleet.folder / "another")
    await eventually(lambda: second._reader is not None and second._reader.has_heads)
    third = fleet.aggregator()
    failed = await eventually(lambda: fleet.inside.failed(third))
    assert isinstance(failed, ExceptionGroup)
    assert "another aggregator with a volume of its own" in str(failed.exceptions[0])
    fleet.topic.produce(SENT.values[THIRD:])
    await eventually(lambda: _has(second, 2 * THIRD), timeout_s=30)
    assert fleet.inside.failed(second) is None


async def test_who_was_replaced_while_paused_is_refused(fleet: Fleet) -> None:
    config = config_of(fleet.config())
    fleet.agent()
    await eventually(lambda: fleet.chunks in fleet.topic.kafka.admin.list_topics().topics)
    paused, other = Guard(config), Guard(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(paused.run())
        await paused.confirm(0, 1)
        # Its heartbeats stop, as under SIGSTOP; another takes over and folds.
        for name in ("_heartbeat_task", "_coordination_task"):
            getattr(paused._consumer._coordinator, name).cancel()
        group.create_task(other.run())
        await other.confirm(5, 1)
        assert (await other.committed()).offset == 5
        with pytest.raises(SourceError, match="one shard has one aggregator"):
            await asyncio.wait_for(paused.confirm(1, 2), 20)
        await other.confirm(6, 2)
        other.stop()
        paused.stop()
        with pytest.raises(FencedError):
            await other.confirm(7, 3)


async def test_a_chunk_that_is_gone_raises_an_alarm_and_counting_goes_on(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.agent()
    fleet.topic.produce(SENT.values[:THIRD])
    await eventually(lambda: sum(fleet.offsets()) == THIRD)
    admin = fleet.topic.kafka.admin
    gone = admin.delete_records([TopicPartition(fleet.chunks, 0, -1)])
    for future in gone.values():
        future.result(20)
    aggregator = fleet.aggregator(aggregate={"missing_timeout_s": 1.0})
    fleet.topic.produce(SENT.values[THIRD:])
    await eventually(lambda: _has(aggregator, 2 * THIRD), timeout_s=30)
    assert aggregator.telemetry.total("inferometer.chunks.missing") >= 1
    assert "in no total" in caplog.text
    pages: Any = await aggregator._ready()
    assert pages.ready


async def test_an_aggregator_whose_reading_has_ended_does_not_live_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(reader: ShardReader) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(ShardReader, "run", ends)
    aggregator = fleet.aggregator()
    failed = await eventually(lambda: fleet.inside.failed(aggregator))
    assert isinstance(failed, ExceptionGroup)
    assert "not read any more" in str(failed.exceptions[0])
