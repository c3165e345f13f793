"""Templates are learned, found, relearned and forgotten; what they accept is in tests/fuzz."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Decode, Fields
from agent.decode import templates as module
from agent.decode.automaton import MAX_CHOICES
from agent.decode.kernels.row_layout import FITS
from agent.decode.kernels.template import decode_templates
from agent.decode.leaves import ID, MODEL, TRACEPARENT, VERSION
from agent.decode.resolver import ConfigResolver
from agent.decode.templates import LEARNING_SHARE, Templates
from agent.types import Column, Role
from tests.fuzz.template_tier import TemplateTier

Json = dict[str, Any]


def event(features: Json | None = None, **more: Any) -> Json:
    """An event of ten features."""
    rng = random.Random(str(features))
    made = {f"f{i}": rng.gauss(0, 1) for i in range(10)} if features is None else features
    return {"id": "r-1", "ts": 1_767_225_600_123, "model": "m", "features": made, **more}


def fits(tier: TemplateTier, *records: bytes) -> list[bool]:
    """Which of the records fit a template; each is checked against orjson."""
    listed: list[bytes | None] = list(records)
    assert tier.check(listed) == []
    _, misfits = tier.scan(listed)
    return [r not in misfits for r in range(len(records))]


def taught(*records: bytes, config: Config | None = None) -> TemplateTier:
    tier = TemplateTier(config or Config())
    for record in records:
        tier.learn(record)
    return tier


# ---------------------------------------------------------------- what a template takes


def test_one_event_teaches_all_events_of_its_spelling() -> None:
    tier = taught(orjson.dumps(event()))
    others = [orjson.dumps(event({f"f{i}": k + i / 7 for i in range(10)})) for k in range(50)]
    assert all(fits(tier, *others))
    assert len(tier.templates) == 1


@pytest.mark.parametrize(
    "style", [{}, {"indent": 2}, {"separators": (" ,", " : ")}, {"indent": "\t"}]
)
def test_white_space_is_part_of_the_spelling(style: Json) -> None:
    tier = taught(json.dumps(event(), **style).encode())
    assert fits(tier, json.dumps(event({f"f{i}": i for i in range(10)}), **style).encode()) == [
        True
    ]
    assert fits(tier, orjson.dumps(event())) == [False]


def test_optional_and_null_fields_become_choices_of_one_template() -> None:
    whole = {f"f{i}": i + 0.5 for i in range(10)}
    tier = taught(
        orjson.dumps(event(whole)),
        orjson.dumps(event({k: v for k, v in whole.items() if k != "f3"})),
        orjson.dumps(event({**whole, "f7": None})),
        orjson.dumps(event({k: v for k, v in whole.items() if k != "f9"})),
    )
    assert len(tier.templates) == 1
    # A combination that no event showed.
    mixed = {k: v for k, v in whole.items() if k not in ("f3", "f9")}
    assert fits(tier, orjson.dumps(event({**mixed, "f7": None}))) == [True]


def test_another_kind_of_value_at_a_path_is_learned_beside_the_first() -> None:
    tier = taught(orjson.dumps(event({"a": 1.5})), orjson.dumps(event({"a": "text"})))
    tier.learn(orjson.dumps(event({"a": True})))
    tier.learn(orjson.dumps(event({"a": [1, 2.5]})))
    tier.learn(orjson.dumps(event({"a": None})))
    records = [orjson.dumps(event({"a": a})) for a in (2, "x", False, [], [3e5], None, 1e-7)]
    assert all(fits(tier, *records))


def test_another_order_of_keys_is_another_template() -> None:
    items = list(event().items())
    tier = taught(orjson.dumps(dict(items)), orjson.dumps(dict(items[::-1])))
    assert len(tier.templates) == 2
    assert fits(tier, orjson.dumps(dict(items)), orjson.dumps(dict(items[::-1]))) == [True, True]
    assert fits(tier, orjson.dumps(dict(items[1:] + items[:1]))) == [False]


def test_a_key_that_comes_twice_fits_no_template() -> None:
    record = b'{"model":"m","features":{"a":1},"prediction":{"b":2},"tags":{"x":1}}'
    tier = taught(
        record,
        b'{"model":"m","prediction":{"b":2},"features":{"a":1},"tags":{"x":1}}',
        b'{"model":"m","features":{"a":1},"tags":{"x":1}}',
        b'{"model":"m","features":{"a":1,"c":2},"prediction":{"b":2},"tags":{"x":1}}',
        b'{"model":"m","features":{"a":1,"c":2},"prediction":{"b":2},"tags":{"x":1}}',
    )
    assert fits(tier, record) == [True]
    twice = [
        b'{"model":"m","features":{"a":1},"prediction":{"b":2},"features":{"c":2},"tags":{"x":1}}',
        b'{"model":"m","features":{"a":1,"a":1},"prediction":{"b":2},"tags":{"x":1}}',
        b'{"model":"m","model":"m","features":{"a":1},"prediction":{"b":2},"tags":{"x":1}}',
        b'{"model":"m","features":{"a":1},"prediction":{"b":2},"tags":{"x":1,"x":2}}',
        b'{"model":"m","features":{"a":1},"prediction":{"b":2},"tags":{"x":{"y":1,"y":2}}}',
    ]
    assert fits(tier, *twice) == [False] * len(twice)


def test_what_nobody_reads_may_be_anything() -> None:
    tier = taught(orjson.dumps(event(tags={"pod": "p-1"}, country="DE")))
    others: list[Json] = [
        {},
        {"pod": 'a"\n'},
        {"a": [1, {"b": [None, "x"]}]},
        {"pod": "p-2", "zone": "ü"},
    ]
    records = [orjson.dumps(event(tags=tags, country="FR")) for tags in others]
    assert all(fits(tier, *records))
    assert fits(tier, records[0].replace(b"{}", b"[1,]")) == [False]
    assert fits(tier, records[0].replace(b"{}", b"[" * 70 + b"]" * 70)) == [False]


def test_elements_of_arrays_that_fields_lead_to_are_read() -> None:
    config = Config(
        decode=Decode(
            fields=Fields(
                model="model_name",
                prediction="outputs.0.data.0",
                features={"age": "inputs.0.data.0", "country": "inputs.1.data.0"},
            )
        )
    )

    def request(age: int, country: str, score: float) -> bytes:
        def tensor(name: str, value: Any) -> Json:
            return {"name": name, "shape": [1, 1], "data": [value]}

        inputs = [tensor("age", age), tensor("country", country)]
        return orjson.dumps(
            {"model_name": "m", "inputs": inputs, "outputs": [tensor("score", score)]}
        )

    tier = taught(request(30, "DE", 0.5), config=config)
    assert all(fits(tier, *(request(18 + k, f"c{k}", k / 7) for k in range(20))))
    low, high = tier.rows.number_start[:2]
    names = [column for column, _ in tier.table.shapes[0].numeric[: high - low]]
    assert Column(Role.FEATURE, "age") in names


def test_an_object_with_numbers_as_keys_is_no_array() -> None:
    config = Config(decode=Decode(fields=Fields(features={"x": "in.0", "y": "in.1"})))
    tier = taught(b'{"model":"m","in":[1,2]}', b'{"model":"m","in":{"0":1,"1":2}}', config=config)
    assert fits(tier, b'{"model":"m","in":[3,4]}', b'{"model":"m","in":{"0":1,"1":2}}')[0]
    assert (
        fits(tier, b'{"model":"m","in":[3,4}}', b'{"model":"m","in":{"0":1,"1":2]}') == [False] * 2
    )


@pytest.mark.parametrize(
    "record",
    [
        b'{"model":"m","features":[{"a":1},{"a":2}]}',
        b'[{"model":"m","features":{"a":1}}]',
        b'{"model":"m","features":{"a\\u0062":1}}',
        b'{"model":"m","features":{"a":["x"]}}',
        b'{"model":"m","latency_ms":"fast","features":{"a":1}}',
        b'{"model":"m","features":' + b'{"a":' * 40 + b"1" + b"}" * 41,
    ],
)
def test_what_templates_cannot_do_is_not_learned(record: bytes) -> None:
    tier = taught(record)
    assert len(tier.templates) == 0
    assert fits(tier, record) == [False]


def test_a_record_that_is_too_long_or_no_value_is_a_misfit() -> None:
    tier = taught(orjson.dumps(event()), config=Config(decode=Decode(max_record_bytes=500)))
    record = orjson.dumps(event())
    assert fits(tier, record) == [True]
    longer = orjson.dumps({**event(), "id": "x" * 500})
    _, misfits = tier.scan([record, None, b"", longer])
    assert misfits == [1, 2, 3]


def test_names_longer_than_a_quarter_of_the_limit_are_left_to_others() -> None:
    tier = taught(orjson.dumps(event()), config=Config(decode=Decode(max_name_bytes=40)))
    assert fits(tier, orjson.dumps({**event(), "model": "x" * 10})) == [True]
    assert fits(tier, orjson.dumps({**event(), "model": "x" * 11})) == [False]


# ---------------------------------------------------------------- what a row says


def test_fields_and_hashes_of_a_row_are_where_they_belong() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first = event(version="7", traceparent=parent, segment={"region": "eu", "tier": 1})
    tier = taught(orjson.dumps(first))
    records = [
        orjson.dumps(first),
        orjson.dumps({**first, "version": "8"}),
        orjson.dumps({**first, "segment": {"region": "us", "tier": 1}}),
        orjson.dumps({**first, "model": "n"}),
        orjson.dumps({**first, "id": "other"}),
    ]
    assert all(fits(tier, *records))
    buffer, _ = tier.scan(list(records))
    rows = tier.rows

    def text(row: int, field: int) -> str:
        start, length = rows.field_start[row, field], rows.field_length[row, field]
        return bytes(buffer[start : start + length]).decode()

    assert [text(0, field) for field in (MODEL, VERSION, ID, TRACEPARENT)] == [
        "m",
        "7",
        "r-1",
        parent,
    ]
    assert text(4, ID) == "other"
    keys = rows.key_hash[:5].tolist()
    assert len(set(keys[:4])) == 4 and keys[4] == keys[0]
    assert len(set(rows.model_hash[:3].tolist())) == 1 and rows.model_hash[3] != rows.model_hash[0]


def test_the_order_of_segments_does_not_change_the_stream() -> None:
    one = b'{"model":"m","features":{"a":1},"segment":{"x":"1","y":true,"z":3}}'
    two = b'{"model":"m","features":{"a":1},"segment":{"z":3,"y":true,"x":"1"}}'
    other = b'{"model":"m","features":{"a":1},"segment":{"x":"1","y":true,"z":4}}'
    swapped = b'{"model":"m","features":{"a":1},"segment":{"x":"true","y":true,"z":1}}'
    tier = taught(one, two)
    assert all(fits(tier, one, two, other, swapped))
    tier.scan([one, two, other, swapped])
    keys = tier.rows.key_hash[:4].tolist()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_misfit_leaves_no_lanes_and_rows_follow_each_other() -> None:
    record = orjson.dumps(event())
    tier = taught(record)
    _, misfits = tier.scan([record, b"{}", record, record[:-1], record])
    assert misfits == [1, 3]
    width = int(tier.rows.number_start[1])
    assert tier.rows.number_start[:6].tolist() == [0, width, width, 2 * width, 2 * width, 3 * width]
    assert [status == FITS for status in tier.rows.status[:5]] == [True, False, True, False, True]
    first, last = (tier.rows.numbers[k * width : (k + 1) * width] for k in (0, 2))
    assert np.array_equal(first.view(np.uint64), last.view(np.uint64))


# ---------------------------------------------------------------- which template


def shaped(shape: int, k: int = 0) -> bytes:
    """An event of one of many shapes, which have all but the names of their features in common."""
    return orjson.dumps(
        event({f"{'abcdefghij'[i]}{shape}": k + i / 3 for i in range(10)}, model=f"m{shape}")
    )


def test_many_interleaved_shapes_need_hardly_more_than_two_attempts_a_row() -> None:
    tier = taught(*(shaped(shape) for shape in range(50)))
    assert len(tier.templates) == 50
    rng = random.Random(1)
    records: list[bytes | None] = [shaped(rng.randrange(50), k) for k in range(2000)]
    _, misfits = tier.scan(records)
    assert not misfits
    before = tier.templates.n_attempts
    _, misfits = tier.scan(records)
    assert not misfits
    assert tier.templates.n_attempts - before < 1.1 * len(records)


def test_shapes_that_differ_only_at_the_end_are_told_apart_too() -> None:
    def record(shape: int, k: int) -> bytes:
        features = {f"f{i}": i + k / 3 for i in range(9)}
        return orjson.dumps(event({**features, f"last{shape}": 1.5}, model=f"m{shape}"))

    tier = TemplateTier(Config())
    for shape in range(20):
        tier.templates._sighted.clear()
        tier.learn(record(shape, 0))
    rng = random.Random(1)
    records: list[bytes | None] = [record(rng.randrange(20), k) for k in range(500)]
    n_fit = 500 - len(tier.scan(records)[1])
    before = tier.templates.n_attempts
    tier.scan(records)
    assert n_fit > 0
    assert tier.templates.n_attempts - before < 3 * len(records)


def test_rows_that_fit_nothing_are_not_tried_with_every_template_for_ever() -> None:
    tier = taught(*(shaped(shape) for shape in range(50)))
    odd = orjson.dumps(event({"unknown": 1}))
    before = tier.templates.n_attempts
    tier.scan([odd] * 2000)
    assert tier.templates.n_attempts - before < 2000 * 1.5 + 50 * 14


def test_a_row_that_fits_is_found_again_after_others_like_it_did_not() -> None:
    """Broken rows of a shape must not make its good ones misfits for long."""
    tier = taught(shaped(0), shaped(1), shaped(2))
    broken = shaped(1).replace(b'"r-1"', b'"r\\"1"')[:-1]
    tier.scan([broken] * 500)
    _, misfits = tier.scan([record for k in range(100) for record in (shaped(0, k), shaped(1, k))])
    assert not misfits


# ---------------------------------------------------------------- learning and forgetting


def test_a_producer_that_changes_its_spelling_is_learned_again() -> None:
    tier = taught(orjson.dumps(event()))
    changed = orjson.dumps(dict(reversed(event().items())))
    assert fits(tier, changed) == [False]
    tier.scan([orjson.dumps(event())] * 100)
    tier.learn(changed)
    assert fits(tier, changed) == [True]


def test_a_new_field_is_learned_when_it_comes_again() -> None:
    tier = taught(orjson.dumps(event()))
    wider = orjson.dumps(event({**event()["features"], "new": 1.5}))
    tier.learn(wider)
    assert fits(tier, wider) == [False]
    tier.learn(wider)
    assert fits(tier, wider) == [True]
    assert len(tier.templates) == 1


def test_names_that_come_but_once_are_never_learned() -> None:
    tier = taught(orjson.dumps(event()))
    nodes = tier.templates.n_nodes
    for k in range(300):
        tier.learn(orjson.dumps({f"extra_{k}": k, **event()}))
    assert len(tier.templates) == 1
    assert tier.templates.n_nodes == nodes


def test_choices_behind_one_value_are_bounded() -> None:
    tier = taught(orjson.dumps(event({"a": 1})))
    for k in range(3 * MAX_CHOICES):
        for _ in range(2):
            tier.learn(orjson.dumps(event({"a": 1, f"b{k}": 2})))
    choices = tier.templates._templates[0]._choices
    assert max(map(len, choices.values())) == MAX_CHOICES


def shuffled(rng: random.Random) -> bytes:
    items = list(event()["features"].items())
    rng.shuffle(items)
    return orjson.dumps(event(dict(items)))


def test_shuffled_keys_are_given_up_on() -> None:
    tier = TemplateTier(Config())
    rng = random.Random(1)
    learned = 0
    for _ in range(1000):
        record = shuffled(rng)
        found = tier.meaning(record)
        assert found.shape is not None
        learned += tier.templates.observe(record, found.shape)
    assert learned < 15


def test_a_producer_with_several_orders_is_learned_all_the_same() -> None:
    """Orders that come again are used, so learning goes on."""
    rng = random.Random(1)
    orders = [shuffled(rng) for _ in range(20)]
    tier = TemplateTier(Config())
    for _ in range(60):
        records: list[bytes | None] = [rng.choice(orders) for _ in range(200)]
        _, misfits = tier.scan(records)
        for row in misfits[:4]:
            record = records[row]
            assert record is not None
            tier.learn(record)
    assert len(tier.templates) == 20
    assert tier.scan(list(orders))[1] == []


class Timer:
    """A clock that each reading moves on."""

    def __init__(self, step_s: float) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def templates_with(clock: Callable[[], float]) -> tuple[TemplateTier, Templates]:
    tier = TemplateTier(Config())
    return tier, Templates(Config(), ConfigResolver(Config(), tier.table), clock)


def test_learning_takes_no_more_than_its_share_of_the_time() -> None:
    clock = Timer(0.001)  # each reading: a lesson takes a millisecond
    tier, templates = templates_with(clock)
    rng = random.Random(1)
    shape = tier.meaning(shuffled(rng)).shape
    assert shape is not None
    spent = 0.0
    for _ in range(5000):
        before = clock.now
        took = templates._credit_s > 0
        templates.observe(shuffled(rng), shape)
        spent += clock.now - before if took else 0.0
        clock.now += 0.004
    assert spent < LEARNING_SHARE * clock.now * 1.5 + 0.4


def test_without_time_nothing_is_learned_until_there_is_some() -> None:
    clock = Timer(0.0)
    tier, templates = templates_with(clock)
    record = orjson.dumps(event())
    shape = tier.meaning(record).shape
    assert shape is not None
    templates._credit_s = -0.1
    assert not templates.may_learn()
    assert not templates.observe(record, shape)
    clock.now += 6.0
    assert templates.may_learn()
    assert templates.observe(record, shape)


def test_the_least_used_template_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEMPLATES", 4)
    tier = taught(*(shaped(shape) for shape in range(4)))
    for shape, n in ((0, 100), (1, 50), (2, 20), (3, 0)):
        if n:
            tier.scan([shaped(shape, k) for k in range(n)])
    tier.learn(shaped(9))
    assert len(tier.templates) == 4
    _, misfits = tier.scan([shaped(shape, 1) for shape in (0, 1, 2, 3, 9)])
    assert misfits == [3]


def test_uses_fade_and_who_has_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGE_ROWS", 1000)
    tier = taught(shaped(0), shaped(1), shaped(2))
    for _ in range(12):
        tier.scan([shaped(2, k) for k in range(600)])
        tier.templates.uses()
    assert len(tier.templates) == 1
    assert tier.templates.uses()[0] < 1600


def test_cleared_templates_fit_nothing_and_learn_again() -> None:
    record = orjson.dumps(event())
    tier = taught(record)
    tier.templates.clear()
    assert fits(tier, record) == [False]
    tier.learn(record)
    assert fits(tier, record) == [True]


# ---------------------------------------------------------------- the machine


def test_the_kernel_counts_no_references() -> None:
    """Reference counts in a loop cost more than the decoding."""
    taught(orjson.dumps(event()))
    decode_templates.compile(decode_templates.signatures[0])
    for assembly in decode_templates.inspect_asm().values():
        body = assembly.partition("cfunc")[0]
        assert "NRT_incref" not in body and "NRT_decref" not in body
