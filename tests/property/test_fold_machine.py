"""Random chunks, ticks and revocations against a plain model of the same rules.

The model keeps rows as Python objects and counts them anew; it shares no code with the fold but the
constants of `types`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.config import Budget, Config, Windows
from agent.fold.base import Fold
from agent.state.chunk import merge_digest
from agent.types import OVERFLOW, Column, JsonType, Kind, Partition, StreamKey
from tests.support.blocks import Row, chunk_of, feature, range_of, type_of

S = 1_000_000_000
WIDTH_MS = 10_000
LATENESS_MS = 5_000
IDLE_S, OWNER_S, MAX_WAIT_S = 30, 60, 100
MAX_OPEN, MAX_STREAMS, MAX_COLUMNS = 3, 3, 3
T0_MS = 1_700_000_000_000

CONFIG = Config(
    windows=Windows(
        width_s=WIDTH_MS / 1000,
        out_of_orderness_s=LATENESS_MS / 1000,
        idle_timeout_s=IDLE_S,
        owner_timeout_s=OWNER_S,
        max_wait_s=MAX_WAIT_S,
        max_open=MAX_OPEN,
        keep=1000,
    ),
    budget=Budget(max_streams=MAX_STREAMS, max_features_per_stream=MAX_COLUMNS),
)

KEYS = [
    StreamKey(model, version, segment)
    for model in ("a", "b", "c")
    for version in ("1", "2")
    for segment in ((), (("region", "eu"),), (("region", "us"),))
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0.0, 1.5, -2.0, 1e300, float("inf"), float("nan")]),
    st.sampled_from(["x", "yy", "z" * 70]),
    st.just([3.0, 4.0]),
    st.just(["not", "numbers"]),
)
COLUMNS = [feature(name) for name in "pqrs"]


@dataclass
class ModelColumn:
    kind: Kind | None = None
    present: list[int] = field(default_factory=lambda: [0] * 5)


@dataclass
class ModelStream:
    rows: int = 0
    errors: int = 0
    late: int = 0
    future: int = 0
    columns: dict[Column, ModelColumn] = field(default_factory=dict)
    unsketched_values: int = 0


@dataclass
class ModelPartition:
    named_s: int
    news_s: int
    newest_ms: int = -1
    caught_up: bool = False
    last_row_s: int = 0
    to_offset: int = -1
    gone_s: int | None = None


class Model:
    """What the fold must hold, from the rows themselves."""

    def __init__(self) -> None:
        self.streams: dict[StreamKey, ModelStream] = {}
        self.admitted: set[StreamKey] = set()
        self.overflow: dict[tuple[str, ...], StreamKey] = {}
        self.partitions: dict[int, ModelPartition] = {}
        # (window, stream) -> rows of it that are in the window, with their target's columns
        self.open: dict[int, dict[StreamKey, list[Row]]] = {}
        self.waiting: dict[int, int] = {}
        self.sealed_until: int | None = None
        self.sealed: list[tuple[int, StreamKey, int, int, float]] = []
        self.rows_in: dict[str, int] = defaultdict(int)

    # -- streams

    def target(self, key: StreamKey) -> StreamKey:
        if key in self.admitted:
            return key
        if len(self.admitted) < MAX_STREAMS:
            self.admitted.add(key)
            return key
        folded = tuple((name, OVERFLOW) for name, _ in key.segment)
        if folded and any(k[:2] == key[:2] for k in self.admitted):
            return self.overflow.setdefault(key[:2], StreamKey(key.model, key.version, folded))
        if any(k.model == key.model for k in self.admitted):
            return self.overflow.setdefault((key.model,), StreamKey(key.model, OVERFLOW, folded))
        return StreamKey(OVERFLOW, OVERFLOW)

    def fold(self, rows: list[Row]) -> None:
        by_key: dict[StreamKey, list[Row]] = defaultdict(list)
        for row in rows:
            by_key[row.stream].append(row)
        targets = {
            key: self.target(key) for key in sorted(by_key, key=lambda k: (-len(by_key[k]), k))
        }
        by_target: dict[StreamKey, list[Row]] = defaultdict(list)
        for row in rows:
            by_target[targets[row.stream]].append(row)
            self.rows_in[row.stream.model] += 1
        for key, of_stream in by_target.items():
            self.fold_stream(key, of_stream)

    def fold_stream(self, key: StreamKey, rows: list[Row]) -> None:
        stream = self.streams.setdefault(key, ModelStream())
        fresh = sorted({c for row in rows for c in row.values} - stream.columns.keys())
        for column in fresh:
            if len(stream.columns) < MAX_COLUMNS:
                stream.columns[column] = ModelColumn()
        for column, at in stream.columns.items():
            values = [row.values[column] for row in rows if row.values.get(column) is not None]
            for value in values:
                at.present[type_of(value)] += 1
            if at.kind is None:
                at.kind = self.kind_of(values)
        for row in rows:
            stream.rows += 1
            stream.errors += row.is_error
            stream.unsketched_values += sum(
                value is not None
                for column, value in row.values.items()
                if column not in stream.columns
            )
            window = row.time_ms // WIDTH_MS
            if row.future:
                stream.future += 1
            elif self.sealed_until is not None and window < self.sealed_until:
                stream.late += 1
            else:
                self.open.setdefault(window, {}).setdefault(key, []).append(row)

    @staticmethod
    def kind_of(values: list[Any]) -> Kind | None:
        best, most = None, 0
        for kind, wanted in (
            (Kind.NUMERIC, JsonType.NUMBER),
            (None, JsonType.STRING),
            (Kind.BOOLEAN, JsonType.BOOLEAN),
            (Kind.VECTOR, JsonType.VECTOR),
        ):
            of_type = [v for v in values if type_of(v) is wanted]
            if len(of_type) > most:
                most = len(of_type)
                best = kind
                if kind is None:
                    mean = sum(map(len, of_type)) / len(of_type)
                    best = Kind.TEXT if mean > 64 else Kind.CATEGORICAL
        return best

    # -- windows

    def holds(self, p: ModelPartition, now_s: int) -> bool:
        if p.gone_s is not None:
            return now_s - p.gone_s < OWNER_S
        return not self.idle(p, now_s)

    def idle(self, p: ModelPartition, now_s: int) -> bool:
        is_quiet = p.caught_up and now_s - max(p.last_row_s, p.named_s) >= IDLE_S
        return is_quiet and now_s - p.news_s < OWNER_S

    @staticmethod
    def mark(p: ModelPartition) -> float:
        return p.newest_ms - LATENESS_MS if p.newest_ms >= 0 else float("-inf")

    def low(self, now_s: int) -> float | None:
        held = [self.mark(p) for p in self.partitions.values() if self.holds(p, now_s)]
        return min(held) if held else None

    def coverage(self, window: int, now_s: int) -> float:
        end = (window + 1) * WIDTH_MS
        asked = [
            p
            for p in self.partitions.values()
            if p.gone_s is None or p.newest_ms >= window * WIDTH_MS
        ]
        reached = [
            p for p in asked if self.mark(p) >= end or (p.gone_s is None and self.idle(p, now_s))
        ]
        return len(reached) / len(asked) if asked else 1.0

    def seal(self, window: int, coverage: float) -> None:
        for key, rows in sorted(self.open.pop(window).items()):
            errors = sum(row.is_error for row in rows)
            self.sealed.append((window, key, len(rows), errors, coverage))
        self.waiting.pop(window, None)
        self.raise_sealed(window + 1)

    def raise_sealed(self, until: int) -> None:
        if self.sealed_until is None or until > self.sealed_until:
            self.sealed_until = until

    def seal_excess(self, upto: int, now_s: int) -> None:
        """Windows are opened one by one, oldest first: all windows <= upto count as open by now."""
        while len([w for w in self.open if w <= upto]) > MAX_OPEN:
            oldest = min(self.open)
            self.seal(oldest, self.coverage(oldest, now_s))

    def seal_due(self, now_s: int, tick: bool) -> None:
        low = self.low(now_s)
        if low is None:
            if tick and self.partitions:
                for window in sorted(self.open):
                    self.seal(window, self.coverage(window, now_s))
                self.drop_gone(now_s)
            return
        moving = [
            self.mark(p)
            for p in self.partitions.values()
            if self.holds(p, now_s) and (p.gone_s is not None or now_s - p.news_s < OWNER_S)
        ]
        blocked = False
        for window in sorted(self.open):
            end = (window + 1) * WIDTH_MS
            if low >= end:
                self.seal(window, self.coverage(window, now_s))
                continue
            if min(moving, default=float("inf")) < end:
                self.waiting.pop(window, None)
                blocked = True
                continue
            since = self.waiting.setdefault(window, now_s)
            blocked = blocked or not tick or now_s - since < MAX_WAIT_S
            if not blocked:
                self.seal(window, self.coverage(window, now_s))
        if low > float("-inf"):
            self.raise_sealed(int(low // WIDTH_MS))
        self.drop_gone(now_s)

    def drop_gone(self, now_s: int) -> None:
        first = min(self.open, default=None)
        self.partitions = {
            n: p
            for n, p in self.partitions.items()
            if p.gone_s is None
            or now_s - p.gone_s < OWNER_S
            or (first is not None and p.newest_ms >= first * WIDTH_MS)
        }


@st.composite
def rows(draw: st.DrawFn, base_ms: int) -> list[Row]:
    out = []
    for _ in range(draw(st.integers(0, 6))):
        values = draw(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=4))
        out.append(
            Row(
                draw(st.sampled_from(KEYS)),
                base_ms + 2_500 * draw(st.integers(-10, 6)),
                values,
                is_error=draw(st.booleans()),
                future=draw(st.integers(0, 9)) == 0,
            )
        )
    return out


class FoldMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000_000_000
        self.event_ms = T0_MS
        self.offsets: dict[int, int] = defaultdict(int)
        self.fold = Fold(CONFIG, start_ns=self.now_s * S)
        self.model = Model()
        self.number = 0
        self.sealed: list[tuple[int, StreamKey, int, int, float]] = []
        self.sealed_bytes: dict[tuple[int, StreamKey], bytes] = {}

    def take(self, effects: Any) -> None:
        for profile in effects.sealed:
            place = (profile.window, profile.stream)
            assert place not in self.sealed_bytes, "a window sealed twice"
            self.sealed_bytes[place] = profile.to_bytes()
            self.sealed.append(
                (
                    profile.window,
                    profile.stream,
                    profile.rows,
                    profile.errors,
                    profile.coverage,
                )
            )

    @rule(
        data=st.data(),
        partitions=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        caught_up=st.booleans(),
        step_ms=st.sampled_from([0, 2_500, 5_000, 10_000, 20_000]),
        split=st.integers(1, 3),
        pass_s=st.sampled_from([0, 1, 5, 10, 30]),
    )
    def chunk(
        self,
        data: st.DataObject,
        partitions: list[int],
        caught_up: bool,
        step_ms: int,
        split: int,
        pass_s: int,
    ) -> None:
        self.now_s += pass_s
        self.event_ms += step_ms
        every: list[Row] = []
        ranges = []
        for n in partitions:
            of_partition = data.draw(rows(self.event_ms))
            every += of_partition
            first = self.offsets[n]
            self.offsets[n] += len(of_partition)
            newest = max((r.time_ms for r in of_partition if not r.future), default=-1)
            known = self.model.partitions.get(n)
            before = known.newest_ms if known else -1
            last_row_s = self.now_s if of_partition else 0
            ranges.append(
                range_of(
                    n,
                    from_offset=first,
                    to_offset=self.offsets[n],
                    max_event_time_ms=max(newest, before),
                    caught_up=caught_up,
                    last_row_ns=last_row_s * S,
                )
            )
            if known is None:
                known = self.model.partitions[n] = ModelPartition(self.now_s, self.now_s)
            elif known.gone_s is not None:
                known.gone_s = None
                known.named_s = known.news_s = self.now_s
            if caught_up or known.to_offset != self.offsets[n]:
                known.news_s = self.now_s
            known.to_offset = self.offsets[n]
            known.caught_up = caught_up
            known.last_row_s = max(known.last_row_s, last_row_s)
            known.newest_ms = max(known.newest_ms, newest)
        self.number += 1
        threads = [[every[i::split]] for i in range(split)]
        sealed_until = self.model.sealed_until
        made = chunk_of(
            threads,
            digest=merge_digest(CONFIG),
            ranges=ranges,
            number=self.number,
            # A decoder may not have heard of the last seals yet.
            sealed_until=-(1 << 61)
            if sealed_until is None
            else sealed_until - data.draw(st.integers(0, 2)),
            width_ms=WIDTH_MS,
        )
        self.model.fold(every)
        for window in sorted(self.model.open):
            self.model.seal_excess(window, self.now_s)
        self.model.seal_due(self.now_s, tick=False)
        self.take(self.fold.apply(made, self.now_s * S))

    @rule(pass_s=st.sampled_from([1, 10, 30, 60, 100]))
    def tick(self, pass_s: int) -> None:
        self.now_s += pass_s
        self.model.seal_due(self.now_s, tick=True)
        self.take(self.fold.tick(self.now_s * S))

    @rule(n=st.integers(0, 2))
    def revoke(self, n: int) -> None:
        before = len(self.sealed), self.fold.sealed_until
        self.fold.forget([Partition("events", n)])
        known = self.model.partitions.get(n)
        if known is not None and known.gone_s is None:
            known.gone_s = self.now_s
        assert (len(self.sealed), self.fold.sealed_until) == before

    @precondition(lambda self: self.number > 3)
    @rule()
    def export(self) -> None:
        snapshot = self.fold.export(self.now_s * S)
        self.fold.accepted(snapshot)

    @invariant()
    def sealed_as_the_model_says(self) -> None:
        assert self.sealed == self.model.sealed
        assert max(self.fold.sealed_until, -(1 << 61)) == (
            -(1 << 61) if self.model.sealed_until is None else self.model.sealed_until
        )

    @invariant()
    def streams_as_the_model_says(self) -> None:
        assert self.fold.streams.keys() == self.model.streams.keys()
        for key, expected in self.model.streams.items():
            stream = self.fold.streams[key]
            assert (stream.rows, stream.errors, stream.late, stream.future) == (
                expected.rows,
                expected.errors,
                expected.late,
                expected.future,
            )
            assert stream.unsketched_values == expected.unsketched_values
            assert {c: (t.kind, t.present) for c, t in stream.columns.items()} == {
                c: (m.kind, m.present) for c, m in expected.columns.items()
            }

    @invariant()
    def every_row_is_in_one_place(self) -> None:
        in_windows = sum(rows for _, _, rows, _, _ in self.sealed) + sum(
            window.rows for stream in self.fold.streams.values() for window in stream.open.values()
        )
        late = sum(stream.late for stream in self.fold.streams.values())
        future = sum(stream.future for stream in self.fold.streams.values())
        rows = sum(stream.rows for stream in self.fold.streams.values())
        assert rows == in_windows + late + future == sum(self.model.rows_in.values())
        assert self.fold.tally.irregular["late"] == late
        assert self.fold.tally.irregular["future"] == future

    def teardown(self) -> None:
        self.take(self.fold.seal_all(self.now_s * S))
        for window in sorted(self.model.open):
            self.model.seal(window, 1.0)
        assert self.sealed == self.model.sealed
        # Sealed profiles are what they were when they sealed.
        for stream in self.fold.streams.values():
            for profile in stream.sealed:
                assert profile.to_bytes() == self.sealed_bytes[profile.window, stream.key]


FoldMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestFoldAgainstModel = FoldMachine.TestCase
