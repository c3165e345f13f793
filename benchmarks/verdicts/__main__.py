"""Are verdicts quiet while nothing happens, quick when something does, and right about what?

References are cut in blocks of consecutive rows without times, as `inferometer profile build` cuts a file; each run
has a reference and a stream of its own. Optimises: nothing; it is what a team that is paged cares about.

    python -m benchmarks.verdicts [--json] [--runs N] [--only quiet,caught,shift,cost] [--match made]
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from benchmarks.frame import Result, progress, run
from benchmarks.verdicts.caught import caught, delays_of_a_shift
from benchmarks.verdicts.cost import cost
from benchmarks.verdicts.quiet import (
    BUDGETS,
    Quiet,
    Source,
    counted_world,
    drawn_world,
    made_shapes,
    quiet,
    real_shapes,
    shapes_of,
    upper_rate,
)
from benchmarks.verdicts.windows import Drawn
from benchmarks.verdicts.worlds import (
    days,
    digits,
    drawn_from,
    flights,
    independent,
    minutes,
    sessions,
)

PARTS = ("quiet", "caught", "shift", "cost")
#: Windows judged after each reference.
WINDOWS = 50
_SHIFT_SD = 0.08


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200, help="references of each kind of stream")
    parser.add_argument("--break-runs", type=int, default=20, help="references for each break")
    parser.add_argument(
        "--match", default="", help="of the quiet streams those whose name begins so"
    )
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}, with commas")


def measure(options: argparse.Namespace, result: Result) -> None:
    wanted = [part for part in options.only.split(",") if part] or list(PARTS)
    if options.tiny:
        options.runs, options.break_runs = 1, 1
    for part, fill in (("quiet", _quiet), ("caught", _caught), ("shift", _shift), ("cost", _cost)):
        if part in wanted:
            fill(options, result)


# ---------------------------------------------------------------- nothing happens


def _kinds(tiny: bool) -> list[tuple[str, Source, int, int, float, bool]]:
    """Name, windows, rows of a window, rows of the reference, share of the runs, whether one stream goes on."""
    made = drawn_world(made_shapes())
    kinds: list[tuple[str, Source, int, int, float, bool]] = [
        ("made, independent columns", made, n, m, 1.0, False)
        for n, m in (
            (100, 20_000),
            (300, 20_000),
            (1_000, 2_000),
            (1_000, 20_000),
            (1_000, 100_000),
            (10_000, 20_000),
            (10_000, 200_000),
            (100_000, 200_000),
            (1_000_000, 500_000),
        )
    ]
    if tiny:
        return kinds[:2]
    real = drawn_world(real_shapes())
    kinds.append(("flights, independent columns", real, 10_000, 100_000, 1.0, False))
    for n_features, share in ((5, 1.0), (50, 0.3), (500, 0.02)):
        for correlation in (0.0, 0.5, 0.9):
            world = independent(n_features, correlation)
            kinds.append((world.name, counted_world(world), 1_000, 20_000, share, False))
    worlds = (
        sessions(8),
        drawn_from("flights", flights),
        drawn_from("flights", flights, 25),
        drawn_from("digits", digits),
    )
    kinds += [(w.name, counted_world(w), 1_000, 20_000, 0.5, False) for w in worlds]
    lasting = (minutes(8), days(8))
    kinds += [(w.name, counted_world(w), 1_000, 100_000, 0.1, True) for w in lasting]
    return kinds


def _quiet(options: argparse.Namespace, result: Result) -> None:
    budgets = [f"{b:,.0f}" for b in BUDGETS]
    which = f": {options.match}" if options.match else ""
    table = result.table(
        f"Windows in which nothing happens{which}",
        "stream", "rows a window", "rows of the reference", "references", "windows",
        *(f"pages at 1 in {b}" for b in budgets), "pages of the state test",
        "AUC it can see",
        note=f"{WINDOWS} windows after each reference. AUC it can see: distance from 1/2 that two windows show.",
    )  # fmt: skip
    found: list[Quiet] = []
    for at, (name, source, rows, reference, share, goes_on) in enumerate(_kinds(options.tiny)):
        if not name.startswith(options.match):
            continue
        progress(f"quiet: {name}, {rows} rows")
        runs = max(1, round(options.runs * share))
        kept = quiet(
            name, source, rows=rows, reference_rows=reference, runs=runs, windows=WINDOWS,
            seed=options.seed + at, is_one_stream=goes_on,
        )  # fmt: skip
        found.append(kept)
        pages = [kept.pages.get(f"{b:g}", 0) for b in BUDGETS]
        visible = median(kept.minimum) if kept.minimum else None
        table.add(
            name, rows, reference, runs, kept.windows, *pages, kept.pages.get("state", 0), visible
        )
    windows = sum(q.windows for q in found)
    result.figures["quiet windows"] = windows
    for budget in BUDGETS:
        pages = sum(q.pages.get(f"{budget:g}", 0) + q.pages.get("state", 0) for q in found)
        sure = windows / upper_rate(pages) / budget
        result.at_least(
            f"windows between pages over a budget of 1 in {budget:,.0f}, 95 % sure{which}",
            sure,
            1.0,
            "",
        )
    worst = max(
        (q.pages.get("200", 0) + q.pages.get("state", 0)) / (q.windows / BUDGETS[-1]) for q in found
    )
    result.at_most(f"pages over those allowed at 1 in 200, worst stream{which}", worst, 1.0, "")


# ---------------------------------------------------------------- something breaks


def _caught(options: argparse.Namespace, result: Result) -> None:
    rows = 1_000 if options.tiny else 10_000
    for block, allowed in ((1, 2), (25, 3)):
        world = drawn_from("flights", flights, block)
        for reference in (20_000,) if options.tiny else (20_000, 200_000):
            progress(f"caught: {world.name}, reference of {reference}")
            table = result.table(
                f"Breaks in {world.name}, {rows:,} rows a window, reference of {reference:,} rows",
                "break", "runs", "windows to the alarm", "in 2", f"in {allowed}" if allowed > 2 else "in 3",
                "right feature first", "causes named", "pages before", "windows to recover",
                note="Medians. Windows to the alarm count from the break, 1 the first.",
            )  # fmt: skip
            found = caught(
                world, rows=rows, reference_rows=reference, runs=options.break_runs,
                seed=options.seed,
            )  # fmt: skip
            for one in found:
                table.add(
                    one.name, len(one.outcomes), median(one.delays), one.within(2), one.within(3),
                    one.right_share, one.listed, one.pages_before, one.recovery,
                )  # fmt: skip
            soon = float(np.mean([one.within(allowed) for one in found[:7]]))
            shares = [one.right_share for one in found[:7] if one.right_share is not None]
            right = float(np.mean(shares or [0.0]))
            where = f"{world.name}, reference of {reference:,}"
            result.at_least(f"breaks caught in {allowed} windows, {where}", soon, 1.0, "")
            result.at_least(f"right feature first of those caught, {where}", right, 1.0, "")


def _shift(options: argparse.Namespace, result: Result) -> None:
    rng = np.random.default_rng(options.seed)
    values = {
        f"x{j}": rng.normal(50.0, 10.0, 400_000) if j % 2 else np.exp(rng.normal(size=400_000))
        for j in range(12)
    }
    source = drawn_world(shapes_of(values))
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


def _cost(options: argparse.Namespace, result: Result) -> None:
    progress("cost")
    spent = cost(300 if options.tiny else 2_000, 20, options.seed)
    table = result.table(
        "Judging 1,000 streams of 20 features, one window each",
        "step", "seconds of processor time",
        note="From the bytes of a sealed profile; least of five passes.",
    )  # fmt: skip
    for name, seconds in spent.items():
        table.add(name, seconds)
    result.at_most("1,000 streams x 20 features, one window", sum(spent.values()), 1.0, "s")


if __name__ == "__main__":
    run(__doc__, measure, _options)
