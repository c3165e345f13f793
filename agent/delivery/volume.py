"""Volume mode: journal, commit, fold. A crash loses nothing and repeats nothing.

Invariants
 1. A chunk is committed only when it is durable, and folded only when its commit was accepted.
 2. Whatever the commit of the one unanswered chunk came to, the group's offsets have the last word, at the
    next assignment (`assign.py`).
 3. Nothing of the fold leaves before the first assignment has compared the journal with the group's
    offsets: a volume that was set back is found out there, and holds less than what left under its start
    times.
 4. A volume that cannot be written holds up commits, never the process: the delta grows up to its limit,
    then partitions pause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from agent.config import Config
from agent.delivery.assign import (
    OffsetAndMetadata,
    Plan,
    Verdict,
    announce,
    judge,
    oldest_of_gone,
    plan,
)
from agent.delivery.chained import Chained, Commit, pause
from agent.delivery.kept import Kept, ticked
from agent.delivery.outcome import Outcome
from agent.errors import FencedError, StateError, UnsentError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.ingest.lineages import Chain, Place
from agent.owner_thread import OwnerThread
from agent.state.chunk import to_bytes
from agent.state.entries import Answered, Assigned, ChunkWritten, Forget, Renewed
from agent.state.heads import Head
from agent.state.recovery import FoldCodec, Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Chunk, Json, Partition, Snapshot

log = logging.getLogger(__name__)

_UNSETTLED: Final = (
    "inference.* is withheld until the volume has been compared with the group's offsets"
)


def open_volume(config: Config, codec: FoldCodec, telemetry: Telemetry) -> Volume:
    """Lock the volume of this configuration. Raises StateError."""
    kafka = config.kafka
    topics = [kafka.topic_pattern] if kafka.topic_pattern else kafka.topics
    return Volume(
        Path(config.delivery.volume_path or ""),
        Owner(kafka.group_id, tuple(topics)),
        codec,
        telemetry,
    )


class VolumeMode(Chained):
    """See `mode.Mode`, and `ingest.lineages.Chain`. The volume is used on the fold thread alone."""

    def __init__(
        self,
        config: Config,
        volume: Volume,
        fold: OwnerThread[Fold],
        commit: Commit,
        telemetry: Telemetry,
    ) -> None:
        super().__init__(volume.run_id, commit, config.windows)
        self.chain: Chain | None = self
        self._telemetry = telemetry
        self._kept = Kept(
            volume,
            fold,
            telemetry,
            path=config.delivery.volume_path or "",
            interval_s=config.delivery.snapshot_interval_s,
        )
        self._plan = Plan()
        self._is_settled = False  # by an assignment of this process

    # -- life

    async def open(self) -> None:
        """Read snapshot and journal, on the fold thread. Raises StateError, ConfigError."""
        await self._kept.open()

    async def finish(self) -> None:
        """A snapshot, so that the next start has nothing to fold again."""
        await self._kept.snapshot()

    async def close(self) -> None:
        self._ended.set()
        self._kept.close()

    async def forget(self, partitions: Iterable[Partition]) -> None:
        gone = sorted(partitions)
        await self._kept.call(lambda volume: volume.take(Forget(gone)))

    # -- starts: `ingest.lineages.Chain`

    async def settle(
        self, wanted: Collection[Partition], committed: Mapping[Partition, tuple[int, str]]
    ) -> Mapping[Partition, Place]:
        """See `Chain`, and the table of `assign.py`. Raises StateError."""
        offsets = {partition: OffsetAndMetadata(*at) for partition, at in committed.items()}
        known, made = await self._kept.call(lambda volume: self._settle(volume, wanted, offsets))
        self._plan = made
        self._is_settled = True
        announce(made, self._telemetry, is_new=not known)
        places = {
            partition: Place(head.offset, partition in made.committed)
            for partition, head in made.heads.items()
        }
        return places | {partition: Place(at, False) for partition, at in made.fresh.items()}

    def _settle(
        self,
        volume: Volume,
        wanted: Collection[Partition],
        offsets: Mapping[Partition, OffsetAndMetadata],
    ) -> tuple[dict[Partition, Head], Plan]:
        """On the fold thread. Returns what the journal knew, and the plan."""
        volume.sync()
        state = volume.state
        if (chunk := state.unanswered) is not None:
            verdict = judge(chunk, state.heads, offsets)
            is_ours = verdict is Verdict.ACCEPTED
            volume.take(Answered(chunk.number, is_ours, [], time.time_ns()))
            if is_ours:
                log.info("chunk %s;%d had been committed: folded", chunk.run_id, chunk.number)
            else:
                self._telemetry.add(f"inferometer.chunks.{verdict.value}")
                log.warning(
                    "chunk %s;%d (%d rows) had not been committed (%s): its rows are read again",
                    chunk.run_id,
                    chunk.number,
                    chunk.tally.rows,
                    verdict.value,
                )
        known = dict(state.heads)
        made = plan(wanted, known, state.runs, offsets)
        # A crash left them as ours; their topic may be deleted, or taken out, and nobody revokes them.
        if gone := sorted(known.keys() - set(wanted)):
            volume.take(Forget(gone))
        if old := oldest_of_gone(known, state.runs, wanted, offsets):
            volume.take(Forget(old, heads=True))
        if made.missing:  # also where no partition is known: the fold may be an older life's
            volume.take(Renewed(time.time_ns(), "the group's offsets are beyond the journal"))
        volume.sync()
        return known, made

    async def place(self, epoch: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        """See `Chain`. Raises StateError."""
        heads = self._heads_at(offsets, self._plan.heads)

        def write(volume: Volume) -> None:
            news = [(p, h) for p, h in sorted(heads.items()) if volume.state.heads.get(p) != h]
            if news:
                volume.take(Assigned(epoch, news), sync=True)

        await self._kept.call(write)
        self._heads = heads
        return {partition: head.metadata for partition, head in heads.items()}

    # -- chunks

    async def deliver(self, chunk: Chunk) -> Outcome | None:
        """Write, commit, fold. None: the chunk does not count, or the next assignment will say."""
        if not chunk.ranges or self._is_idle(chunk):
            return await self._kept.call(_tick)
        if chunk.epoch != self._epoch:
            return None
        self._link(chunk)
        if not await self._write(chunk):
            return None
        try:
            refused = await self._commit_chunk(chunk)
        except UnsentError:
            await self._kept.call(lambda volume: _answer(volume, chunk, False, ()))
            return None
        except FencedError:
            return None
        outcome = await self._kept.call(lambda volume: _answer(volume, chunk, True, refused))
        if outcome is not None:
            self._counts(chunk)
        await self._kept.snapshot_if_due()
        return outcome

    async def _write(self, chunk: Chunk) -> bool:
        """The chunk is durable; False when its epoch ended first."""

        def write(volume: Volume) -> None:
            volume.take(ChunkWritten(to_bytes(chunk)), chunk=chunk, sync=True)

        step: Callable[[Volume], None] = write
        ended = self._ended
        while True:
            try:
                await self._kept.call(step)
            except StateError as error:
                self._kept.not_written(str(error))
            else:
                self._kept.written()
                return True
            step = Volume.sync  # it is taken; what is left is to write it
            await pause(ended)
            if chunk.epoch != self._epoch:
                await self._kept.call(lambda volume: _answer(volume, chunk, False, ()))
                return False

    # -- what leaves, and what others see

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        if not self._is_settled:
            return Snapshot(now_ns, [], {})
        return await self._kept.export(now_ns, zeros=zeros)

    async def scrape(self, now_ns: int) -> Snapshot | None:
        return await self._kept.scrape(now_ns) if self._is_settled else None

    def accepted(self, snapshot: Snapshot) -> None:
        if self._is_settled:
            self._kept.accepted(snapshot)

    def reasons(self) -> list[str]:
        waits = "" if self._is_settled else _UNSETTLED
        return [trouble for trouble in (waits, self._kept.trouble, self._trouble) if trouble]

    def describe(self) -> Json:
        return {"volume": self._kept.describe()}

    def observe(self) -> None:
        self._kept.observe()


# ---------------------------------------------------------------- on the fold thread


def _answer(
    volume: Volume, chunk: Chunk, accepted: bool, refused: Iterable[Partition]
) -> Outcome | None:
    """The group's word on a chunk; None when it is refused, or was answered by its heads already."""
    waiting = volume.state.unanswered
    if waiting is None or (waiting.run_id, waiting.number) != (chunk.run_id, chunk.number):
        return None
    now_ns = time.time_ns()
    answer = Answered(chunk.number, accepted, sorted(refused), now_ns)
    effects = cast(Effects | None, volume.take(answer))
    if effects is None:
        return None
    return ticked(volume, effects, now_ns, is_folded=True)


def _tick(volume: Volume) -> Outcome:
    return ticked(volume, Effects(), time.time_ns(), is_folded=False)
