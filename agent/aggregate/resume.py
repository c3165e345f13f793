"""The volume of a shard and the shard's group, compared: where reading begins, and whether all is here.

Before each batch the group is told the position that the journal holds, the number of chunks folded into
the volume, and the run that says so. What it was told last can therefore never be ahead of the volume.

  volume            the group was told last
  any               nothing, or a tool set it         go on where the volume stands
  blank             by another run                    the volume is lost: go on there, nothing is here
  damaged           by another run, or more           what is between is lost: go on there
  whole             by a run that it does not know    another volume is this shard's, or this one is an old
                                                      copy: refused
  whole             more than it holds, by its runs   it was set back: go on there

Whatever goes on at the group's word takes new start times: exports may have held more than is here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from agent.errors import StateError
from agent.ingest.fence import Committed
from agent.state.heads import head_of


class Standing(NamedTuple):
    """What the volume says.

    position  oldest record still needed
    folded    chunks folded into it, ever
    runs      ids of the processes that wrote it
    is_exact  nothing of it is damaged
    """

    position: int
    folded: int
    runs: Collection[str]
    is_exact: bool

    @property
    def is_blank(self) -> bool:
        return self.position == 0 and self.folded == 0


class Start(NamedTuple):
    """Where to begin.

    begins_late  what lies before was decided on by what is not here
    lost         why series begin anew, as a reason (`inferometer.state.fallbacks`) and in words; "": they go on
    """

    position: int
    begins_late: bool = False
    reason: str = ""
    lost: str = ""


def compare(volume: Standing, told: Committed | None) -> Start:
    """See the table. Raises StateError when the shard is another volume's."""
    head = None if told is None else head_of(*told)
    if told is None or (head is None and not volume.is_blank):
        return Start(volume.position, begins_late=not volume.is_exact)
    if head is None:
        return _late(told.offset, "volume", "it is new")
    if head.run_id in volume.runs:
        if head.offset <= volume.position and head.number <= volume.folded:
            return Start(volume.position, begins_late=not volume.is_exact)
        if volume.is_exact and not volume.is_blank:
            return _late(head.offset, "rolled_back", "it was set back")
    elif volume.is_exact and not volume.is_blank:
        raise StateError(
            f"run {head.run_id} folded this shard last, and the volume does not know it: another "
            "aggregator with a volume of its own has the shard, or this volume is an old copy. Stop the "
            "other one, or mount its volume here; or move this directory away, to go on at the group's "
            "position with new start times"
        )
    if not head.offset and not head.number:
        return Start(volume.position, begins_late=not volume.is_exact)  # nothing was folded there
    if volume.is_blank and volume.is_exact:
        return _late(head.offset, "volume", "it is new")
    return _late(max(head.offset, volume.position), "missing", "it is damaged")


def _late(position: int, reason: str, why: str) -> Start:
    lost = f"{why}, and the group is at position {position} of the shard"
    return Start(position, begins_late=True, reason=reason, lost=lost)
