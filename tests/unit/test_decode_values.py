"""What each JSON value of an event becomes: stream, column, type, value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agent.config import Config, Decode, Feature, Fields
from agent.types import Column, Irregular, JsonType, Kind, Role, StreamKey
from tests.support.decoded import NULL, Result, decode

NUMBER, BOOLEAN, STRING = JsonType.NUMBER, JsonType.BOOLEAN, JsonType.STRING
VECTOR, OTHER = JsonType.VECTOR, JsonType.OTHER
LATENCY = Column(Role.LATENCY, "latency")


def feature(name: str) -> Column:
    return Column(Role.FEATURE, name)


def prediction(name: str) -> Column:
    return Column(Role.PREDICTION, name)


def usage(name: str) -> Column:
    return Column(Role.USAGE, name)


def one(result: Result) -> dict[tuple[Column, JsonType], Any]:
    assert len(result.rows) == 1
    return result.rows[0].values


def features_of(features: Any, **options: Any) -> dict[tuple[str, JsonType], Any]:
    values = one(decode({"model": "m", "features": features}, **options))
    return {(column.name, kind): value for (column, kind), value in values.items()}


@pytest.mark.parametrize(
    ("value", "kind", "stored"),
    [
        (1.5, NUMBER, 1.5),
        (-3, NUMBER, -3.0),
        (0, NUMBER, 0.0),
        (1e308, NUMBER, 1e308),
        (5e-324, NUMBER, 5e-324),
        (2**53 + 1, NUMBER, 2.0**53),
        (2**64 - 1, NUMBER, 2.0**64),
        (True, BOOLEAN, 1.0),
        (False, BOOLEAN, 0.0),
        ("", STRING, ""),
        ("naïve 🙂", STRING, "naïve 🙂"),
        ("7", STRING, "7"),
        ([3, 4.0], VECTOR, 5.0),
        ([], VECTOR, 0.0),
        ([1e300, 1e300], VECTOR, math.sqrt(2) * 1e300),
        (None, NUMBER, NULL),
    ],
)
def test_a_value_goes_to_the_lane_of_its_type(value: Any, kind: JsonType, stored: Any) -> None:
    found = features_of({"x": value})
    assert found == {("x", kind): pytest.approx(stored, rel=1e-15) if kind is VECTOR else stored}


@pytest.mark.parametrize("value", [["a"], [1, None], [True, 1.0], [[1.0]], [{"a": 1}]])
def test_an_array_with_anything_but_numbers_is_other_and_never_finite(value: Any) -> None:
    found = features_of({"x": value})
    assert list(found) == [("x", OTHER)]
    assert math.isnan(found["x", OTHER])


def test_an_integer_beyond_64_bits_is_the_nearest_float() -> None:
    result = decode(b'{"model":"m","features":{"x":123456789012345678901234567890}}')
    assert one(result) == {(feature("x"), NUMBER): 123456789012345678901234567890.0}


def test_null_marks_the_first_lane_that_the_column_has() -> None:
    events = [{"model": "m", "features": {"x": value}} for value in (None, "a", None, 2.0, None)]
    assert [row.values for row in decode(*events).rows] == [
        {(feature("x"), NUMBER): NULL},
        {(feature("x"), STRING): "a"},
        {(feature("x"), NUMBER): NULL},
        {(feature("x"), NUMBER): 2.0},
        {(feature("x"), NUMBER): NULL},
    ]
    events = [{"model": "m", "features": {"x": value}} for value in ("a", None, 2.0, None)]
    assert [row.values for row in decode(*events).rows] == [
        {(feature("x"), STRING): "a"},
        {(feature("x"), STRING): NULL},
        {(feature("x"), NUMBER): 2.0},
        {(feature("x"), STRING): NULL},
    ]


def test_what_is_absent_leaves_nothing() -> None:
    events = [
        {"model": "m", "features": features} for features in ({"a": 1, "b": "t"}, {}, {"b": "u"})
    ]
    assert [row.values for row in decode(*events).rows] == [
        {(feature("a"), NUMBER): 1.0, (feature("b"), STRING): "t"},
        {},
        {(feature("b"), STRING): "u"},
    ]


def test_nested_objects_are_flattened_with_dots() -> None:
    nested = {"a": {"b": 1, "c": {"d": "x"}}, "e": {}, "f": {"": 2}}
    assert features_of(nested) == {
        ("a.b", NUMBER): 1.0,
        ("a.c.d", STRING): "x",
        ("f.", NUMBER): 2.0,
    }


@pytest.mark.parametrize("count", [1, 3])
def test_two_spellings_of_one_column_are_one_value_a_row_and_the_last_wins(count: int) -> None:
    event = {"model": "m", "features": {"a": {"b": 1}, "a.b": "two", "c": 3}}
    other = {"model": "m", "features": {"a.b": "two", "a": {"b": 1}}}
    result = decode(*[event, other] * count)
    expected = [
        {(feature("a.b"), STRING): "two", (feature("c"), NUMBER): 3.0},
        {(feature("a.b"), NUMBER): 1.0},
    ]
    assert [row.values for row in result.rows] == expected * count
    assert result.tally.irregular == {Irregular.DUPLICATE_KEY: 2 * count}


def test_a_column_keeps_one_lane_whichever_way_its_rows_are_spelled() -> None:
    deep: Any = {"leaf": 1}
    for _ in range(12):
        deep = {"n": deep}
    events = [{"a": {"b": 1}}, {"a.b": 2}, {"a": {"b": 3}}, deep, {"a.b": 4}, deep]
    result = decode(*({"model": "m", "features": features} for features in events))
    name = ".".join("n" * 12) + ".leaf"
    assert [row.values for row in result.rows] == [
        {(feature("a.b"), NUMBER): 1.0},
        {(feature("a.b"), NUMBER): 2.0},
        {(feature("a.b"), NUMBER): 3.0},
        {(feature(name), NUMBER): 1.0},
        {(feature("a.b"), NUMBER): 4.0},
        {(feature(name), NUMBER): 1.0},
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.83, {(prediction("value"), NUMBER): 0.83}),
        (True, {(prediction("value"), BOOLEAN): 1.0}),
        ("late", {(prediction("label"), STRING): "late"}),
        ([0.6, 0.8], {(prediction("vector"), VECTOR): 1.0}),
        (
            {"label": "late", "score": 0.83, "probabilities": {"late": 0.83, "on_time": 0.17}},
            {
                (prediction("label"), STRING): "late",
                (prediction("score"), NUMBER): 0.83,
                (prediction("probabilities.late"), NUMBER): 0.83,
                (prediction("probabilities.on_time"), NUMBER): 0.17,
            },
        ),
        ({}, {}),
    ],
)
def test_a_prediction_may_be_a_number_a_text_a_vector_or_an_object(
    given: Any, expected: Any
) -> None:
    for _ in range(2):
        assert one(decode({"model": "m", "prediction": given})) == expected


def test_a_batch_has_a_row_for_each_object_and_aligned_predictions() -> None:
    event = {
        "model": "m",
        "features": [{"x": 1}, {"x": 2}, {}],
        "prediction": [0.1, "b", None],
        "latency_ms": 30,
        "usage": {"input_tokens": 9},
        "status": "failed",
    }
    result = decode(event)
    assert [row.values for row in result.rows] == [
        {
            (feature("x"), NUMBER): 1.0,
            (prediction("value"), NUMBER): 0.1,
            (usage("input_tokens"), NUMBER): 9.0,
            (LATENCY, NUMBER): 0.03,
        },
        {
            (feature("x"), NUMBER): 2.0,
            (prediction("label"), STRING): "b",
            (LATENCY, NUMBER): 0.03,
        },
        {(LATENCY, NUMBER): 0.03},
    ]
    assert all(row.is_error for row in result.rows)
    assert result.tally.events == 1
    assert result.tally.rows == 3


def test_a_prediction_of_another_length_is_a_vector_counted_once() -> None:
    result = decode({"model": "m", "features": [{"x": 1}, {"x": 2}], "prediction": [3.0, 4.0, 0.0]})
    assert [row.values for row in result.rows] == [
        {(feature("x"), NUMBER): 1.0, (prediction("vector"), VECTOR): 5.0},
        {(feature("x"), NUMBER): 2.0},
    ]


def test_a_vector_beside_one_object_of_features_stays_a_vector() -> None:
    result = decode({"model": "m", "features": {"x": 1}, "prediction": [7.0]})
    assert one(result)[prediction("vector"), VECTOR] == 7.0


@pytest.mark.parametrize(
    ("latency", "seconds"),
    [(12.5, 0.0125), (0, 0.0), (None, None), (-1, None), ("12", None), (True, None), ([1], None)],
)
def test_a_latency_is_seconds_or_left_out_and_counted(latency: Any, seconds: float | None) -> None:
    result = decode({"model": "m", "features": {}, "latency_ms": latency})
    assert one(result) == ({} if seconds is None else {(LATENCY, NUMBER): seconds})
    is_bad = seconds is None and latency is not None
    assert result.tally.irregular == ({Irregular.BAD_LATENCY: 1} if is_bad else {})


@pytest.mark.parametrize(
    ("unit", "value"), [("s", 1.5), ("ms", 1500), ("us", 1.5e6), ("ns", 1_500_000_000)]
)
def test_latency_has_the_unit_that_is_configured(unit: Any, value: float) -> None:
    fields = Fields(latency="took", latency_unit=unit)
    result = decode({"model": "m", "features": {}, "took": value}, fields=fields)
    assert one(result) == {(LATENCY, NUMBER): 1.5}


def test_usage_is_its_numbers_and_time_to_first_token_is_seconds() -> None:
    given = {
        "input_tokens": 812,
        "output_tokens": 96.0,
        "ttft_ms": 210.0,
        "service_tier": "default",
        "cached": True,
        "none": None,
        "details": {"cached_tokens": 5},
    }
    assert one(decode({"model": "m", "usage": given})) == {
        (usage("input_tokens"), NUMBER): 812.0,
        (usage("output_tokens"), NUMBER): 96.0,
        (usage("ttft"), NUMBER): 0.21,
        (usage("details.cached_tokens"), NUMBER): 5.0,
    }


@pytest.mark.parametrize(
    "status", [None, "ok", "OK", "Success", "", 0, 200, 204, 299, 200.0, "200", "0", True]
)
def test_status_that_says_success_is_no_error(status: Any) -> None:
    assert not decode({"model": "m", "features": {}, "status": status}).rows[0].is_error


@pytest.mark.parametrize(
    "status",
    ["failed", "timeout", 1, 199, 300, 404, 500, "500", "20", False, {"code": 0}, [], "2xx"],
)
def test_any_other_status_is_an_error(status: Any) -> None:
    assert decode({"model": "m", "features": {}, "status": status}).rows[0].is_error


@pytest.mark.parametrize(
    ("event", "key"),
    [
        ({"model": "m"}, StreamKey("m", "")),
        ({"model": "m", "version": "7"}, StreamKey("m", "7")),
        ({"model": "m", "version": 7}, StreamKey("m", "7")),
        ({"model": "m", "version": 7.5}, StreamKey("m", "7.5")),
        ({"model": 12, "version": None}, StreamKey("12", "")),
        (
            {"model": "m", "segment": {"b": "x", "a": 1, "c": True, "d": 1.0, "e": None}},
            StreamKey("m", "", (("a", "1"), ("b", "x"), ("c", "true"), ("d", "1.0"))),
        ),
        ({"model": "m", "segment": {}}, StreamKey("m", "")),
    ],
)
def test_a_stream_is_model_version_and_sorted_segment(
    event: dict[str, Any], key: StreamKey
) -> None:
    assert decode({**event, "features": {}}).rows[0].stream == key


def test_only_the_segments_that_are_wanted_split_a_stream() -> None:
    event = {"model": "m", "features": {}, "segment": {"region": "eu", "pod": {"not": "scalar"}}}
    result = decode(event, segments=["region"])
    assert result.rows[0].stream == StreamKey("m", "", (("region", "eu"),))


def test_a_default_model_takes_events_that_name_none() -> None:
    result = decode({"features": {}}, {"model": "", "features": {}}, default_model="d")
    assert [row.stream.model for row in result.rows] == ["d", "d"]


def test_long_names_are_cut_between_characters_and_counted_once_an_event() -> None:
    event = {
        "model": "é" * 10,  # 20 bytes
        "version": "v" * 15,
        "segment": {"s" * 20: "x" * 20},
        "features": {"f" * 15: 1, "f" * 16: 2, "g": {"é" * 10: 3}, "short": 4},
    }
    result = decode(event, event, max_name_bytes=15)
    for row in result.rows:
        assert row.stream == StreamKey("é" * 7, "v" * 15, (("s" * 15, "x" * 15),))
        assert row.values == {
            (feature("f" * 15), NUMBER): 2.0,
            (feature("g." + "é" * 6), NUMBER): 3.0,
            (feature("short"), NUMBER): 4.0,
        }
    # Two features met after cutting: that is a duplicate, too.
    assert result.tally.irregular == {Irregular.LONG_NAME: 2, Irregular.DUPLICATE_KEY: 2}


def test_a_declared_category_takes_numbers_and_booleans_as_their_text() -> None:
    config = Config(
        features={"code": Feature(kind=Kind.CATEGORICAL), "text": Feature(kind=Kind.TEXT)}
    )
    values = [7, 7.0, 1e300, True, "UA", None, [1.0]]
    result = decode(
        *({"model": "m", "features": {"code": v, "text": v}} for v in values), config=config
    )
    codes = [row.value(feature("code")) for row in result.rows]
    assert codes[:6] == ["7", "7.0", "1e+300", "true", "UA", NULL]
    kinds = [next(k for (c, k) in row.values if c == feature("code")) for row in result.rows]
    assert kinds == [STRING] * 6 + [VECTOR]
    # Text is not coerced: only strings are text.
    kinds = [next(k for (c, k) in row.values if c == feature("text")) for row in result.rows]
    assert kinds == [NUMBER, NUMBER, NUMBER, BOOLEAN, STRING, NUMBER, VECTOR]


def test_a_declared_category_that_starts_with_null_has_no_lane_of_numbers() -> None:
    config = Config(features={"code": Feature(kind=Kind.CATEGORICAL)})
    result = decode({"model": "m", "features": {"code": None}}, config=config)
    assert one(result) == {(feature("code"), STRING): NULL}


def test_a_declaration_is_for_features_only() -> None:
    config = Config(features={"score": Feature(kind=Kind.CATEGORICAL)})
    result = decode({"model": "m", "prediction": {"score": 0.5}}, config=config)
    assert one(result) == {(prediction("score"), NUMBER): 0.5}


def test_an_event_that_is_not_ours_is_read_through_field_paths() -> None:
    fields = Fields(
        id="meta.request_id",
        ts="meta.at",
        model="deployment.name",
        version="deployment.rev",
        features="inputs.0",
        prediction="outputs.scores",
        latency="timing.total",
        latency_unit="s",
        status="http.code",
        segment={"region": r"labels.cloud\.region", "none": "labels.none"},
        usage="llm",
    )
    event = {
        "meta": {"request_id": "r", "at": 1_767_225_600.5},
        "deployment": {"name": "fraud", "rev": 3},
        "inputs": [{"amount": 12.5}],
        "outputs": {"scores": {"fraud": 0.25}},
        "timing": {"total": 0.5},
        "http": {"code": 503},
        "labels": {"cloud.region": "eu-west-1"},
        "llm": {"input_tokens": 3},
    }
    result = decode(event, fields=fields)
    row = result.rows[0]
    assert row.stream == StreamKey("fraud", "3", (("region", "eu-west-1"),))
    assert row.time_ms == 1_767_225_600_500
    assert row.is_error
    assert row.values == {
        (feature("amount"), NUMBER): 12.5,
        (prediction("fraud"), NUMBER): 0.25,
        (usage("input_tokens"), NUMBER): 3.0,
        (LATENCY, NUMBER): 0.5,
    }


def test_features_may_be_a_map_of_paths() -> None:
    fields = Fields(
        model="m", features={"amount": "tx.amount", "kind": "tx.kind", "gone": "tx.gone"}
    )
    result = decode(
        {"m": "fraud", "tx": {"amount": 5, "kind": "card"}}, {"m": "fraud"}, fields=fields
    )
    assert one(result) == {(feature("amount"), NUMBER): 5.0, (feature("kind"), STRING): "card"}
    assert result.tally.dropped == {"no_content": 1}


def test_duplicate_keys_let_the_last_win_and_are_counted_by_record() -> None:
    result = decode(
        b'{"model":"a","model":"m","features":{"x":1,"x":2,"x":3}}',
        b'{"model" : "m" , "features" : {"x" : 1 , "x" : 2}}',
        b'{"model":"m","features":{"x":1},"tags":{"a":{"b":[{"c":1,"c":2}]}}}',
    )
    assert [row.value(feature("x")) for row in result.rows] == [3.0, 2.0, 1.0]
    assert [row.stream.model for row in result.rows] == ["m"] * 3
    assert result.tally.irregular == {Irregular.DUPLICATE_KEY: 3}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","features":{"x":"a\\":b"}}',
        b'{"model" : "m","features":{"x" :"\\":"}}',
        b'{\n "model"\t: "m",\n "features"\n: {"x": {"x": {"x": 1}}}}',
        b'[{"model":"m","features":{"x":1}},{"model":"m","features":{"x":1}}]',
    ],
)
def test_what_only_looks_like_a_duplicate_key_is_none(raw: bytes) -> None:
    assert decode(raw).tally.irregular == {}


def test_a_producer_that_invents_names_costs_counts_not_memory() -> None:
    events = [{"model": "m", "features": {f"f{i}_{j}": 1.0 for j in range(10)}} for i in range(100)]
    config = Config(decode=Decode(max_features=10))
    result = decode(*events, config=config)
    assert result.tally.rows == 100
    columns = {column for row in result.rows for column, _ in row.values}
    assert len(columns) == 2 * 10 + 16
    assert result.tally.irregular[Irregular.TOO_MANY_COLUMNS] == 97
