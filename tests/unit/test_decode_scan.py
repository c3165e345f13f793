"""The scan tier by example: what it takes, what it leaves, what it learns, and its bounds."""

from __future__ import annotations

import json
import random
from typing import Any

import numba
import numpy as np
import orjson
import pytest

from agent.config import Config, Decode, Fields
from agent.decode import paths as learning
from agent.decode.kernels.row_layout import FITS
from agent.decode.lanes import StreamTable
from agent.decode.leaves import ID, MODEL, Leaf, Op, WireKind
from agent.decode.paths import PathTable, wire_kind
from agent.sketch.kernels.compile import KERNELS
from tests.fuzz.scan_tier import ScanTier

EVENT: dict[str, Any] = {
    "id": "r-1",
    "ts": 1767225600123,
    "model": "churn",
    "version": "7",
    "features": {"amount": 12.5, "geo": {"zone": "z1", "lat": -1.25}, "member": True, "note": "é"},
    "prediction": {"score": 0.25, "label": "late"},
    "latency_ms": 12.5,
    "segment": {"region": "eu"},
    "tags": {"pod": "p-1"},
}


def made(**changes: Any) -> bytes:
    return orjson.dumps({**EVENT, **changes})


def taught(*events: bytes, config: Config | None = None) -> ScanTier:
    tier = ScanTier(config or Config())
    for event in events or (made(),):
        tier.learn(event)
    return tier


def fits(tier: ScanTier, *records: bytes | None) -> list[bool]:
    """Which records are accepted; what is accepted is compared with orjson on the way."""
    assert tier.check(list(records)) == []
    tier.scan(list(records))
    return [bool(tier.rows.status[i] == FITS) for i in range(len(records))]


def shuffled(seed: int) -> bytes:
    items = list(EVENT.items())
    random.Random(seed).shuffle(items)
    return json.dumps(dict(items), indent=seed % 3 or None).encode()


def test_every_spelling_of_a_learned_event_is_accepted() -> None:
    spellings = [
        json.dumps(EVENT, indent=2).encode(),
        json.dumps(EVENT, separators=(" , ", "\t:\r\n ")).encode(),
        json.dumps(EVENT, ensure_ascii=False).encode(),
        b" \r\n\t" + made() + b"\n\n ",
        made().replace(b'"model"', b'"m\\u006fdel"'),
        made().replace(b'"churn"', b'"\\u0063h\\u0075rn"'),
        made().replace(b'"z1"', b'"\\ud83d\\ude00\\n\\"\\\\\\/\\b\\f\\r\\t\\u00e9\\u20ac\\u0000"'),
        made(features={"geo": {"lat": 1e-5}, "amount": -1e22}),
        made().replace(b"12.5", b"1.25E+1"),
        *map(shuffled, range(40)),
    ]
    tier = taught()
    assert fits(tier, *spellings) == [True] * len(spellings)


def test_absent_and_null_leaves_are_accepted_once_seen() -> None:
    without = made(features={"geo": {"zone": None}, "member": None}, prediction=None, version=None)
    tier = taught(made(), without)
    assert fits(tier, without, made(version=None), made(features={"amount": 1})) == [True] * 3


def test_vectors_empty_objects_and_tags_of_any_kind_are_accepted() -> None:
    events = [
        made(features={"v": [1, -2.5, 3e2], "empty": {}}, tags={"list": [{"a": 1}, {"a": [None]}]}),
        made(features={"v": []}, tags={}, segment={}),
        made(features={}, tags={"never": {"seen": {"before": ["x"]}}}),
    ]
    assert fits(taught(made(), *events), *events) == [True] * 3


def test_texts_with_escapes_lie_behind_the_records_and_do_not_overwrite_each_other() -> None:
    texts = [f'{i}\n"{"é" * i}' for i in range(50)]
    tier = taught()
    records: list[bytes | None] = [made(id=text, features={"note": text + "!"}) for text in texts]
    buffer, misfits = tier.scan(records)
    assert misfits == []
    for r, text in enumerate(texts):
        start, length = int(tier.rows.field_start[r, ID]), int(tier.rows.field_length[r, ID])
        assert buffer[start : start + length].tobytes().decode() == text
    assert tier.check(records) == []


@pytest.mark.parametrize(
    "record",
    [
        made().replace(b'"amount"', b'"amount":1,"amount"'),
        made().replace(b'"amount"', b'"geo":{"lat":1},"amount"'),
        made().replace(b'"amount"', b'"\\u0061mount":1,"amount"'),
        made().replace(b'{"pod"', b'{"pod":1,"p\\u006fd"'),
        made().replace(b'{"pod"', b'{"x":[{"a":1,"a":2}],"pod"'),
    ],
)
def test_a_key_that_comes_twice_is_left_to_orjson(record: bytes) -> None:
    assert fits(taught(), record, made()) == [False, True]


