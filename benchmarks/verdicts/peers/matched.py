"""Arithmetic of comparing: a threshold that every tool passes as often as the others, delays, what is named first.

A score is any number that grows with the change. The threshold rests on quiet windows: the highest score of a
window, over features and tests, passes it in at most the allowed share of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: What a score is worth that differs where quiet windows never did.
CERTAIN = 1e12
Line = Mapping[str, Any]
Cell = tuple[str, str]  # feature, test


def highest_allowed(scores: Sequence[float], windows_a_false_alarm: float) -> float:
    """The least of the scores that at most one in so many lies above; of ties, all stay below."""
    allowed = int(len(scores) / windows_a_false_alarm)
    return sorted(scores, reverse=True)[min(allowed, len(scores) - 1)]


@dataclass(frozen=True)
class Spread:
    """What a cell does in quiet windows: its median, and the way from there to its 95 % quantile, or to its highest
    where it seldom does anything."""

    median: float
    width: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Spread:
        median, high = np.quantile(scores, (0.5, 0.95))
        width = high - median if high > median else max(scores) - median
        return cls(float(median), float(width))

    def standing(self, score: float) -> float:
        """The score in widths above the median."""
        above = score - self.median
        if self.width > 0.0:
            return above / self.width
        return CERTAIN * above if above > 0.0 else 0.0


@dataclass(frozen=True)
class Matched:
    """A tool's scores, comparable between columns, and the threshold for all of them.

    Distances lie higher in a column with many values than in one with few, so that one threshold for all is the
    worst column's; `spreads` makes them comparable. Probabilities are so already, and have none.
    """

    threshold: float
    spreads: Mapping[Cell, Spread] = field(default_factory=dict)

    @classmethod
    def of(cls, quiet: Sequence[Line], windows_a_false_alarm: float, *, spread: bool) -> Matched:
        by_cell: dict[Cell, list[float]] = {}
        for line in quiet:
            for cell, score in _cells(line).items():
                by_cell.setdefault(cell, []).append(score)
        spreads = {cell: Spread.of(scores) for cell, scores in by_cell.items()} if spread else {}
        found = cls(0.0, spreads)
        highest = [max(found.standings(line).values(), default=0.0) for line in quiet]
        return cls(highest_allowed(highest, windows_a_false_alarm), spreads)

    def standings(self, line: Line) -> dict[str, float]:
        """Feature -> its highest standing over tests."""
        found: dict[str, float] = {}
        for cell, score in _cells(line).items():
            spread = self.spreads.get(cell)
            standing = score if spread is None else spread.standing(score)
            found[cell[0]] = max(found.get(cell[0], -math.inf), standing)
        return found

    def judged(self, line: Line) -> tuple[bool, str]:
        """Whether a window alarms, and the feature named first. What a tool raised is an alarm."""
        if line["error"]:
            return True, named_in(line)
        standings = self.standings(line)
        first = max(standings, key=lambda name: standings[name], default="")
        return bool(standings) and standings[first] > self.threshold, first


def by_default(line: Line, rule: str) -> tuple[bool, str]:
    """Whether a window alarms by a tool's own rule, and the feature named first: its highest score."""
    if line["error"]:
        return True, named_in(line)
    first = line["firsts"].get(rule)
    if first is None:
        worst = {name: max(line["scores"].get(name, {"": 0.0}).values()) for name in line["named"]}
        first = max(worst, key=lambda name: worst[name], default="")
    return bool(line["alarms"][rule]), first


def named_in(line: Line) -> str:
    """The feature that an error's text is about, in quotes or brackets."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in line["error"]).split()
    return next((word for word in words if word in line["features"]), "")


def _cells(line: Line) -> dict[Cell, float]:
    return {
        (feature, test): score
        for feature, tests in line["scores"].items()
        for test, score in tests.items()
    }


# ---------------------------------------------------------------- over runs


@dataclass
class Tried:
    """One break, one tool, one rule, over runs."""

    delays: list[int | None] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    right: int = 0
    raised: int = 0

    def add(
        self,
        windows: Sequence[tuple[bool, str]],
        right: Sequence[str],
        *,
        raised: bool,
        ends: Sequence[int] = (),
    ) -> None:
        """The windows of a break in order, as (alarm, feature named first).

        ends  rows of the break that had gone by when each window was judged
        """
        at = next((n for n, (alarm, _) in enumerate(windows, 1) if alarm), None)
        self.delays.append(at)
        self.rows.append(math.inf if at is None or not ends else float(ends[at - 1]))
        self.right += at is not None and windows[at - 1][1] in right
        self.raised += raised

    def within(self, windows: int) -> float:
        """Share of the runs that alarmed by then."""
        return sum(d is not None and d <= windows for d in self.delays) / len(self.delays)

    @property
    def delay(self) -> float:
        """Windows until the alarm in the median, 1 the first; infinite where half of the runs had none."""
        return float(np.median([math.inf if d is None else d for d in self.delays]))

    @property
    def row_delay(self) -> float:
        """Rows until the alarm in the median."""
        return float(np.median(self.rows))

    @property
    def right_share(self) -> float | None:
        """Of the runs that alarmed, those that named the right feature first."""
        alarmed = sum(d is not None for d in self.delays)
        return self.right / alarmed if alarmed else None
