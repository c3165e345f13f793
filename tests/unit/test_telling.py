"""Telling: what the fold keeps untold goes to every way out, and is forgotten when all have their outcomes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from agent.config import Config
from agent.emit.events import EventExporter
from agent.emit.otlp_logs import LogEvent
from agent.fold.base import Fold
from agent.judging import Folds, JudgingFold
from agent.owner_thread import OwnerThread
from agent.respond.responder import Responder
from agent.telemetry import Telemetry
from agent.telling import BATCH, MAX_LINES, Telling, line_of
from agent.types import StreamKey
from agent.verdict import Judged, Severity, State, Verdict
from tests.support.verdicts import verdict
from tests.unit.test_judging import ScriptedJudge


class Ways:
    """Stands for events and actions: keeps what it is given, settles when the test says so."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.offered: list[Verdict] = []
        self.restored: list[Verdict] = []
        self.settle: list[Callable[[], None]] = []
        self.flushed = 0

    def put(self, event: LogEvent, settled: Callable[[], None]) -> None:
        self.events.append(event)
        self.settle.append(settled)

    def offer(self, one: Verdict, settled: Callable[[], None]) -> None:
        self.offered.append(one)
        self.settle.append(settled)

    def restore(self, firing: list[Verdict]) -> None:
        self.restored += firing

    def state(self) -> list[Any]:
        return []

    async def flush(self, timeout_s: float) -> None:
        self.flushed += 1


class Road:
    def __init__(self, *, events: bool = True) -> None:
        self.ways = Ways()
        self.may_leave = True
        self.n_asked = 0
        folds = Folds(Config(), Telemetry(), ScriptedJudge)
        self.thread: OwnerThread[Fold] = OwnerThread("fold", folds.make(1))
        self.telling = Telling(
            self.thread,
            cast(Responder, self.ways),
            cast(EventExporter, self.ways) if events else None,
            may_leave=self._asked,
        )

    def _asked(self) -> bool:
        self.n_asked += 1
        return self.may_leave

    async def note(self, *verdicts: Verdict) -> None:
        await self.thread.call(
            lambda fold: cast(JudgingFold, fold).standing.note(Judged(list(verdicts)))
        )

    async def untold(self) -> int:
        """Transitions that the fold still keeps."""
        return await self.thread.call(
            lambda fold: len(cast(JudgingFold, fold).standing.untold(0, 10**6))
        )


@pytest.fixture
async def road() -> AsyncIterator[Road]:
    made = Road()
    yield made
    made.thread.close(2.0)


async def test_each_transition_is_told_once_and_kept_until_every_way_has_settled_it(
    road: Road,
) -> None:
    await road.note(verdict(alarm="a-1"), verdict(alarm="a-2"))
    assert await road.telling.tell() is False
    assert [v.alarm for v in road.ways.offered] == ["a-1", "a-2"] and len(road.ways.events) == 2
    await road.telling.tell()
    assert len(road.ways.offered) == 2 and await road.untold() == 2
    first, first_too, second, second_too = road.ways.settle
    second()
    second_too()
    await road.telling.tell()
    assert await road.untold() == 2, "the first is not settled yet, and they go in order"
    first()
    await road.telling.tell()
    assert await road.untold() == 2
    first_too()
    await road.telling.tell()
    assert await road.untold() == 0
    assert road.telling.state()["unsettled_verdicts"] == 0


async def test_nothing_leaves_that_is_not_durable(road: Road) -> None:
    road.may_leave = False
    await road.note(verdict())
    await road.telling.tell()
    assert road.ways.offered == [] and road.ways.restored == []
    road.may_leave = True
    await road.telling.tell()
    assert len(road.ways.offered) == 1


async def test_the_volume_is_asked_to_be_durable_only_when_there_is_something_to_tell(
    road: Road,
) -> None:
    await road.telling.tell()
    asked = road.n_asked
    for _ in range(3):
        await road.telling.tell()
    assert road.n_asked == asked
    await road.note(verdict())
    await road.telling.tell()
    assert road.n_asked == asked + 1
    await road.telling.tell()
    assert road.n_asked == asked + 1, "it is told, if not settled"


async def test_alarms_that_fire_already_are_restored_once_and_first(road: Road) -> None:
    await road.note(verdict(alarm="old"))
    await road.thread.call(lambda fold: cast(JudgingFold, fold).standing.settle(99))
    await road.note(verdict(State.RESOLVED, previous=State.FIRING, alarm="older"))
    await road.telling.tell()
    await road.telling.tell()
    assert [v.alarm for v in road.ways.restored] == ["old"]
    assert [v.alarm for v in road.ways.offered] == ["older"]


async def test_a_crowd_is_told_in_batches_and_in_few_lines(
    road: Road, caplog: pytest.LogCaptureFixture
) -> None:
    crowd = [
        verdict(stream=StreamKey(f"m{i}", "", ()), alarm=f"a-{i}", severity=Severity.TICKET)
        for i in range(BATCH + 10)
    ]
    await road.note(*crowd, verdict(alarm="the page"))
    with caplog.at_level(logging.INFO):
        assert await road.telling.tell() is True
        assert await road.telling.tell() is False
    assert len(road.ways.offered) == BATCH + 11
    assert len(caplog.records) == MAX_LINES + 1 + 11
    assert "firing, page" in caplog.records[MAX_LINES + 1].message, "the worst of a batch first"


async def test_a_stop_tells_what_is_there_and_settles_what_has_its_outcome() -> None:
    road = Road(events=False)
    await road.note(verdict(alarm="a-1"), verdict(alarm="a-2"))
    await road.telling.tell()
    road.ways.settle[0]()
    await road.note(verdict(alarm="a-3"))
    await road.telling.flush(2.0)
    assert [v.alarm for v in road.ways.offered] == ["a-1", "a-2", "a-3"] and road.ways.flushed == 1
    assert await road.untold() == 2
    road.thread.close(2.0)


async def test_a_verdict_that_cannot_be_told_holds_up_no_other(
    road: Road, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offer = road.ways.offer

    def odd(one: Verdict, settled: Callable[[], None]) -> None:
        if one.alarm == "odd":
            raise ZeroDivisionError("a mistake")
        offer(one, settled)

    monkeypatch.setattr(road.ways, "offer", odd)
    await road.note(verdict(alarm="odd"), verdict(alarm="a-2"))
    await road.telling.tell()
    assert [v.alarm for v in road.ways.offered] == ["a-2"] and "could not be told" in caplog.text
    for settle in road.ways.settle:
        settle()
    await road.telling.tell()
    assert await road.untold() == 0


async def test_a_fold_that_judges_nothing_has_nothing_to_tell() -> None:
    thread: OwnerThread[Fold] = OwnerThread("fold", Fold(Config(), start_ns=1))
    telling = Telling(thread, cast(Responder, Ways()), None)
    assert await telling.tell() is False
    thread.close(2.0)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            verdict(why="it broke"),
            "flight-delay 7 [region=eu]: drift is firing, page (window from 2026-01-05T10:00:00.000Z): it broke",
        ),
        (
            verdict(State.LEARNING, stream=StreamKey("m", "", ()), severity=Severity.INFO, why=""),
            "m: drift is learning (window from 2026-01-05T10:00:00.000Z)",
        ),
    ],
)
def test_a_verdict_is_one_line(one: Verdict, expected: str) -> None:
    assert line_of(one) == expected
