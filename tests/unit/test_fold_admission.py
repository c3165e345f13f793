"""Budgets: who gets a stream, where the rows of the others go, and that nothing grows without bound."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from agent.config import Budget, Config, Export, Model, Windows
from agent.emit.registry import METRICS, Instrument, check
from agent.fold.admission import LAST, MAX_NAMES, DistinctNames, name_of
from agent.fold.base import Fold
from agent.sketch.cells import NUMERIC_CELL_BYTES, STRING_CELL_BYTES
from agent.sketch.packed import no_cells
from agent.state.chunk import merge_digest
from agent.types import OVERFLOW, Chunk, Group, StreamKey, Tally
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of

T0 = 1_700_000_000_000 // 60_000 * 60_000
HOUR_NS = 3600 * 1_000_000_000
EU, US = (("region", "eu"),), (("region", "us"),)
SEGMENT_OVERFLOW = (("region", OVERFLOW),)


def config(**budget: Any) -> Config:
    return Config(budget=Budget(**budget))


class Driver:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.fold = Fold(config, start_ns=1)
        self.now_ns = 10
        self.number = 0

    def read(self, rows: list[Row], labels: dict[str, int] | None = None) -> None:
        self.number += 1
        chunk = chunk_of(
            [[rows]],
            digest=merge_digest(self.config),
            ranges=[range_of(0, to_offset=self.number, max_event_time_ms=1)],
            number=self.number,
            labels_by_model=labels,
        )
        self.fold.apply(chunk, self.now_ns)

    def see(self, *keys: StreamKey, n: int = 1) -> None:
        self.read([Row(key, T0, {}) for key in keys for _ in range(n)])

    @property
    def rows(self) -> dict[StreamKey, int]:
        return {key: stream.rows for key, stream in self.fold.streams.items()}


def key(model: str, version: str = "", segment: tuple[tuple[str, str], ...] = ()) -> StreamKey:
    return StreamKey(model, version, segment)


# ---------------------------------------------------------------- overflow keeps parents


def test_a_refused_segment_folds_under_its_model_and_version() -> None:
    d = Driver(config(max_streams=1))
    d.see(key("m", "1", EU))
    d.see(key("m", "1", US), key("m", "1", (("region", "ap"),)))
    assert d.rows == {key("m", "1", EU): 1, key("m", "1", SEGMENT_OVERFLOW): 2}


def test_a_refused_version_folds_under_its_model() -> None:
    d = Driver(config(max_streams=1))
    d.see(key("m", "1", EU))
    d.see(key("m", "2", EU), key("m", "3"))
    assert d.rows == {key("m", "1", EU): 1, key("m", OVERFLOW, SEGMENT_OVERFLOW): 2}


def test_a_version_without_segments_folds_to_the_model_and_not_to_itself() -> None:
    d = Driver(config(max_streams=1))
    d.see(key("m", "1"))
    d.see(key("m", "2"))
    assert d.rows == {key("m", "1"): 1, key("m", OVERFLOW): 1}


def test_a_refused_model_folds_to_the_last_overflow_stream() -> None:
    d = Driver(config(max_streams=1))
    d.see(key("m"))
    d.see(key("other", "1", EU), key("third"))
    assert d.rows == {key("m"): 1, LAST: 2}


def test_overflow_takes_future_rows_only() -> None:
    d = Driver(config(max_streams=2))
    d.see(key("a", "1"), key("a", "2"))
    d.see(key("a", "1"), key("a", "2"), key("a", "3"))
    assert d.rows == {key("a", "1"): 2, key("a", "2"): 2, key("a", OVERFLOW): 1}


def test_of_a_chunk_the_streams_with_most_rows_are_admitted() -> None:
    rows = [Row(key(f"m{i}"), T0) for i in range(9) for _ in range(i)]
    random.Random(2).shuffle(rows)
    d = Driver(config(max_streams=3))
    d.read(rows)
    assert d.rows == {key("m8"): 8, key("m7"): 7, key("m6"): 6, LAST: 15}


def test_a_model_named_like_an_overflow_stream_cannot_pose_as_admitted() -> None:
    d = Driver(config(max_streams=5))
    d.see(key(OVERFLOW), key("m", OVERFLOW), key("m", "1", SEGMENT_OVERFLOW))
    assert d.rows == {LAST: 3}
    assert d.fold.state(0)["budget"]["streams"]["used"] == 0


def test_what_was_folded_is_named_and_counted() -> None:
    d = Driver(config(max_streams=1))
    d.see(key("m"))
    for i in range(40):
        d.see(key(f"x{i:02d}", "1", EU), key(f"x{i:02d}", "1", EU))
    budget = d.fold.state(0)["budget"]
    assert budget["folded"] == [f"x{i:02d}/1/region=eu" for i in range(MAX_NAMES)]
    assert budget["folded_streams"] == 40


def test_names_are_exact_to_a_thousand_and_estimated_beyond() -> None:
    names = DistinctNames()
    for n, bound in ((500, 0.0), (1_000, 0.0), (20_000, 0.13), (100_000, 0.13)):
        for i in range(n):
            names.add(f"name {i}")
        assert abs(names.count() - n) <= bound * n  # 4 standard errors of 3.1 %


# ---------------------------------------------------------------- declared models


def test_declared_models_have_room_that_others_cannot_take() -> None:
    declared = Model(name="fraud", versions=2, features=1)
    c = Config(budget=Budget(max_streams=4), models=[declared])
    d = Driver(c)
    d.see(*(key(f"x{i}") for i in range(10)), n=5)
    assert len(d.rows) == 3, "two of four, and the overflow stream"
    d.see(key("fraud", "1"), key("fraud", "2"))
    assert d.rows[key("fraud", "1")] == d.rows[key("fraud", "2")] == 1
    d.see(key("fraud", "3"))
    assert d.rows[key("fraud", OVERFLOW)] == 1


def test_of_a_chunk_declared_models_come_first() -> None:
    c = Config(budget=Budget(max_streams=1), models=[Model(name="a", features=1), Model(name="b")])
    d = Driver(c)
    d.see(*[key("x")] * 9, key("b"))
    assert d.rows == {key("b"): 1, LAST: 9}


def test_a_reservation_is_for_series_and_memory_too() -> None:
    declared = Model(name="fraud", features=10)
    values = {feature(f"f{i}"): 1.0 for i in range(10)}
    c = Config(budget=Budget(max_series=300), models=[declared])
    d = Driver(c)
    d.read([Row(key(f"x{i}"), T0, values) for i in range(10)])
    d.read([Row(key("fraud"), T0, values)])
    assert len(d.fold.streams[key("fraud")].columns) == 10


# ---------------------------------------------------------------- columns


def test_columns_past_the_limit_are_counted_and_not_sketched() -> None:
    d = Driver(config(max_features_per_stream=4))
    values = {feature(f"f{i}"): 1.0 for i in range(6)}
    d.read([Row(key("m"), T0, values | {LATENCY: 0.1, prediction("score"): 0.5})] * 3)
    stream = d.fold.streams[key("m")]
    assert set(stream.columns) == {LATENCY, prediction("score"), feature("f0"), feature("f1")}
    (document,) = d.fold.state(0)["streams"]
    assert document["unsketched"] == {"columns": 4, "values": 12}
    (reported,) = d.fold.report()["streams"]
    assert reported["unsketched"] == {"columns": 4, "values": 12}
    own = {m.name: m.points[0].value for m in d.fold.snapshot(0).metrics if "unsketched" in m.name}
    assert own == {"inferometer.unsketched.values": 12, "inferometer.unsketched.columns": 4}
    assert stream.rows == 3


def test_a_stream_that_keeps_inventing_columns_stays_bounded() -> None:
    d = Driver(config(max_features_per_stream=2))
    for i in range(30):
        d.read([Row(key("m"), T0, {feature(f"f{i}-{j}"): 1.0 for j in range(50)})])
    stream = d.fold.streams[key("m")]
    assert (len(stream.columns), len(stream.unsketched)) == (2, 1000)
    assert stream.unsketched_values == 30 * 50 - 2


# ---------------------------------------------------------------- hard limits


def emitted(fold: Fold, now_ns: int) -> Counter[tuple[str, Any]]:
    """Series of `inference.*` in a scrape."""
    snapshot = fold.snapshot(now_ns)
    for metric in snapshot.metrics:
        check(metric)
    return Counter(
        (metric.name, point.attributes)
        for metric in snapshot.metrics
        for point in metric.points
        if metric.name.startswith("inference.")
    )


MIXED = {
    feature("signed"): -1.0,
    feature("number"): 2.0,
    feature("flag"): True,
    feature("city"): "oslo",
    feature("note"): "w" * 80,
    feature("vector"): [1.0, 2.0],
    feature("nothing"): None,
    prediction("score"): 0.5,
    LATENCY: 0.1,
}


@pytest.mark.parametrize("max_series", [10, 60, 333, 1000])
@pytest.mark.parametrize("top", [0, 3])
def test_emitted_series_are_counted_exactly_and_never_exceed_the_limit(
    max_series: int, top: int
) -> None:
    c = Config(budget=Budget(max_series=max_series), export=Export(top_categories=top))
    d = Driver(c)
    for i in range(12):
        d.read(
            [
                Row(key(f"m{i}", "1", segment), T0 + 60_000 * j, MIXED)
                for segment in (EU, US)
                for j in range(2)
            ],
            labels={f"m{i}": 3},
        )
        series = emitted(d.fold, i)
        assert set(series.values()) == {1}
        state = d.fold.state(0)["budget"]["series"]
        assert state["used"] == len(series) <= state["granted"] <= max_series
        d.fold.seal_all(i)
    series = emitted(d.fold, 99)
    assert len(series) <= max_series
    assert sum(d.rows.values()) == 48
    assert sum(d.fold.tally.labels_by_model.values()) == 36


def test_memory_stays_under_its_limit_and_old_windows_give_way() -> None:
    limit = 8 << 20
    c = Config(
        budget=Budget(max_memory_bytes=limit),
        windows=Windows(max_open=50, out_of_orderness_s=80_000),
    )
    d = Driver(c)
    values = {feature(f"f{i}"): float(i) for i in range(10)} | {feature("c"): "x"}
    rng = random.Random(5)
    for i in range(40):
        rows = [
            Row(key(f"m{j}"), T0 + 60_000 * rng.randrange(max(0, i - 5), i + 1), values)
            for j in range(12)
        ]
        d.read(rows)
        assert d.fold.state(0)["budget"]["memory_bytes"]["used"] <= limit
    assert 1 < len(d.fold.state(0)["windows"]["open"]) < 40
    stream = d.fold.streams[key("m0")]
    in_windows = sum(w.rows for w in stream.open.values())
    d.fold.seal_all(99)
    assert stream.rows == 40 and in_windows < 40


def test_sealing_gives_back_the_memory_of_windows() -> None:
    d = Driver(config())
    d.read([Row(key("m"), T0, {feature("x"): 1.0, feature("c"): "a"})])
    before = d.fold.state(0)["budget"]["memory_bytes"]["used"]
    d.fold.seal_all(20)
    after = d.fold.state(0)["budget"]["memory_bytes"]["used"]
    assert before - after == NUMERIC_CELL_BYTES + STRING_CELL_BYTES


def test_a_million_names_cannot_be_told_from_two_hundred_thousand_by_memory() -> None:
    c = config(max_streams=50)
    fold = Fold(c, start_ns=1)
    none, texts = no_cells(is_string=False), no_cells(is_string=True)
    n, of_chunk = 200_000, 5_000
    for first in range(0, n, of_chunk):
        groups = [
            Group(key(f"model-{i}", "v"), T0 // 60_000, 1, i % 2, T0, T0, [])
            for i in range(first, first + of_chunk)
        ]
        at = range_of(0, to_offset=first, max_event_time_ms=1)
        tally = Tally(rows=of_chunk)
        tally.labels_by_model.update({f"model-{i}": 1 for i in range(first, first + 100)})
        fold.apply(
            Chunk("r", first, 1, merge_digest(c), [at], groups, none, texts, tally, [], []),
            first,
        )
    assert len(fold.streams) == 51
    assert sum(stream.rows for stream in fold.streams.values()) == n
    assert sum(stream.errors for stream in fold.streams.values()) == n // 2
    assert len(fold.tally.labels_by_model) <= 51
    assert sum(fold.tally.labels_by_model.values()) == 100 * n // of_chunk
    folded = fold.state(0)["budget"]["folded_streams"]
    assert abs(folded - (n - 50)) < 0.13 * n  # 4 standard errors


# ---------------------------------------------------------------- ends


def test_a_stream_unseen_for_a_day_ends_when_room_is_wanted_and_its_rows_stay_counted() -> None:
    d = Driver(config(max_streams=2))
    d.see(key("old"), key("kept"))
    d.fold.seal_all(d.now_ns)
    d.now_ns += 25 * HOUR_NS
    d.see(key("kept"))
    d.fold.tick(d.now_ns)
    assert key("old") in d.rows, "nobody wanted its room"
    d.see(key("new"))
    d.fold.tick(d.now_ns)
    assert key("old") not in d.rows
    assert d.fold.state(0)["ended"] == {"old": 1}
    d.see(key("new"))
    assert d.rows == {key("kept"): 2, LAST: 1, key("new"): 1}
    assert sum(d.rows.values()) + 1 == 5


def test_declared_streams_do_not_end() -> None:
    c = Config(budget=Budget(max_streams=1), models=[Model(name="a", features=1)])
    d = Driver(c)
    d.see(key("a"))
    d.fold.seal_all(d.now_ns)
    d.now_ns += 48 * HOUR_NS
    d.see(key("new"))
    d.fold.tick(d.now_ns)
    assert d.rows == {key("a"): 1, LAST: 1}


def test_an_ended_stream_gives_back_all_it_was_granted() -> None:
    d = Driver(config(max_streams=1))
    d.read([Row(key("old"), T0, MIXED)])
    d.fold.seal_all(d.now_ns)
    d.now_ns += 25 * HOUR_NS
    d.see(key("new"))
    d.fold.tick(d.now_ns)
    assert d.rows == {LAST: 1}
    d.now_ns += 1
    budget = d.fold.state(0)["budget"]
    assert budget["streams"]["used"] == 0
    assert budget["series"]["granted"] == len(
        [m for m in METRICS if m.startswith(("inference.rows", "inference.errors"))]
    ) + len([m for m in METRICS if m.startswith("inference.window.")])
    assert budget["memory_bytes"]["used"] == 0


def test_every_inference_metric_of_the_registry_that_counts_can_be_emitted() -> None:
    d = Driver(Config(export=Export(top_categories=2)))
    usage = {
        type(LATENCY)(LATENCY.role.__class__("usage"), name): 5.0
        for name in ("input_tokens", "output_tokens", "ttft")
    }
    outputs = {prediction(column.name): value for column, value in MIXED.items()}
    d.read([Row(key("m", "1"), T0, MIXED | usage | outputs)], labels={"m": 1})
    d.fold.seal_all(20)
    names = {name for name, _ in emitted(d.fold, 30)}
    judged = ("inference.verdict.", "inference.drift.")  # `test_judging` has those
    of_counts = {n for n in METRICS if n.startswith("inference.") and not n.startswith(judged)}
    assert names == of_counts
    assert all(METRICS[name].instrument in Instrument for name in names)


def test_a_stream_is_named_on_one_line() -> None:
    assert name_of(key("m", "1", EU)) == "m/1/region=eu"
    assert name_of(key("m")) == "m"
