"""Stationary windows: how often does an alarm come by chance?

Every run has a reference of its own, cut in blocks without times as `profile build` cuts a file, and is judged
for some windows with two budgets at once, so that a rare page and a frequent one are both measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from agent.judge.cells import measure
from agent.judge.counted import Counted, CountedColumn, merged
from agent.judge.detector import ChangeDetector
from agent.judge.special import log_gamma_tail
from agent.judge.state_test import StateTest
from agent.types import Column, Kind
from agent.verdict import State
from benchmarks.verdicts.trial import Judge, fresh, judge_of
from benchmarks.verdicts.windows import Drawn, column, counted_of
from benchmarks.verdicts.worlds import Table, World, flights, independent

#: Windows between pages that are allowed: a week of windows of five minutes, and few enough to see some.
BUDGETS = (2_016.0, 200.0)


@dataclass
class Quiet:
    """Of one kind of stream at one size: windows judged, and alarms that began, by budget and channel."""

    name: str
    rows: int
    reference_rows: int
    runs: int = 0
    windows: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    highest: float = 0.0
    minimum: list[float] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.pages[what] = self.pages.get(what, 0) + 1

    def share_of_budget(self, budget: float) -> float:
        """Windows between pages over the budget, as far as surely known: 95 % lower Poisson limit."""
        pages = self.pages.get(f"{budget:g}", 0) + self.pages.get("state", 0)
        return self.windows / upper_rate(pages) / budget


def upper_rate(count: int) -> float:
    """95 % upper limit of a Poisson mean after `count` events; by bisection."""
    low, high = float(count), count + 20.0 + 6.0 * math.sqrt(count + 1.0)
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        # P(N <= count | mean) = Q(count + 1, mean)
        if math.exp(log_gamma_tail(count + 1.0, middle)) > 0.05:
            low = middle
        else:
            high = middle
    return high


Source = Callable[[np.random.Generator, int], Iterator[Counted]]


def counted_world(world: World) -> Source:
    """Windows of a world, already counted."""

    def windows(rng: np.random.Generator, rows: int) -> Iterator[Counted]:
        return (counted_of(table) for table in world.tables(rng, rows))

    return windows


def drawn_world(shapes: dict[str, Drawn]) -> Source:
    """Independent columns by their bucket counts: any number of rows for the same price."""

    def windows(rng: np.random.Generator, rows: int) -> Iterator[Counted]:
        while True:
            columns: dict[Column, CountedColumn] = {
                column(name): CountedColumn(Kind.NUMERIC, 0.0, numbers=shape.draw(rng, rows))
                for name, shape in shapes.items()
            }
            yield Counted(rows, columns)

    return windows


def shapes_of(table: Table) -> dict[str, Drawn]:
    """Distributions of the numeric columns of a table."""
    return {
        name: Drawn.of(values[np.isfinite(values)])
        for name, values in table.items()
        if values.dtype.kind == "f"
    }


def made_shapes() -> dict[str, Drawn]:
    return shapes_of(next(independent(16).tables(np.random.default_rng(5), 300_000)))


def real_shapes() -> dict[str, Drawn]:
    return shapes_of(flights())


def quiet(
    name: str,
    source: Source,
    *,
    rows: int,
    reference_rows: int,
    runs: int,
    windows: int,
    seed: int,
    is_one_stream: bool = False,
) -> Quiet:
    """`runs` references, each followed by so many windows. `is_one_stream`: the windows continue the reference,
    in the state in which it ended; else a new stream of the same kind begins."""
    out = Quiet(name, rows, reference_rows)
    for run in range(runs):
        rng = fresh(seed, run)
        size = block_rows(reference_rows)
        stream = source(rng, size)
        judge = judge_of([next(stream) for _ in range(reference_rows // size)])
        later = joined(stream, rows // size) if is_one_stream else source(rng, rows)
        judge_quietly(judge, later, windows, out)
        out.runs += 1
    return out


def judge_quietly(judge: Judge, stream: Iterator[Counted], windows: int, out: Quiet) -> None:
    """Count the alarms of a stream in which nothing happens."""
    detectors = {f"{b:g}": ChangeDetector(judge.calibration, b) for b in BUDGETS}
    state_test = StateTest(judge.calibration, BUDGETS[0])
    was = dict.fromkeys([*detectors, "state"], State.OK)
    for window in range(windows):
        cells = measure(judge.prepared, next(stream))
        steps = {name: d.step(window, cells) for name, d in detectors.items()}
        steps["state"] = state_test.step(window, cells)
        for name, step in steps.items():
            if step.state is State.FIRING and was[name] is not State.FIRING:
                out.count(name)
            was[name] = step.state
        first = steps[f"{BUDGETS[0]:g}"]
        out.highest = max(out.highest, first.m)
        if window == 0 and first.minimum_effect is not None:
            out.minimum.append(first.minimum_effect)
        out.windows += 1


def block_rows(reference_rows: int) -> int:
    """Rows of a block, as `profile build` ends up with."""
    size = 250
    while reference_rows // size > 512:
        size *= 2
    return size


def joined(stream: Iterator[Counted], n: int) -> Iterator[Counted]:
    """Each n neighbours as one window."""
    while True:
        yield reduce(merged, [next(stream) for _ in range(max(1, n))])
