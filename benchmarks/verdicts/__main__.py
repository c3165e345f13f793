"""Are verdicts quiet while nothing happens, quick when something does, and right about what?

References are cut in blocks of consecutive rows without times, as `inferometer profile build` cuts a file; each run
has a reference and a stream of its own. Optimises: nothing; it is what a team that is paged cares about.

    python -m benchmarks.verdicts [--json] [--runs N] [--only quiet,caught,shift,bounds,cost] [--match "real tables"]
    python -m benchmarks.verdicts --only quiet --resume quiet.jsonl     # goes on where it was broken off
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.frame import Result, progress, run
from benchmarks.verdicts.bounds import SHAPES, bounds_held
from benchmarks.verdicts.caught import caught, delays_of_a_shift
from benchmarks.verdicts.cost import cost
from benchmarks.verdicts.families import cells
from benchmarks.verdicts.journal import Journal, judge_all
from benchmarks.verdicts.limits import budget_kept, lower_share
from benchmarks.verdicts.quiet import BUDGETS, Quiet
from benchmarks.verdicts.segments import in_a_segment
from benchmarks.verdicts.sketching import DIMENSIONS, FEATURES, sketching, vectors
from benchmarks.verdicts.windows import Drawn, drawn_windows, shapes_of
from benchmarks.verdicts.worlds import drawn_from, flights

PARTS = ("quiet", "caught", "shift", "bounds", "cost")
_SHIFT_SD = 0.08


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200, help="references of each kind of stream")
    parser.add_argument("--break-runs", type=int, default=20, help="references for each break")
    parser.add_argument(
        "--match", default="", help="of the quiet streams those whose family begins so"
    )
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}, with commas")
    parser.add_argument(
        "--resume", type=Path, default=None,
        help="keep what quiet streams gave in this file, and do only what it lacks; --runs 0: report it",
    )  # fmt: skip


def measure(options: argparse.Namespace, result: Result) -> None:
    wanted = [part for part in options.only.split(",") if part] or list(PARTS)
    if options.tiny:
        options.runs, options.break_runs = 1, 1
    fills = (_quiet, _caught, _shift, _bounds, _cost)
    for part, fill in zip(PARTS, fills, strict=True):
        if part in wanted:
            fill(options, result)


# ---------------------------------------------------------------- nothing happens


def _quiet(options: argparse.Namespace, result: Result) -> None:
    wanted = [cell for cell in cells() if cell.family.startswith(options.match)]
    wanted = wanted[:2] if options.tiny else wanted
    journal = Journal(options.resume)
    judge_all(wanted, journal, options.runs, options.seed)
    table = result.table(
        "Windows in which nothing happens",
        "family", "stream", "rows a window", "rows of the reference", "references", "windows",
        *(f"alarms at 1 in {b:,.0f}" for b in BUDGETS), "of these the state test's", "references that paged",
        "at 1 in 200 without the replay guard", "blind", "AUC it can see",
        note="AUC it can see: distance from 1/2 that two windows show, in the median; blind: share of windows in which "
        "that is more than .05. Of alarms at 1 in 200 it is said how many are the state test's and what the change "
        "detector would have done without the replay guard.",
    )  # fmt: skip
    families: dict[str, Quiet] = {}
    for cell in wanted:
        kept = journal.total(cell.name)
        if not kept.references:
            continue
        families.setdefault(cell.family, Quiet()).add(kept)
        table.add(
            cell.family, cell.stream, cell.rows, cell.reference_rows, kept.references, kept.windows,
            *(kept.alarms(b) for b in BUDGETS), kept.state.get(f"{BUDGETS[-1]:g}", 0), kept.paged,
            kept.bare.get(f"{BUDGETS[-1]:g}", 0), round(kept.blind / kept.windows, 3),
            median(kept.minimum) if kept.minimum else None,
        )  # fmt: skip
    _bars_of(families, result)
    result.figures["commits of quiet streams"] = sorted(
        {commit for cell in wanted for commit in journal.commits(cell.name)}
    )


def _bars_of(families: dict[str, Quiet], result: Result) -> None:
    table = result.table(
        "Families of streams in which nothing happens",
        "family", "references", "windows",
        *(f"{what} 1 in {b:,.0f}" for b in BUDGETS for what in ("alarms at", "budgets surely kept at")),
        note="Budgets surely kept: windows between alarms over the budget, by the exact lower limit (95 %) of a Poisson "
        "rate; it cannot exceed the number of windows over three budgets.",
    )  # fmt: skip
    for name, kept in families.items():
        sure = {b: budget_kept(kept.windows, kept.alarms(b), b) for b in BUDGETS}
        alarms = [x for b in BUDGETS for x in (kept.alarms(b), sure[b])]
        table.add(name, kept.references, kept.windows, *alarms)
        result.at_least(f"windows judged, {name}", kept.windows, 10_000, "")
        for budget in BUDGETS:
            bar = f"windows between alarms over a budget of 1 in {budget:,.0f}, 95 % sure, {name}"
            result.at_least(bar, sure[budget], 1.0, "")
    result.figures["quiet windows"] = sum(kept.windows for kept in families.values())


# ---------------------------------------------------------------- something breaks


def _caught(options: argparse.Namespace, result: Result) -> None:
    rows = 1_000 if options.tiny else 10_000
    for block, allowed in ((1, 2), (25, 3)):
        world = drawn_from("flights", flights, block)
        for reference in (20_000,) if options.tiny else (20_000, 200_000):
            where = f"{world.name}, reference of {reference:,}"
            table = result.table(
                f"Breaks in {world.name}, {rows:,} rows a window, reference of {reference:,} rows",
                "break", "runs", "windows to the alarm", "in 2", "in 3", f"in {allowed}, 95 % sure",
                "right feature first", "causes named", "pages before", "windows to recover",
                "rows from a random phase",
                note="Medians. Windows to the alarm count from the break, 1 the first; rows from a break that begins "
                "somewhere in a window to the end of the one that fires, in as many runs again.",
            )  # fmt: skip
            with_it, within = (
                caught(
                    world, rows=rows, reference_rows=reference, runs=options.break_runs,
                    seed=options.seed + is_random, random_phase=is_random,
                    on_run=lambda run, at=where: progress(f"caught: {at}: run {run}"),  # type: ignore[misc]
                )
                for is_random in (False, True)
            )  # fmt: skip
            for one, other in zip(with_it, within, strict=True):
                runs = len(one.outcomes)
                table.add(
                    one.name, runs, median(one.delays), one.within(2), one.within(3),
                    lower_share(one.hits(allowed), runs), one.right_share, one.listed,
                    one.pages_before + other.pages_before, one.recovery, other.rows,
                )  # fmt: skip
            soon = float(np.mean([one.within(allowed) for one in with_it[:7]]))
            shares = [one.right_share for one in with_it[:7] if one.right_share is not None]
            right = float(np.mean(shares or [0.0]))
            result.at_least(f"breaks caught in {allowed} windows, {where}", soon, 1.0, "")
            result.at_least(f"right feature first of those caught, {where}", right, 1.0, "")
    _segment(options, result)


def _segment(options: argparse.Namespace, result: Result) -> None:
    runs = options.break_runs
    table = result.table(
        "A column of one segment of four moves by half a standard deviation, 10,000 rows a window, reference of 100,000",
        "share of the traffic", "runs", "windows to the alarm", "in 2", "in 3", "right feature first",
        "right segment first", "pages before",
        note="Segment: that whose own baseline in its place takes most of the change away.",
    )  # fmt: skip
    for share in (0.4, 0.1):
        progress(f"caught: a segment of {share:g}")
        found = in_a_segment(share, 10_000, 100_000, 1 if options.tiny else runs, options.seed)
        table.add(
            share, len(found.outcomes), median(found.delays), found.within(2), found.within(3),
            found.right_share, found.segment_share, found.pages_before,
        )  # fmt: skip


def _shift(options: argparse.Namespace, result: Result) -> None:
    rng = np.random.default_rng(options.seed)
    values = {
        f"x{j}": rng.normal(50.0, 10.0, 400_000) if j % 2 else np.exp(rng.normal(size=400_000))
        for j in range(12)
    }
    source = drawn_windows(shapes_of(values))
    table = result.table(
        f"A shift of {_SHIFT_SD} standard deviations in one of 12 columns",
        "rows a window", "rows of the reference", "runs", "in 2 windows", "in 3", "in 8",
        note="Independent rows, budget of one page in 8,640 windows.",
    )  # fmt: skip
    moved = Drawn.of(values["x1"] + _SHIFT_SD * 10.0)
    sizes = [(10_000, m) for m in (20_000, 50_000, 100_000, 200_000, 500_000)]
    for rows, reference in sizes[:1] if options.tiny else [*sizes, (100_000, 500_000)]:
        progress(f"shift: {rows} rows, reference of {reference}")
        delays = np.array(
            delays_of_a_shift(
                source, "x1", moved, rows=rows, reference_rows=reference,
                runs=options.break_runs, seed=options.seed,
            )
        )  # fmt: skip
        table.add(rows, reference, len(delays), *(float((delays <= k).mean()) for k in (2, 3, 8)))
        if (rows, reference) == (10_000, 500_000):
            result.at_least(
                "shift of .08 sd caught in 3 windows of 10,000 rows, reference of 500,000",
                float((delays <= 3).mean()), 0.9, "",
            )  # fmt: skip


def _bounds(options: argparse.Namespace, result: Result) -> None:
    progress("bounds")
    held = bounds_held(*((1, options.seed, 2) if options.tiny else (10, options.seed)))
    table = result.table(
        "Shown distances against the exact ones of the raw values",
        "distance", "comparisons", "outside of its bounds", "most of a bound used",
        note=f"{len(SHAPES)} shapes, baselines of 100 to 100,000 rows, windows of 100 to 10,000; unchanged, moved "
        "by .3 standard deviations, stretched by 1.3. Exact: scipy. 1: the exact value is the bound itself.",
    )  # fmt: skip
    for name, one in held.items():
        table.add(name, one.n, one.outside, one.most_used)
    outside = sum(one.outside for one in held.values())
    result.at_most("distances outside of their certified bounds", outside, 0, "")


def _cost(options: argparse.Namespace, result: Result) -> None:
    progress("cost")
    spent = cost(300 if options.tiny else 2_000, 20, options.seed)
    table = result.table(
        "Judging 1,000 streams of 20 features, one window each",
        "step", "seconds of processor time",
        note="From the bytes of a sealed profile; least of 40 passes.",
    )  # fmt: skip
    for name, seconds in spent.items():
        table.add(name, seconds)
    shown = spent.pop("distances")
    result.at_most("1,000 streams x 20 features, one window", sum(spent.values()), 1.0, "s")
    result.figures["distances of 1,000 streams x 20 features, s"] = shown
    progress("cost: sketches")
    passes = 1 if options.tiny else 40
    pairs = sketching(4 if options.tiny else 100, passes, options.seed)
    embedded = vectors(200 if options.tiny else 2_000, passes, options.seed)
    table = result.table(
        "What judging adds to a row",
        "row", "ns without", "ns with", "more",
        note="Processor time, least of the passes. Features: sketches of 204,800 rows of 16 streams and 3 windows "
        "and a cut, with pairs of columns. Embedding: from JSON to sketches, with directions and without.",
    )  # fmt: skip
    for name, (without, added) in {
        f"{FEATURES} features": pairs.values(), f"an embedding of {DIMENSIONS}": embedded.values()
    }.items():  # fmt: skip
        table.add(name, without, added, added / without - 1.0)
    more = pairs["pairs"] / pairs["plain"] - 1.0
    result.at_most("judging on top of the sketch kernel, 10 features", more, 0.25, "")


if __name__ == "__main__":
    run(__doc__, measure, _options)
