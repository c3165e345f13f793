"""Wires the stages in one TaskGroup; the only module that knows them all.

Tasks
  consume    the source's fetch loop: Kafka -> kernel threads
  deliver    cut -> chunk -> fold -> tick, on a timer, when a delta is full, and when asked
  export     snapshot -> collector
  commit     accepted positions -> fenced commit
  spans      request spans and own spans -> collector
  telling    verdicts -> log, log events, actions
  observe    loop lag, memory, freshness, lag

Stop order (SIGTERM, SIGINT), under one deadline: stop fetching, cut, fold, export, commit, verdicts,
spans, leave the group. A second signal exits at once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

import uvloop

from agent import __version__, start_up
from agent.config import Config
from agent.decode.fast import FastDecoder
from agent.decode.shed import SheddingDecoder
from agent.delivery.commit import Commit
from agent.delivery.cut import Cutter
from agent.delivery.export import Export
from agent.delivery.memory import MemoryMode
from agent.delivery.mode import Mode
from agent.delivery.overload import Shedding
from agent.delivery.volume import VolumeMode, open_volume
from agent.emit.console import Console
from agent.emit.environment import resolve
from agent.emit.exporter import MetricExporter
from agent.emit.prometheus import render_pieces
from agent.emit.release import release
from agent.emit.resource import make_resource
from agent.emit.spans import SpanExporter, self_tracer
from agent.emit.transport import OtlpClient
from agent.errors import ConfigError, InferometerError
from agent.fleet.chunk_topic import ChunkTopic, await_chunk_topic
from agent.fleet.chunk_writer import ChunkWriter
from agent.fleet.mode import FleetMode
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.ingest.dead_letter import DeadLetters
from agent.ingest.kafka import KafkaSource
from agent.judge.score_tables import configured_tables
from agent.judging import Folds, Judge, judge_maker
from agent.kernel_thread import Callbacks, KernelThread
from agent.observe import resident_bytes, watch_loop
from agent.own_spans import OwnSpans
from agent.owner_thread import OwnerThread
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.telling import make_telling
from agent.types import Chunk, Drop, Fetch, Irregular, Json, Partition, RawFetch, Record, Snapshot
from agent.warm_up import load_kernels, unless_stopped
from agent.web.pieces import fragment
from agent.web.server import Pages, Readiness, WebServer

log = logging.getLogger(__name__)


def run(config: Config, environment: Mapping[str, str]) -> int:
    """Run until a signal or a failure; returns the exit status."""
    start_up.tune()
    return uvloop.run(_run(config, environment))


async def _run(config: Config, environment: Mapping[str, str]) -> int:
    agent = Agent(config, environment)
    failed = False
    try:
        await agent.run()
    except* InferometerError as group:
        failed = True
        for error in _leaves(group):
            log.error("%s", error)
    return 1 if failed or agent.failure is not None else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    out: list[BaseException] = []
    for error in group.exceptions:
        out.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return out


class Agent:
    """One agent process: make it inside the running loop, then `await run()`."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        *,
        make_judge: Callable[[], Judge] | None = None,
    ) -> None:
        """`make_judge`: judges otherwise than configured, for tests."""
        self.failure: BaseException | None = None
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._warm = False
        self._is_open = False
        self._warming = "kernels are being loaded"
        self._started = time.monotonic()
        self.telemetry = Telemetry()
        settings = resolve(config.export, environment)
        if make_judge is None and config.delivery.mode != "fleet":  # there aggregators judge
            make_judge = judge_maker(config)
        folds = Folds(config, self.telemetry, make_judge)
        volume = None
        if config.delivery.mode == "volume":
            if settings.temporality == "delta":
                raise ConfigError(
                    "export.temporality is delta; delivery.mode: volume needs cumulative: what a "
                    "receiver has accepted of a delta does not survive a restart"
                )
            volume = open_volume(config, folds.codec(), self.telemetry)
        self._resource = make_resource(
            config.service, environment, known_id=volume.instance_id if volume else ""
        )
        if volume is not None:
            volume.instance_id = self._resource.attributes["service.instance.id"]
        self.telemetry.set("inferometer.info", 1, version=__version__)
        # An explicit zero of each reason: a rate sees the first drop, too.
        for drop in Drop:
            self.telemetry.add("inferometer.dropped", 0, reason=drop.value)
        for odd in Irregular:
            self.telemetry.add("inferometer.irregular", 0, reason=odd.value)
        self._fold = OwnerThread("fold", folds.make(self.telemetry.start_ns))
        self._shedding = Shedding(config.overload, self.telemetry)
        n_threads = kernel_threads(config)
        tables = configured_tables(config)
        self._kernels = [
            KernelThread(index, n_threads, config, self._kernel_callbacks(), tables)
            for index in range(n_threads)
        ]
        self._kernel_of: dict[Partition, KernelThread] = {}
        self._commit = Commit(lambda epoch, offsets: self._source.commit(epoch, offsets))
        self._mode = self._make_mode(volume)
        self._source = KafkaSource(
            config,
            on_assigned=self._on_assigned,
            on_fetch=self._on_fetch,
            on_revoked=self._on_revoked,
            telemetry=self.telemetry,
            chain=self._mode.chain,
        )
        self._dead_letters = (
            DeadLetters(config, self.telemetry) if config.decode.dead_letter_topic else None
        )
        self._metrics = (
            MetricExporter(OtlpClient(settings.metrics), settings, self._resource, self.telemetry)
            if settings.metrics.enabled
            else None
        )
        self._spans = (
            SpanExporter(OtlpClient(settings.traces), settings, self._resource, self.telemetry)
            if settings.traces.enabled and config.traces.enabled
            else None
        )
        self._telling = make_telling(
            config,
            settings,
            self._resource,
            self._fold,
            self.telemetry,
            may_leave=lambda: volume is None or volume.made_durable(),
        )
        tracer = self_tracer(self._spans, enabled=config.traces.self_spans)
        self._own_spans = OwnSpans(tracer, config.kafka.group_id)
        self._with_zeros = settings.temporality == "cumulative"
        self._console = Console() if config.export.console else None
        self._deliver = Cutter(
            config,
            self._kernels,
            self.telemetry,
            run_id=self._mode.run_id,
            deliver=self._mode.deliver,
            may_cut=self._mode.may_cut,
            on_folded=self._on_folded,
            on_ahead=self._source.set_ahead,
            unheard=self._source.unheard,
            turn=self._shedding.turn,
        )
        self._export = Export(
            settings.interval_s,
            self._deliver.folded,
            self._send if self._metrics or self._console else None,
            self._metrics.hurry if self._metrics else lambda: None,
            self._mode.positions_accepted,
        )
        self._web = WebServer(
            config.web,
            Pages(
                ready=self._ready, state=self._state, metrics=self._scrape, live=self._dead_threads
            ),
            prometheus=config.export.prometheus,
        )

    def _make_mode(self, volume: Volume | None) -> Mode:
        config = self._config
        if volume is not None:
            return VolumeMode(config, volume, self._fold, self._commit_chunk, self.telemetry)
        if config.delivery.mode == "fleet":
            topic = ChunkTopic.of(config.delivery)
            return FleetMode(
                config,
                ChunkWriter(config.kafka, topic),
                self._commit_chunk,
                prepare=lambda: await_chunk_topic(config.kafka, topic),
            )
        return MemoryMode(self._fold, self._commit)

    async def run(self) -> None:
        """Start, run until a signal or a failure, drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        if self._config.web.enabled:
            await self._web.start()
        try:
            await self._warm_up()
            if self._warm and await unless_stopped(self._stop, asyncio.ensure_future(self._open())):
                await self._run_tasks()
        finally:
            await self._source.stop(2.0)  # left already after a drain; not after a failure
            for part in (self._metrics, self._spans, self._telling):
                if part is not None:
                    await part.close()
            for kernel in self._kernels:
                kernel.stop(timeout_s=2.0)
            await self._mode.close()
            self._fold.close(timeout_s=2.0)
            await self._web.stop()

    async def _warm_up(self) -> None:
        """Compile or load every kernel before joining the group: a rebalance does not wait for JIT."""
        started = time.monotonic()
        if await unless_stopped(self._stop, load_kernels(self._on_compiling)):
            self._warm = True
            log.info("kernels warm after %.1f s", time.monotonic() - started)

    def _on_compiling(self, name: str, n_done: int, n_all: int) -> None:
        """On the thread that warms up."""
        self._warming = f"starting: {n_done} of {n_all} kernels are compiled"
        log.info("compiling kernel %s, %d of %d are done", name, n_done, n_all)

    async def _open(self) -> None:
        """What a crash left, read before the group is joined; the kernel threads hear what is sealed."""
        await self._mode.open()
        sealed_until, slow_above_s, irregular = await self._fold.call(
            lambda fold: (fold.sealed_until, dict(fold.slow_above_s), dict(fold.tally.irregular))
        )
        self._deliver.irregular_before = irregular
        self.telemetry.start_after(await self._fold.call(lambda fold: fold.time_ns))
        self._is_open = True
        for kernel in self._kernels:
            kernel.hint(sealed_until, slow_above_s)

    async def _commit_chunk(
        self, epoch: int, offsets: Mapping[Partition, int], metadata: Mapping[Partition, str]
    ) -> Mapping[Partition, str]:
        return await self._source.commit(epoch, offsets, metadata)

    async def _run_tasks(self) -> None:
        for kernel in self._kernels:
            kernel.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(watch_loop(self._report), name="observe"),
                group.create_task(self._deliver.run(), name="deliver"),
                group.create_task(self._export.run(), name="export"),
                group.create_task(self._commit.run(), name="commit"),
                group.create_task(self._telling.run(), name="telling"),
            ]
            if self._spans is not None:
                tasks.append(group.create_task(self._spans.run(), name="spans"))
            if self._dead_letters is not None:
                tasks.append(group.create_task(self._dead_letters.run(), name="dead-letters"))
            consume = group.create_task(self._consume(), name="consume")
            await self._stop.wait()
            await self._drain(consume)
            for task in tasks:
                task.cancel()

    async def _consume(self) -> None:
        await self._source.start()
        await self._source.run()

    async def _drain(self, consume: asyncio.Task[None]) -> None:
        """The stop order, under one deadline. What is not done by then is read again by the next owner."""
        limit_s = self._config.delivery.drain_timeout_s
        started = time.monotonic()
        log.info("stopping: draining for at most %.0f s", limit_s)
        self._source.stop_fetching()
        try:
            async with asyncio.timeout(limit_s):
                if consume.done() or self._source.joined:
                    await consume
                    if not await self._hand_over():
                        log.warning(
                            "the collector did not take the last export: rows since the last commit "
                            "will be read again"
                        )
                    await self._flush_rest(started + limit_s - time.monotonic())
        except TimeoutError:
            log.warning(
                "drain stopped by delivery.drain_timeout_s (%.0f s): rows since the last commit "
                "will be read again",
                limit_s,
            )
        consume.cancel()
        await self._source.stop(max(1.0, started + limit_s - time.monotonic()))
        log.info("stopped after %.1f s", time.monotonic() - started)

    async def _hand_over(self) -> bool:
        """Cut, fold, export, commit; True when the collector took the export."""
        await self._cut_last()
        accepted = await self._export.export_now()
        await self._mode.finish()
        return accepted

    async def _cut_last(self) -> None:
        if all(kernel.alive for kernel in self._kernels):  # a dead thread answers no cut
            await self._deliver.cut_now()

    async def _flush_rest(self, limit_s: float) -> None:
        """Verdicts, dead letters and spans, each at most a third of what is left of the deadline."""
        await self._telling.flush(limit_s / 3)
        if self._dead_letters is not None:
            await self._dead_letters.stop(limit_s / 3)
        if self._spans is not None:
            await self._spans.flush(limit_s / 3)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: exiting at once")
            sys.stderr.flush()
            os._exit(1)
        self._stop.set()

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self._stop.set()

    # -- the source's callbacks, on the loop

    def _on_assigned(self, epoch: int, offsets: dict[Partition, int]) -> None:
        self._deliver.epoch = epoch
        self._mode.begin(epoch)
        shares: list[dict[Partition, int]] = [{} for _ in self._kernels]
        self._kernel_of = {}
        for index, partition in enumerate(sorted(offsets)):
            kernel = index % len(self._kernels)
            shares[kernel][partition] = offsets[partition]
            self._kernel_of[partition] = self._kernels[kernel]
        for kernel_thread, share in zip(self._kernels, shares, strict=True):
            kernel_thread.open(epoch, share, self._mode.lineages(share))

    def _on_fetch(self, fetch: Fetch | RawFetch) -> None:
        self._kernel_of[fetch.partition].put(fetch)

    async def _on_revoked(self, epoch: int, budget_s: float) -> None:
        """Cut, fold, export and commit under the old epoch's fence; it does not seal."""
        try:
            async with asyncio.timeout(budget_s):
                await (self._hand_over() if self._mode.exports_first else self._cut_last())
        except TimeoutError:
            log.warning(
                "handing over took longer than %.1f s: the next owner reads again", budget_s
            )
        finally:
            lost = list(self._kernel_of)
            self._deliver.epoch = 0
            self._mode.begin(0)
            self._kernel_of = {}
            for kernel in self._kernels:
                kernel.close_epoch()
            await self._mode.forget(lost)

    # -- callbacks of kernel threads and the fold

    def _kernel_callbacks(self) -> Callbacks:
        soon = self._loop.call_soon_threadsafe
        shedding = self._shedding
        make = functools.partial(SheddingDecoder, level=shedding.level)
        return Callbacks(
            on_sketched=lambda size_bytes: _ignore(soon(self._source.release, size_bytes)),
            on_full=lambda: _ignore(soon(self._deliver.cut_soon)),
            on_dead=self._on_dead,
            on_failure=lambda error: _ignore(soon(self._fail, error)),
            make_decoder=make if shedding.is_enabled else FastDecoder,
        )

    def _on_dead(self, partition: Partition, dead: list[tuple[Record, Drop]]) -> None:
        """On a kernel thread; `put` is made for that."""
        if self._dead_letters is not None:
            for record, reason in dead:
                self._dead_letters.put(partition, record, reason)

    def _on_folded(self, chunk: Chunk, cut_ns: int, effects: Effects) -> None:
        if self._spans is not None and effects.spans:
            self._spans.put(effects.spans)
        self._own_spans.folded(chunk, cut_ns, effects)

    # -- what leaves

    async def _send(self, urgent: bool) -> bool:
        """Export the base as it is now; True when the collector accepted all of it."""
        began_ns = time.time_ns()
        snapshot = await self._mode.export(began_ns, zeros=self._with_zeros)
        if snapshot is None:
            return False
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))
        if self._export.is_pressed and not urgent:
            return False
        if self._console is not None:
            self._console.show(snapshot)
        if self._metrics is None:
            self._mode.accepted(snapshot)
            return True
        outcome = (
            await self._metrics.flush(snapshot, self._config.delivery.drain_timeout_s / 2)
            if urgent
            else await self._metrics.export(snapshot)
        )
        if outcome.accepted:
            self._mode.accepted(snapshot)
        points = sum(len(metric.points) for metric in snapshot.metrics)
        self._own_spans.exported(began_ns, points, outcome.accepted, outcome.message)
        self._fold.call(lambda _: release(snapshot.metrics))
        return outcome.accepted

    async def _snapshot(self) -> Snapshot:
        """For a scrape: what an export might hold as well, and always the agent's own series."""
        now_ns = time.time_ns()
        # Before it is open, zeros would read as a reset of what a crash left.
        snapshot = await self._mode.scrape(now_ns) if self._is_open else None
        if snapshot is None:
            snapshot = Snapshot(now_ns, [], {})
        snapshot.metrics.extend(self.telemetry.metrics(snapshot.time_ns))
        return snapshot

    async def _scrape(self, openmetrics: bool) -> list[bytes]:
        snapshot = await self._snapshot()

        def page(_: Fold) -> list[bytes]:
            pieces = render_pieces(snapshot.metrics, self._resource, openmetrics=openmetrics)
            release(snapshot.metrics)
            return pieces

        return await self._fold.call(page)

    async def _ready(self) -> Readiness:
        reasons = []
        if not self._warm:
            reasons.append(self._warming)
        elif not self._source.joined:
            reasons.append(f"not yet a member of group {self._config.kafka.group_id}")
        elif self._source.waits_for:
            reasons.append(self._source.waits_for)
        reasons += self._mode.reasons()
        return Readiness(
            not reasons,
            standby=self._source.standby,
            reasons=reasons,
            notes=self._shedding.notes() + self._source.notes(),
        )

    async def _dead_threads(self) -> list[str]:
        """Reasons to be restarted: a thread that should run and does not."""
        reasons = [] if self._fold.alive else ["the fold thread has ended"]
        if not all(kernel.alive for kernel in self._kernels):
            reasons.append("a kernel thread has ended")
        return reasons

    async def _state(self) -> Json:
        now_ns = time.time_ns()
        state = await self._fold.call(lambda fold: fold.state(now_ns, fragment))
        ready = await self._ready()
        positions = self._source.positions()
        lags = [at["lag"] for at in positions if at["lag"] is not None]
        return {
            "service": self._resource.describe(),
            "ready": ready.ready,
            "standby": ready.standby,
            "mode": self._config.delivery.mode,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "kafka": {
                "group": self._config.kafka.group_id,
                "epoch": self._source.epoch,
                "partitions": positions,
            },
            "lag": {"records": sum(lags), "freshness_s": self._freshness_s()},
            "overload": self._shedding.describe(),
            **self._mode.describe(),
            **self._telling.state(),
            **state,
        }

    def _freshness_s(self) -> float | None:
        newest = self._deliver.folded.newest_event_ms
        return round(time.time() - newest / 1000, 3) if newest >= 0 else None

    # -- observe

    def _report(self, loop_lag_s: float) -> None:
        gauge = self.telemetry.set
        gauge("inferometer.loop.lag", loop_lag_s)
        gauge("inferometer.rss", resident_bytes())
        self._mode.observe()
        self._telling.observe()
        start_up.tidy()
        freshness = self._freshness_s()
        if freshness is not None:
            gauge("inferometer.freshness", freshness)
        positions = self._source.positions()
        self._shedding.look(
            time.monotonic(),
            self._deliver.n_records,
            sum(at["lag"] or 0 for at in positions),
        )
        for at in positions:
            if at["lag"] is not None:
                gauge(
                    "messaging.kafka.consumer.lag",
                    at["lag"],
                    topic=at["topic"],
                    partition=at["partition"],
                    group=self._config.kafka.group_id,
                )


def kernel_threads(config: Config) -> int:
    """Threads for decode and sketch: CPUs allowed minus one for the loop, 1 to 4."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return config.runtime.kernel_threads or min(4, max(1, (allowed or 2) - 1))


def _ignore(handle: object) -> None:
    """A callback that returns nothing."""
