"""Agents and aggregators as tasks of the test's own loop: many of them are cheap there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.aggregate.run import Aggregator
from agent.config import Config
from agent.pipeline import Agent
from tests.support.agent_process import QUICK, Json, merged

STOP_S = 20.0


def config_of(document: Json) -> Config:
    """As from a file, without pages."""
    return msgspec.convert(merged(merged(QUICK, {"web": {"enabled": False}}), document), Config)


class Inside:
    """What runs; all is stopped at the end of `running`."""

    def __init__(self) -> None:
        self._tasks: dict[Any, asyncio.Task[None]] = {}

    def agent(self, document: Json) -> Agent:
        return self._go(Agent(config_of(document), {}))

    def aggregator(self, document: Json, volume: Path) -> Aggregator:
        own: Json = {"aggregate": {"volume_path": str(volume)}}
        return self._go(Aggregator(config_of(merged(document, own)), {}))

    def _go(self, one: Any) -> Any:
        self._tasks[one] = asyncio.create_task(one.run())
        return one

    async def stop(self, one: Any) -> None:
        """Drain it. Raises what it failed with."""
        one._stop.set()
        await asyncio.wait_for(self._tasks.pop(one), STOP_S)

    async def kill(self, one: Any) -> None:
        """End it without a drain."""
        task = self._tasks.pop(one)
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)

    def failed(self, one: Any) -> BaseException | None:
        """What it ended with; None while it runs."""
        task = self._tasks[one]
        return task.exception() if task.done() else None

    async def stop_all(self) -> None:
        for one in list(self._tasks):
            await self.stop(one)


@asynccontextmanager
async def running() -> AsyncIterator[Inside]:
    inside = Inside()
    try:
        yield inside
    finally:
        for one in list(inside._tasks):
            await inside.kill(one)


def tally(state: Mapping[str, Any]) -> int:
    return int(state["tally"]["rows"])
