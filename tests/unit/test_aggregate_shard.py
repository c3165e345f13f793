"""The reader of a shard, beside the broker: it goes on whatever the client library does to it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka.errors as kafka_errors
import pytest

from agent.aggregate import shard
from agent.aggregate.intake import Intake
from agent.aggregate.shard import Batch, ShardReader
from agent.config import Kafka
from agent.fleet.chunk_topic import ChunkTopic


class Consumer:
    """Cannot connect; its end lets out the cancellation of one of its own tasks, as aiokafka's does."""

    _coordinator = None
    _fetcher = None

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