def test_keys_at_the_top_that_no_field_leads_to_need_not_be_learned() -> None:
    others: dict[str, Any] = {f"extra_{i}": {"deep": [i, {"x": None}]} for i in range(5)}
    records = [
        json.dumps({**others, **EVENT}).encode(),
        json.dumps({**EVENT, **others}).encode(),
        made(trace={}).replace(b'"trace"', b'"\\u00e9tage"'),
        made(**{"é" * 40: "x"}),
    ]
    tier = taught()
    assert fits(tier, *records) == [True] * 4
    assert fits(tier, made(features={"new": 1}), made(usage={"tokens": 1})) == [False, False]


@pytest.mark.parametrize(
    "record",
    [
        made(x=1).replace(b'"x"', b'"x":2,"x"'),
        made(x=1).replace(b'"x"', b'"\\u0078":2,"x"'),
        made(x=1).replace(b'"x":1', b'"x":{"a":1,"a":2}'),
        made(x=1).replace(b'"x":1', b'"x":01'),
        made(x=1).replace(b'"x":1', b'"x":' + b"[" * 40 + b"]" * 40),
        made(**{f"x{i}": i for i in range(40)}),
    ],
)
def test_such_a_key_is_left_to_orjson_when_it_comes_twice_or_its_value_is_odd(
    record: bytes,
) -> None:
    assert fits(taught(), record, made(x=1)) == [False, True]


def test_fields_that_are_read_from_elsewhere_are_known_beforehand() -> None:
    config = Config(decode=Decode(fields=Fields(model="meta.name", features="inputs")))
    event = {"meta": {"name": "m"}, "inputs": {"a": 1.5}, "model": {"not": "read"}, "features": 1}
    tier = taught(orjson.dumps(event), config=config)
    assert fits(tier, orjson.dumps({**event, "other": 1, "features": {"a": 1}})) == [True]
    assert fits(tier, orjson.dumps({**event, "latency_ms": 1})) == [False]


@pytest.mark.parametrize(
    "record",
    [
        None,
        b"",
        b"[" + made() + b"]",
        b"{}",
        b"null",
        made() + b"}",
        made() + b"\0",
        made()[:-1],
        made().replace(b"12.5", b"12.", 1),
        made().replace(b"12.5", b"012.5", 1),
        made().replace(b"12.5", b"1e400", 1),
        made().replace(b"12.5", b"123456789012345678901", 1),
        made().replace(b'"z1"', b'"\\ud800"'),
        made().replace(b'"z1"', b'"\xff"'),
        made().replace(b'"z1"', b'"\x01"'),
        made().replace(b'"z1"', b'"\\x41"'),
        made().replace(b"true", b"truE"),
        made().replace(b"0.25", b"0.25,"),
        made(model=7.5),
        made(
            model="x" * 51
        ),  # may be cut: a quarter of decode.max_name_bytes is surely short enough
        made(ts="yesterday"),
        made(latency_ms=-1),
        made(features=[{"amount": 1}]),
        made(features={"new": 1}),
        made(model="never seen"),
    ],
)
def test_what_is_wrong_unknown_or_doubtful_is_left_to_orjson(record: bytes | None) -> None:
    assert fits(taught(), record, made()) == [False, True]


@pytest.mark.parametrize(("max_depth", "accepted"), [(3, True), (2, False)])
def test_depth_is_bounded_as_configured(max_depth: int, accepted: bool) -> None:
    deep = made(tags=None)
    tier = taught(
        made(features={"amount": 1}, tags=None), config=Config(decode=Decode(max_depth=max_depth))
    )
    tier.paths.learn(deep, tier.table.streams[0].shape)
    assert fits(tier, deep) == [accepted]


def test_long_records_are_left_to_orjson() -> None:
    config = Config(decode=Decode(max_record_bytes=400))
    tier = taught(config=config)
    assert fits(tier, made(id="x" * 10), made(id="x" * 200)) == [True, False]


def test_text_that_does_not_fit_behind_the_records_is_left_to_orjson() -> None:
    tier = taught()
    record = made(id="\n" * 40)
    raw = np.frombuffer(bytes(64) + record + bytes(1000), np.uint8)
    place = np.array([64], np.int64), np.array([len(record)], np.int64)
    zone = 64 + len(record) + 8
    assert tier.scan_at(raw, *place, zone, zone + 39) == [0]
    assert tier.scan_at(raw, *place, zone, zone + 44) == []


