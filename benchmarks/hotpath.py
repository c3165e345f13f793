"""How many events a second go from record batches to updated sketches?

The whole path of a kernel thread on the reference event (419 B, 10 features, two more numbers and a
category), from record index to all sketches, in whole batches of 1000 records that are not
compressed; with 1 to 500 models; with lz4; with 5 % of the rows off the template; with 5 to 100
features; on two threads. Optimises: rows per second of one core. All cases and the baselines run
in turn, in one process, with the collector frozen.

    python -m benchmarks.hotpath [--json] [--rows N]
"""

from __future__ import annotations

import argparse
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as File

import numpy as np

from agent.config import Delivery
from benchmarks import baseline
from benchmarks.events import SHAPES, Shape, reference
from benchmarks.frame import Curve, Result, Timing, frozen, progress, run, timed
from benchmarks.path import TIERS, Feed, Path, config_of, make_feed, ns_with_cuts
from benchmarks.stages import Stages

STREAMS = (1, 16, 50, 500)
FEATURES = (5, 10, 20, 50, 100)
BASELINE_ROWS = 8_000
NAMES = [f"f{j}" for j in range(10)]

#: rows/s at 16 and 500 streams, ratio to the baseline, cost of off-template rows, two threads to one.
BARS = (3.0, 2.0, 7.0, 15.0, 1.6)
#: Judges "linear in features": squared correlation, and the worst deviation from the line in percent.
LINEAR = (0.99, 15.0)


@dataclass
class Case:
    path: Path
    feed: Feed

    def __call__(self) -> None:
        self.path.run(self.feed)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a pass")


def measure(options: argparse.Namespace, result: Result) -> None:
    rows = 2_000 if options.tiny else options.rows
    passes = options.passes or (1 if options.tiny else 9)
    streams = STREAMS[:2] if options.tiny else STREAMS
    features = FEATURES[:2] if options.tiny else FEATURES
    tiers = next(iter(TIERS))
    shape = SHAPES["reference"]
    progress(f"events: {rows:,} of each kind")
    cases = _cases(shape, rows, streams, features, tiers, options.seed)
    some = cases["16 models"].feed.values[:BASELINE_ROWS]
    jobs: dict[str, Callable[[], object]] = dict(cases)
    jobs["loads"] = lambda: baseline.loads(some)
    jobs["rows"] = lambda: baseline.discovered_flat(some)
    jobs["known"] = lambda: baseline.known(some, NAMES, "country")
    paths = [Path(config_of(shape), tiers) for _ in range(2)]
    turns = Turns(cases["16 models"].feed, paths)
    jobs |= {"one thread": turns.one, "two threads": turns.two}
    progress(f"{len(jobs)} cases, {passes} passes")
    with frozen():
        timings = timed(jobs, passes)
    ns = {name: timings[name].cpu_s / case.feed.n * 1e9 for name, case in cases.items()}
    base = {name: timings[name].cpu_s / len(some) * 1e9 for name in ("loads", "rows", "known")}
    _report_rates(result, cases, timings, ns, base)
    _report_cuts(result, cases, streams, tiers)
    _report_bars(result, ns, base, turns)
    _report_turns(result, turns)
    _report_linear(result, {n: ns[f"{n} features"] for n in features})
    for name in ("16 models", f"{streams[-1]} models", "5 % off the template"):
        _report_stages(result, name, cases[name], passes)


