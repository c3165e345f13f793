"""A fold that is dumped and loaded at random moments goes on exactly as the one that was not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.config import Budget, Config, Export, Feature, Model, Windows
from agent.emit.otlp_metrics import MetricEncoder
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.fold.persist import dump, load
from agent.fold.register import FORGOTTEN_AFTER_NS
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.types import Column, Exemplar, Kind, Partition, Role, Snapshot, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of

S = 1_000_000_000
WIDTH_MS = 10_000
T0_MS = 1_700_000_000_000

CONFIG = Config(
    windows=Windows(
        width_s=WIDTH_MS / 1000,
        out_of_orderness_s=5,
        idle_timeout_s=30,
        owner_timeout_s=60,
        max_wait_s=100,
        max_open=3,
        keep=2,
    ),
    budget=Budget(max_streams=4, max_features_per_stream=5),
    export=Export(max_buckets=20, top_categories=2, resend_interval_s=60),
    features={"declared": Feature(kind=Kind.TEXT)},
    models=[Model(name="b", features=3, categorical=1)],
)

KEYS = [
    StreamKey(model, version, segment)
    for model in ("a", "b", "_overflow")
    for version in ("", "1", "2")
    for segment in ((), (("region", "eu"),), (("region", "us"),))
]
COLUMNS = [*(feature(name) for name in ("p", "q", "r", "declared")), prediction("score"), LATENCY]
COLUMNS += [Column(Role.USAGE, "input_tokens")]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(-10, 10),
    st.floats(0, 10),
    st.sampled_from([0.0, 1e300, -1e-300, 2.0**-70, float("inf"), float("nan")]),
    st.sampled_from(["x", "yy", "z" * 70, "ä" * 40]),
    st.just([3.0, 4.0]),
    st.just(["not", "numbers"]),
)


@st.composite
def rows_around(draw: st.DrawFn, base_ms: int) -> list[Row]:
    out = []
    for _ in range(draw(st.integers(0, 6))):
        values = draw(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6))
        if LATENCY in values:
            values[LATENCY] = draw(st.floats(0, 100))
        out.append(
            Row(
                draw(st.sampled_from(KEYS)),
                base_ms + 2_500 * draw(st.integers(-10, 6)),
                values,
                is_error=draw(st.booleans()),
                future=draw(st.integers(0, 9)) == 0,
            )
            if draw(st.integers(0, 9))
            # Enough of one stream in one window that its latencies are learned.
            else Row(KEYS[0], base_ms, {LATENCY: draw(st.floats(0, 100))})
        )
    if out and draw(st.integers(0, 5)) == 0:
        out += [Row(KEYS[0], base_ms, {LATENCY: 0.01 * i, feature("p"): 1.0}) for i in range(120)]
    return out


def said(out: Any) -> Any:
    """An output as bytes and plain values: the whole of it, in its order."""
    if isinstance(out, Snapshot):
        encoded = MetricEncoder(b"", b"", max_bytes=1 << 20).encode(out.metrics)
        return out.time_ns, list(out.covers.items()), [body.data for body in encoded.bodies]
    if isinstance(out, Effects):
        return (
            [profile.to_bytes() for profile in out.sealed],
            out.sealed_until,
            list(out.slow_above_s.items()),
            out.n_foreign,
            [asdict(span) for span in out.spans],
        )
    if isinstance(out, dict):
        return msgspec.json.encode(out)
    return out


class PersistMachine(RuleBasedStateMachine):
    """`folds[0]` lives on; `folds[1]` is dumped and loaded again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000_000_000
        self.event_ms = T0_MS
        self.offsets: dict[int, int] = defaultdict(int)
        self.number = 0
        self.folds = [Fold(CONFIG, start_ns=self.now_s * S) for _ in range(2)]
        self.exported: list[tuple[Snapshot, Snapshot]] = []

    def both(self, step: Any) -> tuple[Any, Any]:
        first, second = (step(fold) for fold in self.folds)
        assert said(first) == said(second)
        return first, second

    @rule()
    def restart(self) -> None:
        data = dump(self.folds[1])
        self.folds[1] = load(CONFIG, data)
        assert dump(self.folds[1]) == data

    @rule(
        data=st.data(),
        partitions=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        caught_up=st.booleans(),
        step_ms=st.sampled_from([0, 2_500, 5_000, 10_000, 20_000]),
        pass_s=st.sampled_from([0, 1, 5, 30]),
        foreign=st.sampled_from([*[""] * 12, "windows", "all"]),
    )
    def chunk(
        self,
        data: st.DataObject,
        partitions: list[int],
        caught_up: bool,
        step_ms: int,
        pass_s: int,
        foreign: str,
    ) -> None:
        self.now_s += pass_s
        self.event_ms += step_ms
        self.number += 1
        every: list[Row] = []
        ranges = []
        for n in partitions:
            rows = data.draw(rows_around(self.event_ms))
            every += rows
            first, self.offsets[n] = self.offsets[n], self.offsets[n] + len(rows)
            ranges.append(
                range_of(
                    n,
                    rows,
                    from_offset=first,
                    caught_up=caught_up,
                    last_row_ns=self.now_s * S if rows else 0,
                )
            )
        exemplars = [
            Exemplar(row.stream, column, value, self.now_s * S, bytes(16), bytes(8))
            for row in every[:3]
            for column, value in row.values.items()
            if isinstance(value, float)
        ]
        models = st.sampled_from(["a", "b", "c", "d", "e", "_overflow", ""])
        labels = data.draw(st.dictionaries(models, st.integers(1, 5), max_size=4))
        width, _, sketches = merge_digest(CONFIG).partition(";")
        digest = {"": f"{width};{sketches}", "windows": f"1;{sketches}", "all": f"{width};other"}
        made = chunk_of(
            [[every[0::2]], [every[1::2]]],
            digest=digest[foreign],
            ranges=ranges,
            number=self.number,
            sealed_until=self.folds[0].sealed_until,
            width_ms=WIDTH_MS,
            exemplars=exemplars,
            labels_by_model=labels,
        )
        made.tally.dropped["invalid_json"] += 1
        # As live and in replay: one has the chunk itself, the other reads it from the journal.
        chunks = dict(zip(map(id, self.folds), (made, from_bytes(to_bytes(made))), strict=True))
        self.both(lambda fold: fold.apply(chunks[id(fold)], self.now_s * S))

    @rule(pass_s=st.sampled_from([1, 10, 30, 100, FORGOTTEN_AFTER_NS // S]))
    def tick(self, pass_s: int) -> None:
        self.now_s += pass_s
        self.both(lambda fold: fold.tick(self.now_s * S))

    @rule(n=st.integers(0, 2))
    def revoke(self, n: int) -> None:
        self.both(lambda fold: fold.forget([Partition("events", n)]))

    @rule(n=st.integers(0, 2))
    def finish(self, n: int) -> None:
        self.both(lambda fold: fold.finish([Partition("events", n)]))

    @rule()
    def seal_all(self) -> None:
        self.both(lambda fold: fold.seal_all(self.now_s * S))

    @rule(zeros=st.booleans(), pass_s=st.sampled_from([0, 1, 100]))
    def export(self, zeros: bool, pass_s: int) -> None:
        self.now_s += pass_s
        self.exported.append(self.both(lambda fold: fold.export(self.now_s * S, zeros=zeros)))

    @rule(age=st.sampled_from([0, 0, 0, 1]))
    def accepted(self, age: int) -> None:
        if len(self.exported) > age:
            taken = self.exported[-1 - age][0].time_ns
            self.both(lambda fold: fold.accepted(Snapshot(taken, [], {})))

    @rule()
    def scrape_one_of_them(self) -> None:
        """A scrape is no input: what only one of them was asked shows in none of the answers."""
        self.folds[0].snapshot(self.now_s * S)
        self.folds[0].state(self.now_s * S)
        self.folds[0].report()

    @rule(ahead_s=st.sampled_from([0, 0, 50]))
    def renew(self, ahead_s: int) -> None:
        self.both(lambda fold: fold.renew((self.now_s + ahead_s) * S))

    @invariant()
    def they_say_the_same(self) -> None:
        self.both(lambda fold: fold.state(self.now_s * S))
        self.both(Fold.report)
        first, second = self.folds
        assert list(first.streams) == list(second.streams)
        assert first.sealed_until == second.sealed_until

    def teardown(self) -> None:
        self.both(lambda fold: fold.seal_all(self.now_s * S))
        self.both(lambda fold: fold.export(self.now_s * S))
        # The bytes are a function of the inputs, too.
        assert dump(self.folds[0]) == dump(self.folds[1])


PersistMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestFoldKept = PersistMachine.TestCase
