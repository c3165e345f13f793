"""Breaks in a real table: how soon are they caught, and is the right feature blamed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from agent.judge.cells import measure
from agent.judge.counted import Counted
from agent.judge.detector import ChangeDetector
from agent.verdict import State
from benchmarks.verdicts.breaks import Break, breaks
from benchmarks.verdicts.quiet import block_rows
from benchmarks.verdicts.trial import BUDGET, Course, Outcome, fresh, judge_of, learned, trial
from benchmarks.verdicts.windows import Drawn, column
from benchmarks.verdicts.worlds import Table, World

#: What is broken in flights: a number, a text, and a pair that looks alike.
NUMBER, TEXT, PAIR = "distance", "dest", ("dep_delay", "arr_delay")
#: Where columns of flights come from, for breaks of a whole source.
SOURCES = {
    "operations": ("dep_delay", "arr_delay", "air_time", "arr_time"),
    "schedule": ("distance", "sched_dep_time", "flight", "hour", "month", "origin", "dest", "carrier"),
}  # fmt: skip
#: Quiet windows before a break, windows it lasts at most, and windows to recover in.
COURSE = Course(quiet=4, broken=8, after=8)


@dataclass
class Caught:
    """One break at one size, over all runs."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    right: int = 0

    @property
    def delays(self) -> list[int]:
        """Windows until it fired; never counts as one more than were given."""
        return [o.delay or COURSE.broken + 1 for o in self.outcomes]

    @property
    def rows(self) -> float | None:
        """Rows until it fired, in the median of those that did."""
        found = [o.rows for o in self.outcomes if o.rows is not None]
        return float(median(found)) if found else None

    def hits(self, windows: int) -> int:
        return sum(d <= windows for d in self.delays)

    def within(self, windows: int) -> float:
        return self.hits(windows) / max(1, len(self.outcomes))

    @property
    def fired(self) -> int:
        return sum(o.delay is not None for o in self.outcomes)

    @property
    def pages_before(self) -> int:
        return sum(o.pages for o in self.outcomes)

    @property
    def right_share(self) -> float | None:
        """Of those that fired: the broken feature, or source, was named first."""
        return self.right / self.fired if self.fired else None

    @property
    def listed(self) -> float | None:
        """Causes named, in the median."""
        found = [o.listed for o in self.outcomes if o.delay is not None]
        return float(median(found)) if found else None

    @property
    def recovery(self) -> float | None:
        """Windows from the end of the break to the end of the alarm, in the median."""
        found = [o.recovered or COURSE.after + 1 for o in self.outcomes if o.delay is not None]
        return float(median(found)) if found else None


def caught(
    world: World,
    *,
    rows: int,
    reference_rows: int,
    runs: int,
    seed: int,
    random_phase: bool = False,
    on_run: Callable[[int], None] = lambda run: None,
) -> list[Caught]:
    """Every break, `runs` references each. `random_phase`: breaks begin somewhere in a window, not with one."""
    out = {b.name: Caught(b.name) for b in breaks(PAIR[1], SOURCES["operations"])}
    sources = {column(name): source for source, names in SOURCES.items() for name in names}
    for run in range(runs):
        on_run(run)
        judge = learned(world.windows, fresh(seed, run, 0), reference_rows)
        for n, change in enumerate(breaks(PAIR[1], SOURCES["operations"])):
            feature = _feature(change)
            rng = fresh(seed, run, 1, n)

            def broken(
                table: Table,
                change: Break = change,
                feature: str = feature,
                rng: np.random.Generator = rng,
            ) -> Table:
                return change.apply(table, rng, feature)

            found = trial(
                judge,
                world.windows(fresh(seed, run, 2, n), rows),
                world.tables(fresh(seed, run, 3, n), rows),
                broken,
                replace(COURSE, phase=float(rng.random()) if random_phase else 0.0),
                sources=sources if change.kind == "source" else None,
            )
            kept = out[change.name]
            kept.outcomes.append(found)
            kept.right += found.first in (feature, *change.others)
    return list(out.values())


def _feature(change: Break) -> str:
    match change.kind:
        case "text":
            return TEXT
        case "source":
            return "operations"
        case _:
            return PAIR[0] if change.others else NUMBER


def delays_of_a_shift(
    source: Callable[[np.random.Generator, int], Iterator[Counted]],
    name: str,
    moved: Drawn,
    *,
    rows: int,
    reference_rows: int,
    runs: int,
    seed: int,
    most: int = 8,
) -> list[int]:
    """Windows until one column that becomes `moved` fires; `most` + 1 when it never does."""
    out = []
    for run in range(runs):
        rng = fresh(seed, run, reference_rows)
        size = block_rows(reference_rows)
        blocks = source(rng, size)
        judge = judge_of([next(blocks) for _ in range(reference_rows // size)])
        detector = ChangeDetector(judge.calibration, BUDGET)
        stream = source(rng, rows)
        delay = most + 1
        for window in range(4 + most):
            counted = next(stream)
            if window >= 4:
                counted.columns[column(name)].numbers = moved.draw(rng, rows)
            step = detector.step(window, measure(judge.prepared, counted))
            if window >= 4 and step.state is State.FIRING:
                delay = window - 3
                break
        out.append(delay)
    return out
