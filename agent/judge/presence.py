"""Presence: models that are on the stream and not declared, and expected ones that are not on the stream.

Expected are those that `models` declares, and those that the baseline knows. Undeclared are told only where
`models` declares any: without declarations every model is as welcome as every other.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

import msgspec

from agent.config import Config
from agent.judge.alarms import Alarm, Alarms, Finding, Seen
from agent.judge.reference import ModelKey
from agent.types import StreamKey
from agent.verdict import Cause, Severity, State, Verdict

MONITOR: Final = "inventory"
UNDECLARED: Final = "undeclared"
SILENT: Final = "silent"
#: Windows in which an expected model may be missing from the start, or undeclared ones are not told again.
SILENT_WINDOWS: Final = 5
#: Models whose alarms are kept; further ones are in the inventory only.
_MOST: Final = 1000


class PresenceKept(msgspec.Struct, array_like=True):
    windows: int
    seen: list[str]
    alarms: list[tuple[str, list[Alarm]]]
    last: list[tuple[str, int]] = []


class Presence:
    """Told of each window that sealed, in order."""

    def __init__(self, config: Config, known: Iterable[str] = ()) -> None:
        """`known`: models of the baseline."""
        self._declared = {model.name for model in config.models}
        self._expected = sorted(self._declared | set(known))
        self._width_ms = int(config.windows.width_s * 1000)
        self._windows = 0
        self._seen: set[str] = set()
        self._alarms: dict[str, Alarms] = {}
        self._last: dict[
            str, int
        ] = {}  # undeclared models that are told: their last window with rows
        self._forget_after = int(config.judge.forget_after_s / config.windows.width_s)

    def window(self, window: int, models: Iterable[ModelKey]) -> list[Verdict]:
        """The verdicts of a window with rows of these models."""
        if not self._expected:
            return []
        self._windows += 1
        present = {key.model for key in models}
        self._seen |= present & set(self._expected)
        verdicts: list[Verdict] = []
        strange = present - self._declared if self._declared else set()
        names = sorted(strange) + [
            name
            for name in self._expected
            if name not in self._seen and self._windows >= SILENT_WINDOWS
        ]
        for name in sorted({*names, *self._alarms}):
            if name not in self._alarms and len(self._alarms) >= _MOST:
                continue
            alarms = self._alarms.setdefault(name, Alarms("inventory:"))
            if name in strange:
                self._last[name] = window
            # An undeclared model stays one in windows without rows of it, until it is forgotten.
            is_known = window - self._last.get(name, window) <= self._forget_after
            still = [a.finding for a in alarms.open if is_known and a.finding.metric == UNDECLARED]
            findings = [self._finding(name, present)] if name in names else still
            verdicts += alarms.step(self._at(name, window), findings)
            if not alarms.open:
                del self._alarms[name]
                self._last.pop(name, None)
        return verdicts

    def _finding(self, name: str, present: Set[str]) -> Finding:
        statistic, detail = UNDECLARED, "on the stream, and not declared under `models`"
        if name not in present:
            where = "declared" if name in self._declared else "in the baseline"
            statistic, detail = SILENT, f"{where}, and not a row in {self._windows:,} windows"
        return Finding(
            monitor=MONITOR,
            metric=statistic,
            state=State.FIRING,
            value=1.0,
            threshold=0.0,
            causes=(Cause(statistic=statistic, score=float("inf"), detail=detail),),
            why=f"{name}: {detail}",
        )

    def _at(self, name: str, window: int) -> Seen:
        start_ms = window * self._width_ms
        return Seen(
            stream=StreamKey(name, ""),
            start_ms=start_ms,
            end_ms=start_ms + self._width_ms,
            rows=0,
            severity=Severity.TICKET,
        )

    def kept(self) -> PresenceKept:
        """All there is, to go on from."""
        alarms = [(name, alarms.kept()) for name, alarms in sorted(self._alarms.items())]
        return PresenceKept(self._windows, sorted(self._seen), alarms, sorted(self._last.items()))

    def restore(self, kept: PresenceKept) -> None:
        """Go on from `kept`, in place."""
        self._windows, self._seen, self._last = kept.windows, set(kept.seen), dict(kept.last)
        for name, held in kept.alarms:
            self._alarms[name] = Alarms("inventory:")
            self._alarms[name].open = held
