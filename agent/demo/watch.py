"""What the demo makes of the agent's sealed windows: a reference, the recent past, and what broke.

Fed with `/v1/state` documents. Sketches of a stream's daily windows are merged: the first weeks are
the reference for drift, the last seven days are what is shown. A *break* is judged against the
recent past, so that a season does not count as one:

* nulls: the missing rate of a day is certainly (1 - 1e-6) at least 50 points above the worst of
  the 14 days up to the day before yesterday. New York's pressure readings really are missing half of some days.
* shift: on two days in a row PSI against the 14 days before is above .25, for a feature whose days
  were quiet (all below .1) until then. A day's weather differs from a fortnight's: never quiet.

* No shift is asked of a feature that its sketch is too coarse for (pressure: all values within 6 %,
  which is three buckets): it shows as `coarse`.

Both thresholds were set on the undisturbed year: no shift and no nulls in 364 days of it, and
nulls on the last day, for which the weather table really has no rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from agent.demo.flights import DAY_MS, FEATURES
from agent.judge import drift
from agent.judge.drift import Histogram, Psi

PAST_DAYS: Final = 14
RECENT_DAYS: Final = 7
MIN_PAST_DAYS: Final = 5
MIN_ROWS: Final = 20
NULL_RISE: Final = 0.5
SHIFT_PSI: Final = 0.25
QUIET_PSI: Final = 0.1
COARSE_VALUES: Final = 3  # different values a bucket, a day's at most
SCORE: Final = "score"


@dataclass(frozen=True)
class Values:
    """One column of one or more windows."""

    rows: int = 0
    missing: int = 0
    histogram: Histogram = field(default_factory=Histogram.empty)
    top: Mapping[str, int] = field(default_factory=dict)
    distinct: int = 0

    @classmethod
    def from_json(cls, column: Mapping[str, Any] | None, rows: int) -> Values:
        """A column that a window does not have at all is missing in all its rows."""
        if column is None:
            return cls(rows, rows)
        return cls(
            rows,
            min(rows, int(column.get("missing") or 0)),
            Histogram.from_json(column.get("histogram")),
            {str(value): int(count) for value, count in column.get("top") or ()},
            round(column.get("distinct") or 0),
        )

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def is_coarse(self) -> bool:
        """Do many different values share a bucket? Then a small step moves all of them at once."""
        return self.distinct > COARSE_VALUES * max(1, len(self.histogram.keys)) and not self.top

    @property
    def missing_rate(self) -> float:
        return self.missing / self.rows if self.rows else 0.0


def merge(parts: Iterable[Values]) -> Values:
    """All rows together. Distinct values do not add; the largest count is a lower bound."""
    parts = list(parts)
    top: dict[str, int] = {}
    for part in parts:
        for value, count in part.top.items():
            top[value] = top.get(value, 0) + count
    return Values(
        sum(p.rows for p in parts),
        sum(p.missing for p in parts),
        drift.merge(p.histogram for p in parts),
        top,
        max((p.distinct for p in parts), default=0),
    )


def compare(baseline: Values, window: Values) -> Psi:
    """PSI of the values present; by category where there is no histogram."""
    if baseline.histogram.total:
        return drift.numeric_psi(baseline.histogram, window.histogram)
    return drift.categorical_psi(baseline.top, baseline.present, window.top, window.present)


@dataclass(frozen=True)
class Day:
    """One sealed window of one stream."""

    start_ms: int
    rows: int
    columns: Mapping[str, Values]
    latency: Histogram
    late: int


@dataclass(frozen=True)
class Finding:
    """One feature of one stream that broke, as the sealed windows show it."""

    kind: Literal["null", "shift"]
    stream: str
    feature: str
    before: float  # missing rate, or median
    after: float
    psi: float  # nan for nulls
    from_ms: int  # start of the first window that shows it


@dataclass
class Stream:
    """What is kept of one stream: the reference, 14 days, and how quiet each feature was."""

    name: str
    reference: dict[str, Values] = field(default_factory=dict)
    reference_days: int = 0
    days: deque[Day] = field(default_factory=lambda: deque(maxlen=PAST_DAYS + 1))
    distances: dict[str, deque[float]] = field(default_factory=dict)
    suspects: dict[str, Day] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)
    rows: int = 0

    def recent(self, name: str) -> Values:
        days = list(self.days)[-RECENT_DAYS:]
        return merge(d.columns[name] for d in days if name in d.columns)


class Watch:
    """Feed it states in order; it keeps a few hundred kilobytes whatever the length of the run."""

    def __init__(self, *, start_ms: int, reference_days: int) -> None:
        self.reference_days = reference_days
        self.reference_end_ms = start_ms + reference_days * DAY_MS
        self.streams: dict[str, Stream] = {}
        self.newest_ms = start_ms
        self.late_by_week: dict[int, tuple[int, int]] = {}  # week -> late, rows
        self._start_ms = start_ms

    def feed(self, state: Mapping[str, Any]) -> list[Finding]:
        """Take in the windows sealed since the last state; returns what broke in them."""
        findings: list[Finding] = []
        for body in sorted(state.get("streams", ()), key=_name):
            stream = self.streams.setdefault(_name(body), Stream(_name(body)))
            stream.rows = int(body["rows"])
            seen_ms = stream.days[-1].start_ms if stream.days else -1
            for window in body["windows"]:
                if window["start_ms"] > seen_ms and window["rows"]:
                    findings += self._take(stream, _day(window))
        return findings

    def is_broken(self, feature: str) -> bool:
        return any(feature == name for s in self.streams.values() for name, _ in s.broken)

    def overall(self, feature: str) -> tuple[Values, Values]:
        """Reference and last seven days of all streams together."""
        streams = self.streams.values()
        return (
            merge(s.reference[feature] for s in streams if feature in s.reference),
            merge(s.recent(feature) for s in streams),
        )

    def _take(self, stream: Stream, day: Day) -> list[Finding]:
        findings = self._judge(stream, day)
        stream.days.append(day)
        if day.start_ms < self.reference_end_ms:
            stream.reference_days += 1
            for name, values in day.columns.items():
                held = stream.reference.get(name)
                stream.reference[name] = merge([held, values]) if held else values
        self.newest_ms = max(self.newest_ms, day.start_ms + DAY_MS)
        week = (day.start_ms - self._start_ms) // (7 * DAY_MS)
        late, rows = self.late_by_week.get(week, (0, 0))
        self.late_by_week[week] = (late + day.late, rows + day.rows)
        return findings

    def _judge(self, stream: Stream, day: Day) -> list[Finding]:
        findings = []
        for name in FEATURES:
            values = day.columns.get(name)
            if values is None or day.rows < MIN_ROWS:
                continue
            past = [d for d in stream.days if name in d.columns and d is not day]
            if (name, "null") not in stream.broken:
                finding = _nulls(stream, name, past, day)
                if finding:
                    stream.broken.add((name, "null"))
                    findings.append(finding)
            if (name, "shift") not in stream.broken:
                finding = _shift(stream, name, past, day)
                if finding:
                    stream.broken.add((name, "shift"))
                    findings.append(finding)
        return findings


def _nulls(stream: Stream, name: str, past: list[Day], day: Day) -> Finding | None:
    past = past[:-1]  # a break in the middle of a day makes that day half null
    if len(past) < MIN_PAST_DAYS:
        return None
    now = day.columns[name]
    worst = max((d.columns[name] for d in past), key=lambda v: v.missing_rate)
    rise = drift.missing_increase(worst.missing, worst.rows, now.missing, now.rows)
    if rise < NULL_RISE:
        return None
    before = merge(d.columns[name] for d in past).missing_rate
    return Finding("null", stream.name, name, before, now.missing_rate, float("nan"), day.start_ms)


def _shift(stream: Stream, name: str, past: list[Day], day: Day) -> Finding | None:
    """A suspect day is left out of the past until the next day confirms or clears it."""
    suspect = stream.suspects.pop(name, None)
    history = stream.distances.setdefault(name, deque(maxlen=PAST_DAYS))
    calm = [d for d in past if d is not suspect][-PAST_DAYS:]
    if len(calm) < MIN_PAST_DAYS or day.columns[name].present < MIN_ROWS:
        return None
    before = merge(d.columns[name] for d in calm)
    if before.is_coarse:
        return None
    psi = compare(before, day.columns[name]).corrected
    quiet = len(history) >= MIN_PAST_DAYS and max(history) < QUIET_PSI
    if quiet and psi > SHIFT_PSI:
        if suspect is None:
            stream.suspects[name] = day
            return None
        return Finding(
            "shift",
            stream.name,
            name,
            drift.quantile(before.histogram, 0.5),
            drift.quantile(day.columns[name].histogram, 0.5),
            psi,
            suspect.start_ms,
        )
    if suspect is not None:
        history.append(compare(before, suspect.columns[name]).corrected)
    history.append(psi)
    return None


def _name(stream: Mapping[str, Any]) -> str:
    """How the demo calls a stream: its airport, or the model when there is no segment."""
    return str(stream["segment"].get("origin") or stream["model"])


def _day(window: Mapping[str, Any]) -> Day:
    rows = int(window["rows"])
    columns = window["features"]
    taken = {name: Values.from_json(columns.get(name), rows) for name in FEATURES}
    predictions = window.get("predictions") or {}
    taken[SCORE] = Values.from_json(predictions.get("score"), rows)
    labels = dict((predictions.get("label") or {}).get("top") or ())
    return Day(
        int(window["start_ms"]),
        rows,
        taken,
        Histogram.from_json((window.get("latency") or {}).get("histogram")),
        int(labels.get("late", 0)),
    )


def latency_quantile(stream: Stream, q: float) -> float:
    """Seconds, over the last seven days; nan without data."""
    merged = drift.merge(d.latency for d in list(stream.days)[-RECENT_DAYS:])
    return drift.quantile(merged, q)


def late_share(stream: Stream) -> float:
    """Share of the last seven days' flights predicted late; nan without data."""
    days = list(stream.days)[-RECENT_DAYS:]
    rows = sum(d.rows for d in days)
    return sum(d.late for d in days) / rows if rows else float(np.nan)
