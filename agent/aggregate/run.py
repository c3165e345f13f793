"""One shard's aggregator in one process.

Tasks
  guard     membership of the shard's own group: who may fold
  read      chunk topic and heads of the agents' group -> fold, journal first
  export    snapshot of the fold -> collector
  telling   verdicts -> log, log events, actions
  observe   loop lag, memory, age of the snapshot

Stop order (SIGTERM, SIGINT): stop reading, export, snapshot, leave. A second signal exits at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

import uvloop

from agent import __version__, start_up
from agent.aggregate.folding import ShardFold
from agent.aggregate.guard import Guard
from agent.aggregate.intake import Intake
from agent.aggregate.shard import ShardReader, Standing
from agent.config import Config
from agent.delivery.export import Export
from agent.delivery.outcome import Folded
from agent.emit.environment import resolve
from agent.emit.exporter import MetricExporter
from agent.emit.prometheus import render_pieces
from agent.emit.release import release
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.errors import ConfigError, FencedError, InferometerError, SourceError
from agent.fleet.chunk_topic import ChunkTopic, await_chunk_topic
from agent.fold.base import Fold
from agent.judging import Folds, Judge, judge_maker
from agent.observe import resident_bytes, watch_loop
from agent.telemetry import Telemetry
from agent.telling import make_telling
from agent.types import Irregular, Json, Snapshot
from agent.warm_up import load_kernels, unless_stopped
from agent.web.pieces import fragment
from agent.web.server import Pages, Readiness, WebServer

log = logging.getLogger(__name__)


def run(config: Config, environment: Mapping[str, str]) -> int:
    """Run until a signal or a failure; returns the exit status."""
    start_up.tune()
    return uvloop.run(_run(config, environment))


async def _run(config: Config, environment: Mapping[str, str]) -> int:
    aggregator = Aggregator(config, environment)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, aggregator.on_signal)
    failed = False
    try:
        await aggregator.run()
    except* InferometerError as group:
        failed = True
        for error in group.exceptions:
            log.error("%s", error)
    return 1 if failed else 0


def check(config: Config) -> None:
    """Raises ConfigError for what an aggregator cannot run with."""
    if config.delivery.mode != "fleet":
        raise ConfigError(
            f"delivery.mode is {config.delivery.mode}; aggregate takes its agents' configuration: fleet"
        )
    if not config.aggregate.volume_path:
        raise ConfigError(
            "aggregate.volume_path is not set; name a directory that survives the process"
        )


class Aggregator:
    """Make it inside the running loop, then `await run()`; `stop` ends it."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        *,
        make_judge: Callable[[], Judge] | None = None,
    ) -> None:
        """`make_judge`: judges otherwise than configured, for tests. Raises ConfigError, StateError."""
        check(config)
        settings = resolve(config.export, environment)
        if settings.temporality == "delta":
            raise ConfigError(
                "export.temporality is delta; an aggregator needs cumulative: what a receiver has "
                "accepted of a delta does not survive a restart"
            )
        self._config = config
        self._topic = ChunkTopic.of(config.delivery)
        self._stop = asyncio.Event()
        self._not_ready = "kernels are being loaded"
        self._started = time.monotonic()
        self.telemetry = Telemetry()
        self._guard = Guard(config)
        self._fold = ShardFold(
            config,
            self._guard.group_id,
            Folds(config, self.telemetry, make_judge or judge_maker(config)),
            self.telemetry,
        )
        self._guard.run_id = self._fold.volume.run_id
        known_id = self._fold.volume.instance_id
        self._resource = make_resource(config.service, environment, known_id=known_id)
        self._fold.volume.instance_id = self._resource.attributes["service.instance.id"]
        self.telemetry.set("inferometer.info", 1, version=__version__)
        for odd in Irregular:
            self.telemetry.add("inferometer.irregular", 0, reason=odd.value)
        for fate in ("orphaned", "missing", "uncertain"):
            self.telemetry.add(f"inferometer.chunks.{fate}", 0)
        self._reader: ShardReader | None = None
        self._intake: Intake | None = None
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
        self._telling = make_telling(
            config,
            settings,
            self._resource,
            self._fold.thread,
            self.telemetry,
            may_leave=lambda: self._guard.may_speak and self._fold.volume.made_durable(),
        )
        self.web = WebServer(
            config.web,
            Pages(ready=self._ready, state=self._state, metrics=self._scrape, live=self._dead),
            prometheus=config.export.prometheus,
        )

    def on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: exiting at once")
            sys.stderr.flush()
            os._exit(1)
        self.stop()

    def stop(self) -> None:
        """`run` drains and returns."""
        self._stop.set()

    async def run(self) -> None:
        """Raises an ExceptionGroup of what the tasks raise: ConfigError, SourceError, StateError."""
        if self._config.web.enabled:
            await self.web.start()
        try:
            if await self._prepare():
                await self._run_tasks()
        finally:
            for part in (self._metrics, self._telling):
                if part is not None:
                    await part.close()
            self._fold.close()
            await self.web.stop()

    async def _prepare(self) -> bool:
        """Kernels, and the chunk topic; False when stopped meanwhile."""
        if not await unless_stopped(self._stop, load_kernels(self._on_compiling)):
            return False
        self._not_ready = f"chunk topic {self._topic.name} has not been seen yet"
        topic = asyncio.ensure_future(await_chunk_topic(self._config.kafka, self._topic))
        return await unless_stopped(self._stop, topic)

    def _on_compiling(self, name: str, n_done: int, n_all: int) -> None:
        """On the thread that loads."""
        self._not_ready = f"starting: {n_done} of {n_all} kernels are compiled"

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._be_member(), name="guard"),
                group.create_task(watch_loop(self._report), name="observe"),
                group.create_task(self._export.run(), name="export"),
                group.create_task(self._telling.run(), name="telling"),
            ]
            read = group.create_task(self._read(), name="read")
            stopped = group.create_task(self._stop.wait(), name="stop")
            await asyncio.wait({stopped, read}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done() and (read.cancelled() or read.exception() is None):
                raise SourceError("the shard is not read any more, and nobody asked for that")
            await self._drain(read)
            for task in tasks:
                task.cancel()

    async def _be_member(self) -> None:
        await self._fold.may_join.wait()
        await self._guard.run()

    async def _read(self) -> None:
        with contextlib.suppress(FencedError):  # stopping, while it waited for the group
            self._intake = await self._fold.open(self._guard)
            self._not_ready = "the agents' group has not been read yet"
            self._reader = ShardReader(
                self._config.kafka,
                self._topic,
                self._config.aggregate.shard,
                self._intake,
                lambda batch: self._fold.take(batch, self._guard),
            )
            await self._reader.run()

    async def _drain(self, read: asyncio.Task[None]) -> None:
        """The stop order, under one deadline. What is not folded by then is read again after the next start."""
        limit_s = self._config.delivery.drain_timeout_s
        log.info("stopping: draining for at most %.0f s", limit_s)
        if self._reader is not None:
            self._reader.stop()
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.wait({read}, timeout=limit_s / 4)
                if read.done() and self._fold.is_open:
                    await self._fold.leave(self._guard, limit_s / 4)
                self._guard.stop()  # nothing is folded any more
                await asyncio.wait({read}, timeout=limit_s / 4)
                await self._export.export_now()
                await self._telling.flush(limit_s / 4)
                if self._fold.is_open:
                    await self._fold.kept.snapshot()
        except TimeoutError:
            log.warning("drain stopped by delivery.drain_timeout_s (%.0f s)", limit_s)
        self._guard.stop()
        read.cancel()

    # -- what leaves

    async def _send(self, urgent: bool) -> bool:
        """Export the fold as it is now; True when the collector accepted all of it.

        Not before the group has said that the shard is ours, nor while another has it.
        """
        assert self._metrics is not None
        if self._guard.may_speak:
            snapshot = await self._fold.kept.export(time.time_ns(), zeros=True)
        else:
            snapshot = self._own_metrics()
        if snapshot is None:
            return False
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))
        outcome = (
            await self._metrics.flush(snapshot, self._config.delivery.drain_timeout_s / 4)
            if urgent
            else await self._metrics.export(snapshot)
        )
        if outcome.accepted and self._guard.may_speak:
            self._fold.kept.accepted(snapshot)
        self._fold.thread.call(lambda _: release(snapshot.metrics))
        return outcome.accepted

    def _own_metrics(self) -> Snapshot:
        return Snapshot(time.time_ns(), [], {})

    async def _scrape(self, openmetrics: bool) -> list[bytes]:
        now_ns = time.time_ns()
        snapshot = None
        if self._fold.is_open and self._guard.may_speak:
            snapshot = await self._fold.kept.scrape(now_ns)
        if snapshot is None:
            snapshot = self._own_metrics()
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))

        def page(_: Fold) -> list[bytes]:
            pieces = render_pieces(snapshot.metrics, self._resource, openmetrics=openmetrics)
            release(snapshot.metrics)
            return pieces

        return await self._fold.thread.call(page)

    async def _ready(self) -> Readiness:
        reasons = []
        if self._reader is None or not self._reader.has_heads:
            reasons.append(self._not_ready)
        elif self._guard.reason:
            reasons.append(self._guard.reason)
        if self._reader is not None and self._reader.trouble:
            reasons.append(self._reader.trouble)
        if self._fold.kept.trouble:
            reasons.append(self._fold.kept.trouble)
        return Readiness(not reasons, standby=self._guard.is_standby, reasons=reasons)

    async def _dead(self) -> list[str]:
        """Reasons to be restarted."""
        return [] if self._fold.thread.alive else ["the fold thread has ended"]

    async def _state(self) -> Json:
        now_ns = time.time_ns()
        state = await self._fold.thread.call(lambda fold: fold.state(now_ns, fragment))
        ready = await self._ready()
        return {
            "service": self._resource.describe(),
            "ready": ready.ready,
            "standby": ready.standby,
            "mode": "aggregate",
            "uptime_s": round(time.monotonic() - self._started, 3),
            "shard": self._shard(),
            "volume": self._fold.kept.describe(),
            **self._telling.state(),
            **state,
        }

    def _shard(self) -> Json:
        out: Json = {
            "topic": self._topic.name,
            "shard": self._config.aggregate.shard,
            "shards": self._topic.shards,
            "group": self._guard.group_id,
            "agents_group": self._config.kafka.group_id,
        }
        at = self._standing
        if at is not None:
            out |= {
                "position": at.position,
                "oldest_needed": at.oldest,
                "end": at.end,
                "waiting_chunks": at.waiting,
                "held_bytes": at.held_bytes,
                "foreign_records": at.foreign,
            }
        return out

    @property
    def _standing(self) -> Standing | None:
        return None if self._reader is None else self._reader.standing

    def _report(self, loop_lag_s: float) -> None:
        """Every second."""
        self.telemetry.set("inferometer.loop.lag", loop_lag_s)
        self.telemetry.set("inferometer.rss", resident_bytes())
        self._fold.kept.observe()
        if self._reader is not None:
            self.telemetry.set("inferometer.consumer.restarts", self._reader.n_restarts)
        if (at := self._standing) is not None:
            self.telemetry.set("inferometer.shard.lag", max(0, at.end - at.position))
            self.telemetry.set("inferometer.shard.needed", max(0, at.end - at.oldest))
            self.telemetry.set("inferometer.shard.waiting", at.waiting)
            self.telemetry.set("inferometer.shard.held", at.held_bytes)
            self.telemetry.set("inferometer.shard.foreign", at.foreign)
        self._telling.observe()
        start_up.tidy()
