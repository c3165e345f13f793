"""The decoder's check of a trace context and the sampler's reading of it agree on every text."""

from __future__ import annotations

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config import Config, Traces
from agent.decode.scalars import valid_traceparent
from agent.decode.spans import SpanSampler
from agent.decode.trace_context import parse_traceparent
from agent.sketch.links import is_link
from agent.types import Record, SpanWhy
from tests.support.decoded import decode

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

edited = st.builds(
    lambda at, text, base: base[:at] + text + base[at + len(text) :],
    st.integers(0, 60),
    st.text("0123456789abcdefABCF-\n é", max_size=4),
    st.sampled_from([PARENT, "01" + PARENT[2:], "cc" + PARENT[2:] + "-what-follows"]),
)


@given(st.text(max_size=70) | edited)
@example("ff" + PARENT[2:])
@example("01" + PARENT[2:] + "-\n")
@example("01" + PARENT[2:] + "x")
@example(PARENT + "\n")
@example(PARENT[:3] + "0" * 32 + PARENT[35:])
def test_a_trace_context_is_valid_exactly_when_it_can_be_read(text: str) -> None:
    assert valid_traceparent(text) == (parse_traceparent(text) is not None)


def test_errors_become_spans_with_the_same_ids_whenever_they_are_read() -> None:
    event = {"id": "r", "model": "m", "features": {"x": 1}, "status": "failed", "latency_ms": 40}
    records = [
        Record(offset, 1_767_225_600_000, None, orjson.dumps({**event, **extra}), headers)
        for offset, (extra, headers) in enumerate(
            [({}, (("traceparent", PARENT.encode()),)), ({"status": "ok"}, ()), ({}, ())]
        )
    ]
    runs = []
    for _ in range(2):
        sampler = SpanSampler(Traces(base_rate=0.0), {})
        runs.append(decode(*records, config=Config(), sampler=sampler).parts[0])
    spans = runs[0].spans
    assert [(span.offset, span.why) for span in spans] == [(0, SpanWhy.ERROR), (2, SpanWhy.ERROR)]
    assert spans[0].trace_id.hex() == PARENT[3:35]
    assert spans[0].parent_span_id.hex() == PARENT[36:52]
    assert spans[0].end_ns - spans[0].start_ns == 40_000_000
    assert [(s.trace_id, s.span_id) for s in runs[1].spans] == [
        (s.trace_id, s.span_id) for s in spans
    ]
    shown = [e for e in runs[0].exemplars if not is_link(e)]
    assert {(e.trace_id, e.span_id) for e in shown} == {(s.trace_id, s.span_id) for s in spans}
    links = [e for e in runs[0].exemplars if is_link(e)]
    assert {e.trace_id for e in links} == {span.trace_id for span in spans}
    assert runs[1].exemplars == runs[0].exemplars
