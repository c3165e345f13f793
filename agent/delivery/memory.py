"""Memory mode: fold at once; offsets follow the collector's acceptance of an export that holds them.

What was folded under an epoch that ended stays in the base; its uncommitted rows are read again by
whoever owns the partition next. That is what memory mode repeats, and all it repeats.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping

from agent.delivery.commit import Commit
from agent.delivery.outcome import Outcome, Position
from agent.fold.base import Fold
from agent.ingest.lineages import Chain
from agent.owner_thread import OwnerThread
from agent.types import Chunk, Json, Partition, Snapshot

#: Span ids then depend on the record's place alone, so re-reads repeat them.
MEMORY_LINEAGE = "memory"


class MemoryMode:
    """See `mode.Mode`. With no OTLP receiver configured, the fold stands for the acceptance."""

    chain: Chain | None = None
    exports_first: bool = True

    def __init__(self, fold: OwnerThread[Fold], commit: Commit) -> None:
        self.run_id = secrets.token_hex(8)
        self._fold = fold
        self._commit = commit

    async def open(self) -> None:
        pass

    def begin(self, epoch: int) -> None:
        self._commit.begin(epoch)

    def lineages(self, partitions: Iterable[Partition]) -> dict[Partition, str]:
        return dict.fromkeys(partitions, MEMORY_LINEAGE)

    def may_cut(self) -> bool:
        return True

    async def deliver(self, chunk: Chunk) -> Outcome | None:
        return await self._fold.call(lambda fold: _apply(fold, chunk))

    async def forget(self, partitions: Iterable[Partition]) -> None:
        gone = list(partitions)
        self._fold.call(lambda fold: fold.forget(gone))

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        return await self._fold.call(lambda fold: fold.export(now_ns, zeros=zeros))

    async def scrape(self, now_ns: int) -> Snapshot | None:
        return await self._fold.call(lambda fold: fold.snapshot(now_ns))

    def accepted(self, snapshot: Snapshot) -> None:
        self._fold.call(lambda fold: fold.accepted(snapshot))

    def positions_accepted(self, positions: Mapping[Partition, Position]) -> None:
        self._commit.accepted(dict(positions))

    async def finish(self) -> None:
        await self._commit.commit_now()

    def reasons(self) -> list[str]:
        return []

    def describe(self) -> Json:
        return {}

    def observe(self) -> None:
        pass

    async def close(self) -> None:
        pass


def _apply(fold: Fold, chunk: Chunk) -> Outcome:
    """Fold a chunk, then let the clock do what it must: idle partitions, waits that are over."""
    now_ns = time.time_ns()
    effects = fold.apply(chunk, now_ns)
    effects.add(fold.tick(now_ns))
    return Outcome(effects, {reason: n for reason, n in fold.tally.irregular.items() if n})
