"""The resolver says of each value what the orjson tier does with it: checked row by row."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Decode, Feature, Fields
from agent.decode.events import JsonDecoder
from agent.decode.lanes import Shape, StreamTable
from agent.decode.leaves import (
    CONTENT,
    LABEL,
    MODEL,
    N_FIELDS,
    TRACEPARENT,
    VERSION,
    Leaf,
    Op,
    WireKind,
)
from agent.decode.resolver import ConfigResolver
from agent.decode.scalars import valid_traceparent
from agent.decode.times import event_time_ms
from agent.types import Column, JsonType, Kind, Role, StreamKey
from tests.support.decoded import NULL, Result, fetch_of, records_of, run


def kind_of(value: Any) -> WireKind:
    if value is None:
        return WireKind.NULL
    if isinstance(value, bool):
        return WireKind.BOOL
    if isinstance(value, int | float):
        return WireKind.NUMBER
    if isinstance(value, str):
        return WireKind.STRING
    if isinstance(value, list):
        numbers = all(type(x) in (int, float) for x in value)
        return WireKind.VECTOR if numbers else WireKind.ARRAY
    assert value == {}
    return WireKind.EMPTY


def leaves_of(event: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    for name, value in event.items():
        path = (*above, name)
        if isinstance(value, dict) and value:
            found += leaves_of(value, path)
        else:
            found.append((path, kind_of(value), value))
    return found


class ByLeaves:
    """A row as a compiled tier would make it: from leaves alone; `fits` is False for a misfit."""

    def __init__(
        self, resolver: ConfigResolver, shape: Shape, event: dict[str, Any], max_name_bytes: int
    ) -> None:
        self.max_name_bytes = max_name_bytes
        self.values: dict[tuple[Column, JsonType], Any] = {}
        self.fields: list[str | None] = [None] * N_FIELDS
        self.segments: dict[int, str] = {}
        self.flags = 0
        self.fits = True
        for path, kind, value in leaves_of(event):
            leaf = resolver.resolve(shape, path, kind)
            if leaf is None or not self.take(shape, leaf, value):
                self.fits = False

    def take(self, shape: Shape, leaf: Leaf, value: Any) -> bool:
        self.flags |= leaf.flags
        is_name = leaf.op is Op.SEGMENT or (leaf.op is Op.FIELD and leaf.lane in (MODEL, VERSION))
        if is_name and len(str(value).encode()) * 4 > self.max_name_bytes:
            return False  # a name that may have to be cut is left to the orjson tier
        text = (
            value
            if isinstance(value, str)
            else str(value).lower()
            if isinstance(value, int)
            else None
        )
        match leaf.op:
            case Op.NUMBER:
                self.values[shape.numeric[leaf.lane]] = float(value)
            case Op.SCALED:
                if not 0 <= value < math.inf:
                    return False
                self.values[shape.numeric[leaf.lane]] = value / leaf.divisor
            case Op.BOOLEAN:
                self.values[shape.numeric[leaf.lane]] = float(value)
            case Op.VECTOR:
                norm = math.sqrt(sum(x * x for x in value))
                self.values[shape.numeric[leaf.lane]] = pytest.approx(norm)
            case Op.NULL_NUMBER:
                self.values[shape.numeric[leaf.lane]] = NULL
            case Op.NULL_STRING:
                self.values[shape.strings[leaf.lane], JsonType.STRING] = NULL
            case Op.STRING:
                self.values[shape.strings[leaf.lane], JsonType.STRING] = value
            case Op.CODE:
                if text is None:
                    return False
                self.values[shape.strings[leaf.lane], JsonType.STRING] = text
            case Op.FIELD:
                if text is None or (leaf.lane == TRACEPARENT and not valid_traceparent(text)):
                    return False
                self.fields[leaf.lane] = text
            case Op.SEGMENT:
                if text is None:
                    return False
                self.segments[leaf.salt] = text
            case Op.TIME:
                if event_time_ms(value) is None:
                    return False
            case Op.SKIP | Op.LABEL:
                pass
        return True


def decode_one(config: Config, table: StreamTable, event: Any) -> Result:
    return run(JsonDecoder(config, table, None), table, fetch_of(records_of([orjson.dumps(event)])))


def shape_of(table: StreamTable, result: Result) -> Shape:
    """The shape of the event's model; any when it has none."""
    if not result.rows:
        return table.shapes[0] if table.shapes else Shape(0)
    stream = table.find(*result.rows[0].stream)
    assert stream is not None
    return stream.shape


CONFIGS = {
    "native": Config(),
    "declared": Config(features={"a": Feature(kind=Kind.CATEGORICAL), "b": Feature(min=0)}),
    "segments": Config(decode=Decode(segments=["s"])),
    "narrow": Config(decode=Decode(max_features=6, max_name_bytes=8)),
    "mapped": Config(
        decode=Decode(
            fields=Fields(
                features={"a": "features.a", "b": "prediction.x", "c": "deep.down.c"},
                prediction="out.0",
                model="meta.model",
                segment={"s": "tags.s", "t": "features.b"},
                latency="took",
                latency_unit="us",
            )
        )
    ),
    "moved": Config(decode=Decode(fields=Fields(features="deep.down", segment="tags", id="meta"))),
}

