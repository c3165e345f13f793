"""One stream judged: a reference is sketched and calibrated, windows go by, something breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from agent.judge.attribution import causes
from agent.judge.calibration import Calibration
from agent.judge.cells import Prepared, measure
from agent.judge.counted import Counted, merged
from agent.judge.detector import ChangeDetector
from agent.judge.history import calibrated
from agent.judge.state_test import StateTest
from agent.verdict import State
from benchmarks.verdicts.windows import counted_of
from benchmarks.verdicts.worlds import Table

#: As `inferometer profile build` cuts a file: at least so many rows a block, so many blocks at most.
BLOCK_ROWS, MOST_BLOCKS = 250, 512
#: 30 days of windows of five minutes.
BUDGET = 8_640


@dataclass(frozen=True)
class Judge:
    """What a reference becomes."""

    prepared: Prepared
    baseline: Counted
    calibration: Calibration


def learned(tables: Iterator[Table], rows: int) -> Judge:
    """A reference of so many rows, from consecutive windows of a stream, in blocks without times."""
    size = BLOCK_ROWS
    while rows // size > MOST_BLOCKS:
        size *= 2
    blocks: list[Counted] = []
    while len(blocks) * size < rows:
        table = next(tables)
        n = len(next(iter(table.values())))
        blocks += [
            counted_of({k: v[at : at + size] for k, v in table.items()})
            for at in range(0, n - size + 1, size)
        ]
    return judge_of(blocks[: rows // size])


def judge_of(blocks: Sequence[Counted]) -> Judge:
    """What consecutive blocks of a reference become."""
    baseline = reduce(merged, blocks)
    return Judge(Prepared(baseline), baseline, calibrated(baseline, blocks))


@dataclass
class Outcome:
    """windows, pages  quiet windows judged, and alarms among them
    delay     windows from the break to the first that fires, 1 the first; None: never
    first     feature named first; listed: how many
    highest   largest share of the threshold that was reached while nothing had changed
    minimum   effect the detector said it can see, AUC - 1/2
    recovered windows after the break's end until the alarm ends; None: not in the time given
    """

    windows: int = 0
    pages: int = 0
    delay: int | None = None
    first: str = ""
    channel: str = ""
    listed: int = 0
    highest: float = 0.0
    minimum: float = float("nan")
    recovered: int | None = None


def trial(
    judge: Judge,
    tables: Iterator[Table],
    *,
    quiet: int,
    broken: int = 0,
    after: int = 0,
    change: Callable[[Table], Table] | None = None,
    budget: float = BUDGET,
) -> Outcome:
    """`quiet` windows, then up to `broken` with the change, then up to `after` without it again."""
    change_detector = ChangeDetector(judge.calibration, budget)
    state_test = StateTest(judge.calibration, budget)
    out = Outcome()
    was_firing = False
    for window in range(quiet + broken + after):
        table = next(tables)
        in_break = quiet <= window < quiet + broken
        counted = counted_of(change(table) if in_break and change is not None else table)
        cells = measure(judge.prepared, counted)
        steps = {
            "change": change_detector.step(window, cells),
            "state": state_test.step(window, cells),
        }
        firing = [name for name, step in steps.items() if step.state is State.FIRING]
        if window < quiet:
            out.windows += 1
            out.pages += bool(firing) and not was_firing
            out.highest = max(out.highest, steps["change"].m / steps["change"].threshold)
            if steps["change"].minimum_effect is not None:
                out.minimum = steps["change"].minimum_effect
        elif in_break:
            if firing and out.delay is None and not out.pages:
                out.delay = window - quiet + 1
                out.channel = firing[0]
                found = causes(steps[firing[0]].evidence)
                out.first = found[0].feature or ""
                out.listed = len(found)
        elif out.recovered is None and not firing:
            out.recovered = window - quiet - broken + 1
        was_firing = bool(firing)
    return out


def fresh(seed: int, *more: int) -> np.random.Generator:
    """A generator for one trial: what it draws depends on its own numbers alone."""
    return np.random.default_rng([seed, *more])
