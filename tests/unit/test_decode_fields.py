"""Dotted paths into JSON that is not ours."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config import Fields
from agent.decode.fields import ABSENT, FieldMap, dig, parse_path

TREE = {"a": {"b": [10, {"c": None}], "": 1}, "a.b": 2, "x\\y": 3, "0": 4}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.0", 10),
        ("a.b.1.c", None),
        (r"a\.b", 2),
        (r"x\\y", 3),
        ("0", 4),
        ("a.b.2", ABSENT),
        ("a.b.-1", ABSENT),
        ("a.b.²", ABSENT),
        ("a.b.0.z", ABSENT),
        ("a.z", ABSENT),
        ("z.a", ABSENT),
    ],
)
def test_a_path_leads_to_a_value_or_to_nothing(path: str, value: Any) -> None:
    assert dig(TREE, parse_path(path)) is value or dig(TREE, parse_path(path)) == value


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a..b", "empty part"),
        (".a", "empty part"),
        ("a.", "empty part"),
        ("a\\", "ends in a backslash"),
        (r"a\b", r"\\b is no escape"),
    ],
)
def test_a_path_that_makes_no_sense_is_refused_with_its_option(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_path(path)
    with pytest.raises(ValueError, match=f"^ts: .*{message}"):
        Fields(ts=path)


def test_the_default_paths_rewrite_nothing() -> None:
    event = {"model": "m"}
    assert FieldMap(Fields()).native(event) is event


def test_what_is_absent_or_null_stays_so() -> None:
    fields = FieldMap(Fields(model="who.name", ts="at", segment={"r": "where.region"}))
    event = {"who": {"name": None}, "where": 5, "features": {"x": 1}}
    assert fields.native(event) == {"model": None, "features": {"x": 1}}
