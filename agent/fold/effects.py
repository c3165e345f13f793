"""What folding an input brought about, for those who act on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.fold.profile import Profile
from agent.fold.watermarks import NEVER
from agent.types import RequestSpan, StreamKey


@dataclass(slots=True)
class Effects:
    """Effects of one input of the fold, or of several one after the other.

    spans         request spans of the chunk, free to leave now
    sealed        one profile for each stream that had rows in a window that sealed, oldest window first
    sealed_until  windows below this number are sealed
    slow_above_s  last sealed 99th percentile of latency, by stream
    n_foreign     chunks whose merge digest is not ours: they fed totals only
    """

    spans: list[RequestSpan] = field(default_factory=list)
    sealed: list[Profile] = field(default_factory=list)
    sealed_until: int = NEVER
    slow_above_s: dict[StreamKey, float] = field(default_factory=dict)
    n_foreign: int = 0

    def add(self, later: Effects) -> None:
        """Append the effects of a later input, in place."""
        self.spans.extend(later.spans)
        self.sealed.extend(later.sealed)
        self.sealed_until = later.sealed_until
        self.slow_above_s = later.slow_above_s
        self.n_foreign += later.n_foreign
