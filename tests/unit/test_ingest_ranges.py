"""Heartbeats of idle partitions: which are told, and when."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from agent.config import Kafka
from agent.decode.raw_batches import RawBatches, joined, table_of
from agent.ingest import ranges
from agent.ingest.assignment import (
    RECORD_OVERHEAD_BYTES,
    ByteBudget,
    Epoch,
    Owned,
    size_of_batches,
)
from agent.ingest.batches import CorruptRange
from agent.ingest.fence import Fence
from agent.ingest.ranges import RangeMaker
from agent.telemetry import Telemetry
from agent.types import Partition, RawBatch, RawFetch

TP = TopicPartition("t", 0)
P0 = Partition("t", 0)


class Idle:
    """One owned partition at offset 5 of a log, as the fetcher leaves it, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(ranges, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.fetches: list[Any] = []
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


def raw_batch(
    base: int, n: int, size_bytes: int, *, codec: int = 0, begin: int = 0, holds: int | None = None
) -> RawBatches:
    data = memoryview(bytes(size_bytes))
    one = RawBatch(
        data, base, base + n, codec, 0, 0, n if holds is None else holds, max(base, begin)
    )
    return table_of([one])


async def test_raw_range_is_charged_its_bytes_and_what_opening_it_takes(idle: Idle) -> None:
    plain = joined([raw_batch(5, 10, 1000), raw_batch(15, 10, 2000)])
    assert size_of_batches(plain) == (3000, 3000 + 2 * RECORD_OVERHEAD_BYTES)
    packed = raw_batch(25, 5, 700, codec=3)
    assert size_of_batches(packed) == (700, 5 * 700 + RECORD_OVERHEAD_BYTES)
    large = raw_batch(30, 1, 3 << 20, codec=4)
    assert size_of_batches(large)[1] == (4 << 20) + RECORD_OVERHEAD_BYTES, "a mebibyte at a time"
    idle.state.position = 31
    idle.maker.hand_on(None, idle.epoch, idle.owned, [plain, packed, large])
    (fetch,) = idle.fetches
    assert isinstance(fetch, RawFetch)
    assert (fetch.from_offset, fetch.to_offset, fetch.n_corrupt) == (5, 31, 0)
    assert (fetch.batches.table == joined([plain, packed, large]).table).all()
    assert len(fetch.batches) == len(fetch.batches.held) == 4
    assert fetch.size_bytes == idle.budget.used == size_of_batches(fetch.batches)[1]


async def test_records_below_a_position_inside_a_batch_do_not_count_as_delivered() -> None:
    assert joined([raw_batch(0, 10, 99, begin=4), raw_batch(10, 3, 99)]).n_records == 9
    assert raw_batch(0, 10, 99, begin=8, holds=2).n_records == 0


async def test_damaged_batch_is_read_again_with_what_lies_behind_it_and_then_given_up(
    idle: Idle,
) -> None:
    sought: list[int] = []
    consumer = SimpleNamespace(seek=lambda tp, offset: sought.append(offset))
    before, behind = raw_batch(5, 5, 100), raw_batch(13, 2, 100)
    damage = CorruptRange(10, 13, "checksum")
    idle.state.highwater = 15
    for attempt in range(3):
        idle.state.position = 15
        items = [before, damage, behind] if attempt == 0 else [damage, behind]
        idle.maker.hand_on(consumer, idle.epoch, idle.owned, items)
    assert sought == [10, 10]
    ranges_told = [(one.from_offset, one.to_offset, one.n_corrupt) for one in idle.fetches]
    assert ranges_told == [(5, 10, 0), (10, 10, 0), (10, 15, 3)]
    told = [one.batches for one in idle.fetches]
    assert told[0] is before
    assert len(told[1]) == 0
    assert told[2] is behind
