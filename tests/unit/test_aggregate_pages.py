"""What an aggregator says of itself: readiness, gauges, and its part of the state page."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.aggregate.run import Aggregator
from agent.aggregate.shard import Standing
from tests.support.fleet_inside import config_of
from tests.support.shard_life import Group, life
from tests.support.wait import eventually


@pytest.fixture
async def aggregator(tmp_path: Path) -> AsyncIterator[Any]:
    document = {
        "delivery": {"mode": "fleet", "chunk_topic": "chunks", "shards": 1},
        "aggregate": {"volume_path": str(tmp_path)},
    }
    one: Any = Aggregator(config_of(document), {})
    one._guard._fence = object()  # the shard is ours
    one._reader = SimpleNamespace(has_heads=True, trouble="", n_restarts=2, standing=None)
    yield one
    one._fold.close()


async def test_it_is_ready_while_its_shard_is_read(aggregator: Any) -> None:
    assert (await aggregator._ready()).ready
    aggregator._reader.trouble = "chunks/0 cannot be read: away"
    ready = await aggregator._ready()
    assert not ready.ready
    assert ready.reasons == ["chunks/0 cannot be read: away"]


async def test_scrapes_show_nothing_that_the_disk_has_not_taken(
    aggregator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.aggregate.folding.RETRY_S", 0.01)

    async def rows() -> list[str]:
        page = b"".join(await aggregator._scrape(False)).decode()
        assert "inferometer_info" in page
        return re.findall(r"^inference_rows_total\S* (\d+)", page, re.MULTILINE)

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with life(tmp_path / "v", Group()) as one:
        with monkeypatch.context() as own:
            own.setattr(aggregator, "_fold", one.fold)
            own.setattr(aggregator, "_guard", SimpleNamespace(may_speak=True))
            await one.open()
            await one.take(1)
            assert await rows() == ["5"]
            with monkeypatch.context() as disk:
                disk.setattr(one.fold.volume._files, "write", full)
                work = asyncio.ensure_future(one.take(2))
                await eventually(lambda: one.fold.kept.trouble)
                assert await one.fold.thread.call(lambda fold: fold.tally.rows) == 10
                assert await rows() == []  # a crash would take them back, under the same start time
            await work
            assert await rows() == ["10"]


async def test_gauges_and_the_state_page_say_how_far_it_is(aggregator: Any) -> None:
    aggregator._report(0.0)  # before the first turn
    aggregator._reader.standing = Standing(
        position=7, oldest=4, end=10, waiting=2, held_bytes=99, foreign=1
    )
    aggregator._report(0.0)
    found = {
        name: aggregator.telemetry.total(f"inferometer.{name}")
        for name in (
            "shard.lag",
            "shard.needed",
            "shard.waiting",
            "shard.held",
            "shard.foreign",
            "consumer.restarts",
        )
    }
    assert list(found.values()) == [3, 6, 2, 99, 1, 2]
    assert aggregator._shard() == {
        "topic": "chunks",
        "shard": 0,
        "shards": 1,
        "group": aggregator._guard.group_id,
        "agents_group": aggregator._config.kafka.group_id,
        "position": 7,
        "oldest_needed": 4,
        "end": 10,
        "waiting_chunks": 2,
        "held_bytes": 99,
        "foreign_records": 1,
    }
