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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as File

import numpy as np

from agent.config import Config, Delivery
from benchmarks import baseline
from benchmarks.events import SHAPES, Shape, reference
from benchmarks.frame import Curve, Result, Timing, frozen, progress, run, timed
from benchmarks.path import TIERS, Feed, Path, config_of, make_feed
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
    turns = Turns()
    jobs |= _threads(cases["16 models"].feed, tiers, turns)
    progress(f"{len(jobs)} cases, {passes} passes")
    with frozen():
        timings = timed(jobs, passes)
    ns = {name: timings[name].cpu_s / case.feed.n * 1e9 for name, case in cases.items()}
    base = {name: timings[name].cpu_s / len(some) * 1e9 for name in ("loads", "rows", "known")}
    _report_rates(result, cases, timings, ns, base)
    _report_bars(result, ns, base, timings)
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
    cut = Delivery().cut_max_bytes
    cases[f"{streams[-1]} models, deltas cut at {cut >> 20} MiB"] = Case(
        Path(config, tiers, cut_bytes=cut), cases[f"{streams[-1]} models"].feed
    )
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
    """Seconds of each run of one thread, and of each of two: from start to end, and of them without a core."""

    one: list[tuple[float, float]] = field(default_factory=list)
    two: list[tuple[float, float]] = field(default_factory=list)

    def run(self, path: Path, feed: Feed, into: list[tuple[float, float]]) -> None:
        began, waited = time.perf_counter(), _waited_s()
        path.run(feed)
        into.append((time.perf_counter() - began, _waited_s() - waited))


def _waited_s() -> float:
    """Seconds that this thread could have run and had no core, by Linux's scheduler; else 0."""
    try:
        return int(File("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _threads(feed: Feed, tiers: str, turns: Turns) -> dict[str, Callable[[], object]]:
    """The same feed once on one thread, and once on each of two threads with paths of their own."""
    config: Config = config_of(SHAPES["reference"])
    alone = Path(config, tiers)
    pair = [Path(config, tiers) for _ in range(2)]

    def two() -> None:
        threads = [
            threading.Thread(target=turns.run, args=(path, feed, turns.two)) for path in pair
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {"one thread": lambda: turns.run(alone, feed, turns.one), "two threads": two}


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


def _report_bars(
    result: Result, ns: dict[str, float], base: dict[str, float], timings: dict[str, Timing]
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
        2 * timings["one thread"].median_s / timings["two threads"].median_s,
        two,
        "x",
    )


def _report_turns(result: Result, turns: Turns) -> None:
    """What two threads take from each other, apart from what other processes take from both."""
    one, two = (np.median([all_s - waited for all_s, waited in t]) for t in (turns.one, turns.two))
    all_s, waited = np.sum(turns.two, axis=0)
    result.figures["two_threads"] = {
        "ratio_with_cores_of_their_own": float(2 * one / two),
        "share_without_core": float(waited / all_s),
    }
    result.notes.append(
        f"Two threads waited for a core {100 * waited / all_s:.0f} % of the time. Without that they would do "
        f"{2 * one / two:.2f} times what one does: the rest is what they wait for each other."
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
    stages = Stages()
    with frozen(), stages.watching():
        for _ in range(passes):
            case()
    ns = stages.per_row_ns(case.feed.n * passes)
    total = sum(ns.values())
    table = result.table(
        f"Where the time goes, {name}", "step", "ns/row", "%", "ns/call", "rows/call"
    )
    for step, value in ns.items():
        calls = stages.calls.get(step, 0) / passes
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