_SCALARS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    7,
    -3,
    2.5,
    -0.0,
    1e300,
    2**60,
    "",
    "x",
    "ünï",
    "ok",
    [],
    [1.0, 2],
    [1, "x"],
    {},
    {"a": 1},
    {"a": {"b": "x", "c": None}},
    {"a.b": 1, "x": True},
    {"ttft_ms": 12, "input_tokens": 3, "note": "n", "deep": {"n": 2}},
    {"s": "eu", "t": 3, "u": True, "v": None},
    {"averyverylongname": 1},
    {"s": 1.5},
)
_NAMES = (
    "id",
    "ts",
    "model",
    "version",
    "features",
    "prediction",
    "label",
    "latency_ms",
    "status",
    "segment",
    "tags",
    "usage",
    "traceparent",
    "tracestate",
    "took",
    "out",
    "meta",
    "deep",
    "other",
)


def random_event(rng: random.Random) -> dict[str, Any]:
    event: dict[str, Any] = {"model": "m", "ts": 1_767_225_600_000}
    if rng.random() < 0.8:
        names = ("a", "b", "c", "a.b", "s")
        event["features"] = {
            rng.choice(names): rng.choice(_SCALARS) for _ in range(rng.randrange(1, 5))
        }
    if rng.random() < 0.3:
        event["deep"] = {"down": {"c": rng.choice(_SCALARS), "d": rng.choice(_SCALARS)}}
    if rng.random() < 0.3:
        event["meta"] = {"model": rng.choice(("m", "n", 7, None))}
    for _ in range(rng.randrange(4)):
        event[rng.choice(_NAMES)] = rng.choice(_SCALARS)
    return event


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_made_from_leaves_are_those_of_the_orjson_tier(name: str) -> None:
    config = CONFIGS[name]
    rng = random.Random(name)
    n_fit = n_rows = 0
    table = StreamTable()
    for i in range(4000):
        if i % 50 == 0:
            table = StreamTable()
        resolver = ConfigResolver(config, table)
        event = random_event(rng)
        result = decode_one(config, table, event)
        shape = shape_of(table, result)
        for known in table.shapes:
            known.paths.clear()  # events of this test are not of one producer
        made = ByLeaves(resolver, shape, event, config.decode.max_name_bytes)
        if not made.fits:
            continue
        n_fit += 1
        # Nothing irregular, and no drop but those a row without content or model has.
        assert not result.tally.irregular, event
        has_model = made.fields[0] not in (None, "")
        if not made.flags & (CONTENT | LABEL):
            assert set(result.tally.dropped) == {"no_content"}, event
        elif made.flags & CONTENT and not has_model:
            assert set(result.tally.dropped) == {"no_model"}, event
        elif not made.flags & CONTENT:
            assert result.tally.rows == 0, event
            assert result.tally.labels == 1
            assert not result.tally.dropped
        else:
            n_rows += 1
            (row,) = result.rows
            assert not result.tally.dropped
            assert result.tally.labels == bool(made.flags & LABEL)
            assert row.values == made.values, event
            assert row.stream.model == made.fields[0]
            assert row.stream.version == (made.fields[1] or "")
            segments = {resolver.salt(name): value for name, value in row.stream.segment}
            assert segments == made.segments, event
    assert n_fit > 300
    assert n_rows > 150


def test_a_second_spelling_of_a_column_is_not_answered() -> None:
    table = StreamTable()
    resolver = ConfigResolver(Config(), table)
    shape = Shape(0)
    first = resolver.resolve(shape, ("features", "a", "b"), WireKind.NUMBER)
    assert first == Leaf(Op.NUMBER, 0, flags=CONTENT)
    assert resolver.resolve(shape, ("features", "a.b"), WireKind.NUMBER) is None
    assert resolver.resolve(shape, ("features", "a", "b"), WireKind.NUMBER) == first
    assert resolver.resolve(shape, ("features", "a", "b"), WireKind.STRING) == Leaf(
        Op.STRING, 0, flags=CONTENT
    )


def test_lanes_that_the_resolver_learned_are_used_by_the_orjson_tier() -> None:
    table = StreamTable()
    table.intern(StreamKey("m", ""))
    resolver = ConfigResolver(Config(), table)
    leaf = resolver.resolve(table.shapes[0], ("features", "a", "b"), WireKind.NUMBER)
    assert leaf is not None
    result = decode_one(Config(), table, {"model": "m", "features": {"a": {"b": 3}}})
    assert not result.tally.irregular
    assert result.rows[0].values == {(Column(Role.FEATURE, "a.b"), JsonType.NUMBER): 3.0}
    assert table.numeric_lanes[0] == [(Column(Role.FEATURE, "a.b"), JsonType.NUMBER)]


def test_no_more_paths_are_answered_than_a_row_may_have_values() -> None:
    resolver = ConfigResolver(Config(decode=Decode(max_features=10)), StreamTable())
    shape = Shape(0)
    answers = [resolver.resolve(shape, ("features", f"f{i}"), WireKind.NUMBER) for i in range(12)]
    assert [leaf is not None for leaf in answers] == [True] * 10 + [False] * 2


def test_a_shape_of_several_models_gets_no_lanes_from_the_resolver() -> None:
    shape = Shape(0)
    shape.models.update(a=0, b=0)
    resolver = ConfigResolver(Config(), StreamTable())
    assert resolver.resolve(shape, ("features", "x"), WireKind.NUMBER) is None
    assert shape.n_lanes == 0


def test_segment_names_have_salts_of_their_own() -> None:
    resolver = ConfigResolver(Config(), StreamTable())
    salts = {resolver.salt(name) for name in ("country", "city", "")}
    assert len(salts) == 3
    assert all(0 <= salt < 1 << 64 for salt in salts)
    assert np.uint64(max(salts)) == max(salts)
