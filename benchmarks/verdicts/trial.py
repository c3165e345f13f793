"""One stream judged: a reference is sketched and calibrated, windows go by, something breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import numpy as np

from agent.judge.attribution import causes
from agent.judge.calibration import Calibration
from agent.judge.cells import Prepared, measure
from agent.judge.counted import Counted, merged
from agent.judge.detector import ChangeDetector, Step
from agent.judge.history import calibrated
from agent.judge.state_test import StateTest
from agent.types import Column
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


def learned(windows: Callable[[np.random.Generator, int], Iterator[Counted]], rng: np.random.Generator,
            rows: int) -> Judge:  # fmt: skip
    """A reference of so many consecutive rows of a stream, in blocks without times."""
    size = BLOCK_ROWS
    while rows // size > MOST_BLOCKS:
        size *= 2
    return judge_of(list(islice(windows(rng, size), rows // size)))


def judge_of(blocks: Sequence[Counted]) -> Judge:
    """What consecutive blocks of a reference become."""
    baseline = reduce(merged, blocks)
    return Judge(Prepared(baseline), baseline, calibrated(baseline, blocks))


@dataclass
class Outcome:
    """windows, pages  quiet windows judged, and alarms among them
    delay     windows from the first that is broken to the first that fires, 1 the first; None: never
    rows      rows from the break to the end of the window that fires
    first     feature named first, or source; listed: how many
    minimum   effect the detector said it can see, AUC - 1/2
    recovered windows after the break's end until the alarm ends; None: not in the time given
    """

    windows: int = 0
    pages: int = 0
    delay: int | None = None
    rows: float | None = None
    first: str = ""
    channel: str = ""
    listed: int = 0
    minimum: float = float("nan")
    recovered: int | None = None


@dataclass(frozen=True)
class Course:
    """How a trial goes: so many quiet windows, then broken ones until one fires and at most `broken`, then quiet
    ones until the alarm ends and at most `after`. The break begins `phase` of a window into the first."""

    quiet: int
    broken: int
    after: int = 0
    phase: float = 0.0


def trial(
    judge: Judge,
    quiet: Iterator[Counted],
    tables: Iterator[Table],
    change: Callable[[Table], Table],
    course: Course,
    *,
    sources: Mapping[Column, str] | None = None,
    budget: float = BUDGET,
) -> Outcome:
    """`quiet` gives windows in which nothing happens, `tables` those that `change` is done to."""
    channels: dict[str, ChangeDetector | StateTest] = {
        "change": ChangeDetector(judge.calibration, budget),
        "state": StateTest(judge.calibration, budget),
    }
    out = Outcome()
    at = 0

    def judged(counted: Counted) -> list[tuple[str, Step]]:
        nonlocal at
        cells = measure(judge.prepared, counted)
        steps = [(name, channel.step(at, cells)) for name, channel in channels.items()]
        at += 1
        seen = next((s.minimum_effect for _, s in steps if s.minimum_effect is not None), None)
        out.minimum = out.minimum if seen is None else seen
        return [(name, step) for name, step in steps if step.state is State.FIRING]

    was_firing = False
    for _ in range(course.quiet):
        firing = bool(judged(next(quiet)))
        out.windows += 1
        out.pages += firing and not was_firing
        was_firing = firing
    for window in range(course.broken):
        table = next(tables)
        rows = len(next(iter(table.values())))
        before = round(course.phase * rows) if window == 0 else 0
        found = judged(_partly(table, change, before))
        if found and not out.pages:
            name, step = found[0]
            named = causes(step.evidence, sources=sources)
            out.delay, out.channel, out.listed = window + 1, name, len(named)
            out.rows = (window + 1 - course.phase) * rows
            out.first = named[0].feature or named[0].source or ""
            break
    for window in range(course.after if out.delay else 0):
        if not judged(next(quiet)):
            out.recovered = window + 1
            break
    return out


def _partly(table: Table, change: Callable[[Table], Table], before: int) -> Counted:
    """A window whose first rows, `before` of them, are as they were."""
    if not before:
        return counted_of(change(table))
    old = {name: values[:before] for name, values in table.items()}
    new = {name: values[before:] for name, values in table.items()}
    return merged(counted_of(old), counted_of(change(new)))


def fresh(seed: int, *more: int) -> np.random.Generator:
    """A generator for one trial: what it draws depends on its own numbers alone."""
    return np.random.default_rng([seed, *more])
