"""Heartbeats of idle partitions: which are told, and when."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from agent.config import Kafka
from agent.ingest import ranges
from agent.ingest.assignment import ByteBudget, Epoch, Owned
from agent.ingest.fence import Fence
from agent.ingest.ranges import RangeMaker
from agent.telemetry import Telemetry
from agent.types import Fetch, Partition

TP = TopicPartition("t", 0)
P0 = Partition("t", 0)


class Idle:
    """One owned partition at offset 5 of a log, as the fetcher leaves it, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(ranges, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.fetches: list[Fetch] = []
        self.budget = ByteBudget(1 << 20)
        self.maker = RangeMaker(
            Kafka(topics=["t"], **options),
            self.fetches.append,
            self.budget,
            Telemetry(),
            corrupt_attempts=3,
            heartbeat_s=1.0,
        )
        self.state = SimpleNamespace(
            position=5, has_valid_position=True, highwater=None, lso=None, timestamp=None
        )
        self.owned = Owned(P0, TP, self.state, 5, 5, "", is_label_topic=False, progressed_at=0.0)
        self.epoch = Epoch(1, Fence("g", 1, "m"), frozenset({TP}), {P0: self.owned})

    def after(self, seconds: float, *, end: int | None = None, stable: int | None = None) -> int:
        """Ranges handed on after that time; `end`: a broker has answered with this high watermark."""
        self.now += seconds
        if end is not None:
            self.state.highwater, self.state.lso = end, stable
            self.state.timestamp = int(self.now * 1000)
        before = len(self.fetches)
        self.maker.hand_on_progress(self.epoch, self.owned)
        return len(self.fetches) - before


@pytest.fixture
async def idle(monkeypatch: pytest.MonkeyPatch) -> Idle:
    return Idle(monkeypatch)


async def test_idle_partition_is_told_once_an_interval_while_its_broker_answers(idle: Idle) -> None:
    assert idle.after(5) == 0, "no broker has answered yet"
    assert idle.after(0.1, end=5) == 1
    assert idle.after(0.9, end=5) == 0
    assert idle.after(0.1, end=5) == 1
    assert sum(idle.after(0.1, end=5) for _ in range(100)) in (9, 10)
    for fetch in idle.fetches:
        assert (fetch.from_offset, fetch.to_offset, fetch.high_watermark) == (5, 5, 5)


async def test_partition_whose_broker_is_silent_is_not_told(idle: Idle) -> None:
    assert idle.after(0.1, end=5) == 1
    assert sum(idle.after(1.0) for _ in range(60)) == 0
    assert idle.after(0.1, end=5) == 1, "it answers again"


async def test_answer_of_a_former_epoch_on_the_same_assignment_tells_nothing(idle: Idle) -> None:
    idle.state.highwater, idle.state.timestamp = 5, 900_000
    idle.owned.told_answer_ms = 900_000
    assert idle.after(5) == 0
    assert idle.after(0.1, end=5) == 1


async def test_partition_that_is_behind_or_paused_is_not_told(idle: Idle) -> None:
    assert idle.after(0.1, end=9) == 1, "the end of the log, once an epoch"
    assert idle.after(2, end=9) == 0
    idle.owned.paused = "ahead"
    assert idle.after(2, end=5) == 0
    idle.owned.paused = ""
    assert idle.after(0) == 1


async def test_end_of_an_idle_log_is_its_last_stable_offset_when_only_committed_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle = Idle(monkeypatch, isolation_level="read_committed")
    assert idle.after(0.1, end=9, stable=5) == 1
    assert idle.after(1, end=9, stable=5) == 1
    assert idle.fetches[-1].high_watermark == 5


async def test_heartbeats_that_nobody_reads_fill_the_budget(idle: Idle) -> None:
    idle.budget = ByteBudget(1000)
    idle.maker._budget = idle.budget
    for _ in range(20):
        idle.after(1, end=5)
    assert idle.budget.full
    for fetch in idle.fetches:
        idle.budget.release(fetch.size_bytes)
    assert idle.budget.used == 0
