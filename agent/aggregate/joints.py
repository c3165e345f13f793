"""Where a chunk that counts does not begin where the counted rows of its partition end.

Effective chunks of a lineage abut, and a lineage is the only one of its partition, for as long as nobody
but the agents touches the group's offsets. They do not when a commit was refused for one partition
alone and its agent ended, when offsets were rolled back together with their metadata, and where a new
lineage begins: offsets deleted, expired or set, records deleted unread, a topic made anew. The rows
between are in no total, or counted again. That cannot be mended here: a chunk's sketches are those of
all its partitions. So it is said and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from agent.aggregate.chains import Chains
from agent.telemetry import Telemetry
from agent.types import Partition, PartitionRange

log = logging.getLogger(__name__)


class Joint(NamedTuple):
    """A partition was counted up to `ended`; a chunk goes on at `begins`, which is another offset."""

    partition: Partition
    ended: int
    begins: int
    is_new_lineage: bool

    @property
    def reason(self) -> str:
        return "gap" if self.begins > self.ended else "overlap"

    @property
    def n_records(self) -> int:
        """At most so many are in no total, or counted again."""
        return abs(self.begins - self.ended)


def joints_of(chains: Chains, ranges: Iterable[PartitionRange]) -> tuple[Joint, ...]:
    """Of a chunk that is folded next. Pure.

    Behind another chunk than the tip a lineage may only go back: what lies before a `prev` that was
    decided on has been counted, or announced.
    """
    found = []
    for at in ranges:
        tip = chains.tip(at.partition, at.lineage)
        is_new = tip is None and not at.prev
        before = chains.newest_tip(at.partition) if is_new else tip
        if before is None or at.from_offset == before.to_offset:
            continue
        is_forward = at.from_offset > before.to_offset
        if is_forward and not is_new and at.prev != before.chunk_id:
            continue
        found.append(Joint(at.partition, before.to_offset, at.from_offset, is_new))
    return tuple(found)


def report(chunk_id: str, joints: Iterable[Joint], telemetry: Telemetry) -> None:
    """Say and count them."""
    for joint in joints:
        telemetry.add("inferometer.chunks.misplaced", joint.n_records, reason=joint.reason)
        what = "are in no total" if joint.reason == "gap" else "are counted again"
        why = "the group's offset went back, or a commit was refused for this partition alone"
        if joint.is_new_lineage:
            why = (
                "its offsets were deleted, have expired or were set, or records were deleted before "
                "they were read; or the topic is a new one, and nothing is lost or repeated"
            )
        log.error(
            "%s/%d: rows were counted up to offset %d, and chunk %s goes on at %d: up to %d records %s "
            "(%s)",
            *joint.partition,
            joint.ended,
            chunk_id,
            joint.begins,
            joint.n_records,
            what,
            why,
        )
