"""Streams share shapes; a producer that brings many columns gets one of its own."""

from __future__ import annotations

from typing import Any

import orjson

from agent.config import Config, Decode
from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.types import Column, Irregular, JsonType, Role
from tests.support.decoded import Result, fetch_of, records_of, run


class Table:
    """A stream table and a decoder that fills it."""

    def __init__(self, **options: Any) -> None:
        self.table = StreamTable()
        self.decoder = JsonDecoder(Config(decode=Decode(**options)), self.table, None)

    def decode(self, *events: dict[str, Any]) -> Result:
        raw = [orjson.dumps(event) for event in events]
        return run(self.decoder, self.table, fetch_of(records_of(raw)))

    def shape_number(self, model: str) -> int:
        stream = next(
            stream for stream in reversed(self.table.streams) if stream.key.model == model
        )
        return stream.shape.number


def event(model: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "features": dict.fromkeys(names, 1.5), **more}


ABC = tuple("abcdefghij")


def test_streams_of_one_model_share_a_shape() -> None:
    made = Table()
    made.decode(*(event("m", *ABC, version=str(i), segment={"s": i}) for i in range(5)))
    assert len(made.table.keys) == 5
    assert len(made.table.shapes) == 1
    assert all(lanes is made.table.numeric_lanes[0] for lanes in made.table.numeric_lanes)


def test_models_with_the_same_columns_share_a_shape() -> None:
    made = Table()
    made.decode(event("m", *ABC), event("n", *reversed(ABC)), event("o", *ABC[:9]))
    assert len(made.table.shapes) == 1


def test_a_model_of_other_columns_gets_a_shape_of_its_own() -> None:
    made = Table()
    made.decode(event("m", *ABC), event("n", "x", "y"), event("o", "a"), event("p", *ABC, "k"))
    assert [made.shape_number(name) for name in "mnop"] == [0, 1, 2, 0]
    made.decode(event("q", *ABC[:5], "s", "t", "u", "v"))
    assert made.shape_number("q") == 3


def test_a_much_wider_shape_is_not_joined() -> None:
    made = Table()
    made.decode(event("m", *(f"f{i}" for i in range(100))), event("n", "f0", "f1"))
    assert made.shape_number("n") == 1


def test_columns_and_lanes_of_a_shared_shape_keep_their_types_apart() -> None:
    made = Table()
    result = made.decode(
        event("m", *ABC), {"model": "n", "features": {**dict.fromkeys(ABC, 2.5), "a": "text"}}
    )
    assert made.shape_number("n") == 0
    a = Column(Role.FEATURE, "a")
    assert result.rows[0].values[a, JsonType.NUMBER] == 1.5
    assert result.rows[1].values[a, JsonType.STRING] == "text"
    assert (a, JsonType.NUMBER) not in result.rows[1].values


def test_a_model_that_brings_many_columns_is_moved_and_loses_nothing() -> None:
    made = Table()
    made.decode(event("m", *ABC), event("n", *ABC))
    many = [f"x{i}" for i in range(50)]
    result = made.decode(event("n", *ABC, *many), event("m", *ABC))
    assert (made.shape_number("m"), made.shape_number("n")) == (0, 1)
    assert made.table.shapes[0].n_lanes <= 10 + 16
    assert len(result.rows[0].values) == 60
    assert len(result.rows[1].values) == 10
    assert not result.tally.irregular
    assert result.tally.rows == 2


def test_a_producer_that_invents_names_for_ever_does_not_use_up_the_lanes_of_others() -> None:
    made = Table(max_features=20)  # 56 lanes
    made.decode(event("good", *ABC), event("bad", *ABC))
    for i in range(200):
        made.decode(event("bad", *ABC, f"x{2 * i}", f"x{2 * i + 1}"))
    assert made.shape_number("bad") != made.shape_number("good")
    assert made.table.shapes[made.shape_number("bad")].n_lanes <= 56
    result = made.decode(event("good", *ABC, "new1", "new2", "new3"))
    assert not result.tally.irregular
    assert len(result.rows[0].values) == 13
    result = made.decode(event("bad", "y1", "y2"))
    assert result.tally.irregular == {Irregular.TOO_MANY_COLUMNS: 1}


def test_types_that_change_for_ever_do_not_use_up_the_lanes_of_others() -> None:
    made = Table()
    made.decode(event("good", *ABC), event("bad", *ABC))
    for value in (True, "text", [1, 2], ["x"], {"deep": 1}):
        made.decode({"model": "bad", "features": dict.fromkeys(ABC, value)})
    assert made.table.shapes[0].n_lanes <= 26
    assert made.shape_number("bad") == 1


def test_a_full_shared_shape_is_left_by_whoever_needs_more() -> None:
    made = Table(max_features=4)  # 24 lanes
    made.decode(event("m", *"abcd"), event("n", *"abcd"))
    # A few at a time: each model adds less than would move it, together they fill the shape.
    for i in range(8):
        made.decode(event("m", *"abc", f"m{i}"), event("n", *"abc", f"n{i}"))
    result = made.decode(event("m", *"abc", "more"), event("n", *"abc", "more"))
    assert not result.tally.irregular
    assert [len(row.values) for row in result.rows] == [4, 4]
    assert made.table.shapes[0].n_lanes <= 24


def test_a_stream_may_be_paired_with_a_shape_its_model_does_not_use() -> None:
    made = Table()
    made.decode(event("m", *ABC), event("n", "x"))
    other = made.table.shapes[0]
    key = made.table.keys[1]
    paired = made.table.paired(key, other)
    assert (paired.key, paired.shape) == (key, other)
    assert paired.idx == 2
    assert made.table.paired(key, other) is paired
    assert made.table.find(*key) is not paired
    assert made.table.numeric_lanes[2] is other.numeric


def test_clearing_forgets_shapes_and_says_so() -> None:
    made = Table()
    made.decode(event("m", *ABC))
    generation = made.table.generation
    made.table.clear()
    assert made.table.generation == generation + 1
    assert (made.table.shapes, made.table.keys, made.table.size) == ([], [], 0)
    made.decode(event("m", "a"))
    assert made.shape_number("m") == 0
