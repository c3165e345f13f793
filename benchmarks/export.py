"""What does an export of 10,000 exponential histograms cost, and does it hold the event loop?

500 streams x 20 numeric features, folded as in the agent; before each export every column gets new
values, so every histogram is written. Sent over gRPC with gzip (the defaults) to a receiver in
another process; CPU is of this whole process, gRPC's own threads included. How long the loop is
held (`holds`) is watched while the fold's thread writes, another encodes and compresses and gRPC sends; while the
state page and a scrape are made; while windows are sealed; and beside a kernel thread that sketches rows as fast as it
can. With the agent's own switch interval and cyclic collections. Optimises: CPU per export, loop lag. Compared with the
OpenTelemetry SDK's encoder.

    python -m benchmarks.export [--json] [--series N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import uvloop

from agent import start_up
from agent.config import Budget, Config, Export, Otlp, Service
from agent.emit.environment import ExportSettings, resolve
from agent.emit.exporter import MetricExporter
from agent.emit.otlp_metrics import MetricEncoder
from agent.emit.prometheus import render_pieces
from agent.emit.release import release
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.fold.base import Fold
from agent.owner_thread import OwnerThread
from agent.sketch.delta import Delta, concat
from agent.state.chunk import merge_digest
from agent.telemetry import Telemetry
from agent.types import HistogramPoint, Metric, Partition, PartitionRange, Snapshot, Tally
from agent.web.pieces import fragment, gzipped, json_pieces
from benchmarks.blocks import START_WINDOW, Table, make_blocks
from benchmarks.frame import Result, progress, run
from benchmarks.holds import Holds, watched
from benchmarks.receiver import Receiver

FEATURES = 20
#: Rows of a stream before the first export: its histograms have some 100 buckets then.
ROWS_PER_STREAM = 200
CPU_BAR_MS, LAG_BAR_MS = 150.0, 20.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", type=int, default=10_000, help="exponential histograms")


def measure(options: argparse.Namespace, result: Result) -> None:
    n_streams = max(1, (200 if options.tiny else options.series) // FEATURES)
    passes = options.passes or (2 if options.tiny else 9)
    with Receiver() as receiver:
        start_up.tune()
        uvloop.run(_measure(result, receiver, n_streams, passes, options.seed))


async def _measure(
    result: Result, receiver: Receiver, n_streams: int, passes: int, seed: int
) -> None:
    progress(f"{n_streams} streams x {FEATURES} features")
    model = _Model(n_streams, seed)
    owner = OwnerThread("fold", model)
    try:
        await owner.call(lambda m: m.grow(ROWS_PER_STREAM))
        async with _exporter(receiver, "gzip") as zipped, _exporter(receiver, "none") as plain:
            bench = _Bench(owner, model, zipped, plain)
            start_up.settle()
            for at in range(passes + 1):
                progress(f"pass {at} of {passes}")
                await bench.once(counted=at > 0)
            async with watched() as seal:
                await owner.call(lambda m: m.fold.seal_all(time.time_ns()))
            bench.note("all windows are sealed", seal, counted=True)
    finally:
        owner.close(10.0)
    bench.report(result)


class _Model:
    """Streams with values, folded: lives on the fold's thread."""

    def __init__(self, n_streams: int, seed: int) -> None:
        self.config = Config(
            budget=Budget(max_streams=2 * n_streams, max_series=1_000_000, max_memory_bytes=4 << 30)
        )
        self._table = Table(n_streams, FEATURES, 0)
        self._n_streams = n_streams
        self._seed = seed
        self._number = 0
        self.fold = Fold(self.config, start_ns=time.time_ns())

    def grow(self, rows_per_stream: int) -> None:
        """More values in every column."""
        self._number += 1
        delta = Delta(self._table)
        for block in make_blocks(
            max(1, self._n_streams * rows_per_stream // 2048),
            seed=self._seed + self._number,
            n_streams=self._n_streams,
            n_numbers=FEATURES,
            n_windows=1,
        ):
            delta.add(block)
        at = PartitionRange(
            partition=Partition("t", 0),
            from_offset=self._number,
            to_offset=self._number + 1,
            lineage="l",
            prev="",
            max_event_time_ms=START_WINDOW * 60_000,
            high_watermark=-1,
            caught_up=False,
            last_row_ns=0,
        )
        part = _Part(*delta.freeze(), [at])
        chunk = concat(
            [part], run_id="r", number=self._number, epoch=1, digest=merge_digest(self.config)
        )
        self.fold.apply(chunk, time.time_ns())


class _Part:
    def __init__(self, groups: Any, numeric: Any, strings: Any, ranges: list[PartitionRange]):
        self.groups, self.numeric, self.strings, self.ranges = groups, numeric, strings, ranges
        self.tally, self.spans, self.exemplars = Tally(), [], []


def _settings(receiver: Receiver, compression: Any) -> ExportSettings:
    otlp = Otlp(endpoint=receiver.endpoint, compression=compression)
    return resolve(Export(otlp=otlp), {})


@contextlib.asynccontextmanager
async def _exporter(receiver: Receiver, compression: str) -> AsyncIterator[MetricExporter]:
    settings = _settings(receiver, compression)
    resource = make_resource(Service(instance_id="bench"), {})
    exporter = MetricExporter(
        OtlpClient(settings.metrics), settings, resource, Telemetry(), patience_s=30.0
    )
    try:
        yield exporter
    finally:
        await exporter.close()


class _Bench:
    """Milliseconds of CPU by step, one list entry a pass."""

    def __init__(
        self,
        owner: OwnerThread[_Model],
        model: _Model,
        zipped: MetricExporter,
        plain: MetricExporter,
    ) -> None:
        self._owner = owner
        self._config = model.config
        self._zipped, self._plain = zipped, plain
        resource = make_resource(Service(instance_id="bench"), {})
        self._encoder = MetricEncoder(resource.encoded, resource.scope, max_bytes=3_500_000)
        self.cpu_ms: dict[str, list[float]] = {}
        #: Of each watched part: milliseconds held, by the loop itself, and by the wall clock, one entry a pass.
        self.holds: dict[str, list[tuple[float, float, float]]] = {}
        self.facts: dict[str, int] = {}

    async def once(self, *, counted: bool) -> None:
        """One pass: the steps one by one, then a whole export while the loop is watched."""
        await self._owner.call(lambda m: m.grow(ROWS_PER_STREAM // 10))
        snapshot = await self._step("fold writes the snapshot", counted, self._write)
        histograms = _only_histograms(snapshot)
        await self._owner.call(lambda m: m.fold.accepted(snapshot))
        n = sum(len(metric.points) for metric in histograms.metrics)
        encoded = await self._step("encode", counted, lambda: self._encode(histograms))
        size = sum(len(body.data) for body in encoded.bodies)
        zipped = await self._step(
            "gzip of the bytes, level 6", counted, lambda: _zip([b.data for b in encoded.bodies])
        )
        await self._step(
            "encode and send, not compressed", counted, lambda: self._plain.export(histograms)
        )
        outcome = await self._step(
            "encode, gzip and send", counted, lambda: self._zipped.export(histograms)
        )
        assert outcome.accepted and outcome.n_accepted == n, outcome
        await self._step("OpenTelemetry SDK's encoder", counted, lambda: _sdk(histograms))

        await self._owner.call(lambda m: m.grow(ROWS_PER_STREAM // 10))
        async with watched() as idle:
            await asyncio.sleep(0.5)
        self.note("nothing", idle, counted)
        async with watched() as holds:
            everything = await self._write()
            outcome = await self._zipped.export(everything)
            start_up.tidy()
        assert outcome.accepted, outcome
        self.note("a whole export", holds, counted)
        await self._owner.call(lambda m: m.fold.accepted(everything))
        async with watched() as holds:
            await self._page()
            start_up.tidy()
        self.note("the state page", holds, counted)
        async with watched() as holds:
            await self._scrape()
            start_up.tidy()
        self.note("a scrape", holds, counted)
        with _Rows() as rows:
            async with watched() as holds:
                await asyncio.sleep(0.5)
            self.note("rows are sketched", holds, counted)
            async with watched(free={_Rows.NAME}) as holds:
                outcome = await self._zipped.export(await self._write())
                await self._page()
        assert outcome.accepted, outcome
        self.note("an export and the state page beside rows", holds, counted)
        self.facts = {
            "histograms": n,
            "buckets": _buckets(histograms) // max(1, n),
            "bytes": size,
            "bytes_zipped": zipped,
            "rows_sketched_meanwhile": rows.n,
            "points_of_a_whole_export": sum(len(m.points) for m in everything.metrics),
        }
        await self._step(
            "encode, gzip and send, with all counters beside the histograms",
            counted,
            lambda: self._zipped.export(everything),
        )
        async with watched() as holds:
            await self._owner.call(lambda _: release(everything.metrics))
        self.note("an export is freed", holds, counted)

    async def _page(self) -> int:
        """The state page as the agent makes it, compressed; its size."""
        document = await self._owner.call(lambda m: m.fold.state(time.time_ns(), fragment))
        pieces = await asyncio.to_thread(lambda: gzipped(json_pieces(document)))
        return sum(map(len, pieces))

    async def _scrape(self) -> None:
        def page(model: _Model) -> list[bytes]:
            snapshot = model.fold.snapshot(time.time_ns())
            pieces = render_pieces(snapshot.metrics)
            release(snapshot.metrics)
            return pieces

        pieces = await self._owner.call(page)
        await asyncio.to_thread(gzipped, pieces)

    def note(self, what: str, holds: Holds, counted: bool) -> None:
        if counted:
            found = (holds.held_s * 1e3, holds.loop_s * 1e3, holds.wall_s * 1e3)
            self.holds.setdefault(what, []).append(found)

    async def _write(self) -> Snapshot:
        return await self._owner.call(lambda m: m.fold.export(time.time_ns()))

    async def _encode(self, snapshot: Snapshot) -> Any:
        return self._encoder.encode(snapshot.metrics)

    async def _step(self, name: str, counted: bool, work: Callable[[], Any]) -> Any:
        cpu = time.process_time()
        found = await work()
        if counted:
            self.cpu_ms.setdefault(name, []).append((time.process_time() - cpu) * 1e3)
        return found

    def report(self, result: Result) -> None:
        n = self.facts["histograms"]
        ms = {name: statistics.median(values) for name, values in self.cpu_ms.items()}
        table = result.table(
            f"{n:,} exponential histograms of {self.facts['buckets']} buckets in use",
            "step",
            "CPU ms",
            "us per histogram",
            note=f"{self.facts['bytes']:,} bytes, compressed {self.facts['bytes_zipped']:,}. "
            f"A whole export has {self.facts['points_of_a_whole_export']:,} points.",
        )
        for name, value in ms.items():
            table.add(name, value, value * 1e3 / n)
        result.figures |= self.facts
        held = result.table(
            "Event loop: its worst turn, milliseconds",
            "meanwhile", "held, median of passes", "held", "by callbacks of its own", "late by the wall clock",
            note="Held: late, and this process had the processor meanwhile. The rest is waiting for a core.",
        )  # fmt: skip
        worst = {}
        for name, found in self.holds.items():
            every, own, wall = zip(*found, strict=True)
            held.add(name, statistics.median(every), max(every), max(own), max(wall))
            worst[name] = max(every)
        result.figures["held_ms"] = worst
        result.figures["sdk_encoder_ratio"] = ms["OpenTelemetry SDK's encoder"] / ms["encode"]
        result.notes.append(
            f"The SDK's encoder takes "
            f"{result.figures['sdk_encoder_ratio']:.1f} times as long as ours for the same points."
        )
        scale = 10_000 / n
        result.at_most(
            "CPU of 10,000 exponential histograms: encode, gzip, send",
            ms["encode, gzip and send"] * scale,
            CPU_BAR_MS,
            "ms",
        )
        for what in ("a whole export", "the state page"):
            result.at_most(f"Event loop held by {what}, worst", worst[what], LAG_BAR_MS, "ms")


class _Rows:
    """A thread that sketches blocks as fast as it can, and freezes its delta twice a second: a kernel thread."""

    NAME = "kernel-0"

    def __init__(self) -> None:
        self.n = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.NAME, daemon=True)

    def _run(self) -> None:
        table = Table(16, FEATURES, 0)
        blocks = list(make_blocks(16, seed=1, n_streams=16, n_numbers=FEATURES, n_windows=1))
        delta = Delta(table)
        due = time.monotonic() + 0.5
        while not self._end.is_set():
            for block in blocks:
                delta.add(block)
                self.n += block.n
            if time.monotonic() >= due:
                delta.freeze()
                due = time.monotonic() + 0.5

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30.0)


def _only_histograms(snapshot: Snapshot) -> Snapshot:
    """Its exponential histograms, without the zeros that begin a series."""
    metrics = []
    for metric in snapshot.metrics:
        points = [p for p in metric.points if isinstance(p, HistogramPoint) and p.count]
        if points:
            metrics.append(Metric(metric.name, points))
    return Snapshot(snapshot.time_ns, metrics, {})


def _buckets(snapshot: Snapshot) -> int:
    return sum(
        len(point.positive) + len(point.negative)
        for metric in snapshot.metrics
        for point in metric.points
        if isinstance(point, HistogramPoint)
    )


async def _zip(bodies: list[bytes]) -> int:
    return sum(len(gzip.compress(body, 6)) for body in bodies)


async def _sdk(snapshot: Snapshot) -> int:
    """The same points through the SDK's data classes and its encoder, serialised."""
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.sdk.metrics import export as sdk
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [
        sdk.Metric(
            name=metric.name,
            description="",
            unit="",
            data=sdk.ExponentialHistogram(
                [
                    sdk.ExponentialHistogramDataPoint(
                        attributes=dict(p.attributes),
                        start_time_unix_nano=p.start_ns,
                        time_unix_nano=p.time_ns,
                        count=p.count,
                        sum=p.sum or 0.0,
                        scale=p.scale,
                        zero_count=p.zero_count,
                        positive=sdk.Buckets(p.positive_offset, p.positive.tolist()),
                        negative=sdk.Buckets(p.negative_offset, p.negative.tolist()),
                        flags=0,
                        min=0.0,
                        max=0.0,
                    )
                    for p in metric.points
                    if isinstance(p, HistogramPoint)
                ],
                sdk.AggregationTemporality.CUMULATIVE,
            ),
        )
        for metric in snapshot.metrics
    ]
    scope = sdk.ScopeMetrics(InstrumentationScope("bench"), metrics, "")
    data = sdk.MetricsData([sdk.ResourceMetrics(Resource({}), [scope], "")])
    return len(encode_metrics(data).SerializeToString())


if __name__ == "__main__":
    run(__doc__, measure, options)
