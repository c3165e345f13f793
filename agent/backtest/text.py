"""A backtest for people: how often it would have paged, and why."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from agent.backtest.run import Timeline
from agent.judge.explanation import how_many, shift
from agent.verdict import Cause, Severity, State, Verdict

#: Alarms and causes that are shown; --json has all.
_MOST_ALARMS: Final = 50
_MOST_CAUSES: Final = 5
_MARKS: Final = {
    State.OK: ".",
    State.LEARNING: "l",
    State.BLIND: "b",
    State.PENDING: "p",
    State.FIRING: "#",
    State.RESOLVED: "r",
}
_LINE: Final = 80


def lines(timeline: Timeline) -> Iterator[str]:
    """The whole report."""
    pages = len(timeline.pages)
    times = "once" if pages == 1 else f"{pages:,} times" if pages else "never"
    yield f"would have paged {times}: {_span(timeline)}"
    states = Counter(v.state for v in timeline.verdicts if not v.alarm)
    for state, says in (
        (State.LEARNING, "learning: too little was known to call a change"),
        (State.BLIND, "blind: too few rows to see what is asked for"),
    ):
        if states[state]:
            yield f"  {how_many(states[state], 'verdict')} {says}{_shown(timeline, state)}"
    alarms = timeline.alarms
    for number, alarm in enumerate(alarms[:_MOST_ALARMS], 1):
        yield ""
        yield from _alarm(number, alarm, timeline)
    if len(alarms) > _MOST_ALARMS:
        yield f"\n... and {len(alarms) - _MOST_ALARMS:,} more alarms; --json has all"
    rows = list(_strips(timeline))
    if rows and alarms:
        yield ""
        yield f"{'':24}  . ok   l learning   b blind   p pending   # firing   r resolved"
        yield from rows


def _shown(timeline: Timeline, state: State) -> str:
    """What blind windows would have shown, in the middle of them."""
    found = [
        v.minimum_effect
        for v in timeline.verdicts
        if v.state is state and not v.alarm and v.minimum_effect is not None
    ]
    if state is not State.BLIND or not found:
        return ""
    return f"; they show {shift(statistics.median(found))}"


def _span(timeline: Timeline) -> str:
    n = len(timeline.windows)
    if timeline.by_rows is not None:
        return f"{how_many(n, 'window')} of {timeline.by_rows:,} rows"
    first = when(timeline.windows[0]) if timeline.windows else "-"
    last = when(timeline.windows[-1] + timeline.width_ms) if timeline.windows else "-"
    windows = f"{how_many(n, 'window')} of {timeline.width_ms / 1000:g} s"
    return f"{windows}, {how_many(timeline.rows, 'row')}, {first} to {last}"


def when(ms: int) -> str:
    """A time, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def worst(alarm: Sequence[Verdict]) -> Verdict:
    """The first verdict that fired, else the first."""
    return next((v for v in alarm if v.state is State.FIRING), alarm[0])


def _alarm(number: int, alarm: Sequence[Verdict], timeline: Timeline) -> Iterator[str]:
    first = worst(alarm)
    fired = first.state is State.FIRING
    word = {Severity.PAGE: "paged", Severity.TICKET: "ticket", Severity.INFO: "info"}[
        first.severity
    ]
    said = word if fired else "pending only"
    at = f"window {first.window_start_ms // timeline.width_ms:,}"
    if timeline.by_rows is None:
        at = when(first.window_start_ms)
    ended = alarm[-1].state in (State.RESOLVED, State.OK)
    lasted = how_many(len(alarm) - ended, "window") + ("" if ended else ", still open at the end")
    yield f"{number}. {said} at {at} ({lasted}) by {first.monitor}"
    yield f"   {first.why}"
    for cause in first.attribution[:_MOST_CAUSES]:
        yield f"     {cause_text(cause)}"
    if len(first.attribution) > _MOST_CAUSES:
        yield f"     ... and {len(first.attribution) - _MOST_CAUSES} more"


def cause_text(cause: Cause) -> str:
    """One cause in a line."""
    if cause.feature is None:
        who = f"source {cause.source}" if cause.source else "all traffic"
    else:
        who = cause.feature
    if cause.segment:
        who += " in " + ", ".join(f"{k}={v}" for k, v in cause.segment)
    share = f" {cause.share:.0%}" if cause.share is not None and cause.segment else ""
    detail = f": {cause.detail}" if cause.detail else ""
    return f"{who} ({cause.statistic}){share}{detail}"


def _strips(timeline: Timeline) -> Iterator[str]:
    """One character a window for each stream and monitor that has alarms, the last windows of many."""
    rows: dict[str, dict[int, State]] = {}
    order = list(State)
    for v in timeline.verdicts:
        name = f"{v.stream.model} {v.stream.version}".strip()
        states = rows.setdefault(name, {})
        before = states.get(v.window_start_ms, State.OK)
        states[v.window_start_ms] = max(before, v.state, key=order.index)
    for name, states in sorted(rows.items()):
        starts = sorted(states)[-_LINE:]
        yield f"{name[:24]:24}  {''.join(_MARKS[states[start]] for start in starts)}"
