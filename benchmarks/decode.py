"""How fast does each decoder read the events that producers send?

Twelve shapes of events, in whole record batches (not compressed), from batch to block as the agent
decodes them, and with tiers switched off; nothing is sketched. Optimises: ns per row. Compared in
turn, in one run, with orjson alone and with orjson -> numpy rows (2000-row batches, texts kept,
collector frozen: `benchmarks.baseline`).

    python -m benchmarks.decode [--json] [--rows N] [--only reference,nested]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import orjson

from benchmarks import baseline
from benchmarks.events import SHAPES, Shape
from benchmarks.frame import Result, Table, Timing, frozen, progress, run, timed
from benchmarks.path import TIERS, Path, config_of, feed_of, make_feed

#: Rows of a pass for what runs in Python: enough for a steady figure.
SLOW_ROWS = 8_000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=60_000, help="rows of a pass")
    parser.add_argument("--only", default="", help="shapes, separated by commas")


def measure(options: argparse.Namespace, result: Result) -> None:
    rows = 600 if options.tiny else options.rows
    passes = options.passes or (1 if options.tiny else 5)
    only = [name for name in options.only.split(",") if name]
    tiers = list(TIERS)
    speed = result.table(
        "M rows/s",
        *("event", "bytes", *tiers, "orjson.loads alone", "orjson -> numpy rows"),
        *("GB/s", "ratio to loads", "ratio to rows"),
        note="Rows a second of processor time, one thread. GB/s and ratios are of the first decoder: the agent as it runs. Ratios are of one run.",
    )
    shares = result.table("Share of rows by decoder, %", "event", *_TIER_NAMES, "dropped")
    for shape in SHAPES.values():
        if not only or shape.name in only:
            _shape(shape, rows, passes, options.seed, tiers, result, speed, shares)
    result.notes += [f"{shape.name}: {shape.what}." for shape in SHAPES.values()]
    result.notes += [f"Decoder `{name}`: {what}." for name, what in TIERS.items()]


_TIER_NAMES = ("template", "scan", "orjson")


def _shape(
    shape: Shape,
    rows: int,
    passes: int,
    seed: int,
    tiers: list[str],
    result: Result,
    speed: Table,
    shares: Table,
) -> None:
    progress(f"{shape.name}: {shape.what}")
    config = config_of(shape)
    # Wide events are as many bytes as the others, not as many rows.
    probe = make_feed(shape, 50, seed)
    rows = max(300, min(rows, rows * 420 // (probe.size_bytes // 50)))
    feed = make_feed(shape, rows, seed)
    slow = feed_of(feed.values[: min(rows, SLOW_ROWS)])
    sound = [value for value in slow.values if _is_sound(value)]
    read = baseline.reader(shape.name)
    paths = {name: Path(config, name, sketch=False) for name in tiers}
    feeds = {name: slow if name == "orjson" else feed for name in tiers}
    cases: dict[str, Callable[[], object]] = {
        name: (lambda path=path, name=name: path.run(feeds[name])) for name, path in paths.items()
    }
    cases["loads"] = lambda: baseline.loads(sound)
    if read is baseline.flat and shape.odd is None and shape.name != "strings":
        cases["rows"] = lambda: baseline.discovered_flat(sound)
    else:
        cases["rows"] = lambda: baseline.discovered(sound, read)
    with frozen():
        timings = timed(cases, passes)
    ns = {name: _ns(timings[name], feeds[name].n) for name in tiers}
    ns |= {name: _ns(timings[name], len(sound)) for name in ("loads", "rows")}
    first = ns[tiers[0]]
    size = feed.size_bytes / feed.n
    speed.add(
        shape.name,
        round(size),
        *(1e3 / ns[name] for name in tiers),
        1e3 / ns["loads"],
        1e3 / ns["rows"],
        size / first,
        ns["loads"] / first,
        ns["rows"] / first,
    )
    tally = paths[tiers[0]].tally
    total = tally.rows + sum(tally.dropped.values())
    shares.add(
        shape.name,
        *(100.0 * tally.rows_by_tier[name] / total for name in _TIER_NAMES),
        100.0 * sum(tally.dropped.values()) / total,
    )
    result.figures[shape.name] = {
        "bytes": size,
        "ns": ns,
        "least_ns": {name: timings[name].least_cpu_s / feeds[name].n * 1e9 for name in tiers},
        "ratio_to_rows": ns["rows"] / first,
    }


def _ns(timing: Timing, n: int) -> float:
    return timing.cpu_s / max(1, n) * 1e9


def _is_sound(value: bytes) -> bool:
    """Whether a plain consumer would make a row of it; the others would only cost it exceptions."""
    try:
        return "model" in (event := orjson.loads(value)) or "model_name" in event
    except ValueError:
        return False


if __name__ == "__main__":
    run(__doc__, measure, options)
