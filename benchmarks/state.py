"""How long does it take to write down all that is counted, to go on from there, and for how long is the loop held?

Two loads: 50 models x 20 features, 5 of them categories, each with totals, 3 open windows and 3 sealed ones that
are kept: the fold as it stands after three minutes of full load; and 500 models of 20 numbers in one window:
10,000 histograms. In each pass two kernel threads' deltas are cut, the chunk is journalled and folded, and a
snapshot is written, each while the event loop is watched (`holds`: processor time, so a busy machine changes
little). `load` is what a restart does. Optimises: time to count again after a crash, loop lag, bytes on the volume.

    python -m benchmarks.state [--json] [--models N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from agent import start_up
from agent.config import Budget, Config
from agent.fold.base import Fold
from agent.fold.persist import dump, load
from agent.owner_thread import OwnerThread
from agent.sketch.delta import Delta, concat
from agent.state.chunk import merge_digest, to_bytes
from agent.state.entries import Answered, ChunkWritten
from agent.state.recovery import FoldCodec, Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Block, Chunk, Partition, PartitionRange, Tally
from benchmarks.blocks import START_WINDOW, Table, make_blocks
from benchmarks.frame import Result, frozen, progress, run
from benchmarks.holds import Holds, watched

FEATURES = 20
#: Distinct values of the features that are categories.
CARDINALITIES = (4, 50, 1_000, 20_000, 1_000_000)
LOAD_BAR_S, DUMP_BAR_S, HELD_BAR_MS = 1.0, 1.0, 20.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=int, default=50)


@dataclass(frozen=True, slots=True)
class _Load:
    """What is counted: models, categories among their features, windows of a chunk and rows in each."""

    n_models: int
    cardinalities: tuple[int, ...]
    n_windows: int
    rows: int
    seed: int
    has_bar: bool = False  # processor time of load and dump: of 50 models x 20 features

    def deltas(self, at: int) -> list[Delta]:
        """What two kernel threads have sketched since the last cut."""
        found = []
        for thread in range(2):
            delta = Delta(self._table())
            for block in self._blocks(self.seed + 2 * at + thread, self.rows // 10):
                delta.add(block)
            found.append(delta)
        return found

    def fold(self, config: Config) -> Fold:
        """A fold with sealed and as many open windows in every column, exported once."""
        fold = Fold(config, start_ns=time.time_ns())
        for part in range(2):
            delta = Delta(self._table())
            for block in self._blocks(self.seed + part, self.rows):
                block.window += part * self.n_windows
                block.event_time_ms += part * self.n_windows * 60_000
                delta.add(block)
            chunk = concat(
                [_Part(*delta.freeze(), [_range(0, part, part * self.n_windows)])],
                run_id="r",
                number=part + 1,
                epoch=1,
                digest=merge_digest(config),
            )
            fold.apply(chunk, time.time_ns())
            if part == 0:
                fold.seal_all(time.time_ns())
        fold.accepted(fold.export(time.time_ns()))
        return fold

    def _table(self) -> Table:
        n_numbers = FEATURES - len(self.cardinalities)
        return Table(self.n_models, n_numbers, len(self.cardinalities))

    def _blocks(self, seed: int, rows: int) -> Iterator[Block]:
        return make_blocks(
            max(1, self.n_models * self.n_windows * rows // 2048),
            seed=seed,
            n_streams=self.n_models,
            n_numbers=FEATURES - len(self.cardinalities),
            cardinalities=self.cardinalities,
            n_windows=self.n_windows,
        )


def measure(options: argparse.Namespace, result: Result) -> None:
    n_models = 3 if options.tiny else options.models
    passes = options.passes or (2 if options.tiny else 5)
    config = Config(budget=Budget(max_series=200_000, max_memory_bytes=1 << 30))
    start_up.tune()
    rows = 50 if options.tiny else 2_000
    for load_of in (
        _Load(n_models, CARDINALITIES, 3, rows, options.seed, has_bar=True),
        _Load(10 * n_models, (), 1, rows // 10, options.seed),
    ):
        progress(f"{load_of.n_models} models x {FEATURES} features x {load_of.n_windows} windows")
        uvloop.run(_measure(result, config, load_of.fold(config), load_of, passes))


def _range(partition: int, offset: int, windows: int = 0) -> PartitionRange:
    clock_ms = (START_WINDOW + windows) * 60_000
    at = Partition("t", partition)
    return PartitionRange(at, offset, offset + 1, "0" * 16, "", clock_ms, -1, False, 0)


class _Part:
    def __init__(self, groups: Any, numeric: Any, strings: Any, ranges: list[PartitionRange]):
        self.groups, self.numeric, self.strings, self.ranges = groups, numeric, strings, ranges
        self.tally, self.spans, self.exemplars = Tally(), [], []


class _Bench:
    """A fold on a volume in its thread, two kernel threads' deltas, and a loop that is watched."""

    def __init__(self, config: Config, fold: Fold, folder: Path) -> None:
        self._config = config
        codec = FoldCodec(
            make=lambda start_ns: Fold(config, start_ns=start_ns),
            dump=dump,
            load=lambda data: load(config, data),
        )
        owner = Owner("bench", ("t",))
        self._volume = Volume(folder, owner, codec, Telemetry())
        self._volume.open()
        self._volume.state = codec.journalled(fold)
        self._thread: OwnerThread[Volume] = OwnerThread("fold", self._volume)
        self._n_chunks = 0
        self.times: dict[str, list[tuple[float, float]]] = {"dump": [], "load": []}
        #: Of each watched part: milliseconds held, by the loop itself, and by the wall clock, one entry a pass.
        self.holds: dict[str, list[tuple[float, float, float]]] = {}
        self.n_bytes = 0

    def close(self) -> None:
        self._thread.close(10.0)
        self._volume.close()

    async def once(self, deltas: Sequence[Delta], *, counted: bool) -> None:
        """One pass: a cut, its chunk journalled and folded, a snapshot, a restart's load."""
        async with watched() as holds:
            await asyncio.sleep(0.3)
        self._note("nothing", holds, counted)
        kernels = [OwnerThread(f"kernel-{n}", delta) for n, delta in enumerate(deltas)]
        async with watched() as holds:
            parts = [await kernel.call(lambda delta: delta.freeze()) for kernel in kernels]
            chunk = self._chunk(parts)
        self._note("a cut: deltas are frozen, the loop makes a chunk of them", holds, counted)
        for kernel in kernels:
            kernel.close(10.0)
        async with watched() as holds:
            await self._thread.call(lambda volume: _count(volume, chunk))
        self._note("a chunk is journalled and folded", holds, counted)
        async with watched() as holds:
            await self._thread.call(Volume.snapshot)
        self._note("a snapshot is written", holds, counted)
        data, *dumped = await self._thread.call(_dumped)
        began, cpu = time.perf_counter(), time.thread_time()
        load(self._config, data)
        loaded = time.perf_counter() - began, time.thread_time() - cpu
        self.n_bytes = len(data)
        if counted:
            self.times["dump"].append((dumped[0], dumped[1]))
            self.times["load"].append(loaded)

    def _chunk(self, parts: Sequence[Any]) -> Chunk:
        """As `delivery.cut` makes it."""
        self._n_chunks += 1
        ranges = [[_range(n, self._n_chunks)] for n in range(len(parts))]
        return concat(
            [_Part(*part, at) for part, at in zip(parts, ranges, strict=True)],
            run_id=self._volume.run_id,
            number=self._n_chunks,
            epoch=1,
            digest=merge_digest(self._config),
        )

    def _note(self, what: str, holds: Holds, counted: bool) -> None:
        if counted:
            found = (holds.held_s * 1e3, holds.loop_s * 1e3, holds.wall_s * 1e3)
            self.holds.setdefault(what, []).append(found)


