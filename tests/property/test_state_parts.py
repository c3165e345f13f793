"""A chunk through shards, records and back: nothing is lost, doubled or believed when changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.errors import DecodeError, StateError
from agent.fold.base import Fold
from agent.state.chunk import merge_digest
from agent.state.parts import MAX_RECORD_BYTES, Manifest, Part, join, read_record, records_of
from agent.state.shards import home_shard, shard_of, split
from agent.types import (
    Chunk,
    Exemplar,
    JsonType,
    Partition,
    PartitionRange,
    RequestSpan,
    SpanWhy,
    StreamKey,
    Tally,
)
from tests.support.blocks import Row, chunk_of, feature, range_of

T0_MS = 1_700_000_000_000
KEYS = [
    StreamKey(model, version, segment)
    for model in ("a", "b", "c", "d")
    for version in ("1", "")
    for segment in ((), (("region", "eu"),))
]
RUN = "ab" * 8
ROWS = st.lists(
    st.builds(
        lambda key, number, text: Row(
            key, T0_MS + int(number), {feature("x"): number, feature("c"): text}
        ),
        st.sampled_from(KEYS),
        st.floats(0, 100_000),
        st.sampled_from(["red", "green", "x" * 60]),
    ),
    max_size=30,
)


def chunk_with(rows: list[Row]) -> Chunk:
    ranges = [range_of(3, rows), range_of(Partition("other", 0))]
    exemplars = [
        Exemplar(row.stream, feature("x"), 1.0, T0_MS, b"t" * 16, b"s" * 8) for row in rows[:5]
    ]
    chunk = chunk_of(
        [[rows]],
        digest="d",
        ranges=ranges,
        exemplars=exemplars,
        labels_by_model={"a": 3, "b": 4, "": 5},
    )
    return replace(chunk, run_id=RUN, number=7, spans=[span()])


def span() -> RequestSpan:
    return RequestSpan(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"",
        link=None,
        trace_state="",
        start_ns=1,
        end_ns=2,
        stream=KEYS[0],
        why=SpanWhy.ERROR,
        status="bad",
        request_id="r",
        partition=Partition("events", 3),
        offset=0,
        row=0,
        sampling_threshold=None,
    )


def content(chunk: Chunk) -> list[Any]:
    """Groups with the bytes of their cells, in an order of their own."""
    return sorted(
        (
            group.stream,
            group.window,
            group.rows,
            group.errors,
            group.min_event_time_ms,
            group.max_event_time_ms,
            [
                (
                    ref.column,
                    ref.type,
                    (chunk.strings if ref.type is JsonType.STRING else chunk.numeric).payload(
                        ref.cell
                    ),
                )
                for ref in group.cells
            ],
        )
        for group in chunk.groups
    )


def through_the_topic(part: Chunk, shard: int, n_shards: int) -> Chunk:
    read = [
        read_record(value) for value in records_of(part, shard, n_shards, [f"{RUN};5", f"{RUN};6"])
    ]
    manifest = read.pop()
    assert isinstance(manifest, Manifest)
    assert (manifest.shard, manifest.n_shards, manifest.confirms) == (
        shard,
        n_shards,
        (f"{RUN};5", f"{RUN};6"),
    )
    assert manifest.n_parts == len(read)
    slices = []
    for index, one in enumerate(read):
        assert isinstance(one, Part)
        assert (one.chunk_id, one.shard, one.index) == (manifest.chunk_id, shard, index)
        slices.append(one.data)
    return join(manifest, slices)


@given(rows=ROWS, n_shards=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_shards_together_are_the_chunk(rows: list[Row], n_shards: int) -> None:
    chunk = chunk_with(rows)
    shards = [
        through_the_topic(part, shard, n_shards)
        for shard, part in enumerate(split(chunk, n_shards))
    ]
    together: list[Any] = []
    tally = Tally()
    for shard, part in enumerate(shards):
        assert (part.run_id, part.number, part.digest, part.epoch) == (
            chunk.run_id,
            chunk.number,
            chunk.digest,
            chunk.epoch,
        )
        assert part.ranges == chunk.ranges
        assert part.spans == []
        assert all(shard_of(group.stream.model, n_shards) == shard for group in part.groups)
        together += content(part)
        tally.add(part.tally)
    assert sorted(together) == content(chunk)
    assert tally == chunk.tally
    found = [one for part in shards for one in part.exemplars]
    assert Counter(map(repr, found)) == Counter(map(repr, chunk.exemplars))
    with_rows = [shard for shard, part in enumerate(shards) if part.tally.records]
    assert with_rows == ([home_shard(Partition("events", 3), n_shards)] if rows else [])


@given(chunks=st.lists(ROWS, min_size=1, max_size=3), n_shards=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_aggregators_together_hold_what_one_fold_of_everything_holds(
    chunks: list[list[Row]], n_shards: int
) -> None:
    single = Fold(Config(), start_ns=1)
    folds = [Fold(Config(), start_ns=1) for _ in range(n_shards)]
    for rows in chunks:
        chunk = replace(chunk_with(rows), digest=merge_digest(Config()))
        single.apply(chunk, 2)
        for shard, part in enumerate(split(chunk, n_shards)):
            folds[shard].apply(through_the_topic(part, shard, n_shards), 2)
    expected = single.report()
    found = [fold.report() for fold in folds]
    streams = [stream for report in found for stream in report["streams"] if stream["rows"]]
    assert sorted(map(repr, streams)) == sorted(
        repr(stream) for stream in expected["streams"] if stream["rows"]
    )
    for name in ("rows", "events"):
        assert sum(report[name] for report in found) == expected[name]
    tally = Tally()
    for fold in folds:
        tally.add(fold.tally)
    assert tally == single.tally


def test_the_shard_of_a_model_never_changes() -> None:
    """Other releases wrote series under these numbers: the hash of these very bytes."""

    def expected(text: bytes) -> int:
        digest = hashlib.blake2b(text, digest_size=8, person=b"inferometer-s2").digest()
        return int.from_bytes(digest, "little") % 16

    assert shard_of("a", 16) == expected(b"\x91\xa1a")
    assert home_shard(Partition("events", 3), 16) == expected(b"\x92\xa6events\x03")


def test_shards_are_used_evenly() -> None:
    counts = Counter(shard_of(f"m{i}", 8) for i in range(8000))
    assert all(900 < counts[shard] < 1100 for shard in range(8))


def large_chunk() -> Chunk:
    """Text sketches that take more than two records."""
    rows = [
        Row(
            StreamKey("m", str(i)),
            T0_MS,
            {feature(f"c{j}"): f"{i} {j} " + "x" * 50 for j in range(40)},
        )
        for i in range(600)
    ]
    return chunk_with(rows)


def test_a_large_chunk_is_cut_into_records_that_a_broker_takes() -> None:
    chunk = large_chunk()
    records = records_of(split(chunk, 1)[0], 0, 1, ())
    assert len(records) > 3
    assert max(map(len, records)) <= MAX_RECORD_BYTES
    assert content(through_the_topic(chunk, 0, 1)) == content(chunk)


def test_too_many_partitions_for_one_manifest_are_refused_with_advice() -> None:
    at = [
        PartitionRange(Partition("t" * 200, i), 0, 1, "1" * 16, "", -1, -1, False, 0)
        for i in range(4000)
    ]
    with pytest.raises(
        StateError, match=r"4000 partitions has \d+ bytes; at most 921600 .*run more agents"
    ):
        records_of(chunk_of([[[]]], digest="d", ranges=at), 0, 1, ())


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_changed_records_are_refused(data: st.DataObject) -> None:
    chunk = chunk_with([Row(KEYS[0], T0_MS, {feature("x"): 1.0})])
    value = bytearray(data.draw(st.sampled_from(records_of(split(chunk, 1)[0], 0, 1, ()))))
    if data.draw(st.booleans()):
        value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        value = value[: data.draw(st.integers(0, len(value) - 1))]
    with pytest.raises(DecodeError):
        read_record(bytes(value))


@pytest.mark.parametrize("value", [None, b"", b"{}", b"hello, this is somebody else's record"])
def test_foreign_records_are_refused(value: bytes | None) -> None:
    with pytest.raises(DecodeError):
        read_record(value)


def test_parts_that_are_not_the_manifests_are_refused() -> None:
    first = chunk_with([Row(KEYS[0], T0_MS, {feature("x"): 1.0})])
    second = chunk_with([Row(KEYS[0], T0_MS, {feature("x"): 2.0})])
    part = read_record(records_of(first, 0, 1, ())[0])
    manifest = read_record(records_of(second, 0, 1, ())[-1])
    assert isinstance(part, Part)
    assert isinstance(manifest, Manifest)
    for parts in ([part.data], [], [part.data, part.data]):
        with pytest.raises(DecodeError, match=r"its \d parts have \d+ bytes, not the \d+"):
            join(manifest, parts)
