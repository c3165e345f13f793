"""Which requests become spans, under which ids, and which trace they join."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Feature, Traces
from agent.decode import span_ids
from agent.decode.candidates import LATENCY, Facts
from agent.decode.kept import SpanKeeper, view_of
from agent.decode.spans import MAX_TEXT, SpanSampler
from agent.decode.trace_context import (
    parse_traceparent,
    rejection_threshold,
    threshold_in,
    with_threshold,
)
from agent.types import Column, Partition, RequestSpan, SpanWhy, StreamKey
from tests.reference.sampling import id_words
from tests.support.blocks import LaneTable, Row, block_of, feature

STREAM = StreamKey("m", "1", (("region", "eu"),))
PLACE = Partition("events", 3)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sampler(clock: Clock | None = None, **traces: Any) -> SpanSampler:
    given: dict[str, Any] = {"base_rate": 0.0, "max_per_s": 1000, **traces}
    return SpanSampler(Traces(**given), {}, clock=clock or Clock())


def consider(
    of: SpanSampler,
    *,
    stream: StreamKey = STREAM,
    partition: Partition = PLACE,
    lineage: str = "memory",
    latency_s: float | None = 0.0124,
    status: str = "",
    values: dict[Column, float] | None = None,
    **changes: Any,
) -> RequestSpan | None:
    """Offer a block of one row."""
    given = dict(values or {})
    if latency_s is not None:
        given[LATENCY] = latency_s
    table = LaneTable()
    block = block_of(table, [Row(stream, 1_767_225_600_123, given, is_error=bool(status))])
    row: dict[str, Any] = {
        "offset": 7,
        "row": 0,
        "n_rows": 1,
        "latency_s": latency_s,
        "status": status,
        "request_id": "r-1",
        "traceparent": None,
        "tracestate": "",
        **changes,
    }
    view = view_of(block, [Facts(**row)])
    spans, _ = SpanKeeper(of, table).keep(view, partition, lineage)
    return spans[0] if spans else None


def kept(of: SpanSampler, **changes: Any) -> RequestSpan:
    span = consider(of, **changes)
    assert span is not None
    return span


# ---------------------------------------------------------------- traceparent


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (CONTEXT, 1),
        (UNSAMPLED, 0),
        (f"00-{TRACE}-{PARENT}-ff", 255),
        (f"01-{TRACE}-{PARENT}-01", 1),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", 1),
        (f"fe-{TRACE}-{PARENT}-03-", 3),
    ],
)
def test_valid_contexts_are_read(text: str, flags: int) -> None:
    assert parse_traceparent(text) == (bytes.fromhex(TRACE), bytes.fromhex(PARENT), flags)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"0A-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0A",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-extra",
        f"00-{TRACE}-{PARENT}-01\n",
        f" {CONTEXT}",
        f"cc-{TRACE}-{PARENT}-01.extra",
        f"cc-{TRACE}-{PARENT}-012",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}\u0661-{PARENT}-01",
    ],
)
def test_contexts_that_are_not_w3c_are_refused(text: str) -> None:
    assert parse_traceparent(text) is None


# ---------------------------------------------------------------- thresholds


@settings(deadline=None)
@given(st.floats(1e-9, 1.0))
def test_a_threshold_keeps_the_rate_it_was_made_for(rate: float) -> None:
    threshold = rejection_threshold(rate)
    assert 0 <= threshold < 1 << 56
    assert ((1 << 56) - threshold) / (1 << 56) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1.0, "0"), (0.5, "8"), (0.25, "c"), (0.125, "e"), (1 / 16, "f"), (1 / 256, "ff")],
)
def test_thresholds_are_written_short(rate: float, text: str) -> None:
    assert with_threshold("", rejection_threshold(rate)) == f"ot=th:{text}"


def test_nothing_is_kept_at_rate_zero() -> None:
    assert rejection_threshold(0.0) == 1 << 56


@pytest.mark.parametrize(
    ("given_state", "threshold", "expected"),
    [
        ("", 0xC << 52, "ot=th:c"),
        ("a=1,b=2", 0xC << 52, "ot=th:c,a=1,b=2"),
        ("a=1, ot=rv:0123456789abcd;th:8;x:y ,b=2", 0xC << 52, "ot=th:c;rv:0123456789abcd;x:y,a=1,b=2"),
        ("a=1,ot=th:8,b=2", None, "a=1,b=2"),
        ("ot=th:8;rv:0123456789abcd", None, "ot=rv:0123456789abcd"),
        ("", None, ""),
        ("a=1", None, "a=1"),
    ],
)  # fmt: skip
def test_the_threshold_replaces_what_stood_in_the_trace_state(
    given_state: str, threshold: int | None, expected: str
) -> None:
    assert with_threshold(given_state, threshold) == expected


@pytest.mark.parametrize(
    ("trace_state", "threshold"),
    [
        ("", 0),
        ("a=1", 0),
        ("ot=th:8", 0x8 << 52),
        ("a=1, ot=rv:00000000000000;th:c8", 0xC8 << 48),
        ("ot=th:", 0),
        ("ot=th:xyz", 0),
        ("ot=th:" + "f" * 15, 0),
    ],
)
def test_an_upstream_threshold_is_read(trace_state: str, threshold: int) -> None:
    assert threshold_in(trace_state) == threshold


# ---------------------------------------------------------------- why a row is kept


def test_an_ordinary_row_is_not_kept_at_rate_zero() -> None:
    of = sampler()
    assert consider(of) is None
    assert consider(of, traceparent=CONTEXT) is None
    assert consider(of, traceparent=f"00-{'f' * 32}-{PARENT}-01") is None


@pytest.mark.parametrize("traceparent", [None, CONTEXT])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_every_ordinary_row_is_kept_at_rate_one(traceparent: str | None, n_rows: int) -> None:
    span = kept(sampler(base_rate=1.0), traceparent=traceparent, n_rows=n_rows)
    assert span.why is SpanWhy.BASE_RATE and span.sampling_threshold == 0
    assert span.trace_state == "ot=th:0"


def test_errors_slow_and_out_of_range_rows_are_kept_in_that_order() -> None:
    of = SpanSampler(
        Traces(base_rate=0.0, max_per_s=1000), {"distance": Feature(max=5.0)}, clock=Clock()
    )
    of.slow_above_s = {STREAM: 0.5}
    odd = {feature("distance"): 6.0}
    assert kept(of, status="500", latency_s=0.6, values=odd).why is SpanWhy.ERROR
    assert kept(of, latency_s=0.6, values=odd).why is SpanWhy.SLOW
    found = kept(of, latency_s=0.5, values=odd)
    assert found.why is SpanWhy.OUT_OF_RANGE and found.out_of_range == (feature("distance"),)
    assert kept(of, values={feature("free"): 2.0**65}).out_of_range == (feature("free"),)
    assert kept(of, values={feature("free"): float("-inf")}).why is SpanWhy.OUT_OF_RANGE
    assert consider(of, values={feature("free"): -(2.0**64)}) is None
    assert consider(of, values={feature("free"): float("nan")}) is None
    assert consider(of, values={feature("distance"): 5.0}) is None
    assert consider(of, latency_s=0.5) is None
    assert consider(of, latency_s=0.6, stream=StreamKey("other", "")) is None
    assert consider(of, latency_s=None) is None


def test_slow_rows_are_kept_only_when_asked_for() -> None:
    of = sampler(slow=False)
    of.slow_above_s = {STREAM: 0.5}
    assert consider(of, latency_s=9.0) is None


def test_limits_are_the_declared_ranges() -> None:
    of = SpanSampler(
        Traces(), {"a": Feature(min=0.0), "b": Feature(max=5.0), "c": Feature()}, clock=Clock()
    )
    assert of.limits == {"a": (0.0, float("inf")), "b": (float("-inf"), 5.0)}


# ---------------------------------------------------------------- ids, times, trace


def test_a_row_with_context_is_a_child_of_it() -> None:
    span = kept(sampler(), status="500", traceparent=CONTEXT, tracestate="vendor=x")
    assert span.trace_id.hex() == TRACE and span.parent_span_id.hex() == PARENT
    assert span.link is None and span.trace_state == "vendor=x"
    assert span.sampling_threshold is None


def test_ts_is_completion_and_latency_leads_to_the_start() -> None:
    span = kept(sampler(), status="500", latency_s=0.0124)
    assert span.end_ns == 1_767_225_600_123_000_000
    assert span.end_ns - span.start_ns == 12_400_000
    instant = kept(sampler(), status="500", latency_s=None)
    assert instant.start_ns == instant.end_ns


@pytest.mark.parametrize("latency_s", [1e300, 1.7e308, 1e9, 0.0, None])
@pytest.mark.parametrize("time_ms", [1 << 62, -(1 << 62), -1, 0, 1_767_225_600_123])
def test_any_time_and_latency_that_an_event_claims_fit_the_64_bits_of_a_span(
    latency_s: float | None, time_ms: int
) -> None:
    of = sampler()
    facts = Facts(7, 0, 1, latency_s, "500", "r-1", None, "")
    span = of.span(SpanWhy.ERROR, facts, STREAM, time_ms, (PLACE, "memory"), ())
    assert 0 <= span.start_ns <= span.end_ns < 1 << 63


def test_rows_of_a_batch_are_traces_of_their_own_with_a_link() -> None:
    of = sampler()
    spans = [
        kept(of, status="500", traceparent=CONTEXT, n_rows=3, row=row, tracestate="v=x")
        for row in range(3)
    ]
    assert {span.link for span in spans} == {(bytes.fromhex(TRACE), bytes.fromhex(PARENT))}
    assert all(not span.parent_span_id and not span.trace_state for span in spans)
    assert len({span.trace_id for span in spans} | {bytes.fromhex(TRACE)}) == 4


def test_nothing_is_added_to_a_trace_that_was_not_sampled() -> None:
    of = sampler(base_rate=1.0)
    assert consider(of, traceparent=UNSAMPLED) is None
    assert consider(of, traceparent=UNSAMPLED, n_rows=2) is None
    span = kept(of, traceparent=UNSAMPLED, status="500")
    assert span.trace_id.hex() != TRACE and not span.parent_span_id
    assert span.link == (bytes.fromhex(TRACE), bytes.fromhex(PARENT))


@pytest.mark.parametrize("bad", ["v=" + "x" * 600, "v=\x00", "v=\u00e9"])
def test_a_trace_state_that_is_not_sound_is_left_out(bad: str) -> None:
    assert kept(sampler(), status="500", traceparent=CONTEXT, tracestate=bad).trace_state == ""


def test_ids_are_a_function_of_the_place_alone() -> None:
    places = [
        {},
        {"offset": 8},
        {"row": 1},
        {"partition": Partition("events", 4)},
        {"partition": Partition("event", 3)},
        {"lineage": "other"},
        {"lineage": "memorye", "partition": Partition("vents", 3)},
    ]
    one, two = sampler(), sampler(max_per_s=5000)
    spans = [kept(one, status="500", **place) for place in places]
    again = [kept(two, status="error", **place) for place in reversed(places)]
    assert [s.span_id for s in spans] == [s.span_id for s in reversed(again)]
    assert [s.trace_id for s in spans] == [s.trace_id for s in reversed(again)]
    assert len({s.span_id for s in spans}) == len({s.trace_id for s in spans}) == len(places)
    assert all(len(s.span_id) == 8 and len(s.trace_id) == 16 for s in spans)


@settings(deadline=None)
@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 31) - 2), st.text(max_size=5))
def test_ids_are_those_of_the_definition(offset: int, row: int, lineage: str) -> None:
    """A replay by a newer version must meet the spans of an older one: these bytes are a promise."""
    span = kept(sampler(), status="500", offset=offset, row=row, n_rows=row + 1, lineage=lineage)
    words = id_words(lineage, PLACE, offset, row)
    assert span.trace_id + span.span_id == b"".join(word.to_bytes(8, "big") for word in words)


def test_ids_of_zeros_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_ids, "_word", lambda seed, offset, row: 0)
    assert span_ids.ids((1, 2, 3), 4, 5) == (bytes(15) + b"\1", bytes(7) + b"\1")


def test_long_texts_are_cut() -> None:
    span = kept(sampler(), status="e" * 999, request_id="r" * 999)
    assert len(span.status) == len(span.request_id) == MAX_TEXT


# ---------------------------------------------------------------- base rate


@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize("has_context", [True, False])
def test_the_base_rate_is_kept_by_the_low_bits_of_the_trace_id(
    has_context: bool, n_rows: int
) -> None:
    of, generator = sampler(base_rate=0.1, max_per_s=100_000), random.Random(1)
    threshold = rejection_threshold(0.1)
    n, spans = 20_000, []
    for offset in range(n):
        trace = f"{generator.getrandbits(128) | 1:032x}"
        context = f"00-{trace}-{PARENT}-01" if has_context else None
        span = consider(of, offset=offset, traceparent=context, n_rows=n_rows)
        if span is not None:
            spans.append(span)
        if has_context and n_rows == 1:
            assert (span is not None) == (int(trace[18:], 16) >= threshold)
    assert 0.09 < len(spans) / n < 0.11  # 4.7 standard deviations
    assert all(int.from_bytes(s.trace_id[9:], "big") >= threshold for s in spans)
    assert {s.trace_state for s in spans} == {with_threshold("", threshold)}


def test_two_samplers_keep_the_same_traces() -> None:
    low, high = sampler(base_rate=0.05), sampler(base_rate=0.2)
    generator = random.Random(2)
    contexts = [f"00-{generator.getrandbits(128) | 1:032x}-{PARENT}-01" for _ in range(2000)]
    few = {c for c in contexts if consider(low, traceparent=c)}
    many = {c for c in contexts if consider(high, traceparent=c)}
    assert few and few < many


def test_explicit_randomness_wins_over_the_trace_id() -> None:
    of = sampler(base_rate=0.5)
    above = f"00-{'0' * 18}{'f' * 14}-{PARENT}-01"
    below = f"00-{'1' * 18}{'0' * 14}-{PARENT}-01"
    assert consider(of, traceparent=above) and not consider(of, traceparent=below)
    assert not consider(of, traceparent=above, tracestate="ot=rv:00000000000000")
    span = kept(of, traceparent=below, tracestate="a=b,ot=rv:ffffffffffffff")
    assert span.trace_state == "ot=th:8;rv:ffffffffffffff,a=b"


def test_a_stricter_upstream_threshold_is_kept() -> None:
    context = f"00-{'f' * 32}-{PARENT}-01"
    of = sampler(base_rate=0.5)
    assert kept(of, traceparent=context, tracestate="ot=th:c").trace_state == "ot=th:c"
    assert kept(of, traceparent=context, tracestate="ot=th:4").trace_state == "ot=th:8"
    error = kept(of, status="500", traceparent=context, tracestate="ot=th:c,v=x")
    assert error.trace_state == "v=x", "kept for what it is: its probability is not known"


# ---------------------------------------------------------------- budget


def test_the_budget_bounds_spans_and_counts_what_it_refuses() -> None:
    clock = Clock()
    of = sampler(clock, max_per_s=10)
    spans = [consider(of, status="500", offset=i) for i in range(25)]
    assert sum(span is not None for span in spans) == 10
    assert of.take_counts() == Counter({("over_budget", "error"): 15})
    assert of.take_counts() == Counter()
    clock.now += 0.5
    assert sum(consider(of, status="500", offset=i) is not None for i in range(25)) == 5


def test_half_of_the_budget_is_kept_for_errors() -> None:
    clock = Clock()
    of = sampler(clock, max_per_s=10, base_rate=1.0)
    assert sum(consider(of, offset=i) is not None for i in range(25)) == 5
    assert sum(consider(of, status="500", offset=i) is not None for i in range(25)) == 5
    counts = of.take_counts()
    assert counts == Counter({("over_budget", "base_rate"): 20, ("over_budget", "error"): 20})


def test_without_errors_the_whole_rate_serves_the_rest() -> None:
    clock = Clock()
    of = sampler(clock, max_per_s=10, base_rate=1.0)
    n = 0
    for i in range(1000):
        clock.now += 0.01
        n += consider(of, offset=i) is not None
    assert 100 <= n <= 106


def test_spans_that_wait_for_a_cut_are_bounded_however_long_it_takes() -> None:
    clock = Clock()
    of = sampler(clock, max_per_s=100, base_rate=1.0)
    for i in range(10_000):  # a coordinator that is away for 100 s
        clock.now += 0.01
        consider(of, offset=i)
    n_refused = of.take_counts()["over_budget", "base_rate"]
    assert 10_000 - n_refused == 4096
    assert consider(of, offset=0) is not None


@pytest.mark.parametrize(("per_s", "expected"), [(0, 0), (1, 1)])
def test_small_budgets_hold(per_s: int, expected: int) -> None:
    of = sampler(max_per_s=per_s, base_rate=1.0)
    assert sum(consider(of, offset=i) is not None for i in range(10)) == expected


def test_a_clock_that_goes_back_gives_no_budget() -> None:
    clock = Clock()
    of = sampler(clock, max_per_s=2)
    assert sum(consider(of, status="500", offset=i) is not None for i in range(5)) == 2
    clock.now -= 50
    assert consider(of, status="500") is None
    clock.now += 0.5
    assert consider(of, status="500") is not None


def test_samplers_side_by_side_share_one_budget() -> None:
    clock = Clock()
    traces = Traces(base_rate=0.0, max_per_s=10)
    of = [SpanSampler(traces, {}, clock=clock, share=1 / 4) for _ in range(4)]
    n = sum(consider(one, status="500", offset=i) is not None for one in of for i in range(9))
    assert n == 8
    for _ in range(100):
        clock.now += 0.1
        n += sum(consider(one, status="500") is not None for one in of)
    assert 100 <= n <= 110
    tiny = SpanSampler(Traces(max_per_s=1), {}, clock=clock, share=1 / 4)
    kept_at = []
    for _ in range(20):
        if consider(tiny, status="500") is not None:
            kept_at.append(clock.now)
        clock.now += 1.0
    assert len(kept_at) == 5
