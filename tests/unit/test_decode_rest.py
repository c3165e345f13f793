"""Times, windows, labels, trace context, slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Feature, Traces, Windows
from agent.decode.candidates import Facts, Found, RowView
from agent.decode.events import MAX_LABEL_MODELS, SLICE_RECORDS, JsonDecoder
from agent.decode.kernels.candidates import BASE_RATE
from agent.decode.lanes import StreamTable
from agent.decode.rows import MAX_BLOCK_BYTES
from agent.decode.spans import SpanSampler
from agent.decode.times import event_time_ms
from agent.sketch.links import is_link
from agent.types import (
    OVERFLOW,
    WINDOW_FUTURE,
    WINDOW_LATE,
    Column,
    Irregular,
    Partition,
    Record,
    RequestSpan,
    Role,
    SpanWhy,
    StreamKey,
    Tier,
)
from tests.support.decoded import PARTITION, decode, fetch_of, records_of, run

MS = 1_767_225_600_123  # 2026-01-01T00:00:00.123Z
EVENT: dict[str, Any] = {"model": "m", "features": {"x": 1.0}}


@pytest.mark.parametrize(
    ("ts", "ms"),
    [
        (MS, MS),
        (1_767_225_600, MS - 123),
        (1_767_225_600.123, MS),
        (MS * 1000 + 999, MS),
        (MS * 1_000_000 + 999_999, MS),
        (float(MS) * 1000, MS),
        ("1767225600123", MS),
        ("1767225600.123", MS),
        ("2026-01-01T00:00:00.123Z", MS),
        ("2026-01-01t00:00:00.123z", MS),
        ("2026-01-01 00:00:00.123", MS),
        ("2026-01-01T02:00:00.123+02:00", MS),
        ("2026-01-01T00:00:00.123999999Z", MS),
        ("2025-12-31T23:59:60.123Z", MS),
        (0, 0),
        (-1, -1000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
    ],
)
def test_a_time_is_read_in_the_unit_its_size_tells(ts: Any, ms: int) -> None:
    assert event_time_ms(ts) == ms


@pytest.mark.parametrize(
    "ts",
    [
        True,
        None,
        [],
        {},
        "",
        "now",
        "2026-01-01",
        "2026-13-01T00:00:00Z",
        "1_000",
        "inf",
        "nan",
        " 1",
        "0x10",
        1e300,
        10**40,
        "9" * 65,
        "١٢٣",
    ],
)
def test_what_is_no_time_is_none(ts: Any) -> None:
    assert event_time_ms(ts) is None


def test_without_a_time_the_record_s_timestamp_counts() -> None:
    result = decode(Record(0, MS, None, orjson.dumps(EVENT), ()))
    assert result.rows[0].time_ms == MS


def test_without_any_time_a_row_has_the_time_of_the_row_before() -> None:
    raw = [orjson.dumps(event) for event in (EVENT, {**EVENT, "ts": MS}, EVENT)]
    result = decode(*records_of(raw, timestamp_ms=-1))
    assert [row.time_ms for row in result.rows] == [0, MS, MS]


def test_windows_are_floors_of_event_time() -> None:
    config = Config(windows=Windows(width_s=60))
    times = [0, 59_999, 60_000, -1, MS]
    records = [
        Record(i, MS, None, orjson.dumps({**EVENT, "ts": t / 1000}), ())
        for i, t in enumerate(times)
    ]
    assert [row.window for row in decode(*records, config=config).rows] == [
        0,
        0,
        1,
        -1,
        MS // 60_000,
    ]


def test_rows_of_sealed_windows_are_marked_late_and_not_counted_here() -> None:
    table = StreamTable()
    decoder = JsonDecoder(Config(windows=Windows(width_s=60)), table, None)
    decoder.sealed_until = MS // 60_000
    raw = [orjson.dumps({**EVENT, "ts": MS - 60_000}), orjson.dumps({**EVENT, "ts": MS})]
    result = run(decoder, table, fetch_of(records_of(raw)))
    assert [row.window for row in result.rows] == [WINDOW_LATE, MS // 60_000]
    assert result.tally.irregular == {}


def test_rows_too_far_ahead_of_their_record_are_future_and_move_no_clock() -> None:
    config = Config(windows=Windows(max_skew_s=300))
    # The last one is the year 146 million: nanoseconds beyond 64 bits, a float to orjson.
    times: list[float] = [MS, MS + 300_000, MS + 300_001, 2.0**62 * 1e6]
    records = [
        Record(i, MS, None, orjson.dumps({**EVENT, "ts": t}), ()) for i, t in enumerate(times)
    ]
    result = decode(*records, config=config)
    assert [row.window == WINDOW_FUTURE for row in result.rows] == [False, False, True, True]
    assert result.max_event_time_ms == MS + 300_000
    assert result.tally.irregular == {}


def test_a_timestamp_far_beyond_the_wall_clock_does_not_move_the_watermark() -> None:
    """One producer that writes microseconds for milliseconds must not end everybody's windows."""
    table = StreamTable()
    decoder = JsonDecoder(Config(), table, None)
    decoder.now_ms = MS
    records = [Record(i, at, None, orjson.dumps(EVENT), ()) for i, at in enumerate((MS * 1000, MS))]
    result = run(decoder, table, fetch_of(records))
    assert [row.window == WINDOW_FUTURE for row in result.rows] == [True, False]
    assert result.max_event_time_ms == MS


