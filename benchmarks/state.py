"""How long does the agent need to write down all it has counted, and to go on from there after a crash?

50 models x 20 features, 5 of them categories, each with totals, 3 open windows and 3 sealed ones that are
kept: the fold as it stands after three minutes of full load. `dump` runs in the fold's thread; meanwhile a
task of the event loop wants to run every millisecond, and its lag is measured; for comparison, also while
that thread runs plain Python for as long, and while it does nothing. `load` runs once, at the start; dump and
load are judged by their processor time. Optimises: time to count again after a crash, loop lag, bytes on the volume.

    python -m benchmarks.state [--json] [--models N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from agent.config import Budget, Config
from agent.fold.base import Fold
from agent.fold.persist import dump, load
from agent.owner_thread import OwnerThread
from agent.sketch.delta import Delta, concat
from agent.state.chunk import merge_digest
from agent.types import Partition, PartitionRange, Tally
from benchmarks.blocks import START_WINDOW, Table, make_blocks
from benchmarks.frame import Result, frozen, progress, run

FEATURES = 20
#: Distinct values of the features that are categories.
CARDINALITIES = (4, 50, 1_000, 20_000, 1_000_000)
WINDOWS = 3
ROWS_PER_WINDOW = 2_000
LOAD_BAR_S, DUMP_BAR_S, LAG_BAR_MS = 1.0, 1.0, 20.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=int, default=50)


def measure(options: argparse.Namespace, result: Result) -> None:
    n_models = 3 if options.tiny else options.models
    passes = options.passes or (2 if options.tiny else 9)
    config = Config(budget=Budget(max_series=100_000, max_memory_bytes=1 << 30))
    progress(f"{n_models} models x {FEATURES} features x {WINDOWS} windows")
    fold = filled(config, n_models, options.seed, 50 if options.tiny else ROWS_PER_WINDOW)
    uvloop.run(_measure(result, config, fold, n_models, passes))


def filled(config: Config, n_models: int, seed: int, rows_per_window: int) -> Fold:
    """A fold with `WINDOWS` sealed and as many open windows in every column."""
    fold = Fold(config, start_ns=time.time_ns())
    n_numbers = FEATURES - len(CARDINALITIES)
    table = Table(n_models, n_numbers, len(CARDINALITIES))
    for part in range(2):
        delta = Delta(table)
        for block in make_blocks(
            max(1, n_models * WINDOWS * rows_per_window // 2048),
            seed=seed + part,
            n_streams=n_models,
            n_numbers=n_numbers,
            cardinalities=CARDINALITIES,
            n_windows=WINDOWS,
        ):
            block.window += part * WINDOWS
            block.event_time_ms += part * WINDOWS * 60_000
            delta.add(block)
        at = PartitionRange(
            partition=Partition("t", 0),
            from_offset=part,
            to_offset=part + 1,
            lineage="l",
            prev="",
            max_event_time_ms=(START_WINDOW + part * WINDOWS) * 60_000,
            high_watermark=-1,
            caught_up=False,
            last_row_ns=0,
        )
        chunk = concat(
            [_Part(*delta.freeze(), [at])],
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


class _Part:
    def __init__(self, groups: Any, numeric: Any, strings: Any, ranges: list[PartitionRange]):
        self.groups, self.numeric, self.strings, self.ranges = groups, numeric, strings, ranges
        self.tally, self.spans, self.exemplars = Tally(), [], []


async def _measure(result: Result, config: Config, fold: Fold, n_models: int, passes: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {"dump": [], "load": []}
    lags_ms: list[float] = []
    plain_ms: list[float] = []
    idle_ms: list[float] = []
    data = b""
    owner = OwnerThread("fold", fold)
    try:
        with frozen():
            for at in range(passes + 1):
                progress(f"pass {at} of {passes}")
                async with _watched() as idle:
                    await asyncio.sleep(0.3)
                async with _watched() as lags:
                    data, wall_s, cpu_s = await owner.call(_dumped)
                async with _watched() as plain:
                    await owner.call(lambda _, s=wall_s: _plain(s))
                began, cpu = time.perf_counter(), time.thread_time()
                again = load(config, data)
                loaded = time.perf_counter() - began, time.thread_time() - cpu
                assert at or dump(again) == data
                del again
                if at:
                    times["dump"].append((wall_s, cpu_s))
                    times["load"].append(loaded)
                    lags_ms.append(max(lags) * 1e3)
                    plain_ms.append(max(plain) * 1e3)
                    idle_ms.append(max(idle) * 1e3)
    finally:
        owner.close(10.0)
    _report(result, fold, n_models, len(data), times, lags_ms, plain_ms, idle_ms)


def _dumped(fold: Fold) -> tuple[bytes, float, float]:
    began, cpu = time.perf_counter(), time.thread_time()
    data = dump(fold)
    return data, time.perf_counter() - began, time.thread_time() - cpu


def _plain(wall_s: float) -> int:
    """Plain Python for so long: what holds the loop here is the interpreter's lock, and the machine."""
    n, until = 0, time.perf_counter() + wall_s
    while time.perf_counter() < until:
        n += 1
    return n


