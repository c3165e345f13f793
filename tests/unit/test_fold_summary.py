"""The documents that people and pages read."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Export, Privacy
from agent.fold.base import Fold
from agent.fold.summary import main_output
from agent.state.chunk import merge_digest
from agent.types import Column, Role, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of

CONFIG = Config(privacy=Privacy(values="names"))
KEY = StreamKey("m", "7", (("region", "eu"),))
T0 = 1_700_000_000_000 // 60_000 * 60_000
COLUMN_FIELDS = {
    "kind",
    "count",
    "missing",
    "violations",
    "non_finite",
    "over_range",
    "min",
    "max",
    "mean",
    "stddev",
    "quantiles",
    "relative_error",
    "distinct",
    "top",
}


def fold_of(rows: list[Row]) -> Fold:
    fold = Fold(CONFIG, start_ns=1)
    chunk = chunk_of(
        [[rows]], digest=merge_digest(CONFIG), ranges=[range_of(0, max_event_time_ms=T0)]
    )
    chunk.tally.dropped.update({"empty": 2, "too_deep": 0})
    fold.apply(chunk, 2)
    return fold


def report_of(values: list[Any], column: Column | None = None) -> dict[str, Any]:
    column = column or feature("f")
    rows = [Row(KEY, T0, {} if v is ... else {column: v}) for v in values]
    (stream,) = fold_of(rows).report()["streams"]
    found: dict[str, Any] = stream["features"][column.name]
    return found


def test_a_numeric_column_agrees_with_numpy() -> None:
    rng = random.Random(1)
    values = [rng.lognormvariate(1, 1) for _ in range(2000)]
    c = report_of([*values, None, ..., "wrong"])
    x = np.array(values)
    assert set(c) == COLUMN_FIELDS
    assert (c["kind"], c["count"], c["missing"], c["violations"]) == ("numeric", 2000, 2, 1)
    assert (c["min"], c["max"]) == (x.min(), x.max())
    assert c["mean"] == pytest.approx(x.mean(), rel=1e-12)
    assert c["stddev"] == pytest.approx(x.std(ddof=1), rel=1e-9)
    assert list(c["quantiles"]) == ["0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    for q, answer in c["quantiles"].items():
        exact = np.quantile(x, float(q), method="inverted_cdf")
        assert answer == pytest.approx(exact, rel=c["relative_error"] * 1.0001)
    assert c["distinct"] == pytest.approx(2000, rel=4 * 0.0336)
    assert c["top"] == []


def test_a_categorical_column_names_its_values_and_has_no_moments() -> None:
    c = report_of(["a", "b", "a", None, 1.0])
    assert c == {
        "kind": "categorical",
        "count": 3,
        "missing": 1,
        "violations": 1,
        "non_finite": None,
        "over_range": None,
        "min": None,
        "max": None,
        "mean": None,
        "stddev": None,
        "quantiles": None,
        "relative_error": None,
        "distinct": 2,
        "top": [["a", 2], ["b", 1]],
    }


def test_a_boolean_column_has_the_rate_of_true_as_its_mean() -> None:
    c = report_of([True, False, False, False])
    assert (c["kind"], c["mean"], c["distinct"]) == ("boolean", 0.25, 2)
    assert c["top"] == [[False, 3], [True, 1]]
    assert (c["min"], c["stddev"], c["quantiles"], c["relative_error"]) == (None,) * 4


def test_a_text_column_has_lengths_of_its_own() -> None:
    c = report_of(["w" * 70, "w" * 90])
    assert (c["kind"], c["count"], c["min"], c["mean"]) == ("text", 2, None, None)
    assert c["length"] == {"min": 70, "max": 90, "mean": 80.0}


def test_a_vector_column_is_described_by_its_norm() -> None:
    c = report_of([[3.0, 4.0], [6.0, 8.0], ["no"]])
    assert (c["kind"], c["count"], c["violations"]) == ("vector", 2, 1)
    assert (c["min"], c["max"], c["mean"]) == (5.0, 10.0, 7.5)


def test_a_column_of_equally_likely_values_lists_none_of_them() -> None:
    picks = np.random.default_rng(5).integers(0, 20_000, 200_000).tolist()
    fold = fold_of_texts([f"c{n}" for n in picks])
    c, window, points = shown_top(fold)
    assert (c["kind"], c["count"]) == ("categorical", 200_000)
    assert c["top"] == window == points == []


def test_a_skewed_column_lists_what_is_frequent_within_five_percent() -> None:
    picks = (np.random.default_rng(6).zipf(1.5, 200_000) % 1_000_000).tolist()
    true = Counter(f"c{n}" for n in picks)
    fold = fold_of_texts([f"c{n}" for n in picks])
    c, window, points = shown_top(fold)
    for top in (c["top"], window, points):
        found = dict(top)
        assert {text for text, _ in true.most_common(5)} <= found.keys()
        for text, count in found.items():
            assert true[text] <= count <= true[text] / 0.95


def fold_of_texts(texts: list[str]) -> Fold:
    config = Config(export=Export(top_categories=10))
    fold = Fold(config, start_ns=1)
    for at in range(0, len(texts), 20_000):
        rows = [Row(KEY, T0, {feature("f"): text}) for text in texts[at : at + 20_000]]
        ranges = [range_of(0, from_offset=at, max_event_time_ms=T0)]
        fold.apply(chunk_of([[rows]], digest=merge_digest(config), ranges=ranges), 2)
    fold.seal_all(3)
    return fold


def shown_top(fold: Fold) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """The column of the replay document, and `top` of the window and of the exported points."""
    (stream,) = fold.report()["streams"]
    (state,) = fold.state(4)["streams"]
    points = [
        (dict(point.attributes)["inference.category.value"], point.value)
        for metric in fold.snapshot(5).metrics
        if metric.name == "inference.feature.category"
        for point in metric.points
    ]
    return stream["features"]["f"], state["windows"][0]["features"]["f"]["top"], points


def test_the_relative_error_is_null_where_values_lie_beyond_the_domain() -> None:
    over = report_of([1.0, 2.0, 2.0**65])
    assert (over["relative_error"], over["over_range"], over["count"]) == (None, 1, 3)
    tiny = report_of([2.0**-70, 3 * 2.0**-70, 0.0])
    assert (tiny["relative_error"], tiny["over_range"]) == (None, 0)
    assert abs(tiny["quantiles"]["0.5"] - 2.0**-70) <= 2.0**-64
    for inside in ([0.0, 0.0], [1.0, 2.0**64, -(2.0**-63)]):
        c = report_of(inside)
        assert c["over_range"] == 0
        assert 0 < c["relative_error"] < 0.05


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0], [3.0]]])
def test_the_counts_of_a_column_add_up_to_the_rows(values: list[Any]) -> None:
    bad = [math.nan, math.inf, -math.inf]
    more = [[x] for x in bad] if isinstance(values[0], list) else bad
    c = report_of([*values, *more, None, ..., "wrong"])
    counts = {name: c[name] for name in ("count", "missing", "violations", "non_finite")}
    assert counts == {"count": 2, "missing": 2, "violations": 1, "non_finite": 3}


@pytest.mark.parametrize("values", [[math.nan], [math.inf, -math.inf], [1e300], [1.0]])
def test_what_cannot_be_said_is_null_and_never_nan(values: list[float]) -> None:
    rows = [Row(KEY, T0, {feature("f"): v}) for v in values]
    fold = fold_of(rows)
    fold.seal_all(3)
    for document in (fold.report(), fold.state(4)):
        text = orjson.dumps(document)
        assert orjson.loads(text) == document, "orjson writes NaN as null: there must be none"
    (stream,) = fold.report()["streams"]
    assert stream["features"]["f"]["stddev"] is None


ROWS = [
    Row(
        KEY,
        T0 + i,
        {
            feature("dep_hour"): float(i),
            prediction("label"): "late",
            prediction("score"): 0.83,
            prediction("probabilities.late"): 0.83,
            LATENCY: 0.0124,
            Column(Role.USAGE, "input_tokens"): 812.0,
        },
        is_error=i == 0,
    )
    for i in range(3)
]


def test_the_replay_document_has_the_fields_that_were_promised() -> None:
    document = fold_of(ROWS).report()
    assert {k: document[k] for k in ("rows", "events", "dropped", "verdicts")} == {
        "rows": 3,
        "events": 3,
        "dropped": {"empty": 2},
        "verdicts": [],
    }
    (stream,) = document["streams"]
    assert (stream["model"], stream["version"], stream["segment"], stream["rows"]) == (
        "m",
        "7",
        {"region": "eu"},
        3,
    )
    assert set(stream["features"]) == {"dep_hour"}
    assert stream["prediction"] == stream["predictions"]["score"]
    assert set(stream["predictions"]) == {"label", "score", "probabilities.late"}
    assert stream["latency"]["max"] == 0.0124
    assert stream["usage"]["input_tokens"]["max"] == 812.0


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["label", "score", "value"], "score"),
        (["label", "value"], "value"),
        (["label", "probabilities.a"], "label"),
        (["b", "c"], "b"),
        ([], None),
    ],
)
def test_the_main_output_is_score_else_value_else_label_else_the_first(
    names: list[str], main: str | None
) -> None:
    assert main_output({name: {"is": name} for name in names}) == (main and {"is": main})


def test_the_state_document_has_totals_and_the_last_windows() -> None:
    fold = fold_of(ROWS)
    before = fold.state(3)
    assert before["windows"] == {
        "width_s": 60.0,
        "sealed_until_ms": T0 - 60_000,
        "open": [T0],
        "watermark_ms": T0 - 10_000,
    }
    assert before["streams"][0]["windows"] == []
    fold.seal_all(3)
    state = fold.state(4)
    assert state["windows"]["sealed_until_ms"] == T0 + 60_000
    assert state["tally"]["rows"] == 3
    assert state["tally"]["dropped"] == {"empty": 2}
    (stream,) = state["streams"]
    assert (stream["first_seen_ms"], stream["last_seen_ms"]) == (T0, T0 + 2)
    assert (stream["rows"], stream["errors"]) == (3, 1)
    (window,) = stream["windows"]
    assert (window["start_ms"], window["end_ms"]) == (T0, T0 + 60_000)
    assert (window["rows"], window["errors"], window["partial"], window["coverage"]) == (
        3,
        1,
        False,
        1.0,
    )
    for columns in (stream["totals"], window):
        dep_hour = columns["features"]["dep_hour"]
        assert set(dep_hour) == COLUMN_FIELDS | {"histogram"}
        histogram = dep_hour["histogram"]
        assert histogram["zero"] == 1
        assert sum(histogram["positive"]["counts"]) == 2
        assert histogram["negative"] == {"offset": 0, "counts": []}
        assert columns["latency"]["count"] == 3
        assert set(columns["usage"]) == {"input_tokens"}
    orjson.dumps(state)


def test_only_the_last_windows_are_kept() -> None:
    fold = Fold(CONFIG, start_ns=1)
    for minute in range(6):
        rows = [Row(KEY, T0 + 60_000 * minute, {})]
        at = range_of(0, to_offset=minute, max_event_time_ms=1)
        fold.apply(chunk_of([[rows]], digest=merge_digest(CONFIG), ranges=[at]), minute)
    fold.seal_all(9)
    (stream,) = fold.state(9)["streams"]
    assert [w["start_ms"] for w in stream["windows"]] == [T0 + 60_000 * m for m in (3, 4, 5)]
