"""Judges monitors whose metric is a value: bounds, windows in a row, one alarm for each stream.

However many features break the bound, it is one alarm, with the one that breaks it most first, and the source
that they come from. It stays apart from the defaults' alarm about that source: a monitor was asked for with a
severity, a `for` and actions of its own, so somebody may wait for just this one. `/v1/state` shows both under
their source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from agent.config import Monitor
from agent.config.monitors import DISTANCES, STREAM
from agent.fold.profile import Profile
from agent.judge.alarms import Alarm, Alarms, Finding, Seen
from agent.judge.reference import ModelKey
from agent.judge.sources import Sources, matches
from agent.judge.values import of_columns, of_stream
from agent.types import Column, Role, StreamKey
from agent.verdict import Cause, Drift, Severity, State, Verdict, shown_name

#: Windows in a row within bounds, until it is over.
CALM_WINDOWS: Final = 3
_UNITS: Final = {
    "volume": "{row}",
    "latency_p50": "s",
    "latency_p95": "s",
    "latency_p99": "s",
    "freshness": "s",
    "distinct": "{value}",
}
_SPOKEN: Final = {"{row}": " rows", "s": " s", "{value}": " values"}

#: Told the values of a monitor in each window that has any.
OnValues = Callable[[Monitor, StreamKey, Mapping[Column | None, float]], None]


class BoundKept(msgspec.Struct, array_like=True):
    streaks: list[tuple[Column | None, int]]
    calm: int
    alarms: list[Alarm]
    idle: State


class BoundJudge:
    """One monitor on one stream: the whole of a model and version, or a segment of it."""

    def __init__(
        self,
        monitor: Monitor,
        stream: StreamKey,
        sources: Sources,
        on_values: OnValues | None = None,
    ) -> None:
        assert monitor.when is not None
        self.monitor = monitor
        self.stream = stream
        self.alarms = Alarms(f"{monitor.name}:")
        self._when = monitor.when
        self._sources = sources
        self._on_values = on_values
        self._streaks: dict[Column | None, int] = {}
        self._calm = 0
        self._idle = State.OK

    @property
    def needs_baseline(self) -> bool:
        """Whether nothing can be said without one."""
        when = self._when
        is_change = when.changes_by is not None and when.above is None and when.below is None
        return self.monitor.metric in DISTANCES or (is_change and self.monitor.metric != "volume")

    def lost(self, profile: Profile, id: str, state: State, why: str) -> list[Verdict]:
        """A window with rows and nothing to compare it with."""
        seen = self._seen(profile.start_ms, profile.end_ms, profile.rows, id)
        return self._unjudged(
            seen, state, 0.0, 0.0, f"{self.stream.model} {self.stream.version}: {why}"
        )

    def window(
        self,
        profile: Profile,
        drift: Sequence[Drift],
        baseline: Profile | None,
        id: str,
        expected_rows: float | None,
    ) -> list[Verdict]:
        """A window with rows. `drift`: distances from the baseline."""
        metric = self.monitor.metric
        seen = self._seen(profile.start_ms, profile.end_ms, profile.rows, id)
        if profile.rows < self.monitor.min_rows and metric not in ("volume", "freshness"):
            return self._blind(seen)
        most = self._when.above if self._when.above is not None else math.inf
        if metric == "volume" and profile.is_partial and profile.rows <= most:
            return self.alarms.step(seen, [a.finding for a in self.alarms.open])
        self._idle = State.OK
        before: dict[Column | None, float] = {}
        values: dict[Column | None, float] = {}
        if metric in STREAM:
            values[None] = of_stream(metric, profile)
            if baseline is not None:
                before[None] = of_stream(metric, baseline)
            if metric == "volume":
                before[None] = expected_rows if expected_rows is not None else math.nan
        else:
            columns = [c for c in profile.columns if self._takes(c)]
            values = dict(of_columns(metric, profile, columns, drift).items())
            if baseline is not None and self._when.changes_by is not None:
                before = dict(of_columns(metric, baseline, columns, ()).items())
        return self._judge(seen, values, before)

    def empty(self, start_ms: int, end_ms: int, silent_s: float, id: str) -> list[Verdict]:
        """A window without rows: nothing but volume and freshness has a value."""
        if self.monitor.metric not in ("volume", "freshness"):
            return []
        value = 0.0 if self.monitor.metric == "volume" else silent_s
        return self._judge(self._seen(start_ms, end_ms, 0, id), {None: value}, {})

    def _takes(self, column: Column) -> bool:
        pattern = self.monitor.select.feature
        if pattern is None:
            return column.role is Role.FEATURE
        return matches(pattern, shown_name(column))

    def _judge(
        self,
        seen: Seen,
        values: Mapping[Column | None, float],
        before: Mapping[Column | None, float],
    ) -> list[Verdict]:
        if self._on_values is not None:
            self._on_values(self.monitor, self.stream, values)
        broken: list[tuple[float, Column | None, float, float]] = []
        for column, value in values.items():
            bound = self._broken(value, before.get(column))
            if bound is None:
                self._streaks.pop(column, None)
                continue
            self._streaks[column] = self._streaks.get(column, 0) + 1
            beyond = abs(value - bound) / max(abs(bound), 1e-12)
            broken.append((beyond, column, value, bound))
        broken.sort(key=lambda b: (-b[0], str(b[1])))
        findings: list[Finding] = []
        if broken:
            self._calm = 0
            findings.append(self._finding(broken, [c for c in values if c is not None]))
        elif any(a.state is State.FIRING for a in self.alarms.open):
            self._calm += 1
            if self._calm < CALM_WINDOWS:
                held = (alarm.finding for alarm in self.alarms.open)
                findings += [msgspec.structs.replace(f, is_back=True) for f in held]
        return self.alarms.step(seen, findings)

    def _broken(self, value: float, before: float | None) -> float | None:
        """The bound that is broken; None: none is."""
        when = self._when
        if not math.isfinite(value):
            return None
        if when.above is not None and value > when.above:
            return when.above
        if when.below is not None and value < when.below:
            return when.below
        if when.changes_by is not None and before is not None and math.isfinite(before):
            room = when.changes_by * abs(before)
            if abs(value - before) > room:
                return before + math.copysign(room, value - before)
        return None

    def _finding(
        self, broken: Sequence[tuple[float, Column | None, float, float]], columns: Sequence[Column]
    ) -> Finding:
        """`columns`: all that have a value; of a source only these can be said to be well."""
        monitor = self.monitor
        moved = [column for _, column, _, _ in broken if column is not None]
        named = self._sources.named(self.stream.model, moved, columns)
        longest = max(self._streaks[column] for _, column, _, _ in broken)
        _, first, value, bound = broken[0]
        unit = _SPOKEN.get(_UNITS.get(monitor.metric, "1"), "")
        causes = [
            Cause(
                statistic=monitor.metric,
                score=beyond,
                feature=None if column is None else shown_name(column),
                source=self._sources.of(self.stream.model, column),
                detail=f"{monitor.metric} is {v:.4g}{unit}; bound {b:.4g}{unit}",
            )
            for beyond, column, v, b in broken
        ]
        what = "" if first is None else f"{shown_name(first)}: "
        return Finding(
            monitor=monitor.name,
            metric=monitor.metric,
            state=State.FIRING if longest >= monitor.for_windows else State.PENDING,
            value=value,
            threshold=bound,
            unit=_UNITS.get(monitor.metric, "1"),
            source=named[0] if named is not None else None,
            causes=tuple(causes[:20]),
            why=f"{self.stream.model} {self.stream.version}: {what}{causes[0].detail}",
        )

    def _blind(self, seen: Seen) -> list[Verdict]:
        least = self.monitor.min_rows
        why = f"{seen.rows:,} rows; {self.monitor.name} needs {least:,}"
        return self._unjudged(seen, State.BLIND, float(seen.rows), float(least), why)

    def _unjudged(
        self, seen: Seen, state: State, value: float, threshold: float, why: str
    ) -> list[Verdict]:
        """A window that says nothing: an open alarm stays."""
        if self.alarms.open:
            return self.alarms.step(seen, [a.finding for a in self.alarms.open])
        previous, self._idle = self._idle, state
        return [
            Verdict(
                monitor=self.monitor.name,
                stream=self.stream,
                window_start_ms=seen.start_ms,
                window_end_ms=seen.end_ms,
                state=state,
                previous=previous,
                severity=Severity.INFO,
                value=value,
                threshold=threshold,
                unit="{row}",
                metric=self.monitor.metric,
                why=why,
                rows=seen.rows,
                baseline=seen.baseline,
            )
        ]

    def _seen(self, start_ms: int, end_ms: int, rows: int, id: str) -> Seen:
        return Seen(
            stream=self.stream,
            start_ms=start_ms,
            end_ms=end_ms,
            rows=rows,
            severity=self.monitor.severity,
            baseline=id,
        )

    # ------------------------------------------------------------ kept

    def kept(self) -> BoundKept:
        """All there is, to go on from."""
        return BoundKept(list(self._streaks.items()), self._calm, self.alarms.kept(), self._idle)

    def restore(self, kept: BoundKept) -> None:
        """Go on from `kept`, in place."""
        self._streaks, self._calm = dict(kept.streaks), kept.calm
        self.alarms.open, self._idle = kept.alarms, kept.idle


def takes(monitor: Monitor, key: ModelKey, segment: Mapping[str, str]) -> bool:
    """Whether a monitor selects this stream: the whole of a model (no segment), or one segment."""
    select = monitor.select
    if not (matches(select.model, key.model) and matches(select.version, key.version)):
        return False
    if select.segment is None:
        return not segment
    return bool(segment) and all(
        name in segment and matches(pattern, segment[name])
        for name, pattern in select.segment.items()
    )