def test_a_learned_row_of_another_model_of_the_same_columns_needs_one_lesson() -> None:
    tier = taught()
    assert fits(tier, made(model="other")) == [False]
    tier.learn(made(model="other"))
    assert fits(tier, made(model="other"), made()) == [True, True]


def test_thousands_of_paths_and_models_are_learned_and_all_are_found_again() -> None:
    events = [
        made(model=f"m{i}", features={f"f{i}_{j}": 1.5 for j in range(8)}) for i in range(300)
    ]
    tier = taught(*events)
    assert tier.paths.n_paths > 2400
    assert fits(tier, *events) == [True] * len(events)


def test_a_full_table_learns_no_more_and_then_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MAX_PATHS", 100)
    monkeypatch.setattr(learning, "MAX_REFUSED", 20)
    tier = taught(*[made(features={f"junk{i}": 1}) for i in range(100)])
    late = made(model="late", features={"late": 1})
    tier.learn(late)
    assert fits(tier, made(features={"junk0": 2}), late) == [True, False]
    assert tier.paths.n_paths < 120
    for _ in range(20):
        tier.learn(late)
    assert fits(tier, made(features={"junk0": 2}), late) == [False, True]


def test_an_event_of_very_many_keys_is_not_learned_and_cannot_fill_the_memory() -> None:
    tier = taught()
    before = tier.paths.n_paths
    names = {f"k{i}": i for i in range(20_000)}
    tier.learn(orjson.dumps({**EVENT, **names}))
    assert tier.paths.n_paths == before
    for first in range(0, 20_000, 2000):
        part = dict(list(names.items())[first : first + 2000])
        tier.learn(orjson.dumps({**EVENT, **part}))
    assert before < tier.paths.n_paths <= learning.MAX_PATHS
    assert fits(tier, made()) == [True]


def test_clearing_forgets_everything() -> None:
    tier = taught()
    tier.paths.clear()
    assert (tier.paths.n_paths, tier.paths.n_leaves) == (0, 0)
    assert fits(tier, made()) == [False]
    tier.learn(made())
    assert fits(tier, made()) == [True]


def test_a_model_that_moves_to_a_shape_of_its_own_is_followed() -> None:
    tier = taught(made(), made(model="guest"))
    shapes = {stream.key.model: stream.shape.number for stream in tier.table.streams}
    assert shapes["churn"] == shapes["guest"]
    tier.table.move("guest")
    tier.learn(made(model="guest"))
    assert fits(tier, made(model="guest"), made()) == [True, True]
    assert tier.rows.shape[0] != tier.rows.shape[1]


def test_a_shape_that_teaches_nothing_new_is_looked_at_only_now_and_then() -> None:
    asked: list[tuple[str, ...]] = []

    class Counting:
        def resolve(self, shape: Any, path: tuple[str, ...], kind: WireKind) -> Leaf | None:
            asked.append(path)
            return None if path == ("odd",) else Leaf(Op.FIELD, MODEL)

        def is_skipped(self, path: tuple[str, ...]) -> bool:
            return False

    table = StreamTable()
    shape = table.streams[table.intern(("m", "", ()))].shape  # type: ignore[arg-type]
    paths = PathTable(Config(), Counting())
    assert paths.learn(b'{"model":"m","odd":1}', shape)
    for _ in range(1000):
        assert not paths.learn(b'{"model":"m","odd":1}', shape)
    assert asked.count(("odd",)) < 1000 // 8
    assert paths.learn(b'{"model":"m","new":"x"}', shape) or any(
        paths.learn(b'{"model":"m","new":"x"}', shape) for _ in range(20)
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, WireKind.NULL),
        (True, WireKind.BOOL),
        (1, WireKind.NUMBER),
        (1.5, WireKind.NUMBER),
        ("", WireKind.STRING),
        ([], WireKind.VECTOR),
        ([1, 2.5], WireKind.VECTOR),
        ([1, True], WireKind.ARRAY),
        ([None], WireKind.ARRAY),
        ({}, WireKind.EMPTY),
    ],
)
def test_a_value_has_the_kind_that_its_text_shows(value: Any, kind: WireKind) -> None:
    assert wire_kind(value) is kind


def test_the_kernel_touches_no_reference_count() -> None:
    dispatcher, signature = KERNELS["scan.scan"]
    fresh = numba.njit(nogil=True, error_model="numpy")(dispatcher.py_func)
    fresh.compile(signature)
    code = fresh.inspect_llvm(fresh.signatures[0])
    hot = [
        part.partition("\n}")[0]
        for part in code.split("\ndefine ")
        if "scan" in part.partition("(")[0] and "cpython" not in part.partition("(")[0]
    ]
    assert hot
    assert not any("NRT_incref" in part or "NRT_decref" in part for part in hot)
