"""What a column is, and that it stays so."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config import Config, Feature
from agent.fold.base import Fold
from agent.state.chunk import merge_digest
from agent.types import Column, Kind, Role, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of

KEY = StreamKey("m", "1")
T0 = 1_700_000_000_000
F = feature("f")


def fold_with(config: Config, *chunks: list[Any], column: Column = F) -> Fold:
    """A fold of one chunk for each list of values; `...` is a row without the column."""
    fold = Fold(config, start_ns=1)
    for number, values in enumerate(chunks, 1):
        rows = [Row(KEY, T0, {} if v is ... else {column: v}) for v in values]
        chunk = chunk_of(
            [[rows[::2]], [rows[1::2]]],
            digest=merge_digest(config),
            ranges=[range_of(0, to_offset=number, max_event_time_ms=1)],
        )
        fold.apply(chunk, number)
    return fold


def described(fold: Fold, column: Column = F) -> dict[str, Any]:
    (stream,) = fold.report()["streams"]
    family = "features" if column.role is Role.FEATURE else "predictions"
    found: dict[str, Any] = stream[family][column.name]
    return found


LONG = "w" * 65


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0], "numeric"),
        ([True], "boolean"),
        (["a"], "categorical"),
        ([[1.0, 2.0]], "vector"),
        ([1.0, "a"], "numeric"),
        (["a", True], "categorical"),
        ([True, [1.0]], "boolean"),
        ([1.0, "a", "b"], "categorical"),
        ([1.0, True, True, True, "a"], "boolean"),
        ([LONG], "text"),
        (["w" * 64], "categorical"),
        ([LONG, "a"], "categorical"),
        ([LONG, LONG, "a"], "categorical"),
        ([f"free text number {i:03d}, never twice" for i in range(250)], "text"),
        ([f"short {i:03d}" for i in range(250)], "categorical"),
        ([f"free text number {i:03d}, never twice" for i in range(150)], "categorical"),
        ([f"one of a few long ones: {i % 20:05d} ......" for i in range(250)], "categorical"),
        ([None, None], None),
        ([["no", "numbers"]], None),
    ],
)
def test_the_first_values_decide_the_kind(values: list[Any], kind: str | None) -> None:
    assert described(fold_with(Config(), values))["kind"] == kind


def test_nulls_leave_a_column_undecided_until_values_come() -> None:
    fold = fold_with(Config(), [None, ..., None], ["a", None, 1.0, "b"], [2.0] * 9)
    c = described(fold)
    assert c["kind"] == "categorical"
    # 16 rows: 2 + 9 + 1 values; one number in the second chunk and nine in the third violate.
    assert (c["count"], c["missing"], c["violations"]) == (2, 16 - 12, 10)


def test_values_before_the_decision_are_violations_afterwards() -> None:
    other = ["not", "numbers"]
    c = described(fold_with(Config(), [other, other], [1.0, other]))
    assert (c["kind"], c["count"], c["missing"], c["violations"]) == ("numeric", 1, 0, 3)


def test_a_kind_is_held_and_other_types_are_counted_never_coerced() -> None:
    c = described(fold_with(Config(), [1.0], ["2"] * 5 + [True, None, ..., [1.0], 3.0]))
    assert (c["kind"], c["count"], c["missing"], c["violations"]) == ("numeric", 2, 2, 7)
    assert (c["min"], c["max"]) == (1.0, 3.0)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_declaration_decides_before_any_value(kind: Kind) -> None:
    config = Config(features={"f": Feature(kind=kind)})
    c = described(fold_with(config, [None]))
    assert (c["kind"], c["count"], c["missing"], c["violations"]) == (kind.value, 0, 1, 0)


def test_a_declaration_holds_against_what_arrives() -> None:
    config = Config(features={"f": Feature(kind=Kind.CATEGORICAL)})
    c = described(fold_with(config, [1.0, 2.0, "a"]))
    assert (c["kind"], c["count"], c["violations"]) == ("categorical", 1, 2)


def test_a_declared_feature_says_nothing_about_a_prediction_of_that_name() -> None:
    config = Config(features={"f": Feature(kind=Kind.TEXT)})
    column = prediction("f")
    assert described(fold_with(config, [1.0], column=column), column)["kind"] == "numeric"


def test_latency_is_numeric_whatever_comes_first() -> None:
    fold = fold_with(Config(), ["slow", 0.5], column=LATENCY)
    latency = fold.report()["streams"][0]["latency"]
    assert (latency["kind"], latency["count"], latency["violations"]) == ("numeric", 1, 1)
