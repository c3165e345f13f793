"""Accept: which whole chunks of a shard are folded, in which order, and what is said of the others.

A chunk is *named* when it is known to count: a head names it, or a chunk does as its `prev` (writers
take `prev` from the group's offsets or from their own accepted commit, so even an orphan's is true),
or a later chunk of its run confirms it. Effective chunks of a lineage form one chain by `prev`; a tip
is the last of them that was decided on.

Invariants
1. Folded: whole, named, and all its `prev` decided on; each once.
2. Orphaned: not named, one of its partitions went on from its `prev` with another chunk, and the group's
   offsets, read when it was in the topic, stand neither at that `prev` nor at it. Who goes on from
   `prev` for a second time is not an orphan before that: a commit that was refused for one partition
   alone, or offsets rolled back, begin a lineage's rows again (`joints.py` says so).
3. Missing: named, not whole although everything was read that was in the topic when it was named,
   `missing_timeout` is over, and what counts before it is decided on. The chain goes on without it.
4. Uncertain: not named, and nothing can name it any more, because the group's offsets of a partition
   left its lineage (reset by a tool, topic made anew) and nobody confirmed it within the time-out.
5. Before: as missing, but without a time-out, and no loss: the volume is younger than the group's position,
   and nothing of its lineages was decided on since. An aggregator that is gone had it.

Pure: no clock, no I/O; times are arguments. Everything is a function of the inputs and their order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.aggregate.chains import Chains, End, Place, ends_of
from agent.aggregate.joints import Joint, joints_of
from agent.state.heads import Head
from agent.state.parts import Manifest
from agent.types import Partition, PartitionRange

#: Where a hole begins is not known: nothing of the lineage was ever folded here.
UNKNOWN = -1


class Fate(enum.StrEnum):
    FOLDED = "folded"
    ORPHANED = "orphaned"
    MISSING = "missing"
    UNCERTAIN = "uncertain"
    BEFORE = "before"


class Gap(NamedTuple):
    """Offsets [from, to) of a partition that are in no total; `from_offset` may be `UNKNOWN`."""

    partition: Partition
    from_offset: int
    to_offset: int


class Verdict(NamedTuple):
    """What is to be done with a chunk.

    gaps   when it is missing or uncertain
    ends   where its chains go on behind it, when it counts
    joints where it does not begin at the end of what was counted, when it is folded
    """

    fate: Fate
    chunk_id: str
    gaps: tuple[Gap, ...] = ()
    ends: tuple[End, ...] = ()
    joints: tuple[Joint, ...] = ()


@dataclass(slots=True)
class _Waiting:
    """A whole chunk that is not decided on."""

    manifest: Manifest
    position: int
    left_since_s: float | None = None  # since when its lineage is known to have ended


@dataclass(slots=True)
class _Named:
    since_s: float
    until: int  # end of the topic when it was named: its records lie before
    ends: dict[Place, int] = field(default_factory=dict)  # where it ends, as far as that is known


class Accept:
    """See the module. Memory: a manifest for each chunk that waits: two or three for each agent."""

    def __init__(
        self,
        *,
        missing_timeout_s: float,
        is_here: Callable[[str], bool],
        is_left: Callable[[str], bool],
        chains: Chains | None = None,
        begins_late: bool = False,
    ) -> None:
        """
        is_here   the chunk is at hand, whole
        is_left   it was left in the topic for want of memory, and is read again when it is wanted
        chains    how far everything was decided on before; taken over
        begins_late   another volume had what was decided on before
        """
        self._timeout_s = missing_timeout_s
        self._is_here = is_here
        self._is_left = is_left
        self.chains = chains or Chains()
        self._begins_late = begins_late
        self._waiting: dict[str, _Waiting] = {}
        self._named: dict[str, _Named] = {}
        self._damaged: set[str] = set()
        self._heads: Mapping[Partition, Head] = {}
        self._has_heads = False
        self._heads_until = 0  # all that the topic held before the last heads lies before it
        self._next_until = 0
        self._read_to = 0

    # ------------------------------------------------------------ inputs

    def manifest(self, manifest: Manifest, position: int, now_s: float) -> None:
        """A manifest was read at `position`, whether its chunk is whole or not."""
        for at in manifest.ranges:
            if at.prev:
                self._name(at.prev, now_s, position, (at.partition, at.lineage), at.from_offset)
        for chunk_id in manifest.confirms:
            self._name(chunk_id, now_s, position)

    def whole(self, manifest: Manifest, position: int) -> None:
        """A chunk is whole; `position` is that of its last record."""
        chunk_id = manifest.chunk_id
        if chunk_id not in self._waiting and chunk_id not in self.chains.decided:
            self._waiting[chunk_id] = _Waiting(manifest, position)

    def heads(self, heads: Mapping[Partition, Head], end: int, now_s: float) -> None:
        """The group's offsets as they were read; `end`: next position of the topic, asked after that.

        A partition without an offset, or with one that is not ours to read, is left out.
        """
        self._heads, self._has_heads = dict(heads), True
        self._heads_until, self._next_until = self._next_until, end
        for partition, head in heads.items():
            if head.chunk_id:
                self._name(head.chunk_id, now_s, end, (partition, head.lineage), head.offset)

    def read_to(self, position: int) -> None:
        """Every record below this position has been read. It goes back when some are read again."""
        self._read_to = position

    def damaged(self, chunk_id: str) -> None:
        """A whole chunk turned out not to be what its manifest says: it is as good as missing."""
        self._damaged.add(chunk_id)

    def _name(
        self,
        chunk_id: str,
        now_s: float,
        until: int,
        place: Place | None = None,
        ends_at: int = UNKNOWN,
    ) -> None:
        if self.is_decided(chunk_id):
            return
        named = self._named.get(chunk_id)
        if named is None:
            named = self._named[chunk_id] = _Named(now_s, until)
        named.until = min(named.until, until)
        if place is not None:
            named.ends[place] = ends_at

    # ------------------------------------------------------------ what others ask

    def is_decided(self, chunk_id: str) -> bool:
        return chunk_id in self.chains.decided and chunk_id not in self._waiting

    def is_named(self, chunk_id: str) -> bool:
        return chunk_id in self._named

    @property
    def n_waiting(self) -> int:
        """Whole chunks that are not decided on."""
        return len(self._waiting)

    @property
    def n_named(self) -> int:
        """Chunks that count and are not decided on."""
        return len(self._named)

    # ------------------------------------------------------------ verdicts

    def decide(self, now_s: float) -> Verdict | None:
        """The next verdict, oldest chunk first; None: wait. Act on it, then `settle` it."""
        order = sorted(self._waiting.values(), key=lambda one: one.position)
        for waiting in order:
            chunk_id = waiting.manifest.chunk_id
            if chunk_id in self._named and self._is_next(waiting.manifest):
                if chunk_id in self._damaged:
                    return self._verdict(Fate.MISSING, waiting.manifest)
                if self._is_here(chunk_id):
                    return self._verdict(Fate.FOLDED, waiting.manifest)
        for waiting in order:
            if waiting.manifest.chunk_id not in self._named:
                verdict = self._judge_unnamed(waiting, now_s)
                if verdict is not None:
                    return verdict
        return self._find_missing(now_s)

    def settle(self, verdict: Verdict) -> None:
        """The verdict has been acted on: its chunk is decided on."""
        chunk_id = verdict.chunk_id
        self._waiting.pop(chunk_id, None)
        self._named.pop(chunk_id, None)
        self._damaged.discard(chunk_id)
        self.chains.decide(chunk_id, verdict.ends)

    def _verdict(self, fate: Fate, manifest: Manifest) -> Verdict:
        """On a chunk whose manifest is here, and which counts."""
        is_folded = fate is Fate.FOLDED
        gaps = () if is_folded else self._gaps(manifest)
        joints = joints_of(self.chains, manifest.ranges) if is_folded else ()
        return Verdict(fate, manifest.chunk_id, gaps, tuple(ends_of(manifest.ranges)), joints)

    def _is_next(self, manifest: Manifest) -> bool:
        return all(not at.prev or self.is_decided(at.prev) for at in manifest.ranges)

    def _judge_unnamed(self, waiting: _Waiting, now_s: float) -> Verdict | None:
        manifest = waiting.manifest
        if not self._has_heads or waiting.position >= self._heads_until:
            # It was written after the heads were read: they may be from before its lineage, or its commit.
            waiting.left_since_s = None
            return None
        is_all_read = self._read_to >= self._next_until  # so whoever follows it has named it
        left = False
        for at in manifest.ranges:
            head = self._heads.get(at.partition)
            is_left = head is None or head.lineage != at.lineage
            left = left or is_left
            if is_all_read and self._is_overtaken(at, None if is_left else head):
                return Verdict(Fate.ORPHANED, manifest.chunk_id)
        if not left:
            waiting.left_since_s = None
        elif waiting.left_since_s is None:
            waiting.left_since_s = now_s
        elif now_s - waiting.left_since_s >= self._timeout_s and is_all_read:
            return Verdict(Fate.UNCERTAIN, manifest.chunk_id, self._gaps(manifest))
        return None

    def _is_overtaken(self, at: PartitionRange, head: Head | None) -> bool:
        """Another chunk went on from `prev`, and the group's offset is not at `prev` again.

        `head`: of the same lineage. Where the group has left it, what was counted must hold these rows.
        """
        tip = self.chains.tip(at.partition, at.lineage)
        if tip is None or tip.chunk_id == at.prev or (at.prev and not self.is_decided(at.prev)):
            return False
        if head is None:
            return tip.to_offset >= at.to_offset
        return head.chunk_id != at.prev

    def _find_missing(self, now_s: float) -> Verdict | None:
        for chunk_id, named in self._named.items():
            if self._is_here(chunk_id) or self._is_left(chunk_id):
                continue
            is_before = self._begins_late and not any(
                self.chains.tip(*place) for place in named.ends
            )
            is_over = self._read_to >= named.until and (
                is_before or now_s - named.since_s >= self._timeout_s
            )
            if is_over and self._is_first(chunk_id, named):
                gaps = []
                for (partition, lineage), end in sorted(named.ends.items()):
                    tip = self.chains.tip(partition, lineage)
                    start = UNKNOWN if tip is None else tip.to_offset
                    gaps.append(Gap(partition, start, end))
                ends = tuple(End(*place, end) for place, end in named.ends.items())
                fate = Fate.BEFORE if is_before else Fate.MISSING
                return Verdict(fate, chunk_id, tuple(gaps), ends)
        return None

    def _is_first(self, chunk_id: str, named: _Named) -> bool:
        """No chunk that counts and lies before it in one of its lineages is still to be decided on."""
        return not any(
            other.ends.get(place, end) < end
            for place, end in named.ends.items()
            for other_id, other in self._named.items()
            if other_id != chunk_id
        )

    def _gaps(self, manifest: Manifest) -> tuple[Gap, ...]:
        return tuple(Gap(at.partition, at.from_offset, at.to_offset) for at in manifest.ranges)
