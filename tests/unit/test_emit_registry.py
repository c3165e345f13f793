"""The registry of metrics: its documentation, its rules, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.emit.registry import (
    METRICS,
    Instrument,
    RegistryError,
    check,
    markdown,
)
from agent.types import HistogramPoint, Metric, NumberPoint

ROOT = Path(__file__).parents[2]
NO_COUNTS = np.zeros(0, np.uint64)
MODEL = (("inference.model.name", "m"),)
FEATURE = (("inference.feature.name", "f"), ("inference.model.name", "m"))


def histogram(**changes: object) -> HistogramPoint:
    fields: dict[str, object] = {
        "attributes": FEATURE,
        "start_ns": 1,
        "time_ns": 2,
        "count": 3,
        "sum": 3.0,
        "scale": 2,
        "zero_count": 1,
        "zero_threshold": 2.0**-64,
        "positive_offset": 0,
        "positive": np.array([2], np.uint64),
        "negative_offset": 0,
        "negative": NO_COUNTS,
    }
    return HistogramPoint(**{**fields, **changes})  # type: ignore[arg-type]


def test_docs_metrics_md_is_what_the_registry_says() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == markdown(), (
        "docs/metrics.md is stale; run: python -m agent.emit.registry --markdown > docs/metrics.md"
    )


def test_the_module_prints_the_documentation() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.emit.registry", "--markdown"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == markdown()


def test_every_metric_stands_in_the_documentation_with_its_attributes() -> None:
    lines = {line.split("`")[1]: line for line in markdown().splitlines() if line.startswith("| `")}
    for name, spec in METRICS.items():
        assert f"`{spec.unit}`" in lines[name]
        for attribute in spec.attributes:
            assert f"`{attribute.name}`" in lines[name]


def test_names_and_units_follow_opentelemetrys_rules() -> None:
    for name, spec in METRICS.items():
        assert name == spec.name
        assert name.split(".")[0] in ("inference", "inferometer", "messaging")
        assert name == name.lower() and " " not in name
        assert not name.endswith(("_total", ".total", ".seconds", ".bytes_total"))
        assert spec.unit in ("s", "By", "1") or (spec.unit[0], spec.unit[-1]) == ("{", "}")
        assert spec.description.endswith(".")
        keywords = [attribute.keyword for attribute in spec.attributes]
        assert len(keywords) == len(set(keywords))


def test_only_sums_that_cannot_fall_are_counters() -> None:
    assert METRICS["inference.feature.sum"].instrument is Instrument.UPDOWNCOUNTER
    assert METRICS["inference.feature.min"].instrument is Instrument.GAUGE


@pytest.mark.parametrize(
    "metric",
    [
        Metric("inference.rows", [NumberPoint(MODEL, 5, 1, 2)]),
        Metric(
            "inference.rows",
            [
                NumberPoint(
                    (
                        ("inference.model.name", "m"),
                        ("inference.model.version", "7"),
                        ("inference.segment.region", "eu"),
                    ),
                    5,
                    1,
                    2,
                )
            ],
        ),
        Metric("inference.window.rows", [NumberPoint(MODEL, 5, 0, 2)]),
        Metric("inference.feature.value", [histogram()]),
        Metric("inference.rows", [NumberPoint((("otel.metric.overflow", True),), 5, 1, 2)]),
    ],
)
def test_points_as_promised_pass(metric: Metric) -> None:
    check(metric)


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (Metric("inference.rowz", []), "not in agent/emit/registry.py"),
        (Metric("inference.rows", [NumberPoint((), 1, 1, 2)]), "is missing"),
        (
            Metric("inference.rows", [NumberPoint((("a", "b"), *MODEL), 1, 1, 2)]),
            "'a' is not in the registry",
        ),
        (
            Metric("inference.rows", [NumberPoint((*MODEL, ("inference.segment.", "b")), 1, 1, 2)]),
            "'inference.segment.' is not in the registry",
        ),
        (Metric("inference.rows", [NumberPoint((*MODEL, *MODEL), 1, 1, 2)]), "not sorted"),
        (Metric("inference.rows", [NumberPoint(MODEL, -1, 1, 2)]), "must not be negative"),
        (Metric("inference.rows", [NumberPoint(MODEL, 1, 0, 2)]), "must be above 0"),
        (Metric("inference.rows", [NumberPoint(MODEL, 1, 3, 2)]), "not above time"),
        (Metric("inference.rows", [NumberPoint(MODEL, np.int64(1), 1, 2)]), "type int64"),  # type: ignore[arg-type]
        (Metric("inference.window.rows", [NumberPoint(MODEL, 1, 1, 2)]), "no start time"),
        (Metric("inference.rows", [histogram(attributes=MODEL)]), "got a histogram point"),
        (Metric("inference.feature.value", [NumberPoint(FEATURE, 1, 1, 2)]), "got a number"),
        (Metric("inference.feature.value", [histogram(count=4)]), "add up to 3"),
        (
            Metric(
                "inference.feature.value",
                [histogram(negative=np.array([1], np.uint64), count=4)],
            ),
            "carries no sum",
        ),
        (
            Metric(
                "messaging.kafka.consumer.lag",
                [
                    NumberPoint(
                        (
                            ("messaging.destination.name", "t"),
                            ("messaging.destination.partition.id", "0"),
                            ("messaging.system", "nats"),
                        ),
                        1,
                        0,
                        2,
                    )
                ],
            ),
            "not 'kafka'",
        ),
    ],
)
def test_points_that_break_a_promise_are_refused(metric: Metric, why: str) -> None:
    with pytest.raises(RegistryError, match=why):
        check(metric)