async def _measure(result: Result, config: Config, fold: Fold, load_of: _Load, passes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(config, fold, Path(folder))
        try:
            with frozen():
                for at in range(passes + 1):
                    progress(f"pass {at} of {passes}")
                    await bench.once(load_of.deltas(at), counted=at > 0)
        finally:
            bench.close()
    _report(result, fold, load_of, bench)


def _count(volume: Volume, chunk: Chunk) -> None:
    """What volume mode does with a chunk that counts."""
    volume.take(ChunkWritten(to_bytes(chunk)), chunk=chunk, sync=True)
    volume.take(Answered(chunk.number, True, [], time.time_ns()), sync=True)


def _dumped(volume: Volume) -> tuple[bytes, float, float]:
    began, cpu = time.perf_counter(), time.thread_time()
    data = dump(volume.fold)
    return data, time.perf_counter() - began, time.thread_time() - cpu


def _report(result: Result, fold: Fold, load_of: _Load, bench: _Bench) -> None:
    cells = sum(
        len(stream.columns) + sum(len(window.columns) for window in stream.open.values())
        for stream in fold.streams.values()
    )
    sealed = sum(len(p.columns) for stream in fold.streams.values() for p in stream.sealed)
    name = f"{load_of.n_models} models x {FEATURES} features"
    table = result.table(
        f"{name}: {cells:,} cells, {sealed:,} sealed sketches",
        "step", "s, median", "s, worst", "CPU s, median",
        note=f"{bench.n_bytes:,} bytes.",
    )  # fmt: skip
    figures: dict[str, Any] = {"bytes": bench.n_bytes, "cells": cells, "sealed_sketches": sealed}
    for step, times in bench.times.items():
        walls, cpus = zip(*times, strict=True)
        table.add(step, statistics.median(walls), max(walls), statistics.median(cpus))
        figures[f"{step}_cpu_s"] = statistics.median(cpus)
    held = result.table(
        f"{name}: the event loop's worst turn, milliseconds",
        "meanwhile", "held, median of passes", "held", "by callbacks of its own", "late by the wall clock",
        note="Held: late, and this process had the processor meanwhile. The rest is waiting for a core.",
    )  # fmt: skip
    figures["held_ms"] = {}
    for what, found in bench.holds.items():
        every, own, wall = zip(*found, strict=True)
        held.add(what, statistics.median(every), max(every), max(own), max(wall))
        figures["held_ms"][what] = max(every)
        result.at_most(f"{name}: event loop held, {what}", max(every), HELD_BAR_MS, "ms")
    result.figures[name] = figures
    for step, bar in (("load", LOAD_BAR_S), ("dump", DUMP_BAR_S)) if load_of.has_bar else ():
        result.at_most(f"{name}: {step}, processor time", figures[f"{step}_cpu_s"], bar, "s")


if __name__ == "__main__":
    run(__doc__, measure, options)