def _cases(
    shape: Shape,
    rows: int,
    streams: tuple[int, ...],
    features: tuple[int, ...],
    tiers: str,
    seed: int,
) -> dict[str, Case]:
    config = config_of(shape)
    cases = {
        f"{n} models": Case(Path(config, tiers), make_feed(shape, rows, seed, models=n))
        for n in streams
    }
    feed = cases["16 models"].feed
    cases["16 models, lz4"] = Case(Path(config, tiers), make_feed(shape, rows, seed, codec="lz4"))
    cases["16 models, lz4, batches of 38"] = Case(
        Path(config, tiers), make_feed(shape, rows, seed, codec="lz4", per_batch=38)
    )
    cases["16 models, decode alone"] = Case(Path(config, tiers, sketch=False), feed)
    cases["5 % off the template"] = Case(
        Path(config, tiers), make_feed(SHAPES["off_template_5"], rows, seed)
    )
    cases["5 % off the template or broken"] = Case(
        Path(config, tiers), make_feed(SHAPES["broken_5"], rows, seed)
    )
    cases["12 numbers, 3 texts"] = Case(
        Path(config, tiers), make_feed(SHAPES["categories"], rows, seed)
    )
    for n in features:
        wide = Shape(f"{n}", "", lambda rng, i, model, n=n: reference(rng, i, model, n))
        wide_rows = max(1_000, rows * 10 // max(10, n))
        cases[f"{n} features"] = Case(Path(config, tiers), make_feed(wide, wide_rows, seed))
    return cases


@dataclass
class Turns:
    """Seconds that a thread takes for the feed: alone on each of two cores, and one thread on each at once.

    Each thread keeps to its core: two cores of a virtual machine are seldom equally fast at one time, and a thread
    that moves from the fast one to the slow one when it is given company would look as if the company slowed it.
    """

    feed: Feed
    paths: list[Path]
    alone: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    together: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    waited: list[tuple[float, float]] = field(
        default_factory=list
    )  # seconds together: all, without a core

    def one(self) -> None:
        for number in range(len(self.paths)):
            self._threads([number], self.alone)

    def two(self) -> None:
        self._threads(list(range(len(self.paths))), self.together)

    @property
    def rates(self) -> tuple[float, float]:
        """Feeds a second: of the mean core alone, and of all cores at once; medians."""
        return sum(_rates(self.alone)) / len(self.alone), sum(_rates(self.together))

    def _threads(self, numbers: list[int], into: dict[int, list[float]]) -> None:
        done: set[int] = set()
        start = threading.Barrier(len(numbers))

        def run(number: int) -> None:
            _keep_to_core(number)
            start.wait()
            began, waited, runs = time.perf_counter(), _waited_s(), 0
            while len(done) < len(numbers):  # whoever is done goes on while the other is not
                self.paths[number].run(self.feed)
                runs += 1
                done.add(number)
            seconds = time.perf_counter() - began
            into[number].append(seconds / runs)
            if len(numbers) > 1:
                self.waited.append((seconds, _waited_s() - waited))

        threads = [threading.Thread(target=run, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _rates(seconds: dict[int, list[float]]) -> list[float]:
    return [1 / float(np.median(of)) for of in seconds.values()]


def _keep_to_core(number: int) -> None:
    """This thread runs on that one of the cores it may use, where the system lets it choose."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def _waited_s() -> float:
    """Seconds that this thread could have run and had no core, by Linux's scheduler; else 0."""
    try:
        return int(File("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _report_rates(
    result: Result,
    cases: dict[str, Case],
    timings: dict[str, Timing],
    ns: dict[str, float],
    base: dict[str, float],
) -> None:
    table = result.table(
        "Record batches to sketches, one thread",
        *("case", "ns/row", "M rows/s", "GB/s", "fastest pass, ns/row", "wall ns/row"),
        "x orjson.loads",
        "x orjson -> numpy rows",
        note="Processor time of the one thread, medians; the wall clock beside it. The baselines are of the reference event, so their ratios are shown for it alone.",
    )
    for name, case in cases.items():
        is_reference = "features" not in name and "texts" not in name
        table.add(
            name,
            ns[name],
            1e3 / ns[name],
            case.feed.size_bytes / case.feed.n / ns[name],
            timings[name].least_cpu_s / case.feed.n * 1e9,
            timings[name].median_s / case.feed.n * 1e9,
            base["loads"] / ns[name] if is_reference else None,
            base["rows"] / ns[name] if is_reference else None,
        )
    plain = result.table("A plain consumer, the same events", "what", "ns/row", "x of 16 models")
    for name, what in (
        ("loads", "orjson.loads, nothing kept"),
        ("rows", "orjson -> numpy rows, features as they come (the baseline of the bar)"),
        ("known", "orjson -> numpy rows, all names known beforehand"),
    ):
        plain.add(what, base[name], base[name] / ns["16 models"])
    result.figures |= {"ns_per_row": ns, "baseline_ns": base}


def _report_cuts(
    result: Result, cases: dict[str, Case], streams: tuple[int, ...], tiers: str
) -> None:
    """The same with what the bars leave out: a delta that is full is frozen into a chunk."""
    limit = Delivery().cut_max_bytes
    table = result.table(
        f"With cuts: a delta that has {limit >> 20} MiB is frozen",
        *("case", "ns/row", "M rows/s", "rows between two cuts"),
        note="Processor time of all rows up to the last of six cuts, or of 80 passes. "
        "The agent also cuts every `delivery.cut_interval_s`.",
    )
    for n in streams:
        name = f"{n} models"
        feed = cases[name].feed
        path = Path(config_of(SHAPES["reference"]), tiers, cut_bytes=limit)
        progress(f"{name}, with cuts")
        with frozen():
            ns, rows = ns_with_cuts(path, [feed], feed.n)
        table.add(name, ns, 1e3 / ns, round(rows) if math.isfinite(rows) else None)
        result.figures.setdefault("ns_with_cuts", {})[name] = ns


def _report_bars(
    result: Result, ns: dict[str, float], base: dict[str, float], turns: Turns
) -> None:
    at_16, at_500, ratio, odd, two = BARS
    result.at_least(
        "Record index to all sketches, 16 streams", 1e3 / ns["16 models"], at_16, "M rows/s"
    )
    if "500 models" in ns:
        result.at_least("The same, 500 streams", 1e3 / ns["500 models"], at_500, "M rows/s")
    result.at_least(
        "The same, 16 streams, against orjson -> numpy rows",
        base["rows"] / ns["16 models"],
        ratio,
        "x",
    )
    result.at_most(
        "5 % of rows off the template cost more",
        100 * (ns["5 % off the template"] / ns["16 models"] - 1),
        odd,
        "%",
    )
    result.at_least(
        "Two kernel threads against one",
        turns.rates[1] / turns.rates[0],
        two,
        "x",
    )


def _report_turns(result: Result, turns: Turns) -> None:
    """Two threads beside one, core by core: what each core does alone is not the same."""
    table = result.table(
        "One thread on each core",
        *("core", "alone, M rows/s", "both at once, M rows/s", "at once / alone"),
    )
    rows = turns.feed.n / 1e6
    for number in turns.alone:
        alone, both = (rows / float(np.median(of[number])) for of in (turns.alone, turns.together))
        table.add(str(number), alone, both, both / alone)
    seconds, waited = np.sum(turns.waited, axis=0)
    result.figures["two_threads"] = {"share_without_core": float(waited / seconds)}
    result.notes.append(
        f"Two threads waited for a core {100 * waited / seconds:.0f} % of the time; the table has the wall clock."
    )


def _report_linear(result: Result, ns: dict[int, float]) -> None:
    """A line through cost by features, by least squares of relative errors."""
    x = np.array(list(ns), np.float64)
    y = np.array(list(ns.values()))
    slope, at_zero = np.polyfit(x, y, 1, w=1 / y)
    line = slope * x + at_zero
    r2 = float(np.corrcoef(x, y)[0, 1] ** 2) if len(x) > 1 else 1.0
    worst = float(np.abs(y / line - 1).max() * 100)
    result.at_least("Cost by features is linear: R^2", r2, LINEAR[0], "")
    result.at_most("The same: worst deviation from the line", worst, LINEAR[1], "%")
    result.notes.append(
        f"Linear in features, 5 to 100: {at_zero:.0f} ns and {slope:.1f} ns for each feature (least squares of relative "
        f"errors), R^2 {r2:.4f}, worst deviation {worst:.1f} %."
    )
    fit = "line"
    lines = {
        "measured": list(zip(x.tolist(), y.tolist(), strict=True)),
        fit: list(zip(x.tolist(), line.tolist(), strict=True)),
    }
    result.curves.append(Curve("Cost by features", "features", "ns per row", lines, fit=fit))


def _report_stages(result: Result, name: str, case: Case, passes: int) -> None:
    found = []
    for _ in range(passes):
        stages = Stages()
        with frozen(), stages.watching():
            case()
        found.append(stages)
    # The median pass, whole: its steps add up, and what disturbed another pass is not in it.
    stages = sorted(found, key=lambda one: one.total_s)[len(found) // 2]
    ns = stages.per_row_ns(case.feed.n)
    total = sum(ns.values())
    table = result.table(
        f"Where the time goes, {name}", "step", "ns/row", "%", "ns/call", "rows/call"
    )
    for step, value in ns.items():
        calls = stages.calls.get(step, 0)
        table.add(
            step,
            value,
            100 * value / total,
            value * case.feed.n / calls if calls else None,
            case.feed.n / calls if calls else None,
        )
    table.add("all", total, 100.0, None, None)


if __name__ == "__main__":
    run(__doc__, measure, options)
