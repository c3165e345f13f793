"""Stationary windows: how often does an alarm come by chance?

Every run has a reference of its own, calibrated as `profile build` calibrates a file, replay guard and all, and then
windows in which nothing happens. Two budgets are judged, so that a rare page and a frequent one are both measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Final

import msgspec
import numpy as np

from agent.judge.calibration import Calibration, calibrate
from agent.judge.cells import CellValue, Prepared, measure
from agent.judge.counted import Counted, merged
from agent.judge.detector import ChangeDetector, Segment, Step
from agent.judge.guard import guarded
from agent.judge.history import noise_by_hour
from agent.judge.state_test import StateTest
from agent.verdict import State

#: Windows between pages that are allowed: a week of windows of five minutes, and few enough to see some.
BUDGETS: Final = (2_016.0, 200.0)
#: Hours of a day, one window each, where the hour matters.
HOURS: Final = 24
#: A window as its segments, in order; one part where there are none.
Parts = Sequence[Counted]
Source = Callable[[np.random.Generator, int], Iterator[Parts]]
Cells = tuple[Sequence[CellValue], Mapping[Segment, Sequence[CellValue]]]


@dataclass(frozen=True)
class Against:
    """What windows are judged against: one baseline or one for each hour, and one for each segment.

    calibration  without the replay guard, which takes as long again: `guard` is asked for where it can matter
    """

    hours: Sequence[Prepared]
    segments: Sequence[Prepared]
    calibration: Calibration
    history: Sequence[Counted]

    @cached_property
    def guard(self) -> float:
        """The factor on a budget that replaying the history asks for."""
        return guarded(self.calibration, self.history).guard

    def cells(self, window: int, parts: Parts) -> Cells:
        whole = measure(self.hours[window % len(self.hours)], reduce(merged, parts))
        split: dict[Segment, Sequence[CellValue]] = {
            segment(i): measure(known, part)
            for i, (known, part) in enumerate(zip(self.segments, parts, strict=False))
            if part.rows
        }
        return whole, split


def segment(at: int) -> Segment:
    """The name of a part."""
    return (("part", str(at)),)


class Quiet(msgspec.Struct):
    """Of one kind of stream: what was judged, and alarms that began, by budget.

    pages, state  of the change detector and of the state test
    bare     pages of the change detector without the replay guard
    paged    references after which either paged at the smaller budget
    highest  largest evidence of a window
    minimum  effect that the detector said it can see, one entry a reference
    guards   factors of the replay guard, of references whose evidence reached the smaller budget
    cpu_s    processor time
    """

    references: int = 0
    windows: int = 0
    blind: int = 0
    pages: dict[str, int] = msgspec.field(default_factory=dict)
    state: dict[str, int] = msgspec.field(default_factory=dict)
    bare: dict[str, int] = msgspec.field(default_factory=dict)
    paged: int = 0
    highest: float = 0.0
    minimum: list[float] = msgspec.field(default_factory=list)
    guards: list[float] = msgspec.field(default_factory=list)
    cpu_s: float = 0.0

    def add(self, other: Quiet) -> None:
        for name in ("references", "windows", "blind", "paged", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("pages", "state", "bare"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for budget, n in theirs.items():
                mine[budget] = mine.get(budget, 0) + n
        self.highest = max(self.highest, other.highest)
        self.minimum += other.minimum
        self.guards += other.guards

    def alarms(self, budget: float) -> int:
        """Of both channels."""
        return self.pages.get(f"{budget:g}", 0) + self.state.get(f"{budget:g}", 0)


# ---------------------------------------------------------------- references


def block_rows(reference_rows: int) -> int:
    """Rows of a block, as `profile build` ends up with."""
    size = 250
    while reference_rows // size > 512:
        size *= 2
    return size


def of_blocks(blocks: Sequence[Parts]) -> Against:
    """From consecutive blocks of rows."""
    wholes = [reduce(merged, parts) for parts in blocks]
    baseline = reduce(merged, wholes)
    segments = [reduce(merged, part) for part in zip(*blocks, strict=True)]
    return Against(
        [Prepared(baseline)],
        [Prepared(s) for s in segments] if len(segments) > 1 else [],
        calibrate(Prepared(baseline), wholes),
        wholes,
    )


def of_hours(windows: Sequence[Counted]) -> Against:
    """From one window an hour over whole days: a baseline for each hour of the day."""
    baseline = reduce(merged, windows)
    hours = {hour: reduce(merged, windows[hour::HOURS]) for hour in range(HOURS)}
    history = [(at % HOURS, window) for at, window in enumerate(windows)]
    noise = noise_by_hour(calibrate(Prepared(baseline), windows), hours, history)
    return Against([Prepared(hours[hour]) for hour in range(HOURS)], [], noise, windows)


# ---------------------------------------------------------------- windows


def judge_quietly(against: Against, stream: Iterator[Parts], windows: int) -> Quiet:
    """Count the alarms of so many windows in which nothing happens.

    Until its first page a detector does not depend on its threshold, so each is judged only where the evidence
    reached it.
    """
    out = Quiet(references=1, windows=windows)
    judged = [against.cells(window, next(stream)) for window in range(windows)]
    calibration = against.calibration
    steps = _steps(ChangeDetector(calibration, BUDGETS[0]), judged)
    out.highest = max(step.m for step in steps)
    out.blind = sum(step.state is State.BLIND for step in steps)
    if steps[0].minimum_effect is not None:
        out.minimum.append(steps[0].minimum_effect)
    if out.highest >= min(BUDGETS):
        out.guards.append(against.guard)
    for budget in BUDGETS:
        for guard, counts in ((1.0, out.bare), (max([1.0, *out.guards]), out.pages)):
            reached = out.highest >= budget * guard
            own = _steps(ChangeDetector(calibration, budget * guard), judged) if reached else []
            counts[f"{budget:g}"] = _began(own)
    # A hit at a rare budget is one at a frequent budget, too.
    often = _steps(StateTest(against.calibration, BUDGETS[-1]), judged)
    out.state[f"{BUDGETS[-1]:g}"] = _began(often)
    for budget in BUDGETS[:-1]:
        rare = _steps(StateTest(against.calibration, budget), judged) if _began(often) else []
        out.state[f"{budget:g}"] = _began(rare)
    out.paged = int(out.alarms(BUDGETS[-1]) > 0)
    return out


def _steps(channel: ChangeDetector | StateTest, judged: Sequence[Cells]) -> list[Step]:
    return [channel.step(window, *cells) for window, cells in enumerate(judged)]


def _began(steps: Sequence[Step]) -> int:
    """Alarms that began."""
    return sum(s.state is State.FIRING and s.previous is not State.FIRING for s in steps)


def joined(stream: Iterator[Parts], n: int) -> Iterator[Parts]:
    """Each n neighbours as one window."""
    while True:
        several = [next(stream) for _ in range(max(1, n))]
        yield [reduce(merged, part) for part in zip(*several, strict=True)]
