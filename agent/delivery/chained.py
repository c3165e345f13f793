"""Chunks that count by the group's offsets: what volume mode and fleet mode have in common.

Invariants
 1. At most one chunk is unanswered. After an answer that is not clear nothing is cut until the epoch ends:
    the group's offsets will tell.
 2. A chunk counts whole as soon as the offset of one of its partitions is accepted. So it is committed again
    until all that exist are: whoever began at an older offset of another would count its rows again.
 3. `prev` and what begins an epoch are heads that count: from the group's offsets or the journal when the
    epoch begins, from an accepted commit of this epoch later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

from agent.config import Windows
from agent.delivery.outcome import Position
from agent.errors import FencedError, SourceError, UnsentError
from agent.ingest.announcer import Announcer
from agent.ingest.fence import UNKNOWN_PARTITION
from agent.state.heads import Head, head_of, new_id
from agent.types import Chunk, Partition

log = logging.getLogger(__name__)

#: Between attempts to commit where the group may not be used, or to write what cannot be written.
RETRY_S: Final = 1.0
#: A chunk without a row is committed this often, for its word that partitions are caught up; sooner where
#: that word counts for a shorter time.
IDLE_EVERY_S: Final = 5.0
_WORDS: Final = 3  # in `windows.owner_timeout_s`
#: A partition that was made just now may be unknown to the coordinator for a moment; after so many answers
#: it has been deleted.
GONE_ANSWERS: Final = 3
SAY_EVERY_S: Final = 10.0

Commit = Callable[
    [int, Mapping[Partition, int], Mapping[Partition, str]], Awaitable[Mapping[Partition, str]]
]


class Chained:
    """The epoch's heads, and the one commit that makes a chunk count. On the loop."""

    exports_first: bool = False

    def __init__(self, run_id: str, commit: Commit, windows: Windows) -> None:
        self.run_id = run_id
        self._idle_every_s = min(IDLE_EVERY_S, windows.owner_timeout_s / _WORDS)
        self._commit = commit
        self._epoch = 0
        self._ended = asyncio.Event()  # the epoch's
        self._heads: dict[Partition, Head] = {}  # of the epoch
        self._unclear_epoch = 0  # whose last commit had no clear answer
        self._idle_at = 0.0
        self._caught_up: tuple[bool, ...] = ()
        self._trouble = ""
        self._announcer = Announcer(SAY_EVERY_S)

    # -- epochs

    def begin(self, epoch: int) -> None:
        self._ended.set()
        self._ended = asyncio.Event()
        self._epoch = epoch
        self._idle_at = 0.0
        self._trouble = ""  # of the epoch before

    def lineages(self, partitions: Iterable[Partition]) -> dict[Partition, str]:
        return {partition: self._heads[partition].lineage for partition in partitions}

    def is_genesis(self, metadata: str) -> bool:
        """See `ingest.lineages.Chain`."""
        head = head_of(0, metadata)
        return head is not None and head.number == 0

    def _heads_at(
        self, offsets: Mapping[Partition, int], known: Mapping[Partition, Head]
    ) -> dict[Partition, Head]:
        """Heads of an epoch that begins at these offsets: what is known, or the genesis of a lineage."""
        heads = {}
        for partition, offset in offsets.items():
            head = known.get(partition)
            if head is None or head.offset != offset:
                head = Head(new_id(), offset, self.run_id, 0)
            heads[partition] = head
        return heads

    # -- chunks

    def may_cut(self) -> bool:
        return not self._unclear_epoch or self._unclear_epoch != self._epoch

    def _is_idle(self, chunk: Chunk) -> bool:
        """Nothing was read, and nothing new is said of what there is to read."""
        caught_up = tuple(at.caught_up for at in chunk.ranges)
        is_empty = chunk.tally.records == 0 and all(
            at.to_offset == at.from_offset for at in chunk.ranges
        )
        now = time.monotonic()
        if is_empty and caught_up == self._caught_up and now < self._idle_at:
            return True
        self._caught_up = caught_up
        self._idle_at = now + self._idle_every_s
        return False

    def _link(self, chunk: Chunk) -> None:
        """Name the chunks before it, in place."""
        for at in chunk.ranges:
            at.prev = self._heads[at.partition].chunk_id

    def _counts(self, chunk: Chunk) -> None:
        """It was accepted: the next one follows it."""
        if chunk.epoch == self._epoch:
            self._heads |= heads_of(chunk)

    async def _commit_chunk(self, chunk: Chunk) -> Collection[Partition]:
        """One commit for all its partitions, the same bytes until it is accepted for all that exist.

        Returns the deleted ones, whose offset was refused alone. Raises UnsentError when it cannot count any more, FencedError when the group's offsets must tell.
        """
        heads, ended = heads_of(chunk), self._ended
        offsets = {partition: head.offset for partition, head in heads.items()}
        metadata = {partition: head.metadata for partition, head in heads.items()}
        may_be_sent = False
        n_answers = 0
        while True:
            try:
                refused = await self._commit(chunk.epoch, offsets, metadata)
            except FencedError as error:
                if isinstance(error, UnsentError) and not may_be_sent:
                    log.info("chunk %d is forgotten: %s", chunk.number, error)
                    raise
                log.warning("chunk %d: %s; the group's offsets will tell", chunk.number, error)
                self._unclear_epoch = chunk.epoch
                if isinstance(
                    error, UnsentError
                ):  # this time; an attempt before it may have arrived
                    raise FencedError(str(error)) from None
                raise
            except SourceError as error:
                self._say(str(error))
            else:
                n_answers += 1
                again = _asked_again(refused, len(heads), n_answers)
                if not again:
                    self._trouble = ""
                    return list(refused)
                some = ", ".join(f"{p.topic}/{p.partition}: {why}" for p, why in again.items())
                self._say(f"offsets of a chunk are refused, and committed again: {some}")
            may_be_sent = True
            await pause(ended)

    # -- what others see

    def positions_accepted(self, positions: Mapping[Partition, Position]) -> None:
        """Commits do not wait for exports here."""

    def reasons(self) -> list[str]:
        return [self._trouble] if self._trouble else []

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        if self._announcer.may_say("trouble"):
            log.error("%s", trouble)


def heads_of(chunk: Chunk) -> dict[Partition, Head]:
    """Where the chunk's partitions stand once it counts."""
    return {
        at.partition: Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
        for at in chunk.ranges
    }


def _asked_again(
    refused: Mapping[Partition, str], n_partitions: int, n_answers: int
) -> Mapping[Partition, str]:
    """All but deleted partitions. Refused for each of its partitions a chunk counts nowhere yet."""
    if len(refused) == n_partitions or n_answers < GONE_ANSWERS:
        return refused
    return {partition: why for partition, why in refused.items() if why != UNKNOWN_PARTITION}


async def pause(ended: asyncio.Event) -> None:
    """`RETRY_S`, or until the epoch ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETRY_S):
            await ended.wait()