def test_names_whose_values_are_objects_count_against_the_size_of_the_table() -> None:
    table = StreamTable()
    names = {f"k{i}": {} for i in range(1000)}
    run(
        JsonDecoder(Config(), table, None),
        table,
        fetch_of(records_of([orjson.dumps({"model": "m", "features": names})])),
    )
    assert table.size >= 1000


def test_rows_of_files_are_future_beyond_the_median_of_their_slice() -> None:
    config = Config(windows=Windows(max_jump_s=3600))
    times = [MS, MS + 1000, MS + 2000, MS + 1000 + 3_600_000, MS + 1001 + 3_600_000 + 2000]
    raw = [orjson.dumps({**EVENT, "ts": t}) for t in times]
    result = decode(*records_of(raw, timestamp_ms=-1), config=config)
    assert [row.window == WINDOW_FUTURE for row in result.rows] == [False] * 4 + [True]
    assert result.max_event_time_ms == times[3]


def test_timestamps_at_the_ends_of_int64_do_not_wrap_around() -> None:
    records = [
        Record(0, 2**63 - 1, None, orjson.dumps(EVENT), ()),
        Record(1, MS, None, orjson.dumps(EVENT), ()),
        Record(2, -(2**63), None, orjson.dumps(EVENT), ()),
    ]
    result = decode(*records)
    assert result.tally.rows == 3
    assert result.rows[1].window == MS // 60_000


def test_labels_are_counted_by_model_and_move_no_clock() -> None:
    result = decode(
        {"id": "r", "label": "late", "ts": MS + 10_000},
        {"id": "r", "label": 0, "model": "m"},
        {"id": "r", "label": False, "model": "m"},
        {**EVENT, "label": "late"},
    )
    assert result.tally.labels == 4
    assert result.tally.labels_by_model == {"": 1, "m": 3}
    assert result.tally.rows == 1
    assert result.tally.events == 4
    assert result.tally.dropped == {}
    assert result.max_event_time_ms == 1_767_225_600_000


def test_a_label_alone_takes_no_default_model() -> None:
    result = decode(
        {"id": "r", "label": 1},
        {"id": "r", "label": 1, "model": ""},
        {"features": {"x": 1}, "label": 1},
        default_model="d",
    )
    assert result.tally.labels_by_model == {"": 2, "d": 1}
    assert [row.stream.model for row in result.rows] == ["d"]


