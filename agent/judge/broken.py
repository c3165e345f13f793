"""Rules of the contract that windows of one model break: one finding for each source, and new features as a ticket."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Final

import msgspec

from agent.config.contract import ModelContract
from agent.fold.profile import Profile
from agent.judge.alarms import RANK, Alarm, Alarms, Finding, Seen
from agent.judge.contract import Breach, breaches
from agent.judge.counted import Counted
from agent.judge.explanation import how_many
from agent.judge.rule import Rule
from agent.judge.sources import Sources
from agent.types import Column
from agent.verdict import Cause, Severity, State, Verdict, shown_name

#: Windows in a row without a breach until the contract holds again.
CALM_WINDOWS: Final = 3
#: Rules that another hour of the day breaks as well as a fault does.
_BY_THE_HOUR: Final = frozenset(("range", "category", "volume"))
#: Score of a broken rule: no chance is left to speak of.
CERTAIN: Final = math.inf


class BrokenKept(msgspec.Struct, array_like=True):
    new: list[Alarm]
    calm: int
    broken: list[Breach]


class Broken:
    """One rule's on one model."""

    def __init__(self, model: str, name: str, rule: Rule, sources: Sources) -> None:
        """`name`: of model, version and segment, as sentences begin with it."""
        self.new = Alarms(f"{rule.name}:schema:")
        self._model, self._name, self._rule, self._sources = model, name, rule, sources
        self._calm = CALM_WINDOWS
        self._broken: list[Breach] = []
        self._new: list[Breach] = []

    def findings(
        self,
        contract: ModelContract,
        known: Sequence[Column] | None,
        whole: Profile,
        read: Counted,
        *,
        is_early: bool = False,
    ) -> list[Finding]:
        """What a window breaks. A rule that was broken stays so until CALM_WINDOWS windows have kept it.

        known     columns of the baseline; None: there is none
        is_early  ranges and rows were learned from less than a day: what breaks them is no page
        """
        found = [b for b in breaches(contract, whole, read, known) if self._rule.takes(b.column)]
        self._new = [b for b in found if b.is_schema]
        found = [b for b in found if not b.is_schema]
        is_back = not found
        if found:
            self._broken, self._calm = found, 0
        elif self._calm < CALM_WINDOWS:
            self._calm += 1
            if self._calm < CALM_WINDOWS:
                found = self._broken
        columns = {*whole.columns, *(known or ())}
        soft = [b for b in found if is_early and b.statistic in _BY_THE_HOUR]
        hard = [b for b in found if b not in soft]
        findings = [
            *self._by_source(hard, columns),
            *(msgspec.structs.replace(f, is_soft=True) for f in self._by_source(soft, columns)),
        ]
        return [msgspec.structs.replace(f, is_back=is_back) for f in findings]

    def schema(self, seen: Seen) -> list[Verdict]:
        """New features, as a ticket that stands until the baseline or the contract knows them."""
        findings = (
            [
                Finding(
                    monitor=self._rule.named("quality"),
                    metric="new",
                    state=State.FIRING,
                    value=float(len(self._new)),
                    threshold=0.0,
                    unit="{feature}",
                    causes=tuple(
                        Cause(
                            statistic="new",
                            score=CERTAIN,
                            feature=None if b.column is None else shown_name(b.column),
                            source=self._sources.of(self._model, b.column),
                            detail=b.detail,
                        )
                        for b in self._new[:20]
                    ),
                    why=f"{self._name}: {how_many(len(self._new), 'new feature')}: "
                    + ", ".join(
                        shown_name(b.column) for b in self._new[:10] if b.column is not None
                    ),
                )
            ]
            if self._new
            else []
        )
        return self.new.step(as_ticket(seen), findings)

    def _by_source(self, found: Sequence[Breach], known: Set[Column]) -> list[Finding]:
        """One finding for each source that is broken, and one for the rest."""
        model = self._model
        rest = sorted(found, key=lambda b: (RANK.get(b.statistic, 9), -b.value, str(b.column)))
        findings = []
        while rest:
            moved = [b.column for b in rest if b.column is not None]
            named = self._sources.named(model, moved, known)
            if named is None:
                findings.append(self._broken_rules(rest, None, 0.0))
                break
            source, share = named
            own = [b for b in rest if self._sources.of(model, b.column) == source]
            rest = [b for b in rest if b not in own]
            if not any(b.column is not None and self._sources.of(model, b.column) for b in rest):
                # What belongs to no source follows from the one that broke.
                own, rest = [*own, *rest], []
            findings.append(self._broken_rules(own, source, share))
        return findings

    def _broken_rules(self, own: Sequence[Breach], source: str | None, share: float) -> Finding:
        first = own[0]
        listed = [
            Cause(
                statistic=b.statistic,
                score=CERTAIN,
                feature=None if b.column is None else shown_name(b.column),
                source=self._sources.of(self._model, b.column),
                share=min(1.0, b.value) if b.statistic not in ("volume", "distinct") else None,
                detail=b.detail,
            )
            for b in own
        ]
        what = f"{listed[0].feature}: {first.detail}" if listed[0].feature else first.detail
        if source is not None:
            names = ", ".join(c.feature for c in listed if c.source == source and c.feature)
            detail = f"{share:.0%} of its features are broken: {names}"
            listed.insert(
                0,
                Cause(
                    statistic=first.statistic,
                    score=CERTAIN,
                    source=source,
                    share=share,
                    detail=detail,
                ),
            )
            what = f"source {source}: {detail}; {what}"
        elif len(own) > 1:
            what += f" (and {len(own) - 1} more)"
        return Finding(
            monitor=self._rule.named("quality"),
            metric=first.statistic,
            state=State.FIRING,
            value=first.value,
            threshold=first.threshold,
            unit="{row}" if first.statistic == "volume" else "1",
            causes=tuple(listed),
            source=source,
            why=f"{self._name}: {what}",
        )

    def kept(self) -> BrokenKept:
        """All there is, to go on from."""
        return BrokenKept(self.new.kept(), self._calm, self._broken)

    def restore(self, kept: BrokenKept) -> None:
        """Go on from `kept`, in place."""
        self.new.open, self._calm, self._broken = kept.new, kept.calm, kept.broken


def as_ticket(seen: Seen) -> Seen:
    """The same window for who looks in working hours."""
    severity = Severity.INFO if seen.severity is Severity.INFO else Severity.TICKET
    return msgspec.structs.replace(seen, severity=severity)
