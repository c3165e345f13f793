"""A kernel thread: decodes and sketches its partitions, and hands over its delta at a cut.

Invariants
 1. It alone touches its stream table, decoder, sampler and delta.
 2. A fetch of another epoch than the open one is dropped unread; its bytes are given back.
 3. Offsets extend only after the rows up to them are in the delta, or counted as dropped.
 4. Control messages (open, cut, hints, stop) overtake fetches that still wait, and are obeyed
    between two slices of a fetch. A cut is by offset, so it may fall inside a fetch.
 5. A full delta stops decoding until the next cut; the fetches that wait are bounded by the source.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.config import Config
from agent.decode.events import SLICE_VALUES, Decoded
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.spans import SpanSampler
from agent.sketch.delta import Delta
from agent.sketch.packed import PackedCells
from agent.sketch.pair_scorer import Tables
from agent.thread_name import show_thread_name
from agent.types import (
    Drop,
    Exemplar,
    Fetch,
    Group,
    Partition,
    PartitionRange,
    RawFetch,
    Record,
    RequestSpan,
    StreamKey,
    Tally,
)

log = logging.getLogger(__name__)

#: Stream tables past this many keys or lanes start afresh at a cut: they are caches, not state.
MAX_KNOWN_STREAMS = 4096
MAX_KNOWN_LANES = 50_000
#: While a slice makes the delta grow by this much, slices are short, so that the delta's limit is kept
#: closely; a stream of known columns soon has long ones, which cost less.
FAST_GROWTH_BYTES = 4 << 20
SHORT_SLICE_VALUES = 1024
#: Rows after each cut that are all compared in pairs; of further ones a part, so that it stays cheap.
PAIRED_ROWS = 1_024
#: A partition is caught up only while its source says so: it does, about once a second, as long as the
#: broker answers. A silent broker must not look like a topic without events.
WORD_HOLDS_NS = 5_000_000_000


@dataclass(slots=True)
class Part:
    """What one kernel thread contributes to a chunk."""

    groups: list[Group]
    numeric: PackedCells
    strings: PackedCells
    ranges: list[PartitionRange]
    tally: Tally
    spans: list[RequestSpan]
    exemplars: list[Exemplar]
    unsampled: Counter[tuple[str, str]]  # (outcome, why) of request spans that were not kept


@dataclass(slots=True)
class _Open:
    epoch: int
    offsets: dict[Partition, int]
    lineages: dict[Partition, str]


@dataclass(slots=True)
class _Close:
    pass


@dataclass(slots=True)
class _Cut:
    future: asyncio.Future[Part]


@dataclass(slots=True)
class _Hints:
    sealed_until: int
    slow_above_s: dict[StreamKey, float]


@dataclass(slots=True)
class _Stop:
    pass


@dataclass(slots=True)
class _Progress:
    """Where one owned partition stands since the last cut."""

    from_offset: int
    to_offset: int
    lineage: str
    prev: str = ""
    max_event_time_ms: int = -1
    high_watermark: int = -1
    last_row_ns: int = 0
    heard_ns: int = 0  # monotonic clock, of the last fetch

    def is_caught_up(self) -> bool:
        heard = time.monotonic_ns() - self.heard_ns < WORD_HOLDS_NS
        return heard and 0 <= self.high_watermark <= self.to_offset


@dataclass(slots=True)
class Callbacks:
    """Called on the kernel thread; each must be thread-safe and must not block."""

    on_sketched: Callable[[int], None]  # bytes to give back
    on_full: Callable[[], None]  # the delta is at its limit: cut soon
    on_dead: Callable[[Partition, list[tuple[Record, Drop]]], None]
    on_failure: Callable[[BaseException], None]
    make_decoder: Callable[[Config, StreamTable, SpanSampler | None], FastDecoder] = FastDecoder


_Message = Fetch | RawFetch | _Open | _Close | _Cut | _Hints | _Stop


@dataclass(slots=True)
class _Owned:
    """Everything that only the thread touches."""

    table: StreamTable
    decoder: FastDecoder
    sampler: SpanSampler | None
    delta: Delta
    epoch: int = 0  # 0: closed
    progress: dict[Partition, _Progress] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    spans: list[RequestSpan] = field(default_factory=list)
    exemplars: list[Exemplar] = field(default_factory=list)


class KernelThread:
    """Number `index` of `of`, which share the budget of request spans. `tables`: of models whose columns are
    compared in pairs.

    Start with `start()`; talk by `put`, `open`, `close_epoch`, `cut`, `hint`; end with `stop()`.
    """

    def __init__(
        self,
        index: int,
        of: int,
        config: Config,
        callbacks: Callbacks,
        tables: Tables | None = None,
    ) -> None:
        self._config = config
        self._tables = tables or {}
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._waiting: deque[Fetch | RawFetch] = deque()
        self._current: tuple[Fetch | RawFetch, Iterator[Decoded]] | None = None
        self._share = 1 / of
        self._own: _Owned
        self._full_reported = False
        self._thread = threading.Thread(target=self._run, name=f"kernel-{index}", daemon=True)

    # -- called by the loop

    def start(self) -> None:
        """When kernels are ready: a decoder calls them as soon as it is made."""
        config, table, sampler = self._config, StreamTable(), None
        if config.traces.enabled:
            sampler = SpanSampler(config.traces, config.features, share=self._share)
        self._own = _Owned(
            table=table,
            decoder=self._callbacks.make_decoder(config, table, sampler),
            sampler=sampler,
            delta=Delta(table),
        )
        self._own.delta.score(self._tables, config.judge.pairs_max_bytes, PAIRED_ROWS)
        self._own.decoder.slice_values = SHORT_SLICE_VALUES
        self._thread.start()

    def put(self, fetch: Fetch | RawFetch) -> None:
        self._inbox.put(fetch)

    def open(
        self, epoch: int, offsets: dict[Partition, int], lineages: dict[Partition, str]
    ) -> None:
        """Begin an epoch: own these partitions from these offsets; forget what came before."""
        self._inbox.put(_Open(epoch, offsets, lineages))

    def close_epoch(self) -> None:
        """Own nothing from here on; what was not cut is forgotten."""
        self._inbox.put(_Close())

    def cut(self) -> asyncio.Future[Part]:
        """Freeze the delta; resolves on the loop."""
        future: asyncio.Future[Part] = self._loop.create_future()
        self._inbox.put(_Cut(future))
        return future

    def hint(self, sealed_until: int, slow_above_s: dict[StreamKey, float]) -> None:
        """What the fold has sealed, and which latencies are slow by now."""
        self._inbox.put(_Hints(sealed_until, slow_above_s))

    @property
    def alive(self) -> bool:
        """Running, or not yet started."""
        return self._thread.ident is None or self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        if self._thread.ident is None:
            return
        self._inbox.put(_Stop())
        self._thread.join(timeout_s)

    # -- the thread

    def _run(self) -> None:
        show_thread_name()
        try:
            while True:
                # Sleep only when there is nothing to decode, or no room to decode into.
                idle = self._is_full() or not (self._current or self._waiting)
                try:
                    message = self._inbox.get(block=idle)
                except queue.Empty:
                    self._step()
                    continue
                if isinstance(message, _Stop):
                    return
                self._obey(message)
        except BaseException as error:
            log.exception("kernel thread failed")
            self._callbacks.on_failure(error)

    def _obey(self, message: _Message) -> None:
        own = self._own
        match message:
            case Fetch() | RawFetch():
                self._waiting.append(message)
            case _Open():
                self._forget()
                own.epoch = message.epoch
                own.progress = {
                    partition: _Progress(offset, offset, message.lineages.get(partition, ""))
                    for partition, offset in message.offsets.items()
                }
            case _Close():
                self._forget()
                own.epoch = 0
                own.progress = {}
            case _Cut():
                self._answer_cut(message.future)
            case _Hints():
                own.decoder.sealed_until = message.sealed_until
                if own.sampler is not None:
                    own.sampler.slow_above_s = message.slow_above_s

    def _forget(self) -> None:
        """Drop the delta and what was read under the old epoch (invariant 5 of state.md)."""
        own = self._own
        own.delta.freeze()
        own.decoder.on_cut()
        own.decoder.take_labels(Tally())
        own.tally = Tally()
        own.spans = []
        own.exemplars = []
        self._full_reported = False
        if self._current is not None:
            self._callbacks.on_sketched(self._current[0].size_bytes)
            self._current = None

    def _step(self) -> None:
        """Decode and sketch one slice of the current fetch."""
        own = self._own
        if self._current is None:
            fetch = self._waiting.popleft()
            progress = own.progress.get(fetch.partition)
            if fetch.epoch != own.epoch or progress is None:
                self._callbacks.on_sketched(fetch.size_bytes)
                return
            self._current = (fetch, own.decoder.decode(fetch, progress.lineage))
        fetch, slices = self._current
        own.decoder.now_ms = time.time_ns() // 1_000_000
        progress = own.progress[fetch.partition]
        decoded = next(slices, None)
        if decoded is None:
            progress.to_offset = fetch.to_offset
            progress.heard_ns = time.monotonic_ns()
            progress.high_watermark = fetch.high_watermark
            if fetch.n_corrupt:
                own.tally.records += fetch.n_corrupt
                own.tally.dropped[Drop.CORRUPT_BATCH] += fetch.n_corrupt
            self._current = None
            self._callbacks.on_sketched(fetch.size_bytes)
            return
        before = own.delta.size_bytes
        for block in decoded.blocks:
            own.delta.add(block)
        grows_fast = own.delta.size_bytes - before >= FAST_GROWTH_BYTES
        own.decoder.slice_values = (
            SHORT_SLICE_VALUES if grows_fast else min(SLICE_VALUES, 2 * own.decoder.slice_values)
        )
        own.tally.add(decoded.tally)
        own.spans.extend(decoded.spans)
        own.exemplars.extend(decoded.exemplars)
        progress.to_offset = decoded.to_offset
        if decoded.tally.rows:
            progress.last_row_ns = time.time_ns()
        if not fetch.is_label_topic:
            progress.max_event_time_ms = max(progress.max_event_time_ms, decoded.max_event_time_ms)
        if decoded.dead:
            self._callbacks.on_dead(fetch.partition, decoded.dead)

    def _is_full(self) -> bool:
        limits = self._config.delivery
        delta = self._own.delta
        full = delta.size_bytes >= limits.cut_max_bytes or delta.n_windows >= limits.cut_max_windows
        if full and not self._full_reported:
            self._full_reported = True
            self._callbacks.on_full()
        return full

    def _knows_too_much(self) -> bool:
        table = self._own.table
        return len(table.keys) > MAX_KNOWN_STREAMS or table.size > MAX_KNOWN_LANES

    def _answer_cut(self, future: asyncio.Future[Part]) -> None:
        own = self._own
        groups, numeric, strings = own.delta.freeze()
        ranges = []
        for partition, at in own.progress.items():
            ranges.append(
                PartitionRange(
                    partition=partition,
                    from_offset=at.from_offset,
                    to_offset=at.to_offset,
                    lineage=at.lineage,
                    prev=at.prev,
                    max_event_time_ms=at.max_event_time_ms,
                    high_watermark=at.high_watermark,
                    caught_up=at.is_caught_up(),
                    last_row_ns=at.last_row_ns,
                )
            )
            at.from_offset = at.to_offset
        own.decoder.take_labels(own.tally)  # before streams are forgotten
        unsampled = own.sampler.take_counts() if own.sampler is not None else Counter()
        part = Part(
            groups, numeric, strings, ranges, own.tally, own.spans, own.exemplars, unsampled
        )
        own.tally, own.spans, own.exemplars = Tally(), [], []
        self._full_reported = False
        own.decoder.slice_values = SHORT_SLICE_VALUES  # every cell is new again
        own.decoder.on_cut()
        # Safe between two slices: the decoder asks the table anew for every row.
        if self._knows_too_much():
            own.table.clear()
        self._loop.call_soon_threadsafe(_resolve, future, part)


def _resolve(future: asyncio.Future[Part], part: Part) -> None:
    if not future.done():
        future.set_result(part)
