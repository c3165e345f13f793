"""Log events over both roads: each is accepted, or reported, and what was put is told so exactly once."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agent.config import Export, Otlp, Service
from agent.emit.environment import resolve
from agent.emit.events import EventExporter
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.emit.verdict_events import verdict_event
from agent.telemetry import Telemetry
from agent.verdict import identity
from tests.support.collector_real import Collector
from tests.support.otlp_answers import ACCEPT, SILENCE, overloaded, partial, permanent, transient
from tests.support.otlp_points import attributes_of
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.verdicts import verdict
from tests.support.wait import eventually

RESOURCE = make_resource(Service(name="agent-under-test"), {})


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as started:
        yield started


class Road:
    """An exporter at work, and what it was given."""

    def __init__(self, endpoint: str, protocol: str, *, patience_s: float = 20.0, **otlp: Any):
        given = {"timeout_s": 5.0, "retry_initial_s": 0.02, "retry_max_s": 0.1, **otlp}
        export = Export(otlp=Otlp(endpoint=endpoint, protocol=protocol, **given))  # type: ignore[arg-type]
        self.telemetry = Telemetry()
        settings = resolve(export, {}).logs
        self.exporter = EventExporter(
            OtlpClient(settings), settings, RESOURCE, self.telemetry, patience_s=patience_s
        )
        self.uids: list[str] = []
        self.n_settled = 0

    def put(self, n: int) -> None:
        for _ in range(n):
            one = verdict(alarm=f"a-{len(self.uids)}")
            self.uids.append(identity(one))
            self.exporter.put(verdict_event(one, 5), self._settled)

    def _settled(self) -> None:
        self.n_settled += 1

    def ends(self) -> dict[str, int]:
        value = self.telemetry.value
        return {
            outcome: int(value("inferometer.export.points", signal="logs", outcome=outcome))
            for outcome in ("accepted", "rejected", "dropped")
        }


def road_to(receiver: OtlpReceiver, protocol: str, **more: Any) -> Road:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    return Road(endpoint, protocol, **more)


def uids(records: Any) -> list[str]:
    return [attributes_of(record.attributes)["log.record.uid"] for record in records]


@pytest.mark.parametrize(
    "answers",
    [
        [ACCEPT],
        [overloaded(0.01), transient(0.01), ACCEPT],
        [permanent()],
        [ACCEPT, permanent(), overloaded(0.01), ACCEPT, partial(3)],
    ],
    ids=["accept", "transient", "permanent", "mixed"],
)
async def test_every_event_is_accepted_or_reported_and_settled_once(
    receiver: OtlpReceiver, protocol: str, answers: list[Any]
) -> None:
    receiver.first(*answers)
    road = road_to(receiver, protocol, max_request_bytes=20_000)
    task = asyncio.ensure_future(road.exporter.run())
    for _ in range(4):
        road.put(20)
    await eventually(lambda: sum(road.ends().values()) == len(road.uids))
    task.cancel()
    found = uids(receiver.log_records())
    assert len(set(found)) == len(found), "none twice when every request is answered"
    assert road.ends()["accepted"] == len(found) - sum(answer.n_rejected for answer in answers)
    assert road.n_settled == len(road.uids)
    assert max(request.size_bytes for request in receiver.requests) <= 20_000
    await road.exporter.close()


async def test_an_answer_that_was_lost_repeats_events_under_the_same_uid(
    receiver: OtlpReceiver, protocol: str
) -> None:
    receiver.first(SILENCE)
    road = road_to(receiver, protocol, timeout_s=0.3)
    task = asyncio.ensure_future(road.exporter.run())
    road.put(3)
    await eventually(lambda: road.n_settled == 3)
    task.cancel()
    heard = [
        record
        for request in receiver.requests
        for of_resource in request.message.resource_logs
        for of_scope in of_resource.scope_logs
        for record in of_scope.log_records
    ]
    assert len(heard) == 6 and set(uids(heard)) == set(road.uids)
    assert road.ends() == {"accepted": 3, "rejected": 0, "dropped": 0}
    await road.exporter.close()


async def test_a_receiver_that_stays_away_is_given_up_batch_by_batch(protocol: str) -> None:
    road = Road("http://127.0.0.1:9", protocol, patience_s=0.05)
    task = asyncio.ensure_future(road.exporter.run())
    road.put(5)
    await eventually(lambda: road.ends()["dropped"] == 5)
    assert road.n_settled == 5
    task.cancel()
    await road.exporter.close()


async def test_a_flush_tries_each_batch_once_and_ends_in_time(
    receiver: OtlpReceiver, protocol: str
) -> None:
    road = road_to(receiver, protocol)
    road.put(4)
    await road.exporter.flush(5.0)
    assert road.ends() == {"accepted": 4, "rejected": 0, "dropped": 0}
    receiver.always(SILENCE)
    road.put(4)
    await road.exporter.flush(0.3)
    assert road.ends() == {"accepted": 4, "rejected": 0, "dropped": 4} and len(road.exporter) == 0
    await road.exporter.close()


async def test_a_real_collector_writes_down_what_was_sent(
    collector: Collector, protocol: str
) -> None:
    endpoint = collector.otlp_grpc if protocol == "grpc" else collector.otlp_http
    before = len(collector.read_logs())
    road = Road(endpoint, protocol)
    road.put(3)
    await road.exporter.flush(10.0)
    assert road.ends() == {"accepted": 3, "rejected": 0, "dropped": 0}
    records = await eventually(
        lambda: found if len(found := collector.read_logs()[before:]) == 3 else None
    )
    assert uids(records) == road.uids
    (first, *_) = records
    assert first.event_name == "inference.verdict" and first.severity_text == "ERROR"
    assert first.body.string_value == verdict().why
    causes = attributes_of(first.attributes)["inference.verdict.attribution"]
    assert [cause["feature"] for cause in causes] == ["distance", "dep_hour"]
    assert causes[0]["segment"] == {"region": "eu"} and causes[0]["score"] == float("inf")
    await road.exporter.close()
