"""The group's offsets and the journal, compared: whose word counts, partition by partition.

A committed offset has metadata that name the chunk it came with (its head). The journal knows the last
chunk that counts, and at most one that waits for its answer.

  head = the unanswered chunk, of any partition   it counts: folded before anything else
  head = the journal's last chunk                 go on there
  head = an older chunk of ours                   the group's offsets were rolled back, or refused for this
                                                  partition alone: the journal's
  head = any other chunk                          chunks are missing here: go on at the head; every series
                                                  takes a new start time; rows between are lost
  no metadata of ours                             a tool set the offset: go on there; a new lineage
  no offset, journal has one                      the journal's
  neither                                         left to the start policy
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.state.heads import Head, head_of
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition

log = logging.getLogger(__name__)


#: Partitions that are gone from assignment and group, and whose heads the journal keeps.
MAX_GONE: Final = 4096


class OffsetAndMetadata(NamedTuple):
    """As committed."""

    offset: int
    metadata: str


class Verdict(enum.StrEnum):
    """On the chunk that waited for its answer."""

    ACCEPTED = "accepted"
    ORPHANED = "orphaned"  # the group stands where it stood before
    UNCERTAIN = "uncertain"  # the group stands somewhere else


@dataclass(frozen=True, slots=True)
class Step:
    """A partition goes on elsewhere than the journal left it: offsets, before and after."""

    partition: Partition
    before: int
    after: int


@dataclass(slots=True)
class Plan:
    """Where partitions go on.

    heads       by partition; `offset` is where to read
    committed   partitions whose committed offset and metadata are these already
    fresh       offsets of partitions that need a new lineage
    moved       set by a tool: rows in between are left out, or counted again
    missing     the group is ahead of the journal, or elsewhere
    rolled_back the journal is ahead of the group
    """

    heads: dict[Partition, Head] = field(default_factory=dict)
    committed: set[Partition] = field(default_factory=set)
    fresh: dict[Partition, int] = field(default_factory=dict)
    moved: list[Step] = field(default_factory=list)
    missing: list[Step] = field(default_factory=list)
    n_missing_chunks: int = 0
    rolled_back: list[Step] = field(default_factory=list)


def judge(
    chunk: Chunk,
    known: Mapping[Partition, Head],
    committed: Mapping[Partition, OffsetAndMetadata],
) -> Verdict:
    """Whether an unanswered chunk counts: its offsets were committed in one request."""
    verdict = Verdict.UNCERTAIN
    for at in chunk.ranges:
        offset = committed.get(at.partition)
        head = head_of(*offset) if offset is not None else None
        if head is None:
            continue
        if (head.run_id, head.number) == (chunk.run_id, chunk.number):
            return Verdict.ACCEPTED
        if head == known.get(at.partition):
            verdict = Verdict.ORPHANED
    return verdict


def plan(
    wanted: Collection[Partition],
    known: Mapping[Partition, Head],
    runs: list[str],
    committed: Mapping[Partition, OffsetAndMetadata],
) -> Plan:
    """The table above, behind its first row. `runs`: ids of the journal's writers, oldest first."""
    out = Plan()
    order = {run_id: index for index, run_id in enumerate(runs)}
    for partition in sorted(wanted):
        ours = known.get(partition)
        at = committed.get(partition)
        if at is None:
            if ours is not None:
                out.heads[partition] = ours
                out.rolled_back.append(Step(partition, ours.offset, ours.offset))
            continue
        head = head_of(*at)
        if head is None or (ours is not None and is_same(head, ours) and head != ours):
            out.fresh[partition] = at.offset
            if ours is not None:
                out.moved.append(Step(partition, ours.offset, at.offset))
        elif ours is None or head == ours:
            out.heads[partition] = head
            out.committed.add(partition)
            if ours is None and head.number:
                out.missing.append(Step(partition, head.offset, head.offset))
        elif _is_older(head, ours, order):
            out.heads[partition] = ours
            out.rolled_back.append(Step(partition, at.offset, ours.offset))
        else:
            out.heads[partition] = head
            out.committed.add(partition)
            out.missing.append(Step(partition, ours.offset, head.offset))
            is_ours = head.run_id == ours.run_id
            n_missing = head.number - ours.number if is_ours else 1
            out.n_missing_chunks = max(out.n_missing_chunks, n_missing)
    return out


def oldest_of_gone(
    known: Mapping[Partition, Head],
    runs: list[str],
    wanted: Collection[Partition],
    committed: Mapping[Partition, OffsetAndMetadata],
) -> list[Partition]:
    """Partitions whose heads are kept no more: neither assigned nor in the group's offsets, and more than
    `MAX_GONE` of them stood still for less long.

    The others stay: a topic may be taken out and come back when the group's offsets have expired.
    """
    order = {run_id: index for index, run_id in enumerate(runs)}

    def age(partition: Partition) -> tuple[int, int, Partition]:
        head = known[partition]
        return order.get(head.run_id, -1), head.number, partition

    gone = sorted(known.keys() - set(wanted) - committed.keys(), key=age)
    return gone[: max(0, len(gone) - MAX_GONE)]


def is_same(one: Head, other: Head) -> bool:
    """The same chunk in the same lineage; the offsets may differ."""
    return (one.lineage, one.run_id, one.number) == (other.lineage, other.run_id, other.number)


def _is_older(head: Head, ours: Head, order: Mapping[str, int]) -> bool:
    """Whether the journal goes beyond this head: it wrote both, and `ours` later."""
    if head.run_id not in order or ours.run_id not in order:
        return False
    if ours.number == 0 and head.lineage != ours.lineage:
        return True  # a lineage that was journalled, and whose genesis the group never took
    return (order[head.run_id], head.number) < (order[ours.run_id], ours.number)


def announce(made: Plan, telemetry: Telemetry, *, is_new: bool) -> None:
    """Say and count what was not as it should be. `is_new`: the journal knew of no partition."""
    for step in made.moved:
        n = step.after - step.before
        what = f"{n} rows in between are not counted" if n >= 0 else f"{-n} rows are counted again"
        _report(step, "moved", "its offset was set from outside", what, telemetry)
    for step in made.missing:
        if is_new:
            what = "what was counted before it is not in this volume"
        else:
            what = (
                f"{max(0, step.after - step.before)} rows in between are in no window and no total "
                "here; every series takes a new start time"
            )
        _report(step, "missing", "the group has chunks that this volume has not", what, telemetry)
    for step in made.rolled_back:
        what = "what is folded is not counted again"
        _report(step, "rolled_back", "the group's offset is lost or an old one", what, telemetry)
    telemetry.add("inferometer.offset.lost", sum(_lost(s) for s in made.moved + made.missing))
    telemetry.add("inferometer.chunks.missing", made.n_missing_chunks)


def _lost(step: Step) -> int:
    return max(0, step.after - step.before)


def _report(step: Step, reason: str, why: str, what: str, telemetry: Telemetry) -> None:
    name = f"{step.partition.topic}/{step.partition.partition}"
    telemetry.add("inferometer.state.fallbacks", reason=reason)
    log.warning("%s: %s (from %d, on to %d): %s", name, why, step.before, step.after, what)
