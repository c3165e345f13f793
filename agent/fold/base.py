"""Fold: applies chunks and ticks, in order, to the base. The only writer of what is exported and shown.

Invariants
 1. Base is a function of the inputs and their order. No clock is read; time is an argument and never goes back.
    Inputs: apply, tick, seal_all, forget, finish, export, accepted, renew. All else only reads.
 2. Conservation: each row of a chunk is in exactly one stream's totals. Per model, streams, overflow
    streams and ended streams together have all rows.
 3. A row is in a window's profile, or late, or future: exactly one of them.
 4. Within a chunk windows are folded oldest first, so a window sealed by `max_open` has all of the chunk's
    rows. Only sealing for want of memory may make rows of the chunk late.
 5. A sealed window never changes: its cells are freed, its profile is bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from agent.config import Config
from agent.fold import summary
from agent.fold.account import Account
from agent.fold.admission import LAST, is_overflow
from agent.fold.effects import Effects
from agent.fold.kinds import TYPE_OF
from agent.fold.profile import Profile
from agent.fold.register import Arrival, Register
from agent.fold.sealing import close_window
from agent.fold.series import MAX_ENDED, Ended, Out, Series
from agent.fold.shown import Shown
from agent.fold.snapshot import Lives, Writer, accept_stream, series_of
from agent.fold.store import Merges, Store, numbers_present, strings_present
from agent.fold.streams import ColumnTotals, Stream, StreamWindow, WindowColumn
from agent.fold.watermarks import NEVER, Seal, Watermarks
from agent.sketch.links import is_link
from agent.sketch.pair_sums import pairs_of, united_pairs, vectors_of
from agent.sketch.vector_sums import united_vectors
from agent.state.chunk import merge_digest
from agent.types import (
    OVERFLOW,
    WINDOW_FUTURE,
    WINDOW_LATE,
    Attributes,
    CellRef,
    Chunk,
    Column,
    Exemplar,
    Group,
    Irregular,
    Json,
    JsonType,
    Partition,
    Role,
    Snapshot,
    StreamKey,
    Tally,
)

#: A window with fewer latencies says nothing about the slowest hundredth.
MIN_LATENCIES: Final = 100
#: Times of exports are at least this far apart, so that an explicit zero fits between.
_STEP_NS: Final = 2_000_000

_LATENCY: Final = Column(Role.LATENCY, "latency")


def _as_it_is(document: Json) -> Json:
    return document


class Fold:
    """See the module. One owner, the fold thread. Memory: `budget.max_memory_bytes` of cells, hard."""

    def __init__(self, config: Config, *, start_ns: int) -> None:
        self.covers: dict[Partition, int] = {}
        self.slow_above_s: dict[StreamKey, float] = {}
        self.tally = Tally()
        self.newest_event_ms = -1
        self.n_foreign = 0
        self.n_unsketched_values = 0  # of columns past a limit, ended streams' too
        self.pairs_bytes = 0  # of open windows
        self.vectors_bytes = 0
        self._config = config
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._time_ns = start_ns  # no later export or scrape is at or before it
        self._export_ns = 0  # of the last export; 0: none may be accepted
        self._export_series = 0  # that it held
        self._scrape_ns = start_ns  # of the last scrape: no input, so nothing else may depend on it
        self._digest = merge_digest(config)
        self._shown = Shown(config)
        self._store = Store(config.windows.width_s)
        self._marks = Watermarks(config.windows, config.kafka.label_topics)
        self._lives = Lives(start_ns, config.export.resend_interval_s)
        self._register = Register(config, self._store, self._lives, self._make_room)
        self._streams_of: dict[int, list[Stream]] = {}  # by open window
        self._labels: dict[str, Series] = {}
        self._ended: deque[Ended] = deque(maxlen=MAX_ENDED)
        self._sealed: list[Profile] = []  # since the caller was last told
        self._unseen_a_row = 0  # of the chunk in hand: rows left out for each one counted

    @property
    def sealed_until(self) -> int:
        """Windows below this number are sealed."""
        return self._marks.sealed_until

    @property
    def time_ns(self) -> int:
        """Of the last export, or the start; later ones are behind it, whatever the clock says."""
        return self._time_ns

    @property
    def streams(self) -> dict[StreamKey, Stream]:
        """Admitted and overflow streams, to be read by pages and tests."""
        return self._register.streams

    @property
    def n_series(self) -> int:
        """Series that the last export held; where nothing is exported, those that a scrape would hold."""
        if self._export_series:
            return self._export_series
        return self._written(Out(self._time_ns, False, False, {})).n_series

    # ------------------------------------------------------------ inputs

    def apply(self, chunk: Chunk, now_ns: int) -> Effects:
        """Fold one chunk that counts."""
        now = self._advance(now_ns)
        self._marks.observe(chunk.ranges, now)
        for at in chunk.ranges:
            self.covers[at.partition] = at.to_offset
            self.newest_event_ms = max(self.newest_event_ms, at.max_event_time_ms)
        self._add_tally(chunk.tally)
        self._unseen_a_row = (1 << chunk.shed_bits) - 1
        foreign = 0 if chunk.digest == self._digest else 1
        self.n_foreign += foreign
        if foreign and chunk.digest.partition(";")[2] != self._digest.partition(";")[2]:
            self._count_only(chunk, now)  # its cells cannot be merged with ours
        else:
            self._fold_groups(chunk, now, into_windows=not foreign)
        effects = self._settle(self._marks.due(now, tick=False))
        effects.spans = list(chunk.spans)
        effects.n_foreign = foreign
        return effects

    def tick(self, now_ns: int) -> Effects:
        """Time has passed: idle partitions, waits that are over, streams nobody needs."""
        now = self._advance(now_ns)
        effects = self._settle(self._marks.due(now, tick=True))
        for end in self._register.end_forgotten(now):
            self._ended.append(end)
        for key in [key for key in self.slow_above_s if key not in self.streams]:
            del self.slow_above_s[key]
        return effects

    def seal_all(self, now_ns: int) -> Effects:
        """All input has ended (files): seal every window, as complete."""
        self._advance(now_ns)
        return self._settle(self._marks.all())

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Revoked: after `windows.owner_timeout_s` they no longer hold the watermark. Seals nothing.

        Call it behind the last chunk that names them: a chunk makes them ours again.
        """
        gone = list(partitions)
        self._marks.forget(gone, self._now_ns)
        for partition in gone:
            self.covers.pop(partition, None)

    def finish(self, partitions: Iterable[Partition]) -> None:
        """Read to their end (files): they hold the watermark no more."""
        self._marks.finish(partitions)

    def renew(self, now_ns: int) -> None:
        """Every series takes a new start time; values are kept, and no explicit zero is sent.

        For a base that may be older than what receivers have (its volume was lost or set back), where
        going on under the old start time could make a counter fall. The next export sends everything.
        A consumer that honours start times (OTLP) sees one reset and counts the whole value once more. One
        that only compares values (Prometheus) sees growth by the difference, or, where the value is
        smaller than before, a reset to it. Exports before this can no longer be accepted.
        """
        time_ns = max(self._advance(now_ns), self._time_ns + _STEP_NS)
        self._time_ns = self._start_ns = self._lives.start_ns = time_ns
        self._export_ns = 0
        for stream in self.streams.values():
            for series in series_of(stream):
                series.renew(time_ns)
        for labels in self._labels.values():
            labels.renew(time_ns)
        for end in self._ended:
            end.offered = False

    # ------------------------------------------------------------ folding

    def _advance(self, now_ns: int) -> int:
        self._now_ns = max(self._now_ns, now_ns)
        return self._now_ns

    def _add_tally(self, tally: Tally) -> None:
        """All but late, future and labels by model: those are counted here, where they are decided."""
        late = self.tally.irregular[Irregular.LATE]
        future = self.tally.irregular[Irregular.FUTURE]
        labels = self.tally.labels_by_model
        self.tally.labels_by_model = type(labels)()
        self.tally.add(tally)
        self.tally.irregular[Irregular.LATE] = late
        self.tally.irregular[Irregular.FUTURE] = future
        arrived, self.tally.labels_by_model = self.tally.labels_by_model, labels
        for model, n in sorted(arrived.items()):
            labels[self._label_model(model)] += n

    def _label_model(self, model: str) -> str:
        """The model under which labels are counted: its own while there is budget."""
        if model in self._labels:
            return model
        admission = self._register.admission
        if len(self._labels) >= self._config.budget.max_streams or not admission.admit_labels(
            model
        ):
            if OVERFLOW not in self._labels:
                admission.overflow_labels()
            model = OVERFLOW
        if model not in self._labels:
            self._labels[model] = self._label_series(model)
        return model

    def _label_series(self, model: str) -> Series:
        attributes: Attributes = (("inference.model.name", model),)
        return self._lives.counters(("inference.labels",), attributes)

    def _count_only(self, chunk: Chunk, now: int) -> None:
        """Rows, errors and values of a chunk with other sketches; nothing is merged."""
        bare = [
            Group(
                g.stream,
                WINDOW_LATE,
                g.rows,
                g.errors,
                g.min_event_time_ms,
                g.max_event_time_ms,
                [],
            )
            for g in chunk.groups
        ]
        for arrival in self._register.arrivals(bare, [[] for _ in bare], now)[0]:
            for group in arrival.groups:
                arrival.stream.rows += group.rows
                arrival.stream.errors += group.errors
                arrival.stream.unseen += group.rows * self._unseen_a_row
                arrival.stream.saw_events(group.min_event_time_ms, group.max_event_time_ms)

    def _fold_groups(self, chunk: Chunk, now: int, *, into_windows: bool) -> None:
        numbers, texts = numbers_present(chunk.numeric), strings_present(chunk.strings)
        present = [
            [(texts if ref.type is JsonType.STRING else numbers)[ref.cell] for ref in group.cells]
            for group in chunk.groups
        ]
        sealed_until = self.sealed_until
        windows: dict[int, list[tuple[Stream, Group, list[int]]]] = {}
        arrivals, taken = self._register.arrivals(chunk.groups, present, now)
        merges = Merges(self._store, chunk)
        undecided = []
        for arrival in arrivals:
            undecided += self._register.columns(arrival)
            self._fold_totals(arrival, merges)
            for group, counts in zip(arrival.groups, arrival.present, strict=True):
                if group.window == WINDOW_FUTURE:
                    arrival.stream.future += group.rows
                    self.tally.irregular[Irregular.FUTURE] += group.rows
                elif into_windows and group.window >= sealed_until:
                    windows.setdefault(group.window, []).append((arrival.stream, group, counts))
                elif into_windows or group.window == WINDOW_LATE:
                    self._count_late(arrival.stream, group.rows)
        merges.run()
        self._register.look_at_texts(undecided)
        for window in sorted(windows):
            parts = windows[window]
            self._make_room(self._new_cells_bytes(window, parts), window)
            if self._marks.is_sealed(window):  # there was no room to keep it open
                for stream, group, _ in parts:
                    self._count_late(stream, group.rows)
                continue
            self._fold_window(window, parts, merges)
            merges.run()
            self._seal(self._marks.excess(now))
        self._keep_exemplars(chunk.exemplars, taken)

    def _count_late(self, stream: Stream, rows: int) -> None:
        stream.late += rows
        self.tally.irregular[Irregular.LATE] += rows

    def _fold_totals(self, arrival: Arrival, merges: Merges) -> None:
        stream = arrival.stream
        for group, counts in zip(arrival.groups, arrival.present, strict=True):
            stream.rows += group.rows
            stream.errors += group.errors
            stream.unseen += group.rows * self._unseen_a_row
            if group.window != WINDOW_FUTURE:
                stream.saw_events(group.min_event_time_ms, group.max_event_time_ms)
            for ref, n in zip(group.cells, counts, strict=True):
                total = stream.columns.get(ref.column)
                if total is None:
                    stream.unsketched_values += n
                    self.n_unsketched_values += n
                    continue
                total.present[ref.type] += n
                if n and _belongs(total, ref):
                    merges.total(ref.type is JsonType.STRING, total.cell, ref.cell)

    def _fold_window(
        self, window: int, parts: list[tuple[Stream, Group, list[int]]], merges: Merges
    ) -> None:
        self._marks.touch(window)
        streams = self._streams_of.setdefault(window, [])
        for stream, group, counts in parts:
            into = stream.open.get(window)
            if into is None:
                into = stream.open[window] = StreamWindow()
                streams.append(stream)
            into.rows += group.rows
            into.errors += group.errors
            into.unseen += group.rows * self._unseen_a_row
            if pairs := pairs_of(group):
                self._add_pairs(into, pairs)
            if vectors := vectors_of(group):
                self._add_vectors(into, vectors)
            for ref, n in zip(group.cells, counts, strict=True):
                total = stream.columns.get(ref.column)
                if total is None:
                    continue
                column = into.columns.get(ref.column)
                if column is None:
                    column = into.columns[ref.column] = WindowColumn()
                column.present[ref.type] += n
                if n and _belongs(total, ref):
                    if column.cell < 0:
                        is_string = ref.type is JsonType.STRING
                        column.cell = self._store.window_pages(is_string).alloc()
                    merges.window(ref.type is JsonType.STRING, column.cell, ref.cell)

    def _add_pairs(self, into: StreamWindow, pairs: bytes) -> None:
        """Of a window; left out where there is no room for them."""
        united = united_pairs((into.pairs, pairs))
        grown = self.pairs_bytes + len(united) - len(into.pairs)
        if grown <= self._config.judge.pairs_max_bytes:
            self.pairs_bytes, into.pairs = grown, united

    def _add_vectors(self, into: StreamWindow, vectors: bytes) -> None:
        """The same for sums of sampled vectors."""
        united = united_vectors((into.vectors, vectors))
        grown = self.vectors_bytes + len(united) - len(into.vectors)
        if grown <= self._config.judge.pairs_max_bytes:
            self.vectors_bytes, into.vectors = grown, united

    def _new_cells_bytes(self, window: int, parts: list[tuple[Stream, Group, list[int]]]) -> int:
        """Bytes of the cells that folding these groups into a window takes."""
        wanted: dict[tuple[int, Column], int] = {}
        for stream, group, counts in parts:
            into = stream.open.get(window)
            for ref, n in zip(group.cells, counts, strict=True):
                total = stream.columns.get(ref.column)
                if n and total is not None and _belongs(total, ref):
                    column = into.columns.get(ref.column) if into is not None else None
                    if column is None or column.cell < 0:
                        pages = self._store.window_pages(ref.type is JsonType.STRING)
                        wanted[id(stream), ref.column] = pages.cell_bytes
        return sum(wanted.values())

    def _make_room(self, size_bytes: int, window: int | None = None) -> None:
        """Seal the oldest windows until so much more fits; `window`: one that is about to be open.

        What is granted holds all totals and the reserved number of windows, so with no more than
        those open everything fits.
        """
        limit = self._config.budget.max_memory_bytes
        marks = self._marks
        while self._store.used_bytes + size_bytes > limit:
            live = marks.open.keys() | ({window} if window is not None else set())
            if len(live) <= self._register.costs.reserved_windows:
                return
            oldest = min(live)
            self._seal([marks.seal(oldest, self._now_ns)])
            if oldest == window:
                return

    def _keep_exemplars(
        self, exemplars: Iterable[Exemplar], taken: dict[StreamKey, Stream]
    ) -> None:
        for exemplar in exemplars:
            stream = taken.get(exemplar.stream)
            total = stream.columns.get(exemplar.column) if stream is not None else None
            if total is None or total.histogram is None or is_link(exemplar):
                continue
            if self._shown.exemplars(exemplar.column):
                total.keep(exemplar)

    # ------------------------------------------------------------ seals

    def _settle(self, seals: list[Seal]) -> Effects:
        """Seal, and say what has been sealed since the caller was last told."""
        self._seal(seals)
        sealed, self._sealed = self._sealed, []
        return Effects(
            sealed=sealed,
            sealed_until=self.sealed_until,
            slow_above_s=dict(self.slow_above_s),
        )

    def _seal(self, seals: Iterable[Seal]) -> None:
        for seal in seals:
            streams = sorted(self._streams_of.pop(seal.window, []), key=lambda s: s.key)
            profiles = close_window(streams, seal, self._marks.width_ms, self._store)
            for stream, profile in zip(streams, profiles, strict=True):
                self.pairs_bytes -= len(profile.pairs)
                self.vectors_bytes -= len(profile.vectors)
                stream.sealed.append(profile)
                while len(stream.sealed) > self._config.windows.keep:
                    stream.sealed.popleft()
                self._learn_slow(stream, profile)
            self._sealed += profiles

    def _learn_slow(self, stream: Stream, profile: Profile) -> None:
        column = profile.columns.get(_LATENCY)
        view = column.numbers if column is not None else None
        if view is not None and view.count >= MIN_LATENCIES and not is_overflow(stream.key):
            self.slow_above_s[stream.key] = view.quantile(0.99)

    # ------------------------------------------------------------ what leaves

    def snapshot(self, now_ns: int) -> Snapshot:
        """Every series' value now, for a scrape. Changes no output but the time of later scrapes."""
        return self._write(now_ns, is_export=False, zeros=False)

    def export(self, now_ns: int, *, zeros: bool = True) -> Snapshot:
        """What an exporter sends: changes since the last accepted export, zeros, ends, exemplars.

        Tell `accepted` when it has arrived. Until then the next export holds all of it again.
        `zeros=False` for delta temporality, where an explicit zero says nothing.
        """
        return self._write(now_ns, is_export=True, zeros=zeros)

    def accepted(self, snapshot: Snapshot) -> None:
        """A receiver took this export. Of exports older than the last one nothing is taken back."""
        if snapshot.time_ns != self._export_ns:
            return
        for stream in self.streams.values():
            accept_stream(stream, snapshot.time_ns)
        for series in self._labels.values():
            series.accepted(snapshot.time_ns)
        self._ended = deque((e for e in self._ended if not e.offered), maxlen=MAX_ENDED)

    def _write(self, now_ns: int, *, is_export: bool, zeros: bool) -> Snapshot:
        time_ns = max(now_ns, self._time_ns + _STEP_NS)
        if not is_export:
            time_ns = max(time_ns, self._scrape_ns + _STEP_NS)
        writer = self._written(Out(time_ns, is_export, zeros, {}))
        metrics = writer.metrics(self._ended)
        if is_export:
            self._time_ns = self._export_ns = self._lives.start_ns = time_ns
            self._export_series = writer.n_series
        else:
            self._scrape_ns = time_ns
        metrics += self._account(writer.n_series).metrics(time_ns)
        return Snapshot(time_ns, metrics, dict(self.covers))

    def _written(self, out: Out) -> Writer:
        export = self._config.export
        writer = Writer(out, self._lives, export.max_buckets, export.top_categories, self._shown)
        writer.streams(self.streams.values(), self._store)
        for model, series in self._labels.items():
            writer.series(series, (self.tally.labels_by_model[model],))
        return writer

    def _account(self, n_series: int) -> Account:
        limits = self._config.budget
        admission = self._register.admission
        low = self._marks.low_ms(self._now_ns)
        return Account(
            start_ns=self._start_ns,
            budget={
                "streams": (admission.used.streams, limits.max_streams),
                "series": (n_series, limits.max_series),
                "memory": (self._store.used_bytes, limits.max_memory_bytes),
            },
            granted_series=admission.used.series,
            granted_memory_bytes=admission.used.memory_bytes,
            folded_names=list(admission.folded.names),
            n_folded=admission.folded.count(),
            n_unsketched_columns=sum(len(s.unsketched) for s in self.streams.values()),
            n_unsketched_values=self.n_unsketched_values,
            watermark_ms=low if low is not None and low > NEVER else None,
        )

    # ------------------------------------------------------------ documents

    def state(self, now_ns: int, made: Callable[[Json], Any] = _as_it_is) -> Json:
        """The fold's part of `/v1/state`: tally, windows, budget, streams, ended.

        `made` of each stream's document takes its place: encoded at once, it takes a tenth of the memory.
        """
        del now_ns
        streams = self._sorted_streams()
        distinct = summary.distinct_totals(streams, self._store)
        account = self._account(self.n_series)
        sealed_until = self.sealed_until
        width_ms = self._marks.width_ms
        return {
            "tally": summary.tally(self.tally),
            "windows": {
                "width_s": width_ms / 1000,
                "sealed_until_ms": sealed_until * width_ms if sealed_until > NEVER else None,
                "open": [window * width_ms for window in sorted(self._marks.open)],
                "watermark_ms": account.watermark_ms,
            },
            "budget": account.budget_state(),
            "streams": [
                made(summary.stream_state(stream, self._store, distinct, self._shown))
                for stream in streams
            ],
            "ended": dict(self._register.ended_rows),
        }

    def report(self) -> Json:
        """The document of `inferometer replay --json`, but for its verdicts: there are none yet."""
        streams = self._sorted_streams()
        distinct = summary.distinct_totals(streams, self._store)
        return {
            "rows": self.tally.rows,
            "events": self.tally.events,
            "dropped": {str(reason): n for reason, n in sorted(self.tally.dropped.items()) if n},
            "streams": [
                summary.stream_report(stream, self._store, distinct, self._shown)
                for stream in streams
            ],
            "verdicts": [],
        }

    def _sorted_streams(self) -> list[Stream]:
        """By key, the last overflow stream behind all others."""
        return sorted(self.streams.values(), key=lambda s: (s.key == LAST, s.key))


def _belongs(total: ColumnTotals, ref: CellRef) -> bool:
    """Whether these values have the type of the column's kind; others are violations, only counted."""
    return total.kind is not None and TYPE_OF[total.kind] is ref.type
