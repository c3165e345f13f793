"""What the benchmarks with a real broker check and judge; the answers come from hand-made points."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    NumberDataPoint,
)

from agent.thread_name import show_thread_name
from benchmarks.agent_answer import Answers, bucket_of, merged
from benchmarks.process import cpu_by_thread
from benchmarks.soak import judged
from benchmarks.stream import NUMBERS, QUANTILES, SESSION_EVENTS, Stream
from benchmarks.trend import trend


def histogram(values: Any, scale: int) -> ExponentialHistogramDataPoint:
    """Counted one by one, as OpenTelemetry defines the buckets: (base^i, base^(i + 1)]."""
    point = ExponentialHistogramDataPoint(scale=scale, count=len(values))
    for side, wanted in ((point.positive, 1), (point.negative, -1)):
        counts: Counter[int] = Counter()
        for value in values:
            if np.sign(value) == wanted:
                counts[math.ceil(math.log2(abs(value)) * 2.0**scale) - 1] += 1
        if counts:
            side.offset = min(counts)
            side.bucket_counts.extend(counts[at] for at in range(min(counts), max(counts) + 1))
    point.zero_count = sum(value == 0 for value in values)
    return point


def test_merged_histograms_hold_every_quantile_of_all_values() -> None:
    rng = np.random.default_rng(5)
    parts = [rng.normal(0, 1, 500), np.append(rng.normal(3, 2, 700), 0.0), rng.random(300)]
    buckets = merged([histogram(p, scale) for p, scale in zip(parts, (5, 3, 6), strict=True)])
    values = np.sort(np.concatenate(parts))
    assert sum(count for _, _, count in buckets) == len(values)
    assert buckets == sorted(buckets)
    for q in (0.01, *QUANTILES, 0.99):
        low, high = bucket_of(buckets, q)
        exact = values[math.ceil(q * len(values)) - 1]
        assert low <= exact <= high, q


def events(stream: Stream, n: int) -> list[dict[str, Any]]:
    return [orjson.loads(value) for value in stream.values(0, n)]


def answered(stream: Stream, n: int) -> Answers:
    """What an agent that makes no mistake exports of the first `n` events."""
    answers = Answers()
    rows = events(stream, n)
    for model in {row["model"] for row in rows}:
        own = [row for row in rows if row["model"] == model]
        at = {"inference.model.name": model}
        for name in NUMBERS:
            values = [
                row["features"][name] if name in row["features"] else row[name] for row in own
            ]
            metric, more = "inference.feature.value", {"inference.feature.name": name}
            if name == "prediction":
                metric, more = "inference.prediction.value", {}
            if name == "latency_ms":
                metric, more, values = "inference.latency", {}, [value / 1000 for value in values]
            answers.take(metric, at | more, histogram(values, 5))
        answers.take("inference.window.start", at, NumberDataPoint(as_double=60.0))
        inside = {row["features"]["session"] for row in own if 60_000 <= row["ts"] < 120_000}
        distinct = at | {"inference.feature.name": "session"}
        answers.take("inference.feature.distinct", distinct, NumberDataPoint(as_int=len(inside)))
    return answers


def test_right_answers_of_the_agent_are_accepted_and_wrong_ones_named() -> None:
    n = 3_000
    stream = Stream(3, 60_000, 30.0, models=3, sessions=True)
    answers, truth = answered(stream, n), stream.truth(0, n)
    assert answers.differences(stream, truth) == []

    lost = answered(stream, n)
    lost.histograms["f3"]["m0001"].positive.bucket_counts[0] += 1
    assert len(lost.differences(stream, truth)) == 1
    shifted = answered(stream, n)
    for point in shifted.histograms["latency_ms"].values():
        point.positive.offset += 2
    assert all("latency_ms" in wrong for wrong in shifted.differences(stream, truth))
    assert shifted.differences(stream, truth)
    few = answered(stream, n)
    few.distinct["m0002", "session"] *= 0.9
    assert "m0002 session" in few.differences(stream, truth)[0]
    assert "values of" in Answers().differences(stream, truth)[0]


def test_truth_is_what_the_events_say() -> None:
    low, high = 50_001 - 200, 50_001 + 203  # beyond one pool
    stream = Stream(4, 0, 1.0, models=5, sessions=True)
    rows = [orjson.loads(value) for value in stream.values(low, high)]
    truth = stream.truth(low, high)
    assert truth.rows == len(rows)
    assert truth.models == Counter(row["model"] for row in rows)
    assert truth.distinct == {
        name: len({row["features"][name] for row in rows}) for name in ("session", "country")
    }
    assert truth.sorted_values["f0"].tolist() == sorted(row["features"]["f0"] for row in rows)
    assert rows[0]["features"]["session"] == f"s-{low // SESSION_EVENTS:07d}"


def test_events_without_a_time_differ_in_nothing_else() -> None:
    timed = next(Stream(4, 0, 1.0).values(7, 8))
    untimed = next(Stream(4, 0, 1.0, timed=False).values(7, 8))
    told = orjson.loads(timed)
    del told["ts"]
    assert orjson.loads(untimed) == told


@pytest.mark.parametrize(("slope", "low", "high"), [(0.0, -0.01, 0.01), (1.0, 11.0, 12.0)])
def test_memory_is_judged_behind_the_warm_up_and_waves_do_not_count(
    slope: float, low: float, high: float
) -> None:
    points = []
    for at in range(300):
        warm_up = -100.0 if at < 90 else 0.0
        points.append((float(at), 1000.0 + warm_up + slope * at + 20 * (at % 10 == 0)))
    growth, level, from_s = judged(points)
    assert low <= growth <= high
    assert 90 < from_s < 110
    assert level == pytest.approx(1000.0 + slope * 266, abs=3.0)


def walk(seed: int, slope: float, n: int = 400) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    spikes = 50.0 * (rng.random(n) < 0.03)
    values = 100.0 + slope * np.arange(n) + rng.normal(size=n) + spikes
    return [(float(i), value) for i, value in enumerate(values.tolist())]


def test_chance_is_seldom_taken_for_a_trend() -> None:
    found = [trend(walk(seed, 0.0)) for seed in range(300)]
    assert sum(t.sure_growth > 0 for t in found) <= 5, "1 %, rising or falling"


def test_a_slow_growth_under_noise_and_spikes_is_found_and_measured() -> None:
    for seed in range(20):
        found = trend(walk(seed, 0.02))
        assert found.p < 0.001
        assert found.sure_growth == pytest.approx(0.02 * 400 * 0.66, rel=0.25)
        assert trend(walk(seed, -0.02)).sure_growth == 0.0


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="a trend needs 24"):
        trend(walk(0, 1.0, n=30))


def test_processor_time_is_told_by_the_names_of_threads() -> None:
    ready, ended = threading.Event(), threading.Event()

    def work() -> None:
        show_thread_name()
        sum(range(2_000_000))
        ready.set()
        ended.wait(30)

    thread = threading.Thread(target=work, name="kernel-7-of-many", daemon=True)
    thread.start()
    try:
        assert ready.wait(30)
        found = cpu_by_thread(os.getpid())
    finally:
        ended.set()
        thread.join(30)
    assert found["kernel-7-of-man"] > 0.001, "Linux keeps 15 bytes"
    assert found["loop"] > 0
