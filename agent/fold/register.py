"""Which streams and columns exist: admits them, decides kinds, ends streams that nobody needs.

Invariants
 1. Every row has a stream: its own, or an overflow stream (`admission`).
 2. A kind, once decided, is held until the stream ends.
 3. What a chunk brings is decided in an order of its own (declared models, then more rows, then name), not
    in the order in which threads delivered it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agent.config import Config
from agent.fold.admission import LAST, Admission
from agent.fold.costs import Cost, Costs
from agent.fold.kinds import given_kind, is_string_kind, kind_of_texts, kind_of_type, most_frequent
from agent.fold.series import Ended
from agent.fold.snapshot import Lives, is_owed, series_of, stream_attributes
from agent.fold.store import Store
from agent.fold.streams import N_TYPES, ColumnTotals, Stream
from agent.sketch.views import string_view
from agent.types import OVERFLOW, Column, Group, JsonType, Kind, Role, StreamKey

#: A stream may be ended, to make room for others, when no row of it came for so long.
FORGOTTEN_AFTER_NS = 24 * 3600 * 1_000_000_000
#: Columns past a limit that are remembered by name, of one stream.
MAX_UNSKETCHED = 1000
#: Models whose ended rows are remembered by name.
MAX_ENDED_MODELS = 10_000

_ROLE_ORDER = {Role.LATENCY: 0, Role.USAGE: 1, Role.PREDICTION: 2, Role.FEATURE: 3}


@dataclass(slots=True)
class Arrival:
    """All groups of one stream in one chunk, each with the values present in its cells (as `Group.cells`)."""

    stream: Stream
    groups: list[Group] = field(default_factory=list)
    present: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class Undecided:
    """A column of strings of which it must be seen whether they are text: after its cell is merged."""

    stream: Stream
    total: ColumnTotals


class Register:
    """Streams by key. Owned by the fold."""

    def __init__(
        self,
        config: Config,
        store: Store,
        lives: Lives,
        make_room: Callable[[int], None],
    ) -> None:
        """`make_room(bytes)` frees sketch memory when that many bytes more would pass the budget."""
        self.costs = Costs(config)
        self.admission = Admission(config.budget, config.models, self.costs)
        self.streams: dict[StreamKey, Stream] = {}
        self.ended_rows: Counter[str] = Counter()  # by model
        self._max_columns = config.budget.max_features_per_stream
        self._declared = {name: feature.kind for name, feature in config.features.items()}
        self._store = store
        self._lives = lives
        self._make_room = make_room
        self._exists: set[StreamKey] = set()

    # -- streams

    def arrivals(
        self, groups: Sequence[Group], present: Sequence[list[int]], now_ns: int
    ) -> tuple[list[Arrival], dict[StreamKey, Stream]]:
        """Groups by the stream that takes them, and that stream for each key in the chunk."""
        by_key: dict[StreamKey, list[int]] = {}
        for i, group in enumerate(groups):
            by_key.setdefault(group.stream, []).append(i)
        taken: dict[StreamKey, Stream] = {}
        new = []
        for key in by_key:
            stream = self.streams.get(key)
            if stream is None:
                new.append(key)
            else:
                taken[key] = stream
        if new:
            rows = {key: sum(groups[i].rows for i in by_key[key]) for key in new}
            declared = self.admission.is_declared
            new.sort(key=lambda key: (not declared(key.model), -rows[key], key))
            for key in new:
                of_key = by_key[key]
                counts = _counts((groups[i] for i in of_key), (present[i] for i in of_key))
                taken[key] = self._stream_for(key, counts, now_ns)
        out: dict[StreamKey, Arrival] = {}
        for key, indexes in by_key.items():
            stream = taken[key]
            arrival = out.setdefault(stream.key, Arrival(stream))
            arrival.groups += [groups[i] for i in indexes]
            arrival.present += [present[i] for i in indexes]
            stream.seen_ns = now_ns
        ordered = sorted(out.values(), key=lambda a: a.stream.key)
        return ordered, taken

    def _stream_for(self, key: StreamKey, counts: dict[Column, list[int]], now_ns: int) -> Stream:
        base = self.costs.stream
        whole = base
        for column in sorted(counts, key=_column_order)[: self._max_columns]:
            whole += self._cost(column, counts[column])
        if not self.admission.admit(key, base, whole=whole):
            key = self.admission.overflow_of(key, base, self._exists)
            if key in self.streams:
                return self.streams[key]
        stream = Stream(key, stream_attributes(key), now_ns, base)
        self._lives.begin_stream(stream)
        self.take(stream)
        return stream

    def take(self, stream: Stream) -> None:
        """Enter a stream that has been granted, or is read from a snapshot."""
        self.streams[stream.key] = stream
        self._exists.add(stream.key)

    def end_forgotten(self, now_ns: int) -> list[Ended]:
        """End the streams that may be, when room was wanted since the last call; their series end too.

        A stream may be ended when no row of it came for 24 hours, it has no open window, what was
        exported of it has been accepted, and its model is not declared.
        """
        if not self.admission.pressed:
            return []
        self.admission.pressed = False
        out: list[Ended] = []
        for key, stream in list(self.streams.items()):
            if (
                now_ns - stream.seen_ns >= FORGOTTEN_AFTER_NS
                and not stream.open
                and not is_owed(stream)
                and key != LAST
                and not self.admission.is_declared(key.model)
            ):
                out += self._end(stream)
        return out

    def _end(self, stream: Stream) -> list[Ended]:
        known = stream.key.model in self.ended_rows or len(self.ended_rows) < MAX_ENDED_MODELS
        self.ended_rows[stream.key.model if known else OVERFLOW] += stream.rows
        for total in stream.columns.values():
            if total.cell >= 0 and total.kind is not None:
                self._store.total_pages(is_string_kind(total.kind)).free([total.cell])
        self.admission.release(stream.key, stream.granted)
        del self.streams[stream.key]
        self._exists.discard(stream.key)
        return [end for series in series_of(stream) for end in series.ends()]

    # -- columns

    def columns(self, arrival: Arrival) -> list[Undecided]:
        """Admit the new columns of a stream, and decide kinds where this chunk has the first values.

        Returns the columns whose texts must be looked at once they are merged.
        """
        stream = arrival.stream
        fresh: dict[Column, list[int]] = {}
        for group, present in zip(arrival.groups, arrival.present, strict=True):
            for ref, n in zip(group.cells, present, strict=True):
                total = stream.columns.get(ref.column)
                if total is None or total.kind is None:
                    fresh.setdefault(ref.column, [0] * N_TYPES)[ref.type] += n
        undecided = []
        for column in sorted(fresh, key=_column_order):
            counts = fresh[column]
            total = stream.columns.get(column) or self._admit(stream, column, counts)
            if total is not None and self._decide(stream, total, counts):
                undecided.append(Undecided(stream, total))
        return undecided

    def _kind(self, column: Column, counts: Sequence[int]) -> Kind | None:
        """The kind as far as counts tell; CATEGORICAL where the texts must be looked at."""
        given = given_kind(column, self._declared.get(column.name))
        if given is not None:
            return given
        winner = most_frequent(counts)
        if winner is None:
            return None
        return Kind.CATEGORICAL if winner is JsonType.STRING else kind_of_type(winner)

    def _cost(self, column: Column, counts: Sequence[int]) -> Cost:
        return self.costs.column(column.role, self._kind(column, counts))

    def _admit(self, stream: Stream, column: Column, counts: Sequence[int]) -> ColumnTotals | None:
        cost = self._cost(column, counts)
        if len(stream.columns) >= self._max_columns or not self.admission.grow(stream.key, cost):
            if len(stream.unsketched) < MAX_UNSKETCHED:
                stream.unsketched.add(column)
            return None
        stream.granted += cost
        stream.unsketched.discard(column)
        total = ColumnTotals(column, cost)
        stream.columns[column] = total
        self._lives.begin_column(stream, total)
        return total

    def _decide(self, stream: Stream, total: ColumnTotals, counts: Sequence[int]) -> bool:
        """Decide the kind if it can be; True when the texts must be looked at."""
        kind = self._kind(total.column, counts)
        if kind is None:
            return False
        pages = self._store.total_pages(is_string_kind(kind))
        self._make_room(pages.cell_bytes)
        total.cell = pages.alloc()
        if (
            kind is Kind.CATEGORICAL
            and given_kind(total.column, self._declared.get(total.column.name)) is None
        ):
            total.kind = kind  # where its cell lies; may still become text
            return True
        self._hold(stream, total, kind)
        return False

    def look_at_texts(self, undecided: Iterable[Undecided]) -> None:
        """Decide between category and text; the cells hold all texts of the chunk by now."""
        for item in undecided:
            view = string_view(self._store.strings.record(item.total.cell))
            kind = kind_of_texts(view.count, view.length_sum, view.distinct())
            self._hold(item.stream, item.total, kind)

    def _hold(self, stream: Stream, total: ColumnTotals, kind: Kind) -> None:
        total.kind = kind
        cost = self.costs.column(total.column.role, kind)
        spare = Cost(total.cost.series - cost.series, total.cost.memory_bytes - cost.memory_bytes)
        self.admission.shrink(stream.key, spare)
        stream.granted += spare.times(-1)
        total.cost = cost
        self._lives.begin_kind(total)


def _column_order(column: Column) -> tuple[int, str]:
    return _ROLE_ORDER[column.role], column.name


def _counts(groups: Iterable[Group], present: Iterable[list[int]]) -> dict[Column, list[int]]:
    """Values by column and type."""
    out: dict[Column, list[int]] = {}
    for group, counts in zip(groups, present, strict=True):
        for ref, n in zip(group.cells, counts, strict=True):
            out.setdefault(ref.column, [0] * N_TYPES)[ref.type] += n
    return out
