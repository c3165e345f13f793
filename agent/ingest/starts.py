"""Where an epoch begins to read each of its partitions.

  committed              the committed offset
  nothing in the group   the start policy (`kafka.auto_offset_reset`)
  nothing here, but elsewhere in the group      earliest: a partition that the group has not met
  the log said "out of range"                   earliest; what lies between is counted and announced

A start that is not a committed one is committed before anything is read (**genesis**), so that a
crash before the first commit, or another member, finds the same start.

Members that form a new group at the same moment each find their own partitions empty, and perhaps
the genesis of the others. So a genesis carries `genesis;<generation>` as metadata, and later commits
of that generation keep it: an offset that bears our own generation's mark does not make the group
an old one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.ingest.fence import Committed, Fence
from agent.types import Partition


class Why(enum.StrEnum):
    COMMITTED = "committed"
    NEW_GROUP = "new group"
    NEW_PARTITION = "new partition"
    OUT_OF_RANGE = "out of range"


class End(enum.StrEnum):
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Start:
    """`offset` is -1 until the end of the log that `end` names has been asked for."""

    why: Why
    offset: int = -1
    end: End | None = None
    genesis: str = ""


def genesis_mark(fence: Fence) -> str:
    """Metadata of a genesis commit: less than 30 bytes."""
    return f"genesis;{fence.generation}"


def choose_starts(
    wanted: Iterable[Partition],
    committed: Mapping[Partition, Committed],
    elsewhere: Iterable[Committed],
    *,
    fence: Fence,
    policy: End,
    out_of_range: Iterable[Partition] = (),
) -> dict[Partition, Start]:
    """Decide for each partition. `elsewhere`: all offsets that the group has committed anywhere."""
    mark = genesis_mark(fence)
    is_new_group = all(offset.metadata == mark for offset in elsewhere)
    gone = set(out_of_range)
    starts: dict[Partition, Start] = {}
    for partition in sorted(wanted):
        if partition in gone:
            starts[partition] = Start(Why.OUT_OF_RANGE, end=End.EARLIEST)
        elif partition in committed:
            offset, metadata = committed[partition]
            genesis = mark if metadata == mark else ""
            starts[partition] = Start(Why.COMMITTED, offset, genesis=genesis)
        elif is_new_group:
            starts[partition] = Start(Why.NEW_GROUP, end=policy, genesis=mark)
        else:
            starts[partition] = Start(Why.NEW_PARTITION, end=End.EARLIEST, genesis=mark)
    return starts
