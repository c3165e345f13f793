"""The guard of a shard, beside the broker: what it says names the shard's own options."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiokafka.errors as kafka_errors
import pytest

from agent.aggregate import guard as module
from agent.aggregate.guard import Guard
from agent.errors import FencedError, SourceError
from agent.ingest.fence import Committed, Fence
from agent.state.heads import Head, head_of
from tests.support.fleet_inside import config_of
from tests.support.wait import eventually
from tests.unit.test_ingest_fence import FakeLink, fetched, taken

DOCUMENT = {
    # The answers' topic is `t`.
    "delivery": {"mode": "fleet", "chunk_topic": "t", "shards": 1},
    "aggregate": {"group_id": "mine"},
}


class Client:
    """Stands in for aiokafka's; answers what the test says."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.n_closed = 0

    async def bootstrap(self) -> None:
        if isinstance(self.answers[0], BaseException):
            raise self.answers.pop(0)

    async def close(self) -> None:
        self.n_closed += 1


def looking(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> tuple[Guard, Client]:
    """A guard whose client and coordinator give these answers."""
    client = Client(*answers)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "AIOKafkaClient", lambda **options: client)
    monkeypatch.setattr(module, "OutsideLink", lambda client, group: FakeLink(*client.answers))
    return Guard(config_of(DOCUMENT)), client


async def test_it_looks_from_outside_however_long_the_brokers_are_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = Head("a" * 16, 7, "b" * 16, 3)
    away = kafka_errors.KafkaConnectionError("away")
    guard, client = looking(monkeypatch, away, away, fetched(0, (0, 7, head.metadata, 0)))
    told = await guard.look()
    assert told == Committed(7, head.metadata)
    assert head_of(*told) == head
    assert client.n_closed == 3  # one each attempt
    assert guard._consumer is None  # nobody joined


async def test_looking_ends_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, client = looking(monkeypatch, fetched(0, (0, -1, "", 0)))
    guard.stop()
    with pytest.raises(FencedError):
        await guard.look()
    assert client.n_closed == 1


async def test_a_consumer_that_goes_while_the_group_is_read_ends_the_assignment_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = Guard(config_of(DOCUMENT))
    guard._consumer = SimpleNamespace(_coordinator=None)
    guard._fence = Fence("mine-0", 1, "m")
    guard._had_it = True

    class Closing(FakeLink):
        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            guard._consumer = None  # `run` ends it, and with it the fence
            guard._lose()
            return answer

    ours = fetched(0, (0, 7, Head("a" * 16, 7, guard.run_id, 3).metadata, 0))
    links = [Closing(ours), FakeLink(ours, taken(0))]
    monkeypatch.setattr(module, "CoordinatorLink", lambda coordinator: links[0])
    confirmed = asyncio.ensure_future(guard.confirm(7, 3))
    await eventually(lambda: guard._consumer is None)
    links.pop(0)
    guard._consumer = SimpleNamespace(_coordinator=None)  # the next one
    guard._fence = Fence("mine-0", 2, "m")
    guard._changed.set()
    await confirmed
    assert guard.reason == ""


async def test_a_group_that_may_not_be_used_names_the_option_of_the_shards_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = r"^aggregate\.group_id: group 'mine-0' is not authorised"
    guard, _ = looking(monkeypatch, fetched(30, (0, -1, "", 30)))
    with pytest.raises(SourceError, match=expected):
        await guard.look()
    guard._consumer = SimpleNamespace(_coordinator=None)
    guard._fence = Fence("mine-0", 1, "m")
    monkeypatch.setattr(module, "CoordinatorLink", lambda coordinator: FakeLink(taken(30)))
    with pytest.raises(SourceError, match=expected):
        await guard.confirm(0, 1)
