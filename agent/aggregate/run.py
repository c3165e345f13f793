"""One shard's aggregator in one process, with its base in memory.

A base in memory starts with the oldest chunk that the topic still holds, and takes new start times.

Tasks
  read      chunk topic and heads -> fold
  tick      the fold's clock: idle partitions, waits that are over
  export    snapshot -> collector
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping

import uvloop

from agent import __version__
from agent.aggregate.intake import Intake
from agent.aggregate.shard import ShardReader
from agent.config import Config
from agent.delivery.cut import Folded
from agent.delivery.export import Export
from agent.emit.environment import resolve
from agent.emit.exporter import MetricExporter
from agent.emit.prometheus import render_pieces
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.errors import InferometerError
from agent.fleet.chunk_topic import ChunkTopic, ensure_chunk_topic
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.owner_thread import OwnerThread
from agent.sketch.kernels.warm import warm
from agent.telemetry import Telemetry
from agent.types import Chunk, Json, Snapshot
from agent.web.server import Pages, Readiness, WebServer

log = logging.getLogger(__name__)

#: Of parts that wait for their chunk to be known to count.
BUFFER_MAX_BYTES = 256 << 20
#: A record that is not there so long after all was read is lost.
MISSING_TIMEOUT_S = 60.0
TICK_S = 1.0


def run(config: Config, topic: ChunkTopic, shard: int, environment: Mapping[str, str]) -> int:
    """Run until a signal or a failure; returns the exit status. `shard`: 0 to `topic.shards` - 1."""
    return uvloop.run(_run(config, topic, shard, environment))


async def _run(
    config: Config, topic: ChunkTopic, shard: int, environment: Mapping[str, str]
) -> int:
    aggregator = Aggregator(config, topic, shard, environment)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, aggregator.stop)
    failed = False
    try:
        await aggregator.run()
    except* InferometerError as group:
        failed = True
        for error in group.exceptions:
            log.error("%s", error)
    return 1 if failed else 0


class Aggregator:
    """Make it inside the running loop, then `await run()`; `stop` ends it."""

    def __init__(
        self, config: Config, topic: ChunkTopic, shard: int, environment: Mapping[str, str]
    ) -> None:
        self._config = config
        self._topic = topic
        self._shard = shard
        self._stop = asyncio.Event()
        self._started = time.monotonic()
        self._resource = make_resource(config.service, environment)
        self.telemetry = Telemetry()
        self.telemetry.set("inferometer.info", 1, version=__version__)
        self._fold = OwnerThread("fold", Fold(config, start_ns=self.telemetry.start_ns))
        self.intake = Intake(
            shard,
            topic.shards,
            max_bytes=BUFFER_MAX_BYTES,
            missing_timeout_s=MISSING_TIMEOUT_S,
        )
        self._reader = ShardReader(
            config.kafka, topic, shard, self.intake, self.telemetry, self._take
        )
        settings = resolve(config.export, environment)
        self._with_zeros = settings.temporality == "cumulative"
        self._metrics = (
            MetricExporter(OtlpClient(settings.metrics), settings, self._resource, self.telemetry)
            if settings.metrics.enabled
            else None
        )
        self._export = Export(
            settings.interval_s,
            Folded(),
            self._send if self._metrics else None,
            self._metrics.hurry if self._metrics else lambda: None,
            lambda _: None,
        )
        self.web = WebServer(
            config.web,
            Pages(ready=self._ready, state=self._state, metrics=self._scrape),
            prometheus=config.export.prometheus,
        )

    def stop(self) -> None:
        """`run` exports once more and returns."""
        self._stop.set()
        self._reader.stop()

    async def run(self) -> None:
        """Raises an ExceptionGroup of what the tasks raise, ConfigError and SourceError."""
        if self._config.web.enabled:
            await self.web.start()
        try:
            await asyncio.to_thread(warm)
            await ensure_chunk_topic(self._config.kafka, self._topic)
            async with asyncio.TaskGroup() as group:
                export = group.create_task(self._export.run(), name="export")
                tick = group.create_task(self._tick(), name="tick")
                read = group.create_task(self._reader.run(), name="read")
                await self._stop.wait()
                await read
                tick.cancel()
                await self._export.export_now()
                export.cancel()
        finally:
            if self._metrics is not None:
                await self._metrics.close()
            self._fold.close(timeout_s=2.0)
            await self.web.stop()

    # -- the fold

    async def _take(self, chunk: Chunk) -> None:
        now_ns = time.time_ns()
        effects = await self._fold.call(lambda fold: fold.apply(chunk, now_ns))
        self.telemetry.add("inferometer.chunks")
        self._count(effects)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._count(await self._fold.call(lambda fold: fold.tick(time.time_ns())))

    def _count(self, effects: Effects) -> None:
        self.telemetry.add("inferometer.seals", len(effects.sealed))

    # -- what leaves

    async def _send(self, urgent: bool) -> bool:
        assert self._metrics is not None
        now_ns, zeros = time.time_ns(), self._with_zeros
        snapshot = await self._fold.call(lambda fold: fold.export(now_ns, zeros=zeros))
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))
        outcome = (
            await self._metrics.flush(snapshot, self._config.delivery.drain_timeout_s / 2)
            if urgent
            else await self._metrics.export(snapshot)
        )
        if outcome.accepted:
            self._fold.call(lambda fold: fold.accepted(snapshot))
        return outcome.accepted

    async def _snapshot(self) -> Snapshot:
        now_ns = time.time_ns()
        snapshot = await self._fold.call(lambda fold: fold.snapshot(now_ns))
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))
        return snapshot

    async def _scrape(self, openmetrics: bool) -> list[bytes]:
        snapshot = await self._snapshot()
        return await self._fold.call(
            lambda _: render_pieces(snapshot.metrics, self._resource, openmetrics=openmetrics)
        )

    async def _ready(self) -> Readiness:
        reasons = [] if self._reader.has_heads else ["the agents' group has not been read yet"]
        return Readiness(not reasons, reasons=reasons)

    async def _state(self) -> Json:
        now_ns = time.time_ns()
        state = await self._fold.call(lambda fold: fold.state(now_ns))
        return {
            "service": self._resource.describe(),
            "ready": self._reader.has_heads,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "shard": {
                "topic": self._topic.name,
                "shard": self._shard,
                "shards": self._topic.shards,
                "position": self.intake.position,
                "oldest_needed": self.intake.oldest,
                "waiting_chunks": self.intake.n_waiting,
                "held_bytes": self.intake.held_bytes,
                "foreign_records": self.intake.n_foreign,
            },
            **state,
        }