def test_labels_beside_a_batch_are_one_a_row() -> None:
    batch = {"model": "m", "features": [{"x": 1}, {"x": 2}], "label": ["a", "b"]}
    assert decode(batch).tally.labels == 2
    assert decode({**batch, "label": ["a"]}).tally.labels == 1


def test_a_label_topic_gives_labels_only() -> None:
    result = decode(EVENT, {**EVENT, "label": 1}, {"label": 2}, is_label_topic=True)
    assert result.tally.dropped == {"no_content": 1}
    assert result.tally.labels == 2
    assert result.tally.rows == 0
    assert result.rows == []
    assert result.max_event_time_ms == -1


def test_models_of_labels_are_bounded() -> None:
    events = [{"label": 1, "model": f"m{i}"} for i in range(MAX_LABEL_MODELS + 500)]
    result = decode(*events)
    assert len(result.tally.labels_by_model) == MAX_LABEL_MODELS + 1
    assert result.tally.labels_by_model[OVERFLOW] == 500


class KeepAll:
    """A sampler that keeps every row and remembers what it was asked."""

    def __init__(self, limits: dict[str, tuple[float, float]] | None = None) -> None:
        self.limits = limits or {}
        self.asked: list[dict[str, Any]] = []

    def choose(self, view: RowView, *_: Any) -> Found:
        n = view.block.n
        return Found(np.arange(n), np.full(n, BASE_RATE, np.uint8))

    def span(
        self,
        why: SpanWhy,
        facts: Facts,
        stream: StreamKey,
        end_ms: int,
        place: tuple[Partition, str],
        out_of_range: tuple[Column, ...],
    ) -> RequestSpan:
        self.asked.append(
            {
                "stream": stream,
                "partition": place[0],
                "lineage": place[1],
                "end_ms": end_ms,
                "out_of_range": out_of_range,
                **facts._asdict(),
            }
        )
        return RequestSpan(
            trace_id=b"t" * 16,
            span_id=len(self.asked).to_bytes(8, "big"),
            parent_span_id=b"",
            link=None,
            trace_state="",
            start_ns=0,
            end_ns=end_ms * 1_000_000,
            stream=stream,
            why=why,
            status=facts.status,
            request_id=facts.request_id,
            partition=place[0],
            offset=facts.offset,
            row=facts.row,
            sampling_threshold=None,
            out_of_range=out_of_range,
        )


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_PARENT = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def asked_for(
    event: dict[str, Any], headers: tuple[tuple[str, bytes | None], ...] = ()
) -> tuple[dict[str, Any], Any]:
    sampler = KeepAll()
    result = decode(Record(7, MS, None, orjson.dumps(event), headers), sampler=sampler)
    return sampler.asked[0], result.tally


def test_the_sampler_is_asked_about_every_row() -> None:
    sampler = KeepAll()
    batch = {
        "id": "r-1",
        "ts": MS,
        "model": "m",
        "version": "7",
        "features": [{"x": 1}, {"x": 2}],
        "latency_ms": 250,
        "status": "failed" + "x" * 100,
        "traceparent": PARENT,
        "tracestate": "a=b",
    }
    result = decode(EVENT, batch, sampler=sampler)
    assert len(sampler.asked) == 3
    assert sampler.asked[0]["n_rows"] == 1
    assert sampler.asked[2] == {
        "stream": StreamKey("m", "7"),
        "partition": PARTITION,
        "lineage": "lineage",
        "offset": 1,
        "row": 1,
        "n_rows": 2,
        "end_ms": MS,
        "latency_s": 0.25,
        "status": "failed" + "x" * 58,
        "request_id": "r-1",
        "traceparent": PARENT,
        "tracestate": "a=b",
        "out_of_range": (),
    }
    assert len(result.parts[0].spans) == 3


