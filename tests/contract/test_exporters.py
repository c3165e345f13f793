"""One contract for every way out: what was sent = what was accepted + what was reported.

Each test runs over gRPC and over HTTP, against a receiver that decodes what arrives and answers as
told: accept, transient, permanent, mixed, partial success, silence, flapping, too large.
"""

import asyncio
import logging
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agent.config import Export, Otlp, Service
from agent.emit.environment import ExportSettings, resolve
from agent.emit.exporter import MetricExporter, Outcome, Verdict
from agent.emit.registry import check
from agent.emit.resource import make_resource
from agent.emit.spans import SpanExporter
from agent.emit.transport import OtlpClient
from agent.telemetry import Telemetry
from agent.types import HistogramPoint, Metric, NumberPoint, Partition, Snapshot
from tests.support.otlp_answers import (
    ACCEPT,
    SILENCE,
    overloaded,
    partial,
    permanent,
    transient,
)
from tests.support.otlp_points import Points, read_points
from tests.support.otlp_receiver import OtlpReceiver, black_hole
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually
from tests.unit.test_emit_spans import span

RESOURCE = make_resource(Service(), {})
PROTOCOLS = ("grpc", "http/protobuf")
START_NS = 1_000_000_000
COVERS = {Partition("events", 0): 42}


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as started:
        yield started


def settings(endpoint: str, protocol: str, **otlp: Any) -> ExportSettings:
    given: dict[str, Any] = {"timeout_s": 5.0, "retry_initial_s": 0.02, "retry_max_s": 0.1, **otlp}
    temporality = given.pop("temporality", "cumulative")
    export = Export(
        otlp=Otlp(endpoint=endpoint, protocol=protocol, **given),  # type: ignore[arg-type]
        interval_s=10.0,
        temporality=temporality,
    )
    return resolve(export, {})


class Road:
    """An exporter to the receiver, with the growing state of a few series behind it."""

    def __init__(self, receiver: OtlpReceiver | str, protocol: str, **otlp: Any) -> None:
        if isinstance(receiver, OtlpReceiver):
            endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        else:
            endpoint = receiver
        self.telemetry = Telemetry()
        patience_s = otlp.pop("patience_s", 20.0)
        self.settings = settings(endpoint, protocol, **otlp)
        self.client = OtlpClient(self.settings.metrics)
        self.exporter = MetricExporter(
            self.client, self.settings, RESOURCE, self.telemetry, patience_s=patience_s
        )
        self.rows = Counter[str]()
        self.buckets: dict[str, Counter[int]] = {}
        self.scale = 6
        self.time_ns = START_NS

    def grow(self, n_series: int = 3, scale: int | None = None) -> Snapshot:
        """Count some rows in every series, perhaps at a lower scale, and take a snapshot."""
        if scale is not None:
            for name, counts in self.buckets.items():
                lowered = Counter[int]()
                for index, n in counts.items():
                    lowered[index >> (self.scale - scale)] += n
                self.buckets[name] = lowered
            self.scale = scale
        self.time_ns += 1_000_000
        for i in range(n_series):
            self.rows[f"m{i}"] += i + 1
            self.buckets.setdefault(f"m{i}", Counter()).update({i - 20: 1, self.time_ns % 97: i})
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        points: list[NumberPoint] = []
        histograms: list[HistogramPoint] = []
        for name, n in self.rows.items():
            attributes = (("inference.model.name", name),)
            points.append(NumberPoint(attributes, n, START_NS, self.time_ns))
            counts = self.buckets[name]
            first = min(counts)
            dense = np.zeros(max(counts) - first + 1, np.uint64)
            for index, value in counts.items():
                dense[index - first] = value
            total = int(dense.sum())
            histograms.append(
                HistogramPoint(
                    attributes, START_NS, self.time_ns, total, float(total), self.scale, 0,
                    2.0**-64, first, dense, 0, np.zeros(0, np.uint64),
                )
            )  # fmt: skip
        metrics = [Metric("inference.rows", points), Metric("inference.latency", histograms)]
        for metric in metrics:
            check(metric)
        return Snapshot(self.time_ns, metrics, dict(COVERS))

    def counted(self, outcome: str, signal: str = "metrics") -> int:
        return int(
            self.telemetry.value("inferometer.export.points", signal=signal, outcome=outcome)
        )

    def failures(self, outcome: str, signal: str = "metrics") -> int:
        return int(
            self.telemetry.value("inferometer.export.failures", signal=signal, outcome=outcome)
        )

    async def export(self, snapshot: Snapshot | None = None, **more: Any) -> Outcome:
        outcome = await self.exporter.export(snapshot or self.grow(), **more)
        for metric in self.telemetry.metrics(time.time_ns()):
            check(metric)
        return outcome


