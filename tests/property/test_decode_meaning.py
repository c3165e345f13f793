"""Any event means what the plain reference says; any bytes have orjson's verdict, and nothing raises."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import orjson
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agent.config import Config, Decode
from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.types import Drop, Irregular, JsonType
from tests.reference.decode import NULL, Limits, meaning
from tests.support.decoded import Result, fetch_of, records_of, run
from tests.support.events import BAD_RECORDS, make_events

LIMITS = Limits(max_depth=7, max_features=12, max_name_bytes=9)
CONFIG = Config(decode=Decode(max_depth=7, max_features=12, max_name_bytes=9))
TIMESTAMP_MS = 1_767_225_600_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.sampled_from(["a", "b", "a.b", "c", "", "ttft_ms", "score", "label", "value"]) | texts
numbers = (
    st.integers(-(2**70), 2**70)
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.1, 1e308, 5e-324, -0.0, 1e22, 123456789012345678])
)
scalars = st.none() | st.booleans() | numbers | texts
vectors = st.lists(numbers, max_size=4)
values = st.recursive(
    scalars | vectors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(names, values, max_size=5)
events = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "n", "a long model"]) | scalars,
        "version": st.sampled_from(["1", 1, 1.5]) | scalars,
        "features": objects | st.lists(objects, max_size=3) | values,
        "prediction": objects | scalars | st.lists(scalars, max_size=3) | values,
        "usage": st.dictionaries(names, scalars, max_size=3) | values,
        "label": values,
        "latency_ms": numbers | values,
        "status": st.sampled_from(["ok", "SUCCESS", 200, 299, 300, 0, "204", "fail", ""]) | scalars,
        "segment": st.dictionaries(names, scalars, max_size=3) | values,
        "ts": st.integers(10**11, 10**14 - 1) | st.none() | st.sampled_from(["x", [], {}]),
        "tags": values,
        "other": values,
    },
)
likely = st.builds(
    lambda event, features: {"model": "m", "features": features, **event}, events, objects
)
records = st.lists(
    events | likely | likely | st.lists(likely | values, max_size=3) | values,
    min_size=1,
    max_size=4,
)


def decode_all(raw: list[bytes], config: Config = CONFIG) -> Result:
    table = StreamTable()
    decoder = JsonDecoder(config, table, None)
    return run(decoder, table, fetch_of(records_of(raw, TIMESTAMP_MS)))


def comparable(values: dict[Any, Any]) -> dict[Any, Any]:
    """Values by column and type; a null by its column alone, since its lane depends on the past."""
    made: dict[Any, Any] = {}
    for (column, kind), value in values.items():
        if isinstance(value, str) and value == NULL:
            made[column, NULL] = NULL
        elif kind is JsonType.OTHER:
            assert math.isnan(value)
            made[column, kind] = "other"
        elif kind is JsonType.VECTOR:
            made[column, kind] = float(f"{value:.12g}")
        else:
            made[column, kind] = value
    return made


def check(raw: list[bytes]) -> None:
    result = decode_all(raw)
    assume(not result.tally.irregular[Irregular.TOO_MANY_COLUMNS])
    expected = meaning(raw, TIMESTAMP_MS, LIMITS)
    assert Counter(result.tally.dropped) == expected.dropped
    assert [record.offset for record, _ in result.dead] == expected.dead
    assert result.tally.events == expected.events
    assert result.tally.rows == len(expected.rows)
    assert Counter(result.tally.labels_by_model) == expected.labels
    found = [(row.stream, row.time_ms, row.is_error, comparable(row.values)) for row in result.rows]
    assert found == [(*row[:3], comparable(row[3])) for row in expected.rows]
    assert result.max_event_time_ms <= max((row.time_ms for row in result.rows), default=-1)


@given(records, st.sampled_from([None, (", ", ": "), (" ,", " :\n ")]))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_event_means_what_the_reference_says(
    trees: list[Any], separators: tuple[str, str] | None
) -> None:
    check([json.dumps(tree, separators=separators, ensure_ascii=False).encode() for tree in trees])


@given(
    st.integers(0, 10**6),
    st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "insert", "delete", "double"]),
            st.integers(0, 10**9),
            st.binary(min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=300, deadline=None)
def test_broken_bytes_have_the_verdict_of_orjson_and_all_are_accounted_for(
    seed: int, edits: list[tuple[str, int, bytes]]
) -> None:
    (value,), _ = make_events(1, seed, bad_share=0.1, array_share=0.2, batch_share=0.2)
    raw = value or b"{}"
    for edit, place, extra in edits:
        at = place % (len(raw) + 1)
        if edit == "flip":
            raw = raw[:at] + extra + raw[at + len(extra) :]
        elif edit == "cut":
            raw = raw[:at]
        elif edit == "insert":
            raw = raw[:at] + extra + raw[at:]
        elif edit == "delete":
            raw = raw[:at] + raw[at + 1 :]
        else:
            raw = raw[:at] + raw
    result = decode_all([raw], Config())
    tally = result.tally
    assert tally.records == 1
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError:
        reason = Drop.INVALID_JSON if raw else Drop.EMPTY
        assert tally.dropped in ({reason: 1}, {Drop.TOO_DEEP: 1})
        return
    assert not tally.dropped[Drop.INVALID_JSON]
    is_opened = not result.dead or tally.events or isinstance(tree, list)
    n_events = len(tree) if is_opened and isinstance(tree, list) and tree else 1
    accounted = tally.events + sum(tally.dropped.values())
    assert accounted == n_events or (accounted == 1 and not tally.events)
    assert len(result.dead) == (1 if tally.dropped else 0)
    assert len(result.rows) == tally.rows


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_never_raise(raw: bytes) -> None:
    tally = decode_all([raw, *[value or b"" for _, value in BAD_RECORDS]], Config()).tally
    assert tally.records == 1 + len(BAD_RECORDS)
    assert tally.rows == 0


def test_made_events_are_decoded_to_exactly_what_was_made() -> None:
    values, expected = make_events(4000, seed=20_260_101)
    table = StreamTable()
    decoder = JsonDecoder(Config(), table, None)
    made = [
        record._replace(timestamp_ms=t)
        for record, t in zip(records_of(values), expected.timestamps_ms, strict=True)
    ]
    result = run(decoder, table, fetch_of(made))
    tally = result.tally
    assert (tally.records, tally.events, tally.rows, tally.labels, tally.size_bytes) == (
        expected.records,
        expected.events,
        expected.rows,
        expected.labels,
        expected.size_bytes,
    )
    assert Counter(tally.dropped) == expected.dropped
    assert len(result.dead) == expected.dead
    assert Counter(tally.labels_by_model) == expected.labels_by_model
    assert tally.irregular == {}
    by_stream: dict[Any, list[Any]] = {}
    for row in result.rows:
        by_stream.setdefault(row.stream, []).append(row)
    assert by_stream.keys() == expected.streams.keys()
    for key, stream in expected.streams.items():
        rows = by_stream[key]
        assert len(rows) == stream.rows
        assert sum(row.is_error for row in rows) == stream.errors
        assert sorted(row.time_ms for row in rows) == sorted(stream.times_ms)
        found: dict[Any, list[Any]] = {}
        for row in rows:
            for (column, kind), value in row.values.items():
                found.setdefault((column, NULL if value == NULL else kind), []).append(value)
        for column, wanted in stream.columns.items():
            assert len(found.pop((column, NULL), [])) == wanted.nulls
            for kind in (JsonType.NUMBER, JsonType.BOOLEAN, JsonType.STRING):
                assert sorted(found.pop((column, kind), [])) == sorted(wanted.of(kind))
            norms = sorted(found.pop((column, JsonType.VECTOR), []))
            assert len(norms) == len(wanted.norms)
            assert all(
                math.isclose(a, b, rel_tol=1e-14)
                for a, b in zip(norms, sorted(wanted.norms), strict=True)
            )
        assert not found
