"""The one task that cuts kernel threads and gives chunks to the mode of delivery."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from agent.config import Config
from agent.delivery.alignment import ahead_of
from agent.delivery.outcome import Folded, Outcome
from agent.emit.spans import count_unsampled
from agent.fold.effects import Effects
from agent.kernel_thread import KernelThread, Part
from agent.sketch.delta import concat
from agent.state.chunk import merge_digest
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition

#: Gives a chunk of the epoch it names to a mode; None when it does not count, now or at all.
Deliver = Callable[[Chunk], Awaitable[Outcome | None]]


class Cutter:
    """Cuts on a timer and on request.

    `on_folded` gets each chunk that counts, the time of its cut (epoch ns) and what folding it brought
    about; `on_ahead` the partitions that are further ahead of the slowest than `windows.align_span_s`;
    `unheard` gives those that nothing has been heard of for long (`alignment.py`).
    `may_cut`: false while a chunk waits for its answer; the delta then grows in place.
    `turn`: asked right before kernel threads are cut; the shed bits of what they hold until then.
    """

    def __init__(
        self,
        config: Config,
        kernels: list[KernelThread],
        telemetry: Telemetry,
        *,
        run_id: str,
        deliver: Deliver,
        may_cut: Callable[[], bool],
        on_folded: Callable[[Chunk, int, Effects], None],
        on_ahead: Callable[[set[Partition]], None],
        unheard: Callable[[], Collection[Partition]],
        turn: Callable[[], int] = lambda: 0,
    ) -> None:
        self._config = config
        self._kernels = kernels
        self._telemetry = telemetry
        self._run_id = run_id
        self._digest = merge_digest(config)
        self._deliver = deliver
        self._may_cut = may_cut
        self._on_folded = on_folded
        self._on_ahead = on_ahead
        self._unheard = unheard
        self._turn = turn
        self._requests: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
        self._number = 0
        self.n_records = 0  # cut so far, those left out under overload included
        self.irregular_before: Mapping[str, int] = {}  # counted by processes before this one
        self.epoch = 0
        self.folded = Folded()

    def cut_soon(self) -> None:
        """A delta is full. Called on the loop."""
        if self._requests.empty():
            self._requests.put_nowait(None)

    async def cut_now(self) -> None:
        """Everything sketched before this call is folded when it returns, or cannot count any more."""
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
            if self._may_cut():
                await self._cut()
            for request in waiting:
                if not request.done():
                    request.set_result(None)
            waiting.clear()

    async def _cut(self) -> None:
        epoch, cut_ns = self.epoch, time.time_ns()
        shed_bits = self._turn()
        futures = [kernel.cut() for kernel in self._kernels]
        parts = [await future for future in futures]
        if epoch != self.epoch:
            return  # the epoch ended while the threads answered: forget (state.md, invariant 5)
        for part in parts:
            count_unsampled(self._telemetry, part.unsampled)
        windows = self._config.windows
        ranges = [at for part in parts for at in part.ranges]
        self._on_ahead(ahead_of(ranges, self._unheard(), windows.align_span_s * 1000))
        chunk = self._chunk(epoch, parts)
        chunk.shed_bits = shed_bits
        self.n_records += chunk.tally.records
        outcome = await self._deliver(chunk)
        if outcome is not None:
            self.take(chunk, cut_ns, outcome)

    def take(self, chunk: Chunk, cut_ns: int, outcome: Outcome) -> None:
        """Count what a cut brought about, tell the kernel threads and `on_folded`."""
        self._telemetry.add("inferometer.seals", len(outcome.effects.sealed))
        for reason, n in outcome.irregular.items():  # totals: the fold decides which rows are late
            n -= self.irregular_before.get(reason, 0)
            self._telemetry.set("inferometer.irregular", n, reason=reason)
        self.hint(outcome.effects)
        if not outcome.is_folded:
            return
        self.folded.n_chunks += 1
        for at in chunk.ranges:
            self.folded.positions[at.partition] = (chunk.epoch, at.to_offset)
            self.folded.newest_event_ms = max(self.folded.newest_event_ms, at.max_event_time_ms)
        self._count(chunk)
        self._on_folded(chunk, cut_ns, outcome.effects)

    def _chunk(self, epoch: int, parts: list[Part]) -> Chunk:
        self._telemetry.add("inferometer.cuts")
        self._number += 1  # also of chunks that never count: an id is used once
        return concat(
            parts, run_id=self._run_id, number=self._number, epoch=epoch, digest=self._digest
        )

    def _count(self, chunk: Chunk) -> None:
        count = self._telemetry
        tally = chunk.tally
        count.add("inferometer.chunks")
        count.add("inferometer.records", tally.records)
        count.add("inferometer.events", tally.events)
        for tier, n in tally.rows_by_tier.items():
            count.add("inferometer.rows", n, tier=tier)
        for reason, n in tally.dropped.items():
            count.add("inferometer.dropped", n, reason=reason)

    def hint(self, effects: Effects) -> None:
        """Tell the kernel threads what has been sealed."""
        if effects.sealed:
            for kernel in self._kernels:
                kernel.hint(effects.sealed_until, effects.slow_above_s)