def held(receiver: OtlpReceiver) -> dict[str, int]:
    """Rows by model as the receiver knows them: the newest cumulative value."""
    return {
        p.attributes["inference.model.name"]: int(p.value)
        for p in receiver.sums("inference.rows").latest()
    }


def added_up(receiver: OtlpReceiver) -> dict[str, int]:
    """Rows by model as the sum of all deltas received."""
    total = Counter[str]()
    for point in receiver.sums("inference.rows"):
        total[point.attributes["inference.model.name"]] += int(point.value)
    return dict(total)


async def test_accepted_snapshots_are_held_in_whole(receiver: OtlpReceiver, protocol: str) -> None:
    road = Road(receiver, protocol)
    for _ in range(3):
        outcome = await road.export()
        assert outcome.accepted and outcome.covers == COVERS
        assert (outcome.n_accepted, outcome.n_rejected, outcome.n_dropped) == (6, 0, 0)
    assert held(receiver) == dict(road.rows)
    points = receiver.points()
    assert len(points) == 18 == road.counted("accepted")
    assert_series_never_reset(points)
    await road.exporter.close()


async def test_transient_answers_are_followed_by_the_same_bytes(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.first(transient(), transient(0.05), overloaded(0.05), transient())
    road = Road(receiver, protocol)
    outcome = await road.export()
    assert outcome.accepted
    bodies = {request.message.SerializeToString() for request in receiver.requests}
    assert len(receiver.requests) == 5 and len(bodies) == 1
    assert held(receiver) == dict(road.rows)
    assert road.failures("transient") == 4
    assert road.counted("accepted") == 6
    await road.exporter.close()


async def test_a_receiver_that_asks_for_time_gets_it(receiver: OtlpReceiver, protocol: str) -> None:
    # HTTP has whole seconds in its header.
    receiver.first(overloaded(1.0))
    road = Road(receiver, protocol)
    assert (await road.export()).accepted
    refused, accepted = receiver.requests
    assert accepted.at_s - refused.at_s >= 0.99
    await road.exporter.close()


async def test_a_permanent_refusal_is_said_counted_and_not_repeated(
    receiver: OtlpReceiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.always(permanent("bad data"))
    road = Road(receiver, protocol)
    with caplog.at_level(logging.WARNING):
        outcomes = [await road.export() for _ in range(3)]
    assert [o.verdict for o in outcomes] == [Verdict.REJECTED] * 3
    assert not outcomes[0].accepted and "bad data" in outcomes[0].message
    assert len(receiver.requests) == 3
    assert road.counted("rejected") == 18 and road.counted("accepted") == 0
    assert road.failures("permanent") == 3
    assert len([r for r in caplog.records if "refused for good" in r.message]) == 1
    receiver.always(ACCEPT)
    assert (await road.export()).accepted
    assert held(receiver) == dict(road.rows), "what was refused is in the next cumulative value"
    assert_series_never_reset(receiver.points())
    await road.exporter.close()


async def test_mixed_answers_to_the_requests_of_one_export(
    receiver: OtlpReceiver, protocol: str
) -> None:
    road = Road(receiver, protocol, max_request_bytes=4096)
    receiver.first(ACCEPT, transient(), ACCEPT, permanent(), ACCEPT)
    outcome = await road.export(road.grow(100))
    assert outcome.verdict is Verdict.REJECTED
    assert len(receiver.accepted) >= 3
    n_points = len(receiver.points())
    assert outcome.n_accepted == n_points == road.counted("accepted")
    assert outcome.n_accepted + outcome.n_rejected == 200
    assert road.counted("rejected") == outcome.n_rejected > 0
    assert max(request.size_bytes for request in receiver.requests) <= 4096
    receiver.always(ACCEPT)
    assert (await road.export(road.grow(100))).accepted
    assert held(receiver) == dict(road.rows)
    assert_series_never_reset(receiver.points())
    await road.exporter.close()


async def test_points_refused_in_a_partial_success_are_counted_and_not_repeated(
    receiver: OtlpReceiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.always(partial(2, "two were odd"))
    road = Road(receiver, protocol)
    with caplog.at_level(logging.WARNING):
        outcomes = [await road.export() for _ in range(3)]
    assert all(outcome.accepted for outcome in outcomes)
    assert [(o.n_accepted, o.n_rejected) for o in outcomes] == [(4, 2)] * 3
    assert len(receiver.requests) == 3
    assert (road.counted("accepted"), road.counted("rejected")) == (12, 6)
    said = [r for r in caplog.records if "two were odd" in r.message]
    assert len(said) == 1, "at most one line in ten seconds"
    await road.exporter.close()


async def test_a_warning_without_refusals_is_a_success(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.always(partial(0, "please upgrade"))
    road = Road(receiver, protocol)
    outcome = await road.export()
    assert (outcome.accepted, outcome.n_rejected) == (True, 0)
    await road.exporter.close()


async def test_a_receiver_that_never_answers_holds_an_export_for_the_time_limit_only(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.always(SILENCE)
    road = Road(receiver, protocol, timeout_s=0.3, patience_s=0.1)
    began = time.monotonic()
    outcome = await road.export()
    assert 0.25 < time.monotonic() - began < 3
    assert outcome.verdict is Verdict.UNANSWERED
    assert road.counted("accepted") == road.counted("rejected") == 0
    receiver.always(ACCEPT)
    assert (await road.export(patience_s=20.0)).accepted
    assert held(receiver) == dict(road.rows)
    await road.exporter.close()


async def test_a_port_that_takes_connections_and_says_nothing_is_bounded_too(
    protocol: str,
) -> None:
    with black_hole() as port:
        road = Road(f"http://127.0.0.1:{port}", protocol, timeout_s=0.3, patience_s=0.1)
        began = time.monotonic()
        assert (await road.export()).verdict is Verdict.UNANSWERED
        assert time.monotonic() - began < 3
        await road.exporter.close()


async def test_a_collector_that_is_away_and_comes_back_loses_nothing(
    receiver: OtlpReceiver, protocol: str
) -> None:
    road = Road(receiver, protocol, patience_s=0.05)
    assert (await road.export()).accepted
    receiver.stop()
    for _ in range(3):
        outcome = await road.export()
        assert outcome.verdict is Verdict.UNANSWERED
    receiver.start()
    outcome = await road.export(patience_s=30.0)
    assert outcome.accepted
    assert held(receiver) == dict(road.rows)
    assert_series_never_reset(receiver.points())
    await road.exporter.close()


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
async def test_a_flapping_receiver_ends_up_with_what_was_counted(
    receiver: OtlpReceiver, protocol: str, temporality: str
) -> None:
    receiver.flapping(transient(), ACCEPT, transient(), permanent(), overloaded(0.01), ACCEPT)
    road = Road(
        receiver, protocol, temporality=temporality, max_request_bytes=4096, patience_s=0.03
    )
    for i in range(25):
        await road.export(road.grow(40, scale=6 - i // 6))
    receiver.always(ACCEPT)
    assert (await road.export(road.grow(40), patience_s=30.0)).accepted
    assert road.failures("transient") > 2 and road.failures("permanent") > 2
    assert road.counted("accepted") == len(receiver.points())
    if temporality == "cumulative":
        assert held(receiver) == dict(road.rows)
    else:
        assert added_up(receiver) == dict(road.rows)
        buckets = Counter[str]()
        for point in receiver.exponential_histograms("inference.latency"):
            buckets[point.attributes["inference.model.name"]] += sum(
                point.data.positive.bucket_counts
            )
        assert buckets == {name: sum(counts.values()) for name, counts in road.buckets.items()}
    assert_series_never_reset(receiver.points())
    await road.exporter.close()


async def test_delta_counts_rows_twice_only_when_an_answer_was_lost(
    receiver: OtlpReceiver, protocol: str
) -> None:
    """The documented limit of delta temporality: taken by the receiver, answer lost, sent again."""
    road = Road(receiver, protocol, temporality="delta", timeout_s=0.3, patience_s=0.05)
    assert (await road.export()).accepted
    before = added_up(receiver)
    receiver.first(SILENCE)
    outcome = await road.export()
    assert outcome.verdict is Verdict.UNANSWERED
    (silent,) = [r for r in receiver.requests if r.answer.silent]
    taken = {
        p.attributes["inference.model.name"]: int(p.value)
        for p in Points(read_points(silent.message)).sums()
    }
    outcome = await road.export(road.snapshot(), patience_s=20.0)
    assert outcome.accepted
    after = added_up(receiver)
    assert after == dict(road.rows)
    assert {name: after[name] - before[name] for name in after} == taken
    await road.exporter.close()


async def test_requests_are_split_below_the_receivers_limit(protocol: str) -> None:
    with OtlpReceiver(max_grpc_bytes=20_000, max_http_bytes=20_000) as receiver:
        road = Road(receiver, protocol, max_request_bytes=19_000)
        outcome = await road.export(road.grow(300))
        assert outcome.accepted and outcome.n_accepted == 600
        assert len(receiver.requests) > 3
        assert held(receiver) == dict(road.rows)
        await road.exporter.close()


async def test_a_request_above_the_receivers_limit_is_refused_for_good_not_for_ever(
    protocol: str,
) -> None:
    with OtlpReceiver(max_grpc_bytes=5000, max_http_bytes=5000) as receiver:
        road = Road(receiver, protocol, compression="none")
        outcome = await road.export(road.grow(300))
        assert outcome.verdict is Verdict.REJECTED
        assert road.counted("rejected") == 600 and road.failures("permanent") == 1
        await road.exporter.close()


async def test_a_point_too_large_for_any_request_is_dropped_and_counted(
    receiver: OtlpReceiver, protocol: str
) -> None:
    road = Road(receiver, protocol, max_request_bytes=4096)
    road.grow()
    road.rows["x" * 5000] = 7
    road.buckets["x" * 5000] = Counter({0: 1})
    outcome = await road.export(road.snapshot())
    assert outcome.accepted
    assert (outcome.n_accepted, outcome.n_dropped) == (6, 2)
    assert road.counted("dropped") == 2 and road.failures("too_large") == 2
    await road.exporter.close()


async def test_a_receiver_that_is_away_does_not_make_memory_grow(protocol: str) -> None:
    with OtlpReceiver() as gone:
        endpoint = gone.grpc_endpoint if protocol == "grpc" else gone.http_endpoint
    road = Road(endpoint, protocol, patience_s=0.01)
    snapshot = road.grow(200)

    async def rounds(n: int) -> int:
        for _ in range(n):
            assert not (await road.export(snapshot)).accepted
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = await rounds(20)
        late = await rounds(60)
    finally:
        tracemalloc.stop()
    assert late - early < 200_000, "less than two encoded exports"
    await road.exporter.close()


async def test_one_export_is_in_flight_at_a_time(receiver: OtlpReceiver, protocol: str) -> None:
    road = Road(receiver, protocol)
    snapshots = [road.grow() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for snapshot in snapshots:
            group.create_task(road.export(snapshot))
    assert len(receiver.requests) == 4
    assert_series_never_reset(receiver.points())
    await road.exporter.close()


async def test_a_flush_takes_the_place_of_an_export_that_waits(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.first(transient(), transient())
    road = Road(receiver, protocol, retry_initial_s=20.0, retry_max_s=20.0, patience_s=60.0)
    waiting = asyncio.ensure_future(road.export())
    await eventually(lambda: road.failures("transient") == 1)
    receiver.always(ACCEPT)
    began = time.monotonic()
    outcome = await road.exporter.flush(road.grow(), 10.0)
    assert outcome.accepted and time.monotonic() - began < 5
    assert (await waiting).verdict is Verdict.UNANSWERED
    assert held(receiver) == dict(road.rows)
    await road.exporter.close()


async def test_a_flush_takes_the_place_of_an_export_that_is_not_answered(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.first(SILENCE)
    road = Road(receiver, protocol, timeout_s=30.0, patience_s=60.0)
    waiting = asyncio.ensure_future(road.export())
    await eventually(lambda: receiver.requests)
    began = time.monotonic()
    outcome = await road.exporter.flush(road.grow(), 10.0)
    assert outcome.accepted and time.monotonic() - began < 5
    assert (await waiting).verdict is Verdict.UNANSWERED
    assert held(receiver) == dict(road.rows)
    await road.exporter.close()


async def test_a_flush_into_silence_ends_in_time(receiver: OtlpReceiver, protocol: str) -> None:
    receiver.always(SILENCE)
    road = Road(receiver, protocol, timeout_s=30.0)
    began = time.monotonic()
    outcome = await road.exporter.flush(road.grow(), 0.3)
    assert outcome.verdict is Verdict.UNANSWERED and time.monotonic() - began < 3
    await road.exporter.close()


async def test_an_exporter_survives_the_cancellation_of_an_export(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.first(SILENCE)
    road = Road(receiver, protocol, temporality="delta", timeout_s=30.0)
    task = asyncio.ensure_future(road.export())
    await eventually(lambda: receiver.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await road.export(road.snapshot())).accepted
    assert added_up(receiver) == dict(road.rows)
    await road.exporter.close()


# ---------------------------------------------------------------- spans: the same roads


class SpanRoad:
    def __init__(self, receiver: OtlpReceiver, protocol: str, **otlp: Any) -> None:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        self.telemetry = Telemetry()
        found = settings(endpoint, protocol, **otlp)
        self.exporter = SpanExporter(OtlpClient(found.traces), found, RESOURCE, self.telemetry)
        self.n_put = 0

    def put(self, n: int) -> None:
        self.exporter.put(
            [
                span(offset=self.n_put + i, span_id=(self.n_put + i + 1).to_bytes(8, "big"))
                for i in range(n)
            ]
        )
        self.n_put += n

    def ends(self) -> dict[str, int]:
        return {
            outcome: int(
                self.telemetry.value("inferometer.export.points", signal="traces", outcome=outcome)
            )
            for outcome in ("accepted", "rejected", "dropped")
        }


@pytest.mark.parametrize(
    "answers",
    [
        [ACCEPT],
        [overloaded(0.01), transient(0.01), ACCEPT],
        [permanent()],
        [ACCEPT, permanent(), overloaded(0.01), ACCEPT, partial(3)],
        [SILENCE, ACCEPT],
    ],
    ids=["accept", "transient", "permanent", "mixed", "silence"],
)
async def test_every_span_is_accepted_once_or_reported(
    receiver: OtlpReceiver, protocol: str, answers: list[Any]
) -> None:
    receiver.first(*answers)
    road = SpanRoad(receiver, protocol, timeout_s=0.5, max_request_bytes=20_000)
    task = asyncio.ensure_future(road.exporter.run())
    for _ in range(4):
        road.put(60)
    await eventually(lambda: sum(road.ends().values()) == road.n_put)
    task.cancel()
    spans = receiver.spans()
    n_partial = sum(answer.n_rejected for answer in answers)
    assert len({s.span_id for s in spans}) == len(spans), "none twice"
    assert road.ends()["accepted"] == len(spans) - n_partial
    await road.exporter.close()
