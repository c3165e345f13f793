"""A shard's fold on its volume: what a batch does to it, and the position that rests on it.

Invariants
 1. Behind the journal's fsync a chunk is folded for good; before it, nothing shows that it was read. So a
    crash at any moment repeats and loses nothing: the journal says where to read on.
 2. One batch is one job of the fold thread, with one fsync at its end: whoever reads the fold there sees
    whole batches. Where that fsync fails nothing leaves until another succeeds (`delivery.kept`).
 3. The group confirms that the shard is ours before each batch (`guard.py`), and is told what the journal
    holds. A volume that holds less than that is not the one that was told of (`resume.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Final, NamedTuple, cast

from agent.aggregate.accept import UNKNOWN, Fate, Verdict
from agent.aggregate.guard import Guard
from agent.aggregate.intake import Fold as FoldChunk
from agent.aggregate.intake import Intake
from agent.aggregate.joints import report
from agent.aggregate.resume import Standing, Start, compare
from agent.aggregate.shard import Batch
from agent.aggregate.shard_log import ShardLog, judged, read_to
from agent.config import Config
from agent.delivery.kept import Kept
from agent.errors import SourceError, StateError
from agent.fold.effects import Effects
from agent.ingest.fence import Committed
from agent.judging import Folds
from agent.owner_thread import OwnerThread
from agent.state.chunk import to_bytes
from agent.state.entries import Answered, ChunkWritten, Forget, Noted, Renewed, Tick
from agent.state.recovery import Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Partition

log = logging.getLogger(__name__)

#: Between attempts to write the volume.
RETRY_S: Final = 1.0
#: Names of counters, by what became of a chunk.
_COUNTERS = {
    Fate.ORPHANED: "inferometer.chunks.orphaned",
    Fate.MISSING: "inferometer.chunks.missing",
    Fate.UNCERTAIN: "inferometer.chunks.uncertain",
}


class _Done(NamedTuple):
    effects: Effects
    irregular: dict[str, int]
    gone: list[Partition]
    trouble: str  # of the volume; "": all of it is durable


class ShardFold:
    """Opens the volume of a shard and folds batches into it. All methods belong to the loop."""

    def __init__(self, config: Config, group_id: str, folds: Folds, telemetry: Telemetry) -> None:
        """Lock the volume. Raises StateError."""
        self._config = config
        self._telemetry = telemetry
        self._log = ShardLog()
        path = config.aggregate.volume_path or ""
        self.volume = Volume(
            Path(path),
            Owner(
                group_id,
                (config.delivery.chunk_topic or "",),
                volume_option="aggregate.volume_path",
                group_option="the group of aggregate.group_id and aggregate.shard",
            ),
            self._log.codec(folds.make, folds.dump, folds.load),
            telemetry,
        )
        self.thread = OwnerThread("fold", folds.make(telemetry.start_ns))
        self.kept = Kept(
            self.volume,
            self.thread,
            telemetry,
            path=path,
            interval_s=config.delivery.snapshot_interval_s,
        )
        self.is_open = False
        self.may_join = asyncio.Event()  # the shard is not another volume's
        self._folded = 0  # chunks that the journal holds
        self._position = 0  # that the journal holds
        self._irregular_before: dict[str, int] = {}

    async def open(self, guard: Guard) -> Intake:
        """Read what a crash left, and find out whether the group was told of more.

        Raises StateError, ConfigError; FencedError when stopping.
        """
        found = await self.kept.open()
        await self.kept.call(_forget_unanswered)
        self._position, self._folded = self._log.position, self._log.folded
        runs = frozenset(self.volume.state.runs)
        standing = Standing(self._position, self._folded, runs, found.exact)
        # Before we join: a static member puts out the one that has the shard.
        self._compare(standing, await guard.look())
        self.may_join.set()
        start = self._compare(standing, await guard.committed())
        if start.lost:
            await self._begin_anew(start, guard)
        self._irregular_before = await self.thread.call(lambda fold: dict(fold.tally.irregular))
        self._telemetry.start_after(await self.thread.call(lambda fold: fold.time_ns))
        self.is_open = True
        # A copy: the log goes on with the journal, the intake is ahead of it.
        chains = self._log.chains
        return Intake(
            self._config.aggregate.shard,
            self._config.delivery.shards,
            max_bytes=self._config.aggregate.buffer_max_bytes,
            missing_timeout_s=self._config.aggregate.missing_timeout_s,
            chains=type(chains).from_bytes(chains.to_bytes()),
            position=self._position,
            begins_late=start.begins_late,
        )

    def _compare(self, standing: Standing, told: Committed | None) -> Start:
        try:
            return compare(standing, told)
        except StateError as error:
            raise StateError(f"{self._config.aggregate.volume_path}: {error}") from None

    async def _begin_anew(self, start: Start, guard: Guard) -> None:
        """Go on at the group's position. The group first: a crash in between comes here again."""
        self._telemetry.add("inferometer.state.fallbacks", reason=start.reason)
        log.warning(
            "%s: %s: what was folded before is not all here, and every series begins anew",
            self._config.aggregate.volume_path,
            start.lost,
        )
        await guard.confirm(start.position, self._folded)
        await self.kept.call(lambda volume: _begin_anew(volume, start))
        self._position = start.position

    def close(self) -> None:
        """Let go of volume and thread."""
        self.kept.close()
        self.thread.close(timeout_s=2.0)

    async def take(self, batch: Batch, guard: Guard) -> None:
        """Fold a batch for good. Raises SourceError when the shard is another's, FencedError when stopping."""
        await guard.confirm(self._position, self._folded)
        done = await self.kept.call(lambda volume: _take(volume, batch))
        trouble = done.trouble
        while trouble:  # it is taken; what is left is to write it
            self.kept.not_written(trouble)
            await asyncio.sleep(RETRY_S)
            trouble = await self.kept.call(_sync)
        self.kept.written()
        self._position = batch.oldest
        self._count(batch, done)
        await self.kept.snapshot_if_due()

    async def leave(self, guard: Guard, timeout_s: float) -> None:
        """Let the group know how far it is; that is of use when the volume is lost."""
        with contextlib.suppress(TimeoutError, SourceError):
            async with asyncio.timeout(timeout_s):
                await guard.confirm(self._position, self._folded)

    def _count(self, batch: Batch, done: _Done) -> None:
        add = self._telemetry.add
        n = sum(isinstance(what, FoldChunk) for what in batch.work)
        self._folded += n
        add("inferometer.chunks", n)
        add("inferometer.seals", len(done.effects.sealed))
        for reason, total in done.irregular.items():  # which rows are late is decided here
            before = self._irregular_before.get(reason, 0)
            self._telemetry.set("inferometer.irregular", total - before, reason=reason)
        if done.gone:
            names = ", ".join(f"{at.topic}/{at.partition}" for at in done.gone[:10])
            more = f" and {len(done.gone) - 10} more" if len(done.gone) > 10 else ""
            log.warning("windows wait no more for partitions that are gone: %s%s", names, more)
        for what in batch.work:
            if isinstance(what, Verdict):
                if what.fate in _COUNTERS:
                    add(_COUNTERS[what.fate])
                _announce(what)
            else:
                report(what.verdict.chunk_id, what.verdict.joints, self._telemetry)


