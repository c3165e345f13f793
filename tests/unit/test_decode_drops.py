"""Every reason for a drop, by a real example; what is dropped, is accounted for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.types import Column, Drop, JsonType, Record, Role
from tests.support.decoded import decode, records_of

GOOD = {"model": "m", "features": {"x": 1.5}}


def nested(depth: int) -> bytes:
    """An event of exactly this many levels."""
    return b'{"model":"m","features":{"x":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}}"


DROPPED: list[tuple[str, Drop, Any]] = [
    ("a null value", Drop.TOMBSTONE, None),
    ("no bytes", Drop.EMPTY, b""),
    ("an empty array", Drop.EMPTY, b" [ ] "),
    ("an empty batch", Drop.EMPTY, {"model": "m", "features": []}),
    ("a huge value", Drop.TOO_LARGE, b'{"model":"' + b"m" * 5000 + b'","features":{}}'),
    ("no json", Drop.INVALID_JSON, b"hello"),
    ("white space", Drop.INVALID_JSON, b"  \n"),
    ("a truncated event", Drop.INVALID_JSON, orjson.dumps(GOOD)[:-3]),
    ("not utf-8", Drop.INVALID_JSON, b'{"model":"\xff\xfe","features":{}}'),
    ("a byte order mark", Drop.INVALID_JSON, b"\xef\xbb\xbf" + orjson.dumps(GOOD)),
    ("nan, which is no json", Drop.INVALID_JSON, b'{"model":"m","features":{"x":NaN}}'),
    ("a number beyond float64", Drop.INVALID_JSON, b'{"model":"m","features":{"x":1e400}}'),
    ("a lone surrogate", Drop.INVALID_JSON, b'{"model":"\\ud800","features":{}}'),
    ("unknown magic bytes", Drop.INVALID_JSON, b"\x00\x00\x00\x00\x07model"),
    ("33 levels", Drop.TOO_DEEP, nested(33)),
    ("600 levels", Drop.TOO_DEEP, nested(600)),
    ("levels that never close", Drop.TOO_DEEP, b"[" * 3000),
    ("a number", Drop.NOT_AN_EVENT, b"7"),
    ("a text", Drop.NOT_AN_EVENT, b'"event"'),
    ("null", Drop.NOT_AN_EVENT, b"null"),
    ("an array of numbers", Drop.NOT_AN_EVENT, b"[1,2,3]"),
    ("an array of arrays", Drop.NOT_AN_EVENT, b"[[{}]]"),
    ("no model", Drop.NO_MODEL, {"features": {"x": 1}}),
    ("an empty model", Drop.NO_MODEL, {"model": "", "features": {"x": 1}}),
    ("a null model", Drop.NO_MODEL, {"model": None, "prediction": 0.5}),
    ("an empty object", Drop.NO_CONTENT, b"{}"),
    ("only a model", Drop.NO_CONTENT, {"model": "m", "latency_ms": 3}),
    ("null content", Drop.NO_CONTENT, {"model": "m", "features": None, "label": None}),
    ("a model that is an object", Drop.BAD_FIELD, {"model": {"name": "m"}, "features": {}}),
    ("a model that is a boolean", Drop.BAD_FIELD, {"model": True, "features": {}}),
    ("features that are a number", Drop.BAD_FIELD, {"model": "m", "features": 5}),
    ("features that are a text", Drop.BAD_FIELD, {"model": "m", "features": "a,b"}),
    ("a batch with a number in it", Drop.BAD_FIELD, {"model": "m", "features": [{"x": 1}, 2]}),
    ("a batch with null in it", Drop.BAD_FIELD, {"model": "m", "features": [None]}),
    ("a segment that is a text", Drop.BAD_FIELD, {**GOOD, "segment": "eu"}),
    ("a nested segment", Drop.BAD_FIELD, {**GOOD, "segment": {"geo": {"region": "eu"}}}),
    ("a version that is an array", Drop.BAD_FIELD, {**GOOD, "version": [1]}),
    ("usage that is a number", Drop.BAD_FIELD, {"model": "m", "usage": 12}),
    ("a time that is no time", Drop.BAD_FIELD, {**GOOD, "ts": "yesterday"}),
    ("a time that is a boolean", Drop.BAD_FIELD, {**GOOD, "ts": True}),
    ("a time that is an object", Drop.BAD_FIELD, {**GOOD, "ts": {}}),
    ("a time beyond int64", Drop.BAD_FIELD, {**GOOD, "ts": 1e40}),
    ("a label with a wrong time", Drop.BAD_FIELD, {"model": "m", "label": 1, "ts": "soon"}),
    (
        "too many features",
        Drop.TOO_WIDE,
        {"model": "m", "features": {f"f{i}": i for i in range(21)}},
    ),
    (
        "too many nested features",
        Drop.TOO_WIDE,
        {
            "model": "m",
            "features": {
                "a": {f"f{i}": i for i in range(11)},
                "b": {f"f{i}": 0 for i in range(10)},
            },
        },
    ),
    (
        "too many values in all",
        Drop.TOO_WIDE,
        {
            "model": "m",
            "features": {f"f{i}": i for i in range(15)},
            "prediction": {f"p{i}": i for i in range(6)},
        },
    ),
    ("too many segments", Drop.TOO_WIDE, {**GOOD, "segment": {f"s{i}": "v" for i in range(21)}}),
]


@pytest.mark.parametrize(
    ("reason", "value"), [case[1:] for case in DROPPED], ids=[case[0] for case in DROPPED]
)
def test_what_cannot_be_counted_is_dropped_with_its_reason_and_its_record(
    reason: Drop, value: Any
) -> None:
    result = decode(GOOD, value, GOOD, max_record_bytes=4096, max_features=20)
    assert result.tally.dropped == {reason: 1}
    assert [(record.offset, why) for record, why in result.dead] == [(1, reason)]
    raw = value if value is None or isinstance(value, bytes) else orjson.dumps(value)
    assert result.dead[0][0].value == raw
    assert result.tally.records == 3
    assert result.tally.events == 2
    assert [row.values for row in result.rows] == [result.rows[0].values] * 2


def test_every_reason_of_decoding_has_an_example() -> None:
    before_decoding = {Drop.CORRUPT_BATCH, Drop.SHED}
    assert {case[1] for case in DROPPED} == set(Drop) - before_decoding


def test_a_dead_letter_is_the_original_record() -> None:
    record = Record(41, 5, b"key", b"{", (("h", b"v"), ("n", None)))
    result = decode(record)
    assert result.dead == [(record, Drop.INVALID_JSON)]
    assert result.dead[0][0] is record


def test_one_bad_event_of_an_array_is_dropped_alone_and_its_record_is_dead_once() -> None:
    batch = [GOOD, 5, {"model": "m"}, {**GOOD, "ts": "no"}, GOOD]
    result = decode(batch)
    assert result.tally.records == 1
    assert result.tally.events == 2
    assert result.tally.rows == 2
    assert result.tally.dropped == {Drop.NOT_AN_EVENT: 1, Drop.NO_CONTENT: 1, Drop.BAD_FIELD: 1}
    assert [(record.offset, why) for record, why in result.dead] == [(0, Drop.NOT_AN_EVENT)]


def test_a_bad_row_of_a_batch_takes_back_the_rows_before_it() -> None:
    batch = {"model": "m", "features": [{"x": 1, "c": "a", "n": None}, {"x": 2}, 3]}
    result = decode(GOOD, batch, GOOD)
    assert [row.values for row in result.rows] == [result.rows[0].values] * 2
    assert result.tally.rows == 2


def test_depth_is_counted_from_the_record_and_the_limit_itself_is_allowed() -> None:
    assert decode(nested(32)).tally.rows == 1
    assert decode(nested(33)).tally.dropped == {Drop.TOO_DEEP: 1}
    assert decode(nested(40), max_depth=40).tally.rows == 1
    # Depth counts wherever it is, also in what the decoder does not read.
    tags = b'{"model":"m","features":{},"tags":' + b"[" * 40 + b"]" * 40 + b"}"
    assert decode(tags).tally.dropped == {Drop.TOO_DEEP: 1}


def test_the_largest_depth_that_can_be_configured_is_survived() -> None:
    raw = b'{"model":"m","features":' + b'{"a":' * 498 + b"1" + b"}" * 498 + b',"status":null}'
    result = decode(raw, max_depth=500, max_name_bytes=4096)
    assert result.tally.rows == 1
    name = ".".join("a" * 498)
    assert result.rows[0].values == {(Column(Role.FEATURE, name), JsonType.NUMBER): 1.0}


def test_sizes_are_those_of_the_values() -> None:
    values = [orjson.dumps(GOOD), b"broken", None, b""]
    result = decode(*records_of(values))
    assert result.tally.size_bytes == len(values[0] or b"") + 6
    assert result.tally.records == 4


def test_a_deep_status_object_does_not_raise() -> None:
    raw = b'{"model":"m","features":{},"status":' + b"[" * 400 + b"]" * 400 + b"}"
    result = decode(raw, max_depth=450)
    assert result.rows[0].is_error
