"""The three tiers together make what the orjson tier makes alone: rows, counts, drops, spans."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Decode, Feature, Traces, Windows
from agent.decode.events import Decoded, JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.raw_batches import table_of
from agent.decode.spans import SpanSampler
from agent.sketch.delta import Delta
from agent.types import Exemplar, Fetch, RawFetch, Record, RequestSpan, Tally, Tier
from tests.fuzz import configurations, shapes
from tests.fuzz.digests import Digester, Outcome
from tests.support.decoded import PARTITION, fetch_of, records_of, with_options
from tests.support.events import make_events
from tests.support.raw_batches import CODECS, batches_of, built

MS = 1_767_225_600_000
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Side:
    """One decoder and everything it made."""

    def __init__(self, kind: Any, config: Config) -> None:
        self.table = StreamTable()
        # Who gets the last of a budget depends on the order of rows.
        traces = Traces(base_rate=config.traces.base_rate, max_per_s=1e6)
        self.sampler = SpanSampler(traces, config.features, clock=lambda: 0.0)
        self.decoder = kind(config, self.table, self.sampler)
        self.digester = Digester(self.table)
        self.delta = Delta(self.table)
        self.spans: list[RequestSpan] = []
        self.exemplars: list[Exemplar] = []
        self.parts: list[Decoded] = []

    def decode(self, fetch: Fetch | RawFetch, now_ms: int = MS + 10_000_000) -> Outcome:
        self.decoder.now_ms = now_ms

        def seen() -> Any:
            for part in self.decoder.decode(fetch, "lineage"):
                for block in part.blocks:
                    self.delta.add(block)
                self.spans += part.spans
                self.exemplars += part.exemplars
                self.parts.append(part)
                yield part

        return self.digester.outcome(seen())


def both(config: Config) -> tuple[Side, Side]:
    return Side(JsonDecoder, config), Side(FastDecoder, config)


ALL_SPANS = Traces(base_rate=0.2, max_per_s=1e6)


def check(config: Config, fetches: Sequence[Fetch], *, least_fast: float = 0.0) -> Outcome:
    """Both decoders agree on each of these fetches; the outcome of the last."""
    slow, fast = both(config)
    n = n_fast = 0
    expected = Outcome()
    for fetch in fetches:
        expected, found = slow.decode(fetch), fast.decode(fetch)
        assert found.tally == expected.tally
        assert found.dead == expected.dead
        assert found.newest_ms == expected.newest_ms
        assert found.agrees(expected)
        assert sum(found.tiers.values()) == expected.tally["rows"]
        n += expected.tally["rows"]
        n_fast += found.tiers.get("template", 0) + found.tiers.get("scan", 0)
        assert slow.parts[-1].to_offset == fast.parts[-1].to_offset == fetch.to_offset
    assert n_fast >= least_fast * n

    def by_place(span: RequestSpan) -> tuple[int, int]:
        return span.offset, span.row

    assert sorted(fast.spans, key=by_place) == sorted(slow.spans, key=by_place)
    assert sorted(map(repr, fast.exemplars)) == sorted(map(repr, slow.exemplars))
    assert_equal_chunks(slow, fast)
    return expected


def assert_equal_chunks(slow: Side, fast: Side) -> None:
    """Groups by (stream, window), added up where a key has two numbers: rows, errors, times, values."""

    def groups(side: Side) -> dict[Any, list[int]]:
        found: dict[Any, list[int]] = {}
        for group in side.delta.freeze()[0]:
            known = found.setdefault((group.stream, group.window), [0, 0, 1 << 62, -(1 << 62)])
            known[0] += group.rows
            known[1] += group.errors
            known[2] = min(known[2], group.min_event_time_ms)
            known[3] = max(known[3], group.max_event_time_ms)
        return found

    assert groups(fast) == groups(slow)


def in_fetches(records: list[Record], n: int) -> list[Fetch]:
    return [fetch_of(records[low : low + n]) for low in range(0, len(records), n)]


@pytest.mark.parametrize("name", configurations.ALL)
def test_events_of_all_shapes_come_out_as_the_orjson_tier_makes_them(name: str) -> None:
    rng = random.Random(name)
    config = with_options(configurations.ALL[name], traces=ALL_SPANS)
    values = []
    for shape in shapes.SHAPES:
        values += [shapes.text(rng, shape(rng), plain=rng.random() < 0.5) for _ in range(300)]
    rng.shuffle(values)
    check(config, in_fetches(records_of(values), 1000))


def test_most_rows_of_ordinary_producers_go_through_the_compiled_tiers() -> None:
    rng = random.Random(1)
    makers = (shapes.reference, shapes.nested, shapes.strings_only, shapes.usage, shapes.wide)
    values = [shapes.text(rng, rng.choice(makers)(rng), plain=True) for _ in range(6000)]
    check(Config(traces=ALL_SPANS), in_fetches(records_of(values), 3000), least_fast=0.85)


def test_broken_records_are_dropped_for_the_same_reasons() -> None:
    values, _ = make_events(6000, seed=3)
    check(Config(), in_fetches(records_of(values), 2500))


def test_five_percent_of_broken_text_do_not_disturb_the_rest() -> None:
    rng = random.Random(5)
    values: list[bytes | None] = []
    for _ in range(4000):
        text = shapes.text(rng, shapes.reference(rng), plain=True)
        if rng.random() < 0.05:
            text = text[: rng.randrange(len(text))] if rng.random() < 0.5 else text + b"}"
        values.append(text)
    values[17] = None
    values[18] = b""
    check(Config(), in_fetches(records_of(values), 2000), least_fast=0.9)


def test_late_and_future_rows_are_marked_alike() -> None:
    config = Config(windows=Windows(width_s=60, max_skew_s=300))
    rng = random.Random(6)
    values = [
        orjson.dumps(
            {"model": "m", "ts": MS + rng.randrange(-900_000, 900_000), "features": {"x": i}}
        )
        for i in range(3000)
    ]
    slow, fast = both(config)
    for side in (slow, fast):
        side.decoder.sealed_until = (MS - 300_000) // 60_000
    expected, found = (side.decode(fetch_of(records_of(values))) for side in (slow, fast))
    assert found.agrees(expected)
    assert expected.newest_ms <= MS + 300_000


def test_times_of_records_without_timestamp_are_those_of_the_row_before() -> None:
    """Mixed rows, with and without `ts`; the median of a slice decides what is future, so slices agree here."""
    rng = random.Random(7)
    values = []
    for i in range(400):
        event: dict[str, Any] = {"model": "m", "features": {"x": i}}
        if rng.random() < 0.7:
            event["ts"] = MS + i * 1000
        if rng.random() < 0.1:
            event["features"] = [{"x": 1}, {"x": 2}]
        values.append(orjson.dumps(event))
    check(Config(), in_fetches(records_of(values, timestamp_ms=-1), 100))


def test_trace_contexts_of_headers_and_bodies_are_read_alike() -> None:
    rng = random.Random(8)
    parents = (
        TRACE,
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-more",
        "01" + TRACE[2:] + "-more",
        "ff" + TRACE[2:],
        TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        TRACE[:-1] + "0",
        "x",
        "",
        None,
        7,
    )
    records = []
    for i in range(3000):
        event: dict[str, Any] = {"model": "m", "ts": MS, "id": i, "features": {"x": i}}
        event["traceparent"] = rng.choice(parents)
        event["tracestate"] = rng.choice(("ot=th:8;rv:abcdefabcdef12", "a=b", "ü", "", None))
        if rng.random() < 0.1:
            event["status"] = "failed"
        headers: list[tuple[str, bytes | None]] = []
        for name in ("traceparent", "TraceParent", "tracestate", "other", "TRACESTATE"):
            if rng.random() < 0.2:
                value = rng.choice(parents[:9]) if name.lower() == "traceparent" else "k=v"
                headers.append(
                    (name, rng.choice((str(value).encode(), str(value).encode(), b"", None)))
                )
        records.append(Record(i, MS, None, orjson.dumps(event), tuple(headers)))
    fetch = fetch_of(records)
    outcome = check(Config(traces=ALL_SPANS), [fetch], least_fast=0.5)
    assert outcome.tally["irregular"]["bad_trace_context"] > 100
    # The same from the log, where headers lie behind their values.
    slow, fast = both(Config(traces=ALL_SPANS))
    expected, found = slow.decode(fetch), fast.decode(raw_fetch(records))
    assert found.agrees(expected)
    assert sorted(fast.spans, key=lambda s: s.offset) == slow.spans


def raw_fetch(
    records: list[Record],
    codec: str = "none",
    per_batch: int = 100,
    broken: Callable[[bytes], bytes] | None = None,
) -> RawFetch:
    """`broken`: what the second batch is made of, once its checksum has been checked."""
    buffer = b"".join(
        bytes(built(records[low : low + per_batch], codec=CODECS[codec]))
        for low in range(0, len(records), per_batch)
    )
    batches: list[Any] = batches_of(buffer)[0]
    end = records[-1].offset + 1
    if broken is not None:
        batches[1].data = memoryview(broken(bytes(batches[1].data)))
    return RawFetch(1, PARTITION, 0, end, table_of(batches), -1, len(buffer))


@pytest.mark.parametrize("codec", CODECS)
def test_raw_batches_come_out_as_their_records(codec: str) -> None:
    rng = random.Random(9)
    values: list[bytes | None] = [shapes.text(rng, shapes.reference(rng)) for _ in range(3000)]
    values[5] = None
    values[2999] = b"{"
    records = records_of(values)
    slow, fast = both(Config())
    expected, found = slow.decode(fetch_of(records)), fast.decode(raw_fetch(records, codec))
    assert found.agrees(expected)
    assert fast.parts[-1].to_offset == 3000
    assert [record for record, _ in fast.parts[-1].dead] == [records[2999]]


def test_a_batch_that_cannot_be_opened_is_counted_and_passed_over() -> None:
    values = [orjson.dumps({"model": "m", "ts": MS, "features": {"x": i}}) for i in range(300)]
    fetch = raw_fetch(
        records_of(values), "lz4", broken=lambda data: data[:100] + bytes(len(data) - 100)
    )
    side = Side(FastDecoder, Config())
    found = side.decode(fetch)
    assert found.tally["rows"] == 200
    assert found.tally["records"] == 300
    assert found.tally["dropped"] == {"corrupt_batch": 100}
    assert side.parts[-1].to_offset == 300
    # A cut between slices, and all that lies behind it read again, counts each record once.
    records = 0
    for part in side.parts:
        records += part.tally.records
        assert records == part.to_offset


@pytest.mark.parametrize("is_label_topic", [False, True])
def test_labels_are_counted_alike(is_label_topic: bool) -> None:
    rng = random.Random(10)
    values = []
    for i in range(3000):
        event: dict[str, Any] = {"id": i, "ts": MS}
        if rng.random() < 0.9:
            event["label"] = rng.choice((1, "late", 0.5, None, {"a": 1}, [1, 2]))
        if rng.random() < 0.8:
            event["model"] = rng.choice(("a", "b", 7, None, "", 'mö"del'))
        if rng.random() < 0.5:
            event["features"] = {"x": i} if rng.random() < 0.9 else {}
        values.append(orjson.dumps(event))
    fetch = fetch_of(records_of(values), is_label_topic=is_label_topic)
    check(Config(decode=Decode(default_model="d")), [fetch, fetch])
    check(Config(), [fetch, fetch])


def test_statuses_are_read_alike() -> None:
    texts = (
        "ok",
        "OK",
        "oK",
        "o\u212a",
        "success",
        "SUCCESS",
        "succes",
        "200",
        "299",
        "300",
        "2xx",
        "0",
    )
    statuses: list[Any] = [*texts, "", "00", "\u017fuccess", 'a"b', 0, 200, 204, 299, 300, -1, 2.5]
    statuses += [True, False, None, [], {"code": 5}, "x" * 100, "OK ", "\u0000"]
    values = [
        orjson.dumps({"model": "m", "ts": MS, "status": status, "features": {"x": 1}})
        for status in statuses * 40
    ]
    check(Config(traces=ALL_SPANS), [fetch_of(records_of(values))] * 2)


def test_a_declared_range_keeps_the_same_spans() -> None:
    config = Config(features={"x": Feature(min=0, max=10)}, traces=ALL_SPANS)
    rng = random.Random(12)
    values = [
        orjson.dumps(
            {
                "model": "m",
                "ts": MS,
                "latency_ms": 3,
                "features": {"x": rng.gauss(5, 3), "y": 1e300},
            }
        )
        for _ in range(2000)
    ]
    check(config, [fetch_of(records_of(values))], least_fast=0.8)


def test_a_cleared_table_is_learned_again() -> None:
    rng = random.Random(13)
    values = [shapes.text(rng, shapes.nested(rng), plain=True) for _ in range(1000)]
    fetch = fetch_of(records_of(values))
    slow, fast = both(Config())
    for _ in range(3):
        expected, found = slow.decode(fetch), fast.decode(fetch)
        assert found.agrees(expected)
        for side in (slow, fast):
            side.delta.freeze()
            side.table.clear()
            side.decoder.on_cut()
    assert found.tiers.get("scan", 0) + found.tiers.get("template", 0) > 500


def test_a_clear_between_two_slices_of_a_fetch_does_no_harm() -> None:
    rng = random.Random(14)
    values = [shapes.text(rng, shapes.reference(rng), plain=True) for _ in range(3000)]
    fetch = fetch_of(records_of(values))
    expected = Side(JsonDecoder, Config()).decode(fetch)
    side = Side(FastDecoder, Config())
    side.decoder.now_ms = MS + 10_000_000
    rows = []
    tally = Tally()
    for part in side.decoder.decode(fetch, "l"):
        rows += [Digester(side.table).rows(block) for block in part.blocks]
        tally.add(part.tally)
        side.table.clear()
    assert np.array_equal(np.sort(np.concatenate(rows)), expected.rows)
    assert tally.rows == 3000
    assert tally.labels_by_model == expected.tally["labels_by_model"]


def test_labels_of_a_fetch_have_names_at_its_end_or_when_they_are_asked_for() -> None:
    values = [
        orjson.dumps({"model": f"m{i % 3}", "prediction": i, "label": 1}) for i in range(9000)
    ]
    side = Side(FastDecoder, Config())
    side.decoder.now_ms = MS + 10_000_000
    tally = Tally()
    slices = side.decoder.decode(fetch_of(records_of(values)), "l")
    while tally.labels < 3000:
        tally.add(next(slices).tally)
    side.decoder.take_labels(tally)
    assert sum(tally.labels_by_model.values()) == tally.labels
    rest = list(slices)
    assert len(rest) > 1
    for part in rest:
        tally.add(part.tally)
    side.decoder.take_labels(tally)
    assert tally.labels_by_model == {"m0": 3000, "m1": 3000, "m2": 3000}


def test_a_slice_needs_no_more_new_cells_than_it_may() -> None:
    """Every row in a window of its own: after many ordinary rows, too."""
    table = StreamTable()
    decoder = FastDecoder(Config(windows=Windows(width_s=60)), table, None)
    decoder.now_ms = MS * 2
    decoder.slice_values = 1000

    def events(n: int, step_ms: int) -> Fetch:
        records = [
            Record(
                i,
                MS + i * step_ms,
                None,
                orjson.dumps(
                    {
                        "model": "m",
                        "ts": MS + i * step_ms,
                        "features": {f"f{j}": j for j in range(20)},
                    }
                ),
                (),
            )
            for i in range(n)
        ]
        return fetch_of(records)

    parts = list(decoder.decode(events(4000, 1), "l"))
    assert max(part.tally.rows for part in parts) > 1000
    parts = list(decoder.decode(events(4000, 60_000), "l"))
    assert max(part.tally.rows for part in parts) <= 1000 // 20 + 1
    assert sum(part.tally.rows for part in parts) == 4000


def test_many_new_streams_bind_within_a_few_slices() -> None:
    values = [
        orjson.dumps({"model": f"m{i % 700}", "ts": MS, "features": {"x": i, "y": "a"}})
        for i in range(7000)
    ]
    fetch = fetch_of(records_of(values))
    check(Config(), [fetch, fetch], least_fast=0.8)
    side = Side(FastDecoder, Config())
    side.decode(fetch)
    again = side.decode(fetch)
    assert again.tiers.get("orjson", 0) == 0
    assert len(side.table.shapes) == 1


def test_an_event_without_a_model_is_dropped_however_often_it_comes() -> None:
    values = [orjson.dumps({"features": {"x": i}, "ts": MS}) for i in range(1000)]
    values += [orjson.dumps({"model": "m", "features": {"x": 1}, "ts": MS}) for i in range(1000)]
    random.Random(1).shuffle(values)
    outcome = check(Config(), [fetch_of(records_of(values))] * 2)
    assert outcome.tally["dropped"] == {"no_model": 1000}


def test_rows_say_which_compiled_tier_decoded_them() -> None:
    values = [orjson.dumps({"model": "m", "features": {"x": i}, "ts": MS}) for i in range(500)]
    found = Side(FastDecoder, Config()).decode(fetch_of(records_of(values)))
    assert set(found.tiers) <= {Tier.TEMPLATE, Tier.SCAN, Tier.ORJSON}
    assert found.tiers[Tier.ORJSON] < 100


def test_blocks_of_compiled_tiers_say_where_their_arrays_lie() -> None:
    rng = random.Random(15)
    values = [shapes.text(rng, shapes.reference(rng), plain=True) for _ in range(600)]
    side = Side(FastDecoder, Config())
    n = 0
    for _ in range(3):
        for part in side.decoder.decode(fetch_of(records_of(values)), "l"):
            for block in part.blocks:
                if block.at is None:
                    continue  # of the orjson tier
                n += 1
                assert block.at.rows == (
                    *(
                        array.ctypes.data
                        for array in (
                            block.stream,
                            block.window,
                            block.event_time_ms,
                            block.is_error,
                            block.numbers,
                            block.number_start,
                        )
                    ),
                    len(block.numbers),
                )
                assert block.at.strings == (
                    block.string_hash.ctypes.data,
                    block.string_start.ctypes.data,
                    block.string_length.ctypes.data,
                    block.text.ctypes.data,
                    len(block.text),
                    block.string_first.ctypes.data,
                    len(block.string_hash),
                )
    assert n >= 3


def test_keys_in_another_order_each_time_are_soon_no_reason_to_learn() -> None:
    rng = random.Random(16)
    side = Side(FastDecoder, Config())
    templates = side.decoder._slices._templates
    templates._clock = lambda: 0.0  # always time to learn
    templates._credited_at = 0.0
    observed = []
    observe = templates.observe

    def counted(record: bytes, shape: Any) -> bool:
        observed.append(record)
        return bool(observe(record, shape))

    templates.observe = counted
    event = {
        "model": "m",
        "ts": MS,
        "features": {f"f{i}": 0.5 for i in range(12)},
        "prediction": 0.5,
    }

    def shuffled() -> bytes:
        features = list(event["features"].items())  # type: ignore[attr-defined]
        rng.shuffle(features)
        return orjson.dumps({**event, "features": dict(features)})

    def fetch(share: float) -> Fetch:
        return fetch_of(
            records_of(
                [shuffled() if rng.random() < share else orjson.dumps(event) for _ in range(2000)]
            )
        )

    for _ in range(20):
        side.decode(fetch(0.05))
    before = len(observed)
    assert before > 4
    for _ in range(20):
        side.decode(fetch(0.05))
    assert len(observed) - before <= 12  # of 2000 records that no template fits
    # A producer that changes is noticed: most records are then the scanner's.
    event["version"] = "2"
    outcome = Outcome()
    for _ in range(60):
        outcome = side.decode(fetch(0.0))
    assert outcome.tiers["template"] == 2000