def _announce(verdict: Verdict) -> None:
    if verdict.fate is Fate.ORPHANED:
        log.info(
            "chunk %s is an orphan and does not count: the group's offsets went on without it",
            verdict.chunk_id,
        )
        return
    if verdict.fate is Fate.BEFORE:
        log.info("chunk %s was folded before this volume was made", verdict.chunk_id)
        return
    where = ", ".join(
        f"{gap.partition.topic}/{gap.partition.partition} "
        f"[{'?' if gap.from_offset == UNKNOWN else gap.from_offset}, {gap.to_offset})"
        for gap in verdict.gaps
    )
    log.error(
        "chunk %s is %s: in no total: %s", verdict.chunk_id, verdict.fate, where or "unknown rows"
    )


# ---------------------------------------------------------------- on the fold thread


def _forget_unanswered(volume: Volume) -> None:
    """A chunk whose answer is in no file was never relied upon: the topic still has it."""
    chunk = volume.state.unanswered
    if chunk is not None:
        volume.take(Answered(chunk.number, False, [], time.time_ns()))


def _begin_anew(volume: Volume, start: Start) -> None:
    volume.take(Renewed(time.time_ns(), start.lost))
    volume.take(Noted(read_to(start.position)))
    volume.sync()


def _take(volume: Volume, batch: Batch) -> _Done:
    now_ns = time.time_ns()
    effects = Effects()
    for what in batch.work:
        if isinstance(what, FoldChunk):
            chunk = what.chunk
            volume.take(ChunkWritten(to_bytes(chunk)), chunk=chunk)
            answer = Answered(chunk.number, True, [], now_ns)
            effects.add(cast(Effects, volume.take(answer)))
        else:
            volume.take(Noted(judged(what)))
    volume.take(Noted(read_to(batch.oldest)))
    gone = _gone(volume, batch)
    if gone:
        volume.take(Forget(gone, heads=True))
    if batch.is_current:
        effects.add(cast(Effects, volume.take(Tick(now_ns))))
    irregular = {reason: n for reason, n in volume.fold.tally.irregular.items() if n}
    return _Done(effects, irregular, gone, _sync(volume))


def _gone(volume: Volume, batch: Batch) -> list[Partition]:
    """Partitions that no agent will speak for any more: they are not waited for.

    Not while there is something to read: a chunk would make them ours again.
    """
    if batch.there is None or not batch.is_current:
        return []
    return sorted(volume.fold.covers.keys() - batch.there)


def _sync(volume: Volume) -> str:
    """What keeps it from being durable; "": nothing."""
    try:
        volume.sync()
    except StateError as error:
        return str(error)
    return ""
