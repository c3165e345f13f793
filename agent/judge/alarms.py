"""Alarms: what is found in a window becomes at most one alarm for each source, from pending to resolved.

Invariants
1. More findings join the alarm that is open; only another source opens a second. A finding without a source
   joins whatever is open, and an alarm without one takes the name of the first source that joins it.
2. An alarm's verdicts share its id. Each window it has one verdict; the last says `resolved`, or `ok` when it
   was never more than pending.
3. A function of the findings in the order of windows: no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from agent.judge.explanation import NORMAL_AGAIN
from agent.types import StreamKey
from agent.verdict import Cause, Severity, State, Verdict

#: What outranks what, whatever the scores: later ones follow from earlier ones more often than not.
RANK: Final = {
    "stall": 0,
    "vanished": 1,
    "missing": 2,
    "type": 3,
    "category": 4,
    "range": 4,
    "distinct": 4,
    "errors": 5,
    "volume": 5,
}
_OTHERS: Final = 6
#: Causes that a verdict lists.
MOST_CAUSES: Final = 20


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one monitor found in a window: PENDING or FIRING, and its causes, best first."""

    monitor: str
    metric: str
    state: State
    value: float
    threshold: float
    causes: tuple[Cause, ...]
    unit: str = "1"
    source: str | None = None
    why: str = ""
    is_soft: bool = False  # not enough was learned to wake somebody for it
    is_back: bool = False  # it is over in this window, and not for long enough yet


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The window that is judged, as all its verdicts say it."""

    stream: StreamKey
    start_ms: int
    end_ms: int
    rows: int
    severity: Severity
    baseline: str = ""
    minimum_effect: float | None = None


class Alarm(msgspec.Struct, kw_only=True):
    """One that is open."""

    id: str
    monitor: str  # that it is told under: the one that fired first
    source: str | None
    state: State
    finding: Finding
    opened_ms: int


class Alarms:
    """The open alarms of one stream under one monitor, or under the defaults together."""

    def __init__(self, prefix: str) -> None:
        """`prefix` makes ids of alarms differ between monitors; "" for the defaults."""
        self.open: list[Alarm] = []
        self._prefix = prefix

    def kept(self) -> list[Alarm]:
        """All there is, to go on from."""
        return list(self.open)

    @property
    def is_open(self) -> bool:
        """Whether what is learned stands still."""
        return bool(self.open)

    def step(self, seen: Seen, findings: Sequence[Finding]) -> list[Verdict]:
        """The verdicts of a window, the alarm opened first at the head."""
        joined: dict[str, list[Finding]] = {alarm.id: [] for alarm in self.open}
        for finding in sorted(findings, key=_order):
            alarm = self._alarm_for(finding, seen)
            joined.setdefault(alarm.id, []).append(finding)
        return [self._judge(alarm, joined[alarm.id], seen) for alarm in list(self.open)]

    def _alarm_for(self, finding: Finding, seen: Seen) -> Alarm:
        for alarm in self.open:
            if finding.source is None or alarm.source in (None, finding.source):
                alarm.source = alarm.source or finding.source
                return alarm
        stream = seen.stream
        segment = "".join(f",{name}={value}" for name, value in stream.segment)
        source = f"/{finding.source}" if finding.source else ""
        name = f"{self._prefix}{stream.model}/{stream.version}{segment}/{seen.start_ms}{source}"
        alarm = Alarm(
            id=name,
            monitor=finding.monitor,
            source=finding.source,
            state=State.OK,
            finding=finding,
            opened_ms=seen.start_ms,
        )
        self.open.append(alarm)
        return alarm

    def _judge(self, alarm: Alarm, findings: Sequence[Finding], seen: Seen) -> Verdict:
        previous = alarm.state
        is_back = previous is not State.OK and all(f.is_back for f in findings)
        if findings:
            is_firing = any(f.state is State.FIRING for f in findings)
            if previous is not State.FIRING:
                alarm.monitor = findings[0].monitor
            alarm.state = State.FIRING if is_firing or previous is State.FIRING else State.PENDING
            if not is_back:  # else what was said of it while it lasted stands
                alarm.finding = _together(findings)
        else:
            alarm.state = State.RESOLVED if previous is State.FIRING else State.OK
            self.open.remove(alarm)
        finding = alarm.finding
        first = finding.causes[0] if finding.causes else None
        return Verdict(
            monitor=alarm.monitor,
            stream=seen.stream,
            window_start_ms=seen.start_ms,
            window_end_ms=seen.end_ms,
            state=alarm.state,
            previous=previous,
            severity=seen.severity,
            value=finding.value,
            threshold=finding.threshold,
            unit=finding.unit,
            metric=finding.metric,
            feature=first.feature if first is not None else None,
            source=alarm.source,
            alarm=alarm.id,
            why=_why(finding, is_over=not findings, is_back=is_back),
            rows=seen.rows,
            baseline=seen.baseline,
            minimum_effect=seen.minimum_effect,
            attribution=finding.causes,
        )


def _why(finding: Finding, *, is_over: bool, is_back: bool) -> str:
    """What an alarm says: of what is back, that it was."""
    if is_over:
        return f"back to normal: {finding.why}"
    return f"{finding.why}; {NORMAL_AGAIN}" if is_back else finding.why


def _order(finding: Finding) -> tuple[bool, bool, int]:
    """What lasts before what is back, firing before pending, then by the rank of the best cause."""
    return finding.is_back, finding.state is not State.FIRING, rank_of(finding)


def rank_of(finding: Finding) -> int:
    return RANK.get(finding.causes[0].statistic, _OTHERS) if finding.causes else _OTHERS


def _together(findings: Sequence[Finding]) -> Finding:
    """One finding of several: the first one's, with the causes of all, each feature once."""
    first = findings[0]
    if len(findings) == 1:
        return first
    causes: list[Cause] = []
    known: set[tuple[object, ...]] = set()
    for finding in findings:
        for cause in finding.causes:
            what = (cause.source, cause.feature, cause.segment)
            if cause.source is not None and cause.feature is not None:
                what = (None, cause.feature, cause.segment)
            if what not in known:
                known.add(what)
                causes.append(cause)
    return msgspec.structs.replace(first, causes=tuple(causes[:MOST_CAUSES]))
