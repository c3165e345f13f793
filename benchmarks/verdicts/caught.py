"""Breaks in a real table: how soon are they caught, and is the right feature blamed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from agent.judge.cells import measure
from agent.judge.counted import Counted
from agent.judge.detector import ChangeDetector
from agent.verdict import State
from benchmarks.verdicts.breaks import Break, breaks
from benchmarks.verdicts.quiet import block_rows
from benchmarks.verdicts.trial import BUDGET, Outcome, fresh, judge_of, learned, trial
from benchmarks.verdicts.windows import Drawn, column
from benchmarks.verdicts.worlds import Table, World

#: What is broken in flights: a number, a text, and a pair that looks alike.
NUMBER, TEXT, PAIR = "distance", "dest", ("dep_delay", "arr_delay")
QUIET, BROKEN, AFTER = 6, 5, 8


@dataclass
class Caught:
    """One break at one size, over all runs."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    right: int = 0

    @property
    def delays(self) -> list[int]:
        """Windows until it fired; never counts as one more than were given."""
        return [o.delay or BROKEN + 1 for o in self.outcomes]

    def within(self, windows: int) -> float:
        return float(np.mean([d <= windows for d in self.delays]))

    @property
    def pages_before(self) -> int:
        return sum(o.pages for o in self.outcomes)

    @property
    def right_share(self) -> float | None:
        """Of those that fired: the broken feature was named first."""
        fired = sum(o.delay is not None for o in self.outcomes)
        return self.right / fired if fired else None

    @property
    def listed(self) -> float:
        """Causes named, in the median."""
        found = [o.listed for o in self.outcomes if o.delay is not None]
        return float(median(found)) if found else float("nan")

    @property
    def recovery(self) -> float | None:
        """Windows from the end of the break to the end of the alarm, in the median."""
        found = [o.recovered or AFTER + 1 for o in self.outcomes if o.delay is not None]
        return float(median(found)) if found else None


def caught(world: World, *, rows: int, reference_rows: int, runs: int, seed: int) -> list[Caught]:
    """Every break, `runs` references each."""
    out = {b.name: Caught(b.name) for b in breaks(PAIR[1])}
    for run in range(runs):
        reference = world.tables(fresh(seed, run, 0), min(reference_rows, 50_000))
        judge = learned(reference, reference_rows)
        for n, change in enumerate(breaks(PAIR[1])):
            feature = feature_of(change)
            rng = fresh(seed, run, 1, n)
            stream = world.tables(fresh(seed, run, 2, n), rows)

            def broken(
                table: Table,
                change: Break = change,
                feature: str = feature,
                rng: np.random.Generator = rng,
            ) -> Table:
                return change.apply(table, rng, feature)

            found = trial(judge, stream, quiet=QUIET, broken=BROKEN, after=AFTER, change=broken)
            kept = out[change.name]
            kept.outcomes.append(found)
            kept.right += found.first in (feature, *change.others)
    return list(out.values())


def feature_of(change: Break) -> str:
    """What a break is done to."""
    if change.kind == "text":
        return TEXT
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
