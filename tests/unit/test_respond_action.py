"""One action at work: what it takes, holds back, limits, tries again, and what it says became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.config.respond import Action, Webhook
from agent.errors import ExportError, PermanentExportError, TransientExportError
from agent.respond.action import ActionRunner, Item
from agent.respond.event import Event, event_of
from agent.respond.http import GoneError
from agent.telemetry import Telemetry
from agent.types import StreamKey
from agent.verdict import Severity, State, Verdict
from tests.support.verdicts import verdict
from tests.support.wait import eventually


class Channel:
    """Answers as told: an error to raise, None to accept; at the end of the script it accepts."""

    def __init__(self, *answers: ExportError | None) -> None:
        self.answers = list(answers)
        self.taken: list[Event] = []
        self.n_tries = 0
        self.restored: list[Verdict] = []
        self.blocked: asyncio.Event | None = None

    async def deliver(self, event: Event) -> None:
        self.n_tries += 1
        if self.blocked is not None:
            await self.blocked.wait()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.taken.append(event)

    def restore(self, firing: Iterable[Verdict]) -> None:
        self.restored += firing

    async def run(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Road:
    """A runner and everything that became of what it was given."""

    def __init__(self, channel: Channel | None = None, *, delivered: Any = (), **options: Any):
        self.channel = channel or Channel()
        self.telemetry = Telemetry()
        self.outcomes: list[tuple[str, str]] = []
        self.n_settled = 0
        given = {"retry_initial_s": 0.01, "retry_max_s": 0.02, **options}
        self.runner = ActionRunner(
            Action(name="oncall", webhook=Webhook(url="https://host"), **given),
            self.channel,
            self.telemetry,
            on_outcome=self._note,
            was_delivered=lambda name, event_id: event_id in delivered,
        )

    def offer(self, *verdicts: Verdict, own: tuple[str, ...] = ()) -> None:
        """As the responder does it."""
        for one in verdicts:
            self.runner.passed(one)
            if self.runner.wants(one, own):
                self.runner.offer(event_of(one, "/s"), self._settled)

    def alarms(self) -> list[str]:
        return [f"{e.verdict.alarm} {e.verdict.state}" for e in self.channel.taken]

    def counted(self) -> dict[str, int]:
        names = (
            "delivered",
            "refused",
            "failed",
            "dropped",
            "held_back",
            "repeated",
            "dry_run",
            "left",
        )
        value = self.telemetry.value
        found = {n: int(value("inferometer.actions", action="oncall", outcome=n)) for n in names}
        return {name: n for name, n in found.items() if n}

    def _note(self, runner: ActionRunner, item: Item, outcome: str) -> None:
        self.outcomes.append((item.event.verdict.alarm, outcome))

    def _settled(self) -> None:
        self.n_settled += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Road]:
        task = asyncio.ensure_future(self.runner.run())
        try:
            yield self
        finally:
            task.cancel()


def resolved(**changes: Any) -> Verdict:
    return verdict(State.RESOLVED, previous=State.FIRING, **changes)


TRANSIENT = TransientExportError("busy")
REFUSED = PermanentExportError("no")


async def test_what_fires_and_what_is_resolved_is_told_once_each() -> None:
    async with Road().running() as road:
        road.offer(
            verdict(State.PENDING, previous=State.OK),
            verdict(),
            resolved(),
            verdict(State.OK, previous=State.RESOLVED, alarm=""),
        )
        await eventually(lambda: road.n_settled == 2)
    assert road.alarms() == ["a-1 firing", "a-1 resolved"]
    assert road.counted() == {"delivered": 2}


@pytest.mark.parametrize(
    ("options", "own", "changes", "wanted"),
    [
        ({}, (), {}, True),
        ({"severities": ["ticket"]}, (), {}, False),
        ({"severities": ["ticket"]}, (), {"severity": Severity.TICKET}, True),
        ({"on": ["blind"]}, (), {}, False),
        ({"models": ["flight-*"]}, (), {}, True),
        ({"models": ["fraud"]}, (), {}, False),
        ({"models": ["fraud", "*"]}, (), {}, True),
        ({"monitors": ["quality"]}, (), {}, False),
        ({"monitors": ["quality"]}, ("oncall",), {}, True),
        ({}, ("another",), {}, False),
        ({}, ("another", "oncall"), {}, True),
        ({"models": ["[abc]*"]}, (), {"stream": StreamKey("[abc]", "", ())}, False),
    ],
)
async def test_an_action_takes_what_its_options_and_the_monitor_say(
    options: dict[str, Any], own: tuple[str, ...], changes: dict[str, Any], wanted: bool
) -> None:
    assert Road(**options).runner.wants(verdict(**changes), own) is wanted


async def test_an_end_is_told_only_of_an_alarm_whose_beginning_was() -> None:
    async with Road().running() as road:
        road.offer(resolved(alarm="unknown"), verdict(severity=Severity.PAGE), resolved())
        await eventually(lambda: road.n_settled == 2)
        road.runner.restore([verdict(alarm="old")])
        road.offer(resolved(alarm="old"))
        await eventually(lambda: road.n_settled == 3)
    assert road.alarms() == ["a-1 firing", "a-1 resolved", "old resolved"]
    assert [v.alarm for v in road.channel.restored] == ["old"]
    only_ends = Road(on=["resolved"])
    assert only_ends.runner.wants(resolved(), ())


async def test_transient_failures_are_tried_again_under_the_same_id() -> None:
    channel = Channel(TRANSIENT, TransientExportError("later", 0.01), TRANSIENT)
    async with Road(channel).running() as road:
        road.offer(verdict())
        await eventually(lambda: road.n_settled == 1)
    assert channel.n_tries == 4 and road.counted() == {"delivered": 1}


async def test_a_refusal_is_not_tried_again_and_holds_up_nothing() -> None:
    async with Road(Channel(REFUSED)).running() as road:
        road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"))
        await eventually(lambda: road.n_settled == 2)
    assert road.outcomes == [("a-1", "refused"), ("a-2", "delivered")]


async def test_a_mistake_of_ours_costs_one_verdict_and_not_the_agent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Road(Channel(ZeroDivisionError("odd"))).running() as road:  # type: ignore[arg-type]
        road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"))
        await eventually(lambda: road.n_settled == 2)
    assert road.outcomes == [("a-1", "failed"), ("a-2", "delivered")]
    assert "action oncall failed" in caplog.text


async def test_a_receiver_that_is_gone_is_left_alone() -> None:
    async with Road(Channel(GoneError("410"))).running() as road:
        road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"))
        await eventually(lambda: road.n_settled == 2)
        road.offer(verdict(alarm="a-3"))
    assert [outcome for _, outcome in road.outcomes] == ["refused", "dropped", "dropped"]
    assert road.channel.n_tries == 1 and "410" in road.runner.state()["gone"]


async def test_what_cannot_be_delivered_in_time_has_failed() -> None:
    road = Road(Channel(*[TRANSIENT] * 1000), give_up_s=0.05)
    async with road.running():
        road.offer(*(verdict(alarm=f"a-{i}") for i in range(5)))
        await eventually(lambda: road.n_settled == 5)
    assert road.counted() == {"failed": 5} and road.channel.n_tries < 100


async def test_an_alarm_that_ends_before_it_was_held_long_enough_is_not_told() -> None:
    async with Road(hold_s=60.0).running() as road:
        road.offer(verdict(), resolved())
        assert road.outcomes == [("a-1", "held_back")] and road.n_settled == 1
    assert road.channel.taken == [] and road.runner.n_waiting == 0


async def test_an_alarm_that_still_holds_is_told_and_ends_at_once() -> None:
    async with Road(hold_s=0.05).running() as road:
        road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"), resolved(alarm="a-2"))
        await eventually(lambda: road.alarms() == ["a-1 firing"])
        road.offer(resolved(alarm="a-1"))
        await eventually(lambda: road.alarms() == ["a-1 firing", "a-1 resolved"])


async def test_what_is_held_does_not_hold_up_an_end() -> None:
    async with Road(hold_s=60.0).running() as road:
        road.runner.restore([verdict(alarm="old")])
        road.offer(verdict(alarm="new"), resolved(alarm="old"))
        await eventually(lambda: road.alarms() == ["old resolved"])
    assert road.runner.n_waiting == 1


async def test_at_most_so_many_tries_go_out_in_any_minute() -> None:
    now = 1000.0
    road = Road(max_per_minute=3)
    road.runner._clock = lambda: now
    async with road.running():
        road.offer(*(verdict(alarm=f"a-{i}") for i in range(5)))
        await eventually(lambda: road.channel.n_tries == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert road.channel.n_tries == 3 and road.runner.n_waiting == 2
        due = road.runner._tries[0] + 60.0
        assert due == 1060.0, "the fourth goes when the first is a minute old"


async def test_a_crowd_is_bounded_and_counted_and_offering_never_waits() -> None:
    channel = Channel()
    channel.blocked = asyncio.Event()
    async with Road(channel, queue=100).running() as road:
        road.offer(*(verdict(alarm=f"a-{i}") for i in range(10_000)))
        assert road.runner.n_waiting == 100
        assert road.counted() == {"dropped": 9_900} and road.n_settled == 9_900
        assert not road.runner.wants(resolved(alarm="a-5000"), ()), "its beginning was not told"
        channel.blocked.set()
        await eventually(lambda: road.counted().get("delivered", 0) >= 50)


async def test_what_was_delivered_before_a_restart_is_not_sent_again() -> None:
    known = event_of(verdict(), "/s").id
    async with Road(delivered={known}).running() as road:
        road.offer(verdict(), verdict(alarm="a-2"))
        await eventually(lambda: road.n_settled == 2)
    assert road.outcomes == [("a-1", "repeated"), ("a-2", "delivered")]


async def test_a_dry_run_does_everything_but_send() -> None:
    async with Road(dry_run=True).running() as road:
        road.offer(verdict(), resolved())
        await eventually(lambda: road.n_settled == 2)
        road.runner.restore([verdict(alarm="old")])
    assert road.channel.n_tries == 0 and road.channel.restored == []
    assert road.counted() == {"dry_run": 2}


async def test_a_stop_tries_once_more_and_leaves_the_rest_unsettled() -> None:
    channel = Channel(None, *[TRANSIENT] * 10)
    road = Road(channel, hold_s=0.0, retry_initial_s=30.0, retry_max_s=60.0)
    road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"), verdict(alarm="a-3"))
    await road.runner.flush(2.0)
    assert road.outcomes[0] == ("a-1", "delivered")
    assert road.counted() == {"delivered": 1, "left": 2} and road.n_settled == 1
    held = Road(hold_s=60.0)
    held.offer(verdict())
    await held.runner.flush(1.0)
    assert held.counted() == {"left": 1} and held.n_settled == 0


async def test_a_stop_ends_a_delivery_that_hangs() -> None:
    channel = Channel()
    channel.blocked = asyncio.Event()
    async with Road(channel).running() as road:
        road.offer(verdict(alarm="a-1"), verdict(alarm="a-2"))
        await eventually(lambda: channel.n_tries == 1)
        await asyncio.wait_for(road.runner.flush(0.1), 5.0)
        assert road.counted() == {"left": 2} and road.n_settled == 0
