"""What a cut brought about, and what the loop remembers of it.

Apart from what cuts and sketches: an aggregator does neither, and imports none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.fold.effects import Effects
from agent.types import Partition

Position = tuple[int, int]  # epoch, offset up to which rows are folded (exclusive)


@dataclass(slots=True)
class Folded:
    """What the loop remembers of the fold: enough to commit, to pause and to report."""

    positions: dict[Partition, Position] = field(default_factory=dict)
    n_chunks: int = 0
    newest_event_ms: int = -1


@dataclass(slots=True)
class Outcome:
    """What a cut brought about. `irregular`: totals of irregular rows by reason.

    `is_folded`: the chunk was folded; else it was empty, and only time has passed.
    """

    effects: Effects
    irregular: dict[str, int]
    is_folded: bool = True
