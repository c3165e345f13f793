"""Together: how many rows a model has over all its versions, while which of them has how many says nothing.

A deploy moves rows from one version to the other, so no version's rows are judged while others have some. Their sum
does not move: it is followed from window to window (`recent`), and a jump of it is an alarm of the model.
One version alone, the first that was seen, has its rows judged with everything else it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.config import Config
from agent.fold.profile import Profile
from agent.judge.abrupt import Abrupt, AbruptKept, Jump
from agent.judge.alarms import Alarm, Alarms, Finding, Seen
from agent.judge.counted import Counted
from agent.judge.reference import ModelKey
from agent.judge.rules import target_windows
from agent.types import StreamKey
from agent.verdict import Cause, State, Verdict

MONITOR: Final = "drift"
#: Models that are followed; and versions that a cause names.
_MOST: Final = 10_000
_MOST_NAMED: Final = 4
#: Windows between two looks for models that are gone.
_EVERY: Final = 64


class OneKept(msgspec.Struct, array_like=True):
    first: str
    n: int
    last: int
    abrupt: AbruptKept
    alarms: list[Alarm]


class _One:
    """One model."""

    def __init__(self, first: str, abrupt: Abrupt) -> None:
        self.first = first  # version
        self.n = 0  # windows
        self.last = 0  # window with rows
        self.abrupt = abrupt
        self.alarms = Alarms("versions:")


class Together:
    """Told of each window with rows, in order."""

    def __init__(self, config: Config, *, by_rows: bool) -> None:
        """`by_rows`: windows are numbers of rows, so that a volume means nothing."""
        self._is_on = config.judge.defaults and not by_rows
        self._width_ms = int(config.windows.width_s * 1000)
        self._ask = config.judge.wanted_effect
        self._target = target_windows(config.judge.days_per_false_page, config.windows.width_s)
        self._severity = config.judge.severity
        self._most_silent = int(config.judge.forget_after_s / config.windows.width_s)
        self._models: dict[str, _One] = {}

    def window(self, window: int, profiles: Mapping[ModelKey, Sequence[Profile]]) -> list[Verdict]:
        """The verdicts of a window."""
        if not self._is_on:
            return []
        models: dict[str, dict[str, Sequence[Profile]]] = {}
        for key in sorted(profiles):
            models.setdefault(key.model, {})[key.version] = profiles[key]
        verdicts: list[Verdict] = []
        for model, versions in models.items():
            one = self._models.get(model)
            if one is None and len(self._models) < _MOST:
                one = self._models[model] = _One(next(iter(versions)), self._abrupt())
            if one is not None:
                one.last = window
                verdicts += self._judge(model, one, window, versions)
        return verdicts + (self._forget(window) if window % _EVERY == 0 else [])

    def _forget(self, window: int) -> list[Verdict]:
        """Models that are gone for good; what was open is closed."""
        verdicts: list[Verdict] = []
        gone = [m for m, one in self._models.items() if window - one.last > self._most_silent]
        for model in sorted(gone):
            one = self._models.pop(model)
            verdicts += one.alarms.step(self._seen(model, window, 0.0), [])
        return verdicts

    def _abrupt(self) -> Abrupt:
        return Abrupt(self._target, self._ask, self._width_ms, lambda column: True)

    def _judge(
        self, model: str, one: _One, window: int, versions: Mapping[str, Sequence[Profile]]
    ) -> list[Verdict]:
        own = [profile for held in versions.values() for profile in held]
        one.n += 1
        # Nobody knows what a first window lacks, and a partial one has its other rows elsewhere.
        if one.n == 1 or any(profile.is_partial for profile in own):
            return []
        rows = {version: sum(p.rows for p in held) for version, held in versions.items()}
        total = Counted(sum(rows.values()))
        jump = one.abrupt.step(window, total, with_volume=True)
        is_several = len(rows) > 1 or one.first not in rows
        findings = []
        if jump is not None and (is_several or one.alarms.open):
            findings = self._findings(model, jump, total.rows, rows)
        if jump is None or not jump.step.is_frozen:
            one.abrupt.learn(total, with_volume=True)
        return one.alarms.step(self._seen(model, window, total.rows), findings)

    def _seen(self, model: str, window: int, rows: float) -> Seen:
        start_ms = window * self._width_ms
        return Seen(
            stream=StreamKey(model, ""),
            start_ms=start_ms,
            end_ms=start_ms + self._width_ms,
            rows=int(rows),
            severity=self._severity,
        )

    def open_alarms(self) -> list[Alarm]:
        """Of all models, pending or firing."""
        return [
            alarm for model in sorted(self._models) for alarm in self._models[model].alarms.open
        ]

    def _findings(
        self, model: str, jump: Jump, total: float, rows: Mapping[str, int]
    ) -> list[Finding]:
        step = jump.step
        if step.state not in (State.PENDING, State.FIRING) or not step.evidence:
            return []
        named = [f"{version}: {n:,}" for version, n in list(rows.items())[:_MOST_NAMED]]
        usual = f"; {jump.expected_rows:,.0f} are usual" if jump.expected_rows is not None else ""
        detail = f"{total:,.0f} rows of all versions ({', '.join(named)}){usual}"
        cause = Cause(statistic="volume", score=step.evidence[0].score, share=1.0, detail=detail)
        return [
            Finding(
                monitor=MONITOR,
                metric="evidence",
                state=step.state,
                value=step.m,
                threshold=step.threshold,
                causes=(cause,),
                why=f"{model}: all traffic has changed (volume): {detail}",
            )
        ]

    def kept(self) -> list[tuple[str, OneKept]]:
        """All there is, to go on from."""
        return [
            (model, OneKept(one.first, one.n, one.last, one.abrupt.kept(), one.alarms.kept()))
            for model, one in sorted(self._models.items())
        ]

    def restore(self, kept: Sequence[tuple[str, OneKept]]) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        for model, held in kept:
            one = self._models[model] = _One(held.first, self._abrupt())
            one.n, one.last = held.n, held.last
            one.abrupt.restore(held.abrupt)
            one.alarms.open = held.alarms