def test_rows_that_were_taken_back_leave_no_trace_with_the_sampler() -> None:
    sampler = KeepAll()
    broken = {"id": "broken", "model": "m", "features": [{"x": 1}, {"x": 2}, 3]}
    result = decode(broken, {**EVENT, "id": "good"}, sampler=sampler)
    assert [(ask["request_id"], ask["offset"]) for ask in sampler.asked] == [("good", 1)]
    assert [span.request_id for span in result.parts[0].spans] == ["good"]


def test_a_trace_context_in_the_headers_wins() -> None:
    headers = (("TraceParent", PARENT.encode()), ("tracestate", b"x=y"))
    asked, _ = asked_for({**EVENT, "traceparent": OTHER_PARENT, "tracestate": "b=c"}, headers)
    assert (asked["traceparent"], asked["tracestate"]) == (PARENT, "x=y")
    asked, _ = asked_for(
        {**EVENT, "traceparent": OTHER_PARENT, "tracestate": "b=c"}, (("traceparent", None),)
    )
    assert (asked["traceparent"], asked["tracestate"]) == (OTHER_PARENT, "b=c")


@pytest.mark.parametrize(
    "bad",
    [
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        PARENT + "-00",
        PARENT[:-1],
        "junk",
        "",
        7,
    ],
)
def test_a_trace_context_that_is_not_w3c_is_counted_and_not_used(bad: Any) -> None:
    asked, tally = asked_for({**EVENT, "traceparent": bad})
    assert asked["traceparent"] is None
    assert tally.irregular == {Irregular.BAD_TRACE_CONTEXT: 1}


def test_a_later_version_of_the_trace_context_is_read_for_its_known_part() -> None:
    asked, tally = asked_for({**EVENT, "traceparent": "01" + PARENT[2:] + "-more"})
    assert asked["traceparent"] == "01" + PARENT[2:] + "-more"
    assert tally.irregular == {}


def test_out_of_range_is_what_is_declared_and_what_no_histogram_holds() -> None:
    config = Config(features={"age": Feature(min=0, max=120), "n": Feature(max=5)})
    sampler = KeepAll(SpanSampler(Traces(), config.features).limits)
    rows = [
        {"age": 0, "n": 5, "free": 2.0**64},
        {"age": -1, "n": 6},
        {"age": "old", "free": -1e300},
        {"age": 121, "free": 2.0**65},
        {"age": 1e30, "n": -1e30},
    ]
    events = [{"model": "m", "features": row} for row in rows]
    decode(*events, {"model": "m", "prediction": 1e30}, config=config, sampler=sampler)
    asked = [{str(c.name) for c in ask["out_of_range"]} for ask in sampler.asked]
    assert asked == [set(), {"age", "n"}, {"free"}, {"age", "free"}, {"age", "n"}, {"value"}]


def test_exemplars_are_latency_score_and_whatever_is_out_of_range() -> None:
    config = Config(features={"age": Feature(max=120)})
    event = {
        "ts": MS,
        "model": "m",
        "features": {"age": 200, "x": 1},
        "prediction": {"score": 0.5, "other": 1, "label": "a"},
        "latency_ms": 20,
    }
    sampler = KeepAll(SpanSampler(Traces(), config.features).limits)
    found = decode(event, config=config, sampler=sampler).parts[0].exemplars
    made = [e for e in found if not is_link(e)]
    assert {(e.column, e.value) for e in made} == {
        (Column(Role.LATENCY, "latency"), 0.02),
        (Column(Role.PREDICTION, "score"), 0.5),
        (Column(Role.FEATURE, "age"), 200.0),
    }
    assert {(e.time_ns, e.trace_id, e.stream) for e in made} == {
        (MS * 1_000_000, b"t" * 16, StreamKey("m", ""))
    }
    # Every column leaves a link, which no exporter shows.
    links = {e.column.name for e in found if is_link(e)}
    assert links == {"age", "x", "score", "other", "label", "latency"}


