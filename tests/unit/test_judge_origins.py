"""Where a model's events come from: what chunks say for certain, and nothing that they do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.commands.inventory import lines
from agent.config import Config, Windows
from agent.judge import origins
from agent.judge.engine import Judge
from agent.judge.origins import Origins
from agent.judge.reference import ModelKey
from agent.judging import Folds, JudgingFold
from agent.state.chunk import merge_digest
from agent.telemetry import Telemetry
from agent.types import Chunk, Json, Partition, RequestSpan, SpanWhy, StreamKey
from tests.support.blocks import Row, chunk_of, feature, range_of

CONFIG = Config(windows=Windows(width_s=1.0, out_of_orderness_s=0.0))
A, B = StreamKey("a", "1"), StreamKey("b", "1", (("region", "eu"),))


def span_of(stream: StreamKey, partition: Partition) -> RequestSpan:
    return RequestSpan(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"",
        link=None,
        trace_state="",
        start_ns=1,
        end_ns=2,
        stream=stream,
        why=SpanWhy.BASE_RATE,
        status="",
        request_id="",
        partition=partition,
        offset=0,
        row=0,
        sampling_threshold=None,
    )


def chunk(
    streams: Sequence[StreamKey],
    moved: Sequence[Partition],
    still: Sequence[Partition] = (),
    spans: Sequence[RequestSpan] = (),
    time_ms: int = 1000,
) -> Chunk:
    rows = [Row(stream, time_ms, {feature("x"): 1.0}) for stream in streams]
    ranges = [range_of(p, to_offset=5, max_event_time_ms=time_ms) for p in moved]
    ranges += [range_of(p, to_offset=0) for p in still]
    made = chunk_of([[rows]], digest=merge_digest(CONFIG), ranges=ranges, width_ms=1000)
    return replace(made, spans=list(spans))


def of(found: Origins, stream: StreamKey) -> list[Json]:
    return found.of(ModelKey(stream.model, stream.version))


def test_one_topic_is_known_and_its_partitions_only_where_one_moved() -> None:
    found = Origins()
    p0, p1 = Partition("t", 0), Partition("t", 1)
    found.add(chunk([A, B], [p0, p1]))
    assert of(found, A) == of(found, B) == [{"topic": "t", "partitions": []}]
    found.add(chunk([B], [p1], still=[p0]))
    assert of(found, A) == [{"topic": "t", "partitions": []}]
    assert of(found, B) == [{"topic": "t", "partitions": [1]}]


def test_of_several_topics_only_kept_requests_say_which() -> None:
    found = Origins()
    moved = [Partition("t", 0), Partition("u", 4)]
    found.add(chunk([A, B], moved))
    assert of(found, A) == []
    found.add(chunk([A, B], moved, spans=[span_of(B, moved[1]), span_of(B, moved[0])]))
    assert of(found, A) == []
    assert of(found, B) == [{"topic": "t", "partitions": [0]}, {"topic": "u", "partitions": [4]}]


def test_a_topic_on_which_nothing_moved_is_nobodys() -> None:
    found = Origins()
    found.add(chunk([A], [Partition("t", 0)], still=[Partition("u", 0)]))
    assert of(found, A) == [{"topic": "t", "partitions": [0]}]


def test_it_is_bounded_and_who_came_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "MOST_PAIRS", 10)
    found = Origins()
    for n in range(30):
        found.add(chunk([StreamKey(f"m{n:02}", "1")], [Partition("t", 0)]))
    assert [key.model for key, _ in found.kept().pairs] == [f"m{n}" for n in range(20, 30)]
    again = Origins()
    again.restore(found.kept())
    again.add(chunk([StreamKey("last", "1")], [Partition("t", 0)]))
    assert len(again.kept().pairs) == 10


def test_the_state_page_and_the_command_show_topics_also_after_a_restart() -> None:
    folds = Folds(CONFIG, Telemetry(), lambda: Judge(CONFIG))
    fold = folds.make(1)
    for n in range(4):
        spans = [span_of(A, Partition("events", p)) for p in (0, 1, 2, 7)]
        made = chunk([A], [Partition("events", 0), Partition("events", 1)], (), spans, 1000 * n)
        fold.apply(made, (n + 60) * 10**9)
    fold.seal_all(100 * 10**9)
    again = folds.load(folds.dump(fold))
    assert isinstance(again, JudgingFold)
    document = again.state(0)["judge"]["inventory"]
    assert document == fold.state(0)["judge"]["inventory"]
    (version,) = document["models"][0]["versions"]
    assert version["topics"] == [{"topic": "events", "partitions": [0, 1, 2, 7]}]
    assert "events[0-2,7]" in "\n".join(lines(json.loads(json.dumps(document))))
