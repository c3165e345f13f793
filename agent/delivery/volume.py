"""Volume mode: journal, commit, fold. A crash loses nothing and repeats nothing.

Invariants
 1. A chunk is committed only when it is durable, and folded only when its commit was accepted.
 2. At most one chunk is unanswered. Whatever its commit came to, the group's offsets have the last word,
    at the next assignment (`place` in `assign.py`).
 3. Nothing leaves that rests on an entry that is not durable.
 4. A volume that cannot be written holds up commits, never the process: the delta grows up to its limit,
    then partitions pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from agent.config import Config
from agent.delivery.assign import OffsetAndMetadata, Plan, Verdict, announce, judge, plan
from agent.delivery.cut import Outcome, Position
from agent.errors import FencedError, SourceError, StateError, UnsentError
from agent.fold import persist
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.ingest.lineages import Chain, Place
from agent.owner_thread import OwnerThread
from agent.state.chunk import to_bytes
from agent.state.entries import Accepted, Answered, Assigned, ChunkWritten, Forget, Renewed, Tick
from agent.state.heads import Head, head_of, new_id
from agent.state.recovery import FoldCodec, Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Chunk, Json, Partition, Snapshot

log = logging.getLogger(__name__)

#: Between attempts to write the volume, or to commit where the group may not be used.
RETRY_S = 1.0
SAY_EVERY_S = 10.0
#: A cut without a row is committed this often, for its word that partitions are caught up.
IDLE_EVERY_S = 5.0
#: A snapshot is taken sooner when a restart would have to work this long (processor time).
REPLAY_S = 0.8

T = TypeVar("T")
Commit = Callable[
    [int, Mapping[Partition, int], Mapping[Partition, str]], Awaitable[Mapping[Partition, str]]
]


def open_volume(config: Config, telemetry: Telemetry) -> Volume:
    """Lock the volume of this configuration. Raises StateError."""
    kafka = config.kafka
    topics = [kafka.topic_pattern] if kafka.topic_pattern else kafka.topics
    return Volume(
        Path(config.delivery.volume_path or ""),
        Owner(kafka.group_id, tuple(topics)),
        FoldCodec(
            make=lambda start_ns: Fold(config, start_ns=start_ns),
            dump=persist.dump,
            load=lambda data: persist.load(config, data),
        ),
        telemetry,
    )


class VolumeMode:
    """See `mode.Mode`, and `ingest.lineages.Chain`. The volume is used on the fold thread alone."""

    exports_first: bool = False

    def __init__(
        self,
        config: Config,
        volume: Volume,
        fold: OwnerThread[Fold],
        commit: Commit,
        telemetry: Telemetry,
    ) -> None:
        self.chain: Chain | None = self
        self.run_id = volume.run_id
        self._config = config.delivery
        self._volume = volume
        self._fold = fold
        self._commit = commit
        self._telemetry = telemetry
        self._epoch = 0
        self._epoch_changed = asyncio.Event()
        self._heads: dict[Partition, Head] = {}  # of the epoch
        self._plan = Plan()
        self._unclear_epoch = 0  # whose last commit had no clear answer
        self._idle_at = 0.0
        self._caught_up: tuple[bool, ...] = ()
        self._snapshot_at = 0.0
        self._trouble = ""
        self._said_at = 0.0

    def _on_volume(self, function: Callable[[Volume], T]) -> asyncio.Future[T]:
        return self._fold.call(lambda _: function(self._volume))

    # -- life

    async def open(self) -> None:
        """Read snapshot and journal, on the fold thread. Raises StateError, ConfigError."""
        started = time.monotonic()

        def read() -> Fold:
            found = self._volume.open()
            log.info(
                "%s: %s, %d entries of the journal folded, in %.2f s",
                self._config.volume_path,
                "a new volume" if found.is_new else f"run {len(self._volume.state.runs)}",
                found.n_replayed,
                time.monotonic() - started,
            )
            return self._volume.fold

        await self._fold.replace(read)
        self._snapshot_at = time.monotonic() + self._config.snapshot_interval_s

    async def finish(self) -> None:
        """A snapshot, so that the next start has nothing to fold again."""
        await self._snapshot()

    def close(self) -> None:
        self._fold.call(lambda _: self._volume.close())

    # -- epochs

    def begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._idle_at = 0.0
        self._epoch_changed.set()
        self._epoch_changed = asyncio.Event()

    def lineages(self, partitions: Iterable[Partition]) -> dict[Partition, str]:
        return {partition: self._heads[partition].lineage for partition in partitions}

    async def forget(self, partitions: Iterable[Partition]) -> None:
        gone = sorted(partitions)
        await self._on_volume(lambda volume: volume.take(Forget(gone)))

    # -- starts: `ingest.lineages.Chain`

    async def settle(
        self, wanted: Collection[Partition], committed: Mapping[Partition, tuple[int, str]]
    ) -> Mapping[Partition, Place]:
        """See `Chain`, and the table of `assign.py`. Raises StateError."""
        offsets = {partition: OffsetAndMetadata(*at) for partition, at in committed.items()}
        known, made = await self._on_volume(lambda volume: self._settle(volume, wanted, offsets))
        self._plan = made
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
        if made.missing and known:
            volume.take(Renewed(time.time_ns(), "the group's offsets are beyond the journal"))
        volume.sync()
        return known, made

    async def place(self, epoch: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        """See `Chain`. Raises StateError."""
        heads = {}
        for partition, offset in offsets.items():
            head = self._plan.heads.get(partition)
            if head is None or head.offset != offset:
                head = Head(new_id(), offset, self.run_id, 0)
            heads[partition] = head

        def write(volume: Volume) -> None:
            news = [(p, h) for p, h in sorted(heads.items()) if volume.state.heads.get(p) != h]
            if news:
                volume.take(Assigned(epoch, news), sync=True)

        await self._on_volume(write)
        self._heads = heads
        return {partition: head.metadata for partition, head in heads.items()}

    def is_genesis(self, metadata: str) -> bool:
        """See `Chain`."""
        head = head_of(0, metadata)
        return head is not None and head.number == 0

    # -- chunks

    def may_cut(self) -> bool:
        return not self._unclear_epoch or self._unclear_epoch != self._epoch

    async def deliver(self, chunk: Chunk) -> Outcome | None:
        """Write, commit, fold. None: the chunk does not count, or the next assignment will say."""
        if not chunk.ranges or self._is_idle(chunk):
            return await self._on_volume(_tick)
        if chunk.epoch != self._epoch:
            return None
        for at in chunk.ranges:
            at.prev = self._heads[at.partition].chunk_id
        if not await self._write(chunk):
            return None
        refused = await self._commit_chunk(chunk)
        if refused is None:
            return None
        outcome = await self._on_volume(lambda volume: _answer(volume, chunk, True, refused))
        if outcome is not None and chunk.epoch == self._epoch:
            self._heads |= heads_of(chunk)
        await self._snapshot_if_due()
        return outcome

    def _is_idle(self, chunk: Chunk) -> bool:
        """Nothing was read, and nothing new is said of what there is to read."""
        caught_up = tuple(at.caught_up for at in chunk.ranges)
        is_empty = chunk.tally.records == 0 and not any(
            at.to_offset > at.from_offset for at in chunk.ranges
        )
        now = time.monotonic()
        if is_empty and caught_up == self._caught_up and now < self._idle_at:
            return True
        self._caught_up = caught_up
        self._idle_at = now + IDLE_EVERY_S
        return False

    async def _write(self, chunk: Chunk) -> bool:
        """The chunk is durable; False when its epoch ended first."""

        def write(volume: Volume) -> None:
            volume.take(ChunkWritten(to_bytes(chunk)), chunk=chunk, sync=True)

        step: Callable[[Volume], None] = write
        while True:
            try:
                await self._on_volume(step)
            except StateError as error:
                self._say(str(error))
            else:
                self._trouble = ""
                return True
            step = Volume.sync  # it is taken; what is left is to write it
            await self._pause()
            if chunk.epoch != self._epoch:
                await self._on_volume(lambda volume: _answer(volume, chunk, False, ()))
                return False

    async def _commit_chunk(self, chunk: Chunk) -> Collection[Partition] | None:
        """Partitions refused alone; None when the chunk does not count, or its answer is not clear."""
        heads = heads_of(chunk)
        offsets = {partition: head.offset for partition, head in heads.items()}
        metadata = {partition: head.metadata for partition, head in heads.items()}
        while True:
            try:
                return list(await self._commit(chunk.epoch, offsets, metadata))
            except UnsentError as error:
                log.info("chunk %d is forgotten: %s", chunk.number, error)
                await self._on_volume(lambda volume: _answer(volume, chunk, False, ()))
                return None
            except FencedError as error:
                log.warning("chunk %d: %s; the group's offsets will tell", chunk.number, error)
                self._unclear_epoch = chunk.epoch
                return None
            except SourceError as error:
                self._say(str(error))
                await self._pause()

    async def _pause(self) -> None:
        """`RETRY_S`, or until the epoch ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._epoch_changed.wait()

    # -- snapshots

    async def _snapshot_if_due(self) -> None:
        is_long = self._volume.replay_s >= REPLAY_S
        if is_long or time.monotonic() >= self._snapshot_at:
            await self._snapshot()

    async def _snapshot(self) -> None:
        self._snapshot_at = time.monotonic() + self._config.snapshot_interval_s
        try:
            await self._on_volume(Volume.snapshot)
        except StateError as error:
            self._say(str(error))

    # -- what leaves

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        """None while the volume cannot be written: a crash would take back what left."""
        try:
            return await self._on_volume(lambda volume: volume.export(now_ns, zeros=zeros))
        except StateError as error:
            self._say(str(error))
            return None

    def accepted(self, snapshot: Snapshot) -> None:
        time_ns = snapshot.time_ns
        self._on_volume(lambda volume: volume.take(Accepted(time_ns)))

    def positions_accepted(self, positions: Mapping[Partition, Position]) -> None:
        """Commits do not wait for exports here."""

    # -- what others see

    def reasons(self) -> list[str]:
        return [self._trouble] if self._trouble else []

    def describe(self) -> Json:
        return {
            "volume": {
                "path": self._config.volume_path,
                "run_id": self.run_id,
                "runs": len(self._volume.state.runs),
                "journal_bytes": self._volume.bytes_since_snapshot,
                "snapshot_age_s": self._snapshot_age_s(),
                "trouble": self._trouble or None,
            }
        }

    def observe(self) -> None:
        age_s = self._snapshot_age_s()
        if age_s is not None:
            self._telemetry.set("inferometer.snapshot.age", age_s)

    def _snapshot_age_s(self) -> float | None:
        taken_ns = self._volume.snapshot_ns
        return round((time.time_ns() - taken_ns) / 1e9, 3) if taken_ns else None

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        now = time.monotonic()
        if now >= self._said_at + SAY_EVERY_S:
            self._said_at = now
            log.error("%s", trouble)


def heads_of(chunk: Chunk) -> dict[Partition, Head]:
    """Where the chunk's partitions stand once it counts."""
    return {
        at.partition: Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
        for at in chunk.ranges
    }


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
    return _ticked(volume, effects, now_ns, is_folded=True)


def _tick(volume: Volume) -> Outcome:
    return _ticked(volume, Effects(), time.time_ns(), is_folded=False)


def _ticked(volume: Volume, effects: Effects, now_ns: int, *, is_folded: bool) -> Outcome:
    """Let the clock do what it must. What was folded and sealed is durable before anybody sees it."""
    effects.add(cast(Effects, volume.take(Tick(now_ns))))
    if effects.sealed or is_folded:
        with contextlib.suppress(StateError):  # the next chunk waits for the disk, and says so
            volume.sync()
    irregular = {reason: n for reason, n in volume.fold.tally.irregular.items() if n}
    return Outcome(effects, irregular, is_folded)