def test_a_fetch_is_decoded_in_slices_that_say_how_far_they_reach() -> None:
    n = 2 * SLICE_RECORDS + 7
    records = [Record(2 * i, MS, None, orjson.dumps({**EVENT, "id": i}), ()) for i in range(n)]
    fetch = fetch_of(records)
    fetch.to_offset = 5000
    table = StreamTable()
    parts = list(JsonDecoder(Config(), table, None).decode(fetch, "l"))
    assert [part.tally.records for part in parts] == [SLICE_RECORDS, SLICE_RECORDS, 7]
    assert [part.to_offset for part in parts] == [
        2 * SLICE_RECORDS - 1,
        4 * SLICE_RECORDS - 1,
        5000,
    ]


def test_a_slice_is_bounded_in_bytes() -> None:
    big = orjson.dumps({**EVENT, "tags": "x" * 700_000})
    table = StreamTable()
    parts = list(JsonDecoder(Config(), table, None).decode(fetch_of(records_of([big] * 5)), "l"))
    assert [part.tally.records for part in parts] == [2, 2, 1]


def test_blocks_are_bounded_however_wide_the_rows() -> None:
    wide = {"model": "m", "features": {f"f{i}": 1.0 for i in range(2000)}}
    batch = orjson.dumps({"model": "m", "features": [{"f7": i} for i in range(3000)]})
    result = decode(wide, batch)
    assert result.tally.rows == 3001
    blocks = [block for part in result.parts for block in part.blocks]
    assert len(blocks) > 1
    assert max(block.numbers.nbytes for block in blocks) <= MAX_BLOCK_BYTES
    column = Column(Role.FEATURE, "f7")
    assert [row.value(column) for row in result.rows] == [1.0, *map(float, range(3000))]


def test_a_row_is_as_wide_as_its_stream() -> None:
    table = StreamTable()
    decoder = JsonDecoder(Config(), table, None)
    wide = [orjson.dumps({"model": "w", "features": {f"f{i}": i for i in range(50)}})]
    run(decoder, table, fetch_of(records_of(wide)))
    result = run(decoder, table, fetch_of(records_of([orjson.dumps(EVENT)])))
    assert result.parts[0].blocks[0].numbers.shape == (1,)


def test_a_table_that_was_cleared_learns_again() -> None:
    table = StreamTable()
    decoder = JsonDecoder(Config(), table, None)
    events = [orjson.dumps({"model": f"m{i}", "features": {"x": i}}) for i in range(5)]
    before = run(decoder, table, fetch_of(records_of(events)))
    table.clear()
    assert (table.keys, table.numeric_lanes, table.shapes) == ([], [], [])
    after = run(decoder, table, fetch_of(records_of(events)))
    assert [row.values for row in after.rows] == [row.values for row in before.rows]


def test_interning_a_stream_gives_the_number_its_rows_have() -> None:
    table = StreamTable()
    key = StreamKey("m", "", (("a", "b"),))
    assert table.intern(key) == table.intern(StreamKey("m", "", (("a", "b"),))) == 0
    result = run(
        JsonDecoder(Config(), table, None),
        table,
        fetch_of(records_of([orjson.dumps({**EVENT, "segment": {"a": "b"}})])),
    )
    assert result.parts[0].blocks[0].stream.tolist() == [0]
    assert table.keys == [key]


def test_rows_say_which_tier_decoded_them() -> None:
    assert decode(EVENT, EVENT).tally.rows_by_tier == {Tier.ORJSON: 2}


def test_text_has_padding_at_both_ends() -> None:
    block = decode({"model": "m", "features": {"a": "xyz"}}).parts[0].blocks[0]
    assert not block.text[:64].any()
    assert not block.text[-64:].any()
    assert block.text[64:-64].tobytes() == b"xyz"
    assert block.string_start.dtype == np.int64
    assert block.string_length.dtype == np.int32