def _report(
    result: Result,
    fold: Fold,
    n_models: int,
    size_bytes: int,
    times: dict[str, list[tuple[float, float]]],
    lags_ms: list[float],
    plain_ms: list[float],
    idle_ms: list[float],
) -> None:
    cells = sum(
        len(stream.columns) + sum(len(window.columns) for window in stream.open.values())
        for stream in fold.streams.values()
    )
    sealed = sum(len(p.columns) for stream in fold.streams.values() for p in stream.sealed)
    table = result.table(
        f"{n_models} models x {FEATURES} features: {cells:,} cells, {sealed:,} sealed sketches",
        "step", "s, median", "s, worst", "CPU s, median",
        note=f"{size_bytes:,} bytes.",
    )  # fmt: skip
    for name, found in times.items():
        walls, cpus = zip(*found, strict=True)
        table.add(name, statistics.median(walls), max(walls), statistics.median(cpus))
        result.figures[f"{name}_s"] = statistics.median(walls)
        result.figures[f"{name}_cpu_s"] = statistics.median(cpus)
    result.figures |= {"bytes": size_bytes, "cells": cells, "sealed_sketches": sealed}
    result.figures["lag_ms"] = {
        "median of passes": statistics.median(lags_ms),
        "worst": max(lags_ms),
        "median beside plain Python": statistics.median(plain_ms),
        "worst beside plain Python": max(plain_ms),
        "worst of an idle loop": max(idle_ms),
    }
    result.notes.append(
        f"Loop held at most {max(lags_ms):.1f} ms in {len(lags_ms)} dumps, median of their worst "
        f"{statistics.median(lags_ms):.1f} ms; beside plain Python {max(plain_ms):.1f} ms, median "
        f"{statistics.median(plain_ms):.1f} ms; an idle loop {max(idle_ms):.1f} ms."
    )
    result.at_most("Load, processor time", result.figures["load_cpu_s"], LOAD_BAR_S, "s")
    result.at_most("Dump, processor time", result.figures["dump_cpu_s"], DUMP_BAR_S, "s")
    result.at_most("Event loop held during a dump, worst", max(lags_ms), LAG_BAR_MS, "ms")


@contextlib.asynccontextmanager
async def _watched() -> AsyncIterator[list[float]]:
    """Seconds by which a task that sleeps a millisecond at a time was late."""
    lags = [0.0]
    clock = asyncio.get_running_loop().time

    async def watch() -> None:
        while True:
            due = clock() + 0.001
            await asyncio.sleep(0.001)
            lags.append(clock() - due)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch(), name="lag")
        await asyncio.sleep(0.01)
        try:
            yield lags
        finally:
            await asyncio.sleep(0.005)
            task.cancel()


if __name__ == "__main__":
    run(__doc__, measure, options)
