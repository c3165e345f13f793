"""The record index against aiokafka's reader (sound batches) and a reader made from the definition (any bytes)."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.decode.arena import RecordArena
from agent.decode.kernels.batch_table import DAMAGE_TEXT
from agent.decode.raw_batches import table_of
from agent.decode.scalars import header_text
from agent.types import RawBatch, Record
from tests.reference.record_batch import read_section
from tests.support.raw_batches import CODECS, LOG_APPEND_TIME, body_of, built, encoded, raw, stock
from tests.support.raw_batches import varint as encoded_varint

ARENA = RecordArena()
T0 = 1_700_000_000_000

texts = st.none() | st.binary(max_size=40) | st.integers(100, 9000).map(lambda n: b"x" * n)
names = st.sampled_from(["traceparent", "TraceParent", "tracestate", "", "traceparen", "t"])
headers = st.lists(
    st.tuples(names | st.text(max_size=12), st.none() | st.binary(max_size=20)), max_size=4
).map(tuple)


@st.composite
def batches_of_records(draw: Any) -> list[Record]:
    base = draw(st.integers(0, 2**62))
    gaps = draw(st.lists(st.sampled_from([0, 0, 0, 1, 63, 64, 5000]), min_size=1, max_size=12))
    records, offset = [], base
    for gap in gaps:
        offset += gap
        time = T0 + draw(st.sampled_from([0, 1, -1, 64, 10**6, -(10**9), 10**12]))
        records.append(Record(offset, time, draw(texts), draw(texts), draw(headers)))
        offset += 1
    return records


@settings(max_examples=200, deadline=None)
@given(
    batches_of_records(),
    st.sampled_from(list(CODECS.values())),
    st.sampled_from([0, LOG_APPEND_TIME]),
    st.integers(-1, 20),
)
def test_every_batch_reads_as_the_client_library_reads_it(
    records: list[Record], codec: int, attributes: int, skipped: int
) -> None:
    data = bytes(built(records, codec=codec, attributes=attributes))
    offset = min(max(0, records[0].offset + skipped), records[-1].offset)
    theirs, next_offset = stock(data, offset)
    assert raw(data, offset, arena=ARENA) == (theirs, next_offset)
    assert next_offset == records[-1].offset + 1
    if not attributes:
        assert theirs == [one for one in records if one.offset >= offset]


@settings(max_examples=300, deadline=None)
@given(st.lists(headers, min_size=1, max_size=5))
def test_traceparent_is_the_one_that_the_orjson_tier_would_take(
    lists: list[tuple[tuple[str, bytes | None], ...]],
) -> None:
    records = [Record(i, 0, None, b"v", one) for i, one in enumerate(lists)]
    index = ARENA.load(table_of([_batch(b"".join(map(body_of, records)), len(records))]), 0)
    for row, one in enumerate(records):
        start, length = int(index.tpos[row]), int(index.tlen[row])
        found = index.text[start : start + length].tobytes().decode("ascii", "replace")
        assert (None if start < 0 else found) == header_text(one.headers, "traceparent")
        assert index.headers(row) == one.headers


def _batch(
    body: bytes, n_records: int, *, next_offset: int | None = None, **given: Any
) -> RawBatch:
    """A batch around these bytes, as the raw consumer would hand it over."""
    next_offset = n_records if next_offset is None else next_offset
    data = encoded(body, n_records=n_records, last_offset_delta=next_offset - 1)
    fields: dict[str, Any] = {
        "data": memoryview(bytes(data)),
        "base_offset": 0,
        "next_offset": next_offset,
        "attributes": 0,
        "first_timestamp": 0,
        "max_timestamp": 0,
        "n_records": n_records,
        "min_offset": 0,
    }
    return RawBatch(**(fields | given))


@st.composite
def any_sections(draw: Any) -> bytes:
    """Bytes that are, are nearly, or are not at all the records of a batch."""
    n = draw(st.integers(0, 5))
    body = bytearray(
        b"".join(
            body_of(Record(i, draw(st.integers(-5, 5)), draw(texts), draw(texts), draw(headers)))
            for i in range(n)
        )
    )
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.sampled_from(["flip", "cut", "insert", "varint", "append"])):
            case "flip" if body:
                body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
            case "cut":
                del body[draw(st.integers(0, len(body))) :]
            case "insert":
                at = draw(st.integers(0, len(body)))
                body[at:at] = draw(st.binary(max_size=4))
            case "varint":
                at = draw(st.integers(0, len(body)))
                huge = st.sampled_from([2**63 - 1, -(2**63), 2**31, -(2**31), 2**40, -1, 0])
                body[at : at + 1] = encoded_varint(draw(huge))
            case _:
                body += draw(st.binary(max_size=12))
    return bytes(body)


@settings(max_examples=1500, deadline=None)
@given(
    any_sections(),
    st.integers(-1, 7),
    st.integers(0, 6),
    st.integers(1, 8),
    st.none() | st.integers(0, 10**13),
)
@example(b"\x0c\0\0\0\1\1\0", 1, 0, 1, None)  # the smallest record there is
@example(b"\x0a\0\0\0\1\1", 1, 0, 1, None)  # one byte less
@example(b"\x80" * 11, 1, 0, 1, None)
@example(b"\xff" * 9 + b"\x01" + b"\0" * 80, 1, 0, 1, None)
def test_any_bytes_are_read_up_to_the_first_damage(
    body: bytes, n_records: int, min_offset: int, next_offset: int, append_time: int | None
) -> None:
    expected = read_section(
        body,
        n_records=n_records,
        next_offset=next_offset,
        min_offset=min_offset,
        base_time=77,
        append_time=append_time,
    )
    neighbour = _batch(body_of(Record(0, 5, b"k", b"next", ())), 1)
    one = _batch(
        body,
        n_records,
        next_offset=next_offset,
        attributes=0 if append_time is None else LOG_APPEND_TIME,
        first_timestamp=77,
        max_timestamp=append_time or 0,
        min_offset=min_offset,
    )
    index = ARENA.load(table_of([neighbour, one, neighbour]), 0)
    assert index.hi == 3
    assert [index.record(row) for row in range(1, index.n - 1)] == expected.records
    for row in (0, index.n - 1):
        assert index.record(row) == Record(0, 5, b"k", b"next", ())
    lost = [(expected.reached, next_offset)] if expected.is_damaged else []
    lost = [(low, high) for low, high in lost if low < high]
    assert [(damage.offset, damage.to_offset) for damage in index.unread] == lost
    assert all(damage.why in DAMAGE_TEXT[1:] for damage in index.unread)
    end = 64 + sum(len(batch.data) - 61 for batch in (neighbour, one, neighbour))
    assert not index.text[end : end + 64].any()
    assert not index.text[:64].any()
