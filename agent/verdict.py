"""The words that judging shares with emitting, responding and showing: verdicts, their causes, drift values.

A verdict is a monitor's state for a window of a stream. Times are epoch milliseconds.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.types import Column, Json, Role, StreamKey


class State(enum.StrEnum):
    """What a monitor says of a window."""

    OK = "ok"
    LEARNING = "learning"  # too little is known to call a change; rules still page
    BLIND = (
        "blind"  # too few rows to see what the monitor asks for: `minimum_effect` says what it sees
    )
    PENDING = "pending"  # evidence gathers; levels and baselines are frozen
    FIRING = "firing"
    RESOLVED = "resolved"  # first window after firing; then ok


#: Metric of the verdict that a model is not judged for want of memory.
UNJUDGED: Final = "judged"


class Severity(enum.StrEnum):
    """Who should look: `page` somebody now, `ticket` in working hours, `info` nobody."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One explanation of a verdict, the first of a list being the best.

    feature    of the column's role and name as `shown_name` writes them; None: the stream or source
    statistic  what moved: shape, loc, missing, unseen, volume, pairs, type, vanished, stall, ...
    score      -log10 p of the evidence since it began, uncapped; infinite for a contract breach
    share      part of the whole that this explains, 0..1; None where that has no meaning
    """

    statistic: str
    score: float
    feature: str | None = None
    source: str | None = None
    segment: tuple[tuple[str, str], ...] | None = None
    share: float | None = None
    detail: str = ""
    trace_ids: tuple[str, ...] = ()  # hex, of requests kept in the bins that moved


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's state for the window [window_start_ms, window_end_ms) of a stream.

    alarm      "" while ok; else the id that all verdicts of one alarm share, pending to resolved
    value      what the rule compares, `threshold` what it is compared with, in `unit` (UCUM)
    minimum_effect  smallest effect that this window's rows could show; None where none is computed
    """

    monitor: str
    stream: StreamKey
    window_start_ms: int
    window_end_ms: int
    state: State
    previous: State
    severity: Severity
    value: float
    threshold: float
    unit: str = "1"
    metric: str = ""
    feature: str | None = None
    source: str | None = None
    alarm: str = ""
    why: str = ""  # one sentence for who is paged
    rows: int = 0
    baseline: str = ""  # id of the baseline judged against
    minimum_effect: float | None = None
    attribution: tuple[Cause, ...] = ()

    @property
    def is_transition(self) -> bool:
        """Whether somebody has to be told."""
        return self.state is not self.previous


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A distance between a column in a window and its baseline: shown, and not by itself a verdict.

    low, high   certified bounds of the true distance; high is infinite where no upper bound exists
    """

    stream: StreamKey
    column: Column
    window_start_ms: int
    window_end_ms: int
    metric: str  # psi, js, hellinger, ks, wasserstein, auc, chi2, unseen, missing, true_rate, violations
    value: float
    low: float
    high: float
    unit: str = "1"


@dataclass(slots=True)
class Judged:
    """What judging one input brought about, oldest window first.

    n_refused  windows of models that are not judged: the memory of judging is used up
    """

    verdicts: list[Verdict] = field(default_factory=list)
    drift: list[Drift] = field(default_factory=list)
    n_windows: int = 0
    n_refused: int = 0

    def add(self, later: Judged) -> None:
        """Append what a later input brought, in place."""
        self.verdicts.extend(later.verdicts)
        self.drift.extend(later.drift)
        self.n_windows += later.n_windows
        self.n_refused += later.n_refused


def shown_name(column: Column) -> str:
    """A feature by its bare name, anything else with its role: `distance`, `prediction.score`, `latency`."""
    if column.role is Role.FEATURE or column.role == column.name:
        return column.name
    return f"{column.role}.{column.name}"


def stream_json(stream: StreamKey) -> Json:
    """The stream as documents show it."""
    return {
        "model": stream.model,
        "version": stream.version,
        "segment": dict(stream.segment),
    }


def identity(verdict: Verdict) -> str:
    """32 hex digits that stand for this verdict wherever it is told: the same again after a crash.

    Of what makes it another verdict, not of numbers that say how it came about.
    """
    words = (
        verdict.monitor,
        verdict.stream,
        verdict.window_start_ms,
        verdict.window_end_ms,
        verdict.previous.value,
        verdict.state.value,
        verdict.source,
        verdict.alarm,
        verdict.feature if not verdict.alarm else None,
    )
    text = msgspec.msgpack.encode(words)  # lengths are in it: no two verdicts have the same text
    return hashlib.blake2b(text, digest_size=16, person=b"inferometer-v1").hexdigest()
