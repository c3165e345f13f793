"""Delivery in memory mode: cut -> chunk -> fold -> export -> the collector's acceptance -> commit.

Invariants
 1. One task cuts and folds, one exports, one commits. Others only ask them; none waits for another,
    so neither a slow collector nor a coordinator that is away holds up what is not its own.
 2. Offsets are committed only for rows that an accepted export holds, and only under the epoch in
    which they were read. With no OTLP receiver configured, the fold stands for the acceptance.
 3. What was folded under an epoch that ended stays in the base; its uncommitted rows are read again
    by whoever owns the partition next. That is what memory mode repeats, and all it repeats.
 4. A collector that is slow or away delays commits, never cuts: the base keeps accumulating in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent.config import Config
from agent.emit.spans import count_unsampled
from agent.errors import FencedError, SourceError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.kernel_thread import KernelThread, Part
from agent.owner_thread import OwnerThread
from agent.sketch.delta import concat
from agent.state.chunk import merge_digest
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition

log = logging.getLogger(__name__)

Position = tuple[int, int]  # epoch, offset up to which rows are folded (exclusive)


@dataclass(slots=True)
class Folded:
    """What the loop remembers of the fold: enough to commit, to pause and to report."""

    positions: dict[Partition, Position] = field(default_factory=dict)
    n_chunks: int = 0
    newest_event_ms: int = -1


class CutAndFold:
    """The one task that cuts kernel threads and hands chunks to the fold.

    `on_folded` gets each chunk, the time of its cut (epoch ns) and what folding it brought about;
    `on_ahead` the partitions that are further ahead of the slowest than `windows.align_span_s`.
    """

    def __init__(
        self,
        config: Config,
        kernels: list[KernelThread],
        fold: OwnerThread[Fold],
        telemetry: Telemetry,
        *,
        run_id: str,
        on_folded: Callable[[Chunk, int, Effects], None],
        on_ahead: Callable[[set[Partition]], None],
    ) -> None:
        self._config = config
        self._kernels = kernels
        self._fold = fold
        self._telemetry = telemetry
        self._run_id = run_id
        self._digest = merge_digest(config)
        self._on_folded = on_folded
        self._on_ahead = on_ahead
        self._requests: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
        self.epoch = 0
        self.folded = Folded()

    def cut_soon(self) -> None:
        """A delta is full. Called on the loop."""
        if self._requests.empty():
            self._requests.put_nowait(None)

    async def cut_now(self) -> None:
        """Everything sketched before this call is folded when it returns."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(future)
        await future

    async def run(self) -> None:
        """Cut on the timer and on request, until cancelled."""
        interval_s = self._config.delivery.cut_interval_s
        next_at = time.monotonic() + interval_s
        waiting: list[asyncio.Future[None]] = []
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - time.monotonic())):
                    request = await self._requests.get()
                    if request is not None:
                        waiting.append(request)
            while not self._requests.empty():
                if (request := self._requests.get_nowait()) is not None:
                    waiting.append(request)
            next_at = time.monotonic() + interval_s
            await self._cut_and_fold()
            for request in waiting:
                if not request.done():
                    request.set_result(None)
            waiting.clear()

    async def _cut_and_fold(self) -> None:
        epoch, cut_ns = self.epoch, time.time_ns()
        futures = [kernel.cut() for kernel in self._kernels]
        parts = [await future for future in futures]
        if epoch != self.epoch:
            return  # the epoch ended while the threads answered: forget (state.md, invariant 5)
        for part in parts:
            count_unsampled(self._telemetry, part.unsampled)
        chunk = self._chunk(epoch, parts)
        effects, irregular = await self._fold.call(lambda fold: _apply(fold, chunk))
        self.folded.n_chunks += 1
        for at in chunk.ranges:
            self.folded.positions[at.partition] = (epoch, at.to_offset)
            self.folded.newest_event_ms = max(self.folded.newest_event_ms, at.max_event_time_ms)
        self._count(chunk, effects, irregular)
        self._hint(effects)
        self._on_ahead(self._ahead(chunk))
        self._on_folded(chunk, cut_ns, effects)

    def _chunk(self, epoch: int, parts: list[Part]) -> Chunk:
        self._telemetry.add("inferometer.cuts")
        return concat(
            parts,
            run_id=self._run_id,
            number=self.folded.n_chunks + 1,
            epoch=epoch,
            digest=self._digest,
        )

    def _count(self, chunk: Chunk, effects: Effects, irregular: dict[str, int]) -> None:
        count = self._telemetry
        tally = chunk.tally
        count.add("inferometer.chunks")
        count.add("inferometer.seals", len(effects.sealed))
        count.add("inferometer.records", tally.records)
        count.add("inferometer.events", tally.events)
        for tier, n in tally.rows_by_tier.items():
            count.add("inferometer.rows", n, tier=tier)
        for reason, n in tally.dropped.items():
            count.add("inferometer.dropped", n, reason=reason)
        for reason, n in irregular.items():  # totals: the fold decides which rows are late
            count.set("inferometer.irregular", n, reason=reason)

    def _hint(self, effects: Effects) -> None:
        if effects.sealed:
            for kernel in self._kernels:
                kernel.hint(effects.sealed_until, effects.slow_above_s)

    def _ahead(self, chunk: Chunk) -> set[Partition]:
        """Partitions whose event time runs ahead of the slowest one that still has rows to read."""
        clocks = {
            at.partition: at.max_event_time_ms
            for at in chunk.ranges
            if at.max_event_time_ms >= 0 and not at.caught_up
        }
        if not clocks:
            return set()
        limit_ms = min(clocks.values()) + self._config.windows.align_span_s * 1000
        return {partition for partition, clock in clocks.items() if clock > limit_ms}


