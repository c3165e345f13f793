"""Which rules watch: the defaults, and the monitors of the configuration that are judged as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.config import Config, Monitor
from agent.config.monitors import JUDGED, Select
from agent.judge.reference import ModelKey
from agent.judge.rule import Rule
from agent.judge.sources import matches

_DAY_S: Final = 86_400.0
DEFAULTS: Final = frozenset(("quality", "drift", "state", "freshness"))


@dataclass(frozen=True, slots=True)
class Selected:
    """A rule, the models it is for, and the baseline it names; None: the default one."""

    rule: Rule
    select: Select
    baseline: str | None = None

    def takes(self, key: ModelKey) -> bool:
        """Whether it watches this model and version."""
        return matches(self.select.model, key.model) and matches(self.select.version, key.version)


def target_windows(days: float, width_s: float) -> float:
    """A: windows between false pages, for a budget in days."""
    return max(1.0, days * _DAY_S / width_s)


def rules_of(config: Config) -> list[Selected]:
    """Judged rules in the order in which their verdicts come."""
    judge, width_s = config.judge, config.windows.width_s
    found = []
    if judge.defaults:
        rule = Rule(
            name="",
            channels=DEFAULTS,
            target_windows=target_windows(judge.days_per_false_page, width_s),
            severity=judge.severity,
            allowed_psi=judge.allowed_psi,
            wanted_effect=judge.wanted_effect,
            width_ms=int(width_s * 1000),
        )
        found.append(Selected(rule, Select()))
    return found + [_rule(config, m) for m in config.monitors if m.metric in JUDGED]


def _rule(config: Config, monitor: Monitor) -> Selected:
    days = monitor.budget or config.judge.days_per_false_page
    rule = Rule(
        name=monitor.name,
        channels=frozenset((monitor.metric,)),
        target_windows=target_windows(days, config.windows.width_s),
        severity=monitor.severity,
        feature=monitor.select.feature,
        allowed_psi=config.judge.allowed_psi,
        wanted_effect=config.judge.wanted_effect,
        width_ms=int(config.windows.width_s * 1000),
    )
    return Selected(rule, monitor.select, monitor.baseline)
