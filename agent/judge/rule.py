"""Rule: what one monitor, or the defaults together, watch of a model, and how often it may page by chance."""

from __future__ import annotations

from dataclasses import dataclass

from agent.judge.sources import matches
from agent.types import Column
from agent.verdict import Severity, shown_name


@dataclass(frozen=True, slots=True)
class Rule:
    """Which channels watch a model, and under which name.

    name      of the monitor; "" for the defaults, whose verdicts carry the channel's name
    channels  of quality, drift, state
    feature   pattern of the columns that are watched; None: all
    target_windows  A: windows between false pages
    width_ms  of windows
    """

    name: str
    channels: frozenset[str]
    target_windows: float
    severity: Severity
    feature: str | None = None
    allowed_psi: float = 0.1
    wanted_effect: float = 0.05
    width_ms: int = 60_000

    def takes(self, column: Column | None) -> bool:
        """Whether the rule is about this column; of the stream's own: when it is about all."""
        if self.feature is None:
            return True
        return column is not None and matches(self.feature, shown_name(column))

    def named(self, channel: str) -> str:
        return self.name or channel
