"""How do speed and memory grow with features, segments, models and partitions?

The path of a kernel thread, record batches to sketches, each point in a process of its own. Memory: what
the process grew by since it had all kernels, and the sketches of it. The delta is cut when it reaches
`delivery.cut_max_bytes`, as by the agent, so many streams cost cuts; the speed without cuts is shown
beside it. Optimises: that nothing grows faster than what it is for.

    python -m benchmarks.scale [--json] [--rows N]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

from agent.config import Delivery
from benchmarks.events import Maker, Shape, reference
from benchmarks.frame import Curve, Json, Result, in_child, progress, rss_bytes, run
from benchmarks.path import TIERS, Feed, Path, config_of, feed_of, make_feed, ns_with_cuts

FEATURES = (5, 10, 20, 50, 100, 200)
MODELS = (1, 16, 50, 150, 500, 1500)
SEGMENTS = (1, 10, 100, 1000)
PARTITIONS = (1, 4, 16, 64)
MIB = 2**20


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=60_000, help="rows of a pass with 10 features")


def measure(options: argparse.Namespace, result: Result) -> None:
    rows = 1_000 if options.tiny else options.rows
    passes = options.passes or (1 if options.tiny else 5)
    few = slice(0, 2 if options.tiny else None)
    sweeps: tuple[tuple[str, Sequence[int], str], ...] = (
        ("features", FEATURES[few], "16 models"),
        ("models", MODELS[few], "10 features; each row of a model of its own drawing"),
        ("segments", SEGMENTS[few], "one model, 10 features, values of one segment field"),
        ("partitions", PARTITIONS[few], "16 models; a fetch of each partition in turn"),
    )
    for name, points, what in sweeps:
        table = result.table(
            f"By {name}",
            *(name, "ns/row", "M rows/s", "ns/row with cuts", "M rows/s with cuts", "cuts/M rows"),
            *("sketches, MiB", "process grew by, MiB", "KiB a stream"),
            note=what,
        )
        lines: dict[str, list[tuple[float, float]]] = {"sketched": [], "with cuts": []}
        memory: dict[str, list[tuple[float, float]]] = {"process": [], "sketches": []}
        for n in points:
            progress(f"{name}: {n}")
            one = in_child(_point, name, n, rows, passes, options.seed, timeout_s=300.0)
            table.add(
                n,
                one["ns"],
                1e3 / one["ns"],
                one["ns_with_cuts"],
                1e3 / one["ns_with_cuts"],
                one["cuts_per_million"],
                one["delta_bytes"] / MIB,
                one["grown_bytes"] / MIB,
                one["delta_bytes"] / one["streams"] / 1024,
            )
            lines["sketched"].append((n, 1e3 / one["ns"]))
            lines["with cuts"].append((n, 1e3 / one["ns_with_cuts"]))
            memory["process"].append((n, one["grown_bytes"] / MIB))
            memory["sketches"].append((n, one["delta_bytes"] / MIB))
            result.figures[f"{name} {n}"] = one
        result.curves.append(Curve(f"Speed by {name}", name, "M rows/s", lines, log_x=True))
        result.curves.append(Curve(f"Memory by {name}", name, "MiB", memory, log_x=True))
    result.notes.append(
        f"With cuts: the delta is frozen whenever it has {Delivery().cut_max_bytes >> 20} MiB (`delivery.cut_max_bytes`), and the "
        "copying of its cells is counted: the mean of as many rows as six cuts take. Without, it keeps the cells of all streams."
    )


def _point(sweep: str, n: int, rows: int, passes: int, seed: int) -> Json:
    """One point, in its own process."""
    shape, models, partitions = _kind(sweep, n)
    rows = max(500, rows * 10 // max(10, n)) if sweep == "features" else rows
    if partitions == 1:
        feeds = [make_feed(shape, rows, seed, models=models)]
    else:
        part = max(50, rows // partitions)
        feeds = [
            feed_of(
                make_feed(shape, part, seed + at, models=models).values,
                partition=at,
                per_batch=min(part, 1000),
            )
            for at in range(partitions)
        ]
    tiers = next(iter(TIERS))
    config = config_of(shape)
    Path(config, tiers).run(make_feed(shape, 300, seed + 1, models=1))  # kernels are loaded
    started = rss_bytes()
    kept = Path(config, tiers)
    ns = _timed(kept, feeds, passes)
    grown = rss_bytes() - started
    total = sum(feed.n for feed in feeds)
    cut = Path(config, tiers, cut_bytes=Delivery().cut_max_bytes)
    gc.freeze()
    ns_of_cuts, rows_of_cut = ns_with_cuts(cut, _turns(feeds), total)
    return {
        "ns": ns,
        "ns_with_cuts": ns_of_cuts,
        "cuts_per_million": 1e6 / rows_of_cut,
        "rows": total,
        "delta_bytes": kept.delta.size_bytes,
        "grown_bytes": max(0, grown),
        "streams": max(1, len(kept.table.keys)),
        "tiers": dict(kept.tally.rows_by_tier),
    }


def _timed(path: Path, feeds: list[Feed], passes: int) -> float:
    """ns of processor time per row: the median pass, one uncounted before it."""
    found = []
    for at in range(passes + 1):
        gc.freeze()
        began = time.thread_time()
        for turn in _turns(feeds):
            path.run(turn)
        if at:
            found.append(time.thread_time() - began)
    return statistics.median(found) / sum(feed.n for feed in feeds) * 1e9


def _turns(feeds: list[Feed]) -> list[Feed]:
    """The fetches of all partitions, one of each in turn."""
    if len(feeds) == 1:
        return feeds
    most = max(len(feed.raw) for feed in feeds)
    return [
        Feed(feed.values, feed.raw[at : at + 1], feed.records[at : at + 1], feed.size_bytes)
        for at in range(most)
        for feed in feeds
    ]


def _kind(sweep: str, n: int) -> tuple[Shape, int, int]:
    """Shape, models and partitions of a point."""
    make: Maker = reference
    if sweep == "features":

        def make(rng: Any, i: int, model: int) -> Json:
            return reference(rng, i, model, n)

        return Shape("features", "", make), 16, 1
    if sweep == "segments":

        def make(rng: Any, i: int, model: int) -> Json:
            return {**reference(rng, i, model), "segment": {"tenant": f"t{rng.randrange(n):05d}"}}

        return Shape("segments", "", make), 1, 1
    if sweep == "models":
        return Shape("models", "", reference), n, 1
    return Shape("partitions", "", reference), 16, n


if __name__ == "__main__":
    run(__doc__, measure, options)