def _apply(fold: Fold, chunk: Chunk) -> tuple[Effects, dict[str, int]]:
    """Fold a chunk, then let the clock do what it must: idle partitions, waits that are over.

    Returns the effects, and the totals of irregular rows by reason.
    """
    now_ns = time.time_ns()
    effects = fold.apply(chunk, now_ns)
    effects.add(fold.tick(now_ns))
    return effects, {reason: n for reason, n in fold.tally.irregular.items() if n}


class Export:
    """The one task that exports snapshots; tells `on_accepted` the positions that each one holds.

    `send(urgent) -> accepted` takes a snapshot of the base and delivers it to the collector; None
    when no receiver is configured: then what is folded counts as accepted. `hurry` makes a send in
    flight give up.
    """

    def __init__(
        self,
        interval_s: float,
        folded: Folded,
        send: Callable[[bool], Awaitable[bool]] | None,
        hurry: Callable[[], None],
        on_accepted: Callable[[dict[Partition, Position]], None],
    ) -> None:
        self._interval_s = interval_s
        self._folded = folded
        self._send = send
        self._hurry = hurry
        self._on_accepted = on_accepted
        self._requests: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()
        self._in_flight = False

    @property
    def is_pressed(self) -> bool:
        """Somebody waits for an urgent export: one that has not been sent yet should give way."""
        return not self._requests.empty()

    async def export_now(self) -> bool:
        """Export what is folded now, giving up an export in flight; True when the collector took it."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(future)
        if self._in_flight:
            self._hurry()
        return await future

    async def run(self) -> None:
        """Export on the timer and on request, until cancelled."""
        next_at = time.monotonic() + self._interval_s
        while True:
            waiting: list[asyncio.Future[bool]] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - time.monotonic())):
                    waiting.append(await self._requests.get())
            while not self._requests.empty():
                waiting.append(self._requests.get_nowait())
            next_at = time.monotonic() + self._interval_s
            accepted = await self._once(urgent=bool(waiting))
            for request in waiting:
                if not request.done():
                    request.set_result(accepted)

    async def _once(self, *, urgent: bool) -> bool:
        # Positions first: the snapshot is taken later, so it holds at least these.
        positions = dict(self._folded.positions)
        if self._send is not None:
            self._in_flight = not urgent
            try:
                if not await self._send(urgent):
                    return False
            finally:
                self._in_flight = False
        self._on_accepted(positions)
        return True


class Commit:
    """The one task that commits accepted positions: one commit in flight, the newest positions next.

    A coordinator that is away delays commits, and nothing else.
    """

    def __init__(
        self, commit: Callable[[int, dict[Partition, int]], Awaitable[dict[Partition, str]]]
    ) -> None:
        self._commit = commit
        self._accepted: dict[Partition, Position] = {}
        self._committed: dict[Partition, Position] = {}
        self._requests: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """An epoch begins: what was accepted under another is not to be committed any more."""
        self.epoch = epoch
        self._accepted.clear()
        self._committed.clear()

    def accepted(self, positions: dict[Partition, Position]) -> None:
        """An accepted export holds these positions."""
        self._accepted = positions
        if self._requests.empty():
            self._requests.put_nowait(None)

    async def commit_now(self) -> None:
        """Return when what has been accepted so far is committed, or could not be."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(future)
        await future

    async def run(self) -> None:
        """Commit when there is something new, until cancelled."""
        while True:
            waiting = [await self._requests.get()]
            while not self._requests.empty():
                waiting.append(self._requests.get_nowait())
            await self._once()
            for request in waiting:
                if request is not None and not request.done():
                    request.set_result(None)

    async def _once(self) -> None:
        epoch = self.epoch
        due = {
            partition: position
            for partition, position in self._accepted.items()
            if position[0] == epoch and self._committed.get(partition) != position
        }
        if not due:
            return
        try:
            refused = await self._commit(epoch, {partition: at[1] for partition, at in due.items()})
        except FencedError as error:
            log.warning("commit refused, the group has moved on: %s", error)
        except SourceError as error:
            log.warning("commit failed, tried again with the next export: %s", error)
        else:
            if epoch == self.epoch:
                self._committed.update(
                    {partition: at for partition, at in due.items() if partition not in refused}
                )
