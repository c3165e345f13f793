"""Windows do not wait for partitions that nobody will speak for: their topic was deleted, or taken out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agent.aggregate import folding, heads
from agent.aggregate.heads import HeadReader
from agent.aggregate.shard import Batch
from agent.config import Kafka, Windows
from agent.ingest.fence import Committed
from agent.state.heads import Head
from agent.types import Partition, StreamKey
from tests.support.blocks import Row, range_of
from tests.support.shard_life import T0_MS, Group, Life, life

S = 1_000_000_000
#: 10 s windows, 5 s lateness, idle after 30 s, unowned after 60 s, waits of 100 s.
WINDOWS = Windows(
    width_s=10, out_of_orderness_s=5, idle_timeout_s=30, owner_timeout_s=60, max_wait_s=100
)
STAYS, GONE = Partition("events", 0), Partition("old", 0)


class Clock:
    """Stands in for `time`, ahead of the wall clock by what was passed."""

    def __init__(self) -> None:
        self._now_ns = time.time_ns()

    def pass_s(self, seconds: int) -> None:
        self._now_ns += seconds * S

    def time_ns(self) -> int:
        return self._now_ns


async def rows_at(one: Life, number: int, *times_s: int, of: Partition = STAYS) -> float:
    """Fold a chunk with rows at these times; returns how many windows sealed."""
    before = one.telemetry.total("inferometer.seals")
    rows = [Row(StreamKey("m", "1"), T0_MS + 1000 * at) for at in times_s]
    await one.fold_in(number, rows, [range_of(of, rows, from_offset=number)])
    return one.telemetry.total("inferometer.seals") - before


def current(number: int, *there: Partition) -> Batch:
    return Batch([], number, True, frozenset(there))


async def test_windows_seal_whole_again_behind_a_topic_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, group = Clock(), Group()
    monkeypatch.setattr(folding, "time", clock)
    async with life(tmp_path, group, WINDOWS) as first:
        await first.open()
        assert await rows_at(first, 1, 0, of=GONE) == 0
        assert await rows_at(first, 2, 0, 20) == 0
        await first.fold.take(current(2, STAYS), group)  # type: ignore[arg-type]
        clock.pass_s(61)
        assert await rows_at(first, 3, 60) == 2  # at once, though nobody spoke for the other
        assert caplog.text.count("partitions that are gone: old/0") == 1
    async with life(tmp_path, group, WINDOWS) as second:  # and so after a restart
        await second.open()
        assert await rows_at(second, 4, 100) == 1
        assert second.fold.volume.fold.covers.keys() == {STAYS}
        assert second.fold.volume.state.heads.keys() == {STAYS}
        assert second.fold._log.chains._tips.keys() == {STAYS}


async def test_a_partition_that_is_only_silent_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, group = Clock(), Group()
    monkeypatch.setattr(folding, "time", clock)
    async with life(tmp_path, group, WINDOWS) as one:
        await one.open()
        await rows_at(one, 1, 0, of=GONE)
        await rows_at(one, 2, 0, 20)
        await one.fold.take(current(2, STAYS, GONE), group)  # type: ignore[arg-type]
        await one.fold.take(Batch([], 2, True), group)  # type: ignore[arg-type]
        await one.fold.take(Batch([], 2, False, frozenset()), group)  # type: ignore[arg-type]
        clock.pass_s(61)
        assert await rows_at(one, 3, 60) == 0


class Client:
    """Knows what the brokers say of topics."""

    def __init__(self, **topics: int) -> None:
        self._topics = topics
        self.cluster = self

    async def add_topic(self, topic: str) -> None:
        pass

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        n = self._topics.get(topic)
        return None if n is None else set(range(n))


@pytest.mark.parametrize(
    "kafka",
    [
        Kafka(topics=["events", "deleted"], label_topics=["labels"]),
        Kafka(topic_pattern="ev.*|deleted", label_topics=["labels"]),
    ],
)
async def test_partitions_are_there_that_are_read_and_have_an_offset_or_exist(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head("0" * 16, 5, "1" * 16, 3)
    offsets = {
        Partition(topic, number): Committed(5, head.metadata)
        for topic, number in (("events", 0), ("labels", 0), ("taken-out", 0))
    } | {Partition("events", 1): Committed(5, "by hand")}

    async def fetch(link: Any, group_id: str, wanted: Any, *, ended: Any) -> Any:
        return {p: at for p, at in offsets.items() if wanted is None or p in wanted}

    monkeypatch.setattr(heads, "fetch_offsets", fetch)
    reader = HeadReader(Client(events=3, labels=1), kafka)
    found = await reader.read(ended=asyncio.Event())
    named = {("events", 2)} if kafka.topics else set()  # others are known by their offsets alone
    assert found.there == {("events", 0), ("events", 1), ("labels", 0)} | named
    assert found.heads == dict.fromkeys([p for p in offsets if p != ("events", 1)], head)
