"""The reader of a shard, beside the broker: it goes on whatever the client library does to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiokafka.errors as kafka_errors
import pytest

from agent.aggregate import heads, shard
from agent.aggregate.heads import Group
from agent.aggregate.intake import Intake
from agent.aggregate.shard import Batch, ShardReader
from agent.config import Kafka
from agent.errors import SourceError
from agent.fleet.chunk_topic import ChunkTopic


class Consumer:
    """Cannot connect; its end lets out the cancellation of one of its own tasks, as aiokafka's does."""

    _coordinator: Any = None
    _fetcher: Any = None

    def __init__(self) -> None:
        self._client = self

    async def start(self) -> None:
        raise kafka_errors.KafkaConnectionError("away")

    async def stop(self) -> None:
        raise asyncio.CancelledError

    async def close(self) -> None:
        pass


async def test_a_cancellation_that_the_client_lets_out_does_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard, "RETRY_S", 0.0)
    made: list[Consumer] = []

    async def done(batch: Batch) -> None:
        raise AssertionError(batch)

    intake = Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=1.0)
    reader = ShardReader(Kafka(), ChunkTopic("chunks", 1), 0, intake, done)

    def make() -> Any:
        made.append(Consumer())
        if len(made) == 3:
            reader.stop()
        return made[-1]

    monkeypatch.setattr(reader, "_consumer", make)
    await asyncio.wait_for(reader.run(), 10)
    assert len(made) == 3


class Silent(Consumer):
    """Connects, is behind the end, and gives nothing; each wait passes its time at once."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._fetcher = self
        self.error_future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end, self.at, self.n_polls = 5, 0, 0
        self.on_poll: Callable[[], None] = lambda: None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def assign(self, tps: Any) -> None:
        pass

    def seek(self, tp: Any, position: int) -> None:
        self.at = position

    async def position(self, tp: Any) -> int:
        return self.at

    async def end_offsets(self, tps: Any) -> Any:
        return dict.fromkeys(tps, self.end)

    async def getmany(self, tp: Any, timeout_ms: int, max_records: int) -> Any:
        await asyncio.sleep(0)
        self._clock.now_s += timeout_ms / 1000
        self.n_polls += 1
        self.on_poll()
        return {}


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()

    def monotonic(self) -> float:
        return self.now_s


class Turns:
    """A reader whose consumers are `Silent`, and whose group answers; `made` gets each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.made: list[Silent] = []
        self.fold_s = 0.0  # that a batch takes
        self.prepare: Callable[[Silent], None] = lambda made: None
        intake = Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=1.0)
        self.reader = ShardReader(Kafka(), ChunkTopic("chunks", 1), 0, intake, self._done)
        monkeypatch.setattr(shard, "time", self.clock)
        monkeypatch.setattr(shard, "RETRY_S", 0.0)
        monkeypatch.setattr(heads.HeadReader, "read", self._read)
        monkeypatch.setattr(self.reader, "_consumer", self._make)

    async def _done(self, batch: Batch) -> None:
        self.clock.now_s += self.fold_s

    async def _read(self, *, ended: asyncio.Event) -> Group:
        return Group({}, frozenset())

    def _make(self) -> Any:
        one = Silent(self.clock)
        self.prepare(one)
        self.made.append(one)
        if len(self.made) == 2:
            self.reader.stop()
        return one

    async def run(self) -> None:
        await asyncio.wait_for(self.reader.run(), 20)


async def test_a_consumer_that_stays_behind_and_gives_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns = Turns(monkeypatch)
    began = turns.clock.now_s
    await turns.run()
    assert 60 <= turns.clock.now_s - began < 65
    assert len(turns.made) == 2
    assert turns.reader.n_restarts == 1
    assert (
        "chunks/0 cannot be read: no record for 60 s at position 0, and 5 is the end" in caplog.text
    )
    assert turns.reader.trouble.startswith("chunks/0 cannot be read")  # until a turn is done


async def test_a_consumer_whose_fetch_task_has_ended_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(monkeypatch)
    turns.prepare = lambda made: made.error_future.set_result(None)
    await turns.run()
    assert [made.n_polls for made in turns.made] == [1, 0]
    assert "its fetch task has ended" in turns.reader.trouble


@pytest.mark.parametrize("is_behind", [False, True])
async def test_neither_a_quiet_shard_nor_a_slow_fold_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, is_behind: bool
) -> None:
    turns = Turns(monkeypatch)
    turns.fold_s = 100.0 if is_behind else 0.0

    def prepare(made: Silent) -> None:
        made.end = 5 if is_behind else 0
        made.on_poll = lambda: turns.reader.stop() if made.n_polls >= limit else None

    limit = 20 if is_behind else 200
    turns.prepare = prepare
    await turns.run()
    assert len(turns.made) == 1
    assert turns.reader.n_restarts == 0


async def test_the_time_since_the_last_turn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(monkeypatch)
    turns.prepare = lambda made: setattr(made, "on_poll", turns.reader.stop)
    await turns.run()
    assert turns.reader.trouble == ""
    standing = turns.reader.standing
    assert standing is not None
    assert (standing.position, standing.end) == (0, 5)
    turns.clock.now_s += 40
    assert turns.reader.trouble == "chunks/0: nothing was read or folded for 41 s"


async def test_a_chunk_topic_that_may_not_be_read_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(monkeypatch)

    def refuse() -> None:
        raise kafka_errors.TopicAuthorizationFailedError("chunks")

    turns.prepare = lambda made: setattr(made, "on_poll", refuse)
    with pytest.raises(SourceError, match=r"delivery.chunk_topic 'chunks' is not authorised"):
        await turns.run()
