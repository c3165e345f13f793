"""Events with an exact account of them in plain Python, and the check that points agree with it."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Any

import orjson
import pytest

from tests.support.otlp_points import Points

Stream = tuple[str, str]


class Sent:
    """Events with an exact account of them, kept with plain Python."""

    def __init__(self, n: int, seed: int, *, models: int = 3, at_ms: int = 1_767_225_600_000):
        rnd = random.Random(seed)
        self.values: list[bytes] = []
        self.rows: dict[Stream, int] = defaultdict(int)
        self.errors: dict[Stream, int] = defaultdict(int)
        self.numbers: dict[tuple[Stream, str], list[float]] = defaultdict(list)
        self.labels = 0
        for i in range(n):
            stream = (f"model-{rnd.randrange(models)}", str(rnd.randrange(1, 3)))
            features: dict[str, Any] = {
                "amount": round(rnd.lognormvariate(3, 1), 4),
                "balance": rnd.gauss(0, 100),
                "country": rnd.choice(["DE", "FR", "US"]),
                "known": rnd.random() < 0.5,
            }
            if i % 10 == 3:
                features["amount"] = None
            if i % 50 == 7:
                features["balance"] = "n/a"
            error = i % 100 == 11
            latency_ms = rnd.random() * 50
            event = {
                "id": f"r-{i}",
                "ts": at_ms + i * 5,
                "model": stream[0],
                "version": stream[1],
                "features": features,
                "prediction": {"score": rnd.random(), "label": "yes"},
                "latency_ms": latency_ms,
                "status": "timeout" if error else "ok",
            }
            self.values.append(orjson.dumps(event))
            self.rows[stream] += 1
            self.errors[stream] += error
            for name in ("amount", "balance"):
                if isinstance(features[name], float):
                    self.numbers[stream, name].append(features[name])
            self.numbers[stream, "latency"].append(latency_ms / 1000)

    @property
    def total(self) -> int:
        return len(self.values)


def _latest(points: Points, name: str, **named: Any) -> Any:
    return points.named(name, **named).only()


def attributes(stream: Stream) -> dict[str, str]:
    return {"inference.model.name": stream[0], "inference.model.version": stream[1]}


def assert_arrived(points: Points, sent: Sent) -> None:
    """The latest cumulative points equal the account of what was sent."""
    for stream, rows in sent.rows.items():
        at = attributes(stream)
        assert _latest(points, "inference.rows", **at).value == rows
        if sent.errors[stream]:
            assert _latest(points, "inference.errors", **at).value == sent.errors[stream]
        for feature in ("amount", "balance"):
            expected = sent.numbers[stream, feature]
            named = {**at, "inference.feature.name": feature}
            assert_histogram(_latest(points, "inference.feature.value", **named).data, expected)
            missing_or_wrong = (
                _latest(points, "inference.feature.missing", **named).value
                + _latest(points, "inference.feature.violations", **named).value
            )
            assert missing_or_wrong == rows - len(expected)
        assert_histogram(
            _latest(points, "inference.latency", **at).data, sent.numbers[stream, "latency"]
        )


def assert_histogram(point: Any, expected: list[float]) -> None:
    """Count, bucket totals and sum; and every bucket against an exact count at the point's scale."""
    assert point.count == len(expected)
    buckets = sum(point.positive.bucket_counts) + sum(point.negative.bucket_counts)
    assert buckets + point.zero_count == len(expected)
    if min(expected) >= 0:
        assert point.sum == pytest.approx(math.fsum(expected), rel=1e-12)
    else:
        assert not point.HasField("sum")
    assert sum(point.negative.bucket_counts) == sum(value < 0 for value in expected)
    base = 2.0**2.0**-point.scale
    upper = base ** (point.positive.offset + len(point.positive.bucket_counts))
    lower = base**point.positive.offset
    assert max(expected) <= upper * (1 + 1e-9)
    positive = [value for value in expected if value > 0]
    assert min(positive) >= lower * (1 - 1e-9)
