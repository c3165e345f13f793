"""Alerts against a real Alertmanager: raised, repeated, ended, and ending by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.config.respond import Alertmanager as Options
from agent.errors import TransientExportError
from agent.respond.alertmanager import AlertmanagerChannel
from agent.respond.event import event_of
from agent.verdict import Severity, State, Verdict
from tests.support.alertmanager_real import Alertmanager
from tests.support.http_receiver import HttpReceiver
from tests.support.verdicts import verdict
from tests.support.wait import eventually


def channel(*urls: str, **more: Any) -> AlertmanagerChannel:
    options = Options(urls=list(urls), **{"timeout_s": 5.0, "resend_s": 60.0, **more})
    return AlertmanagerChannel(options, "respond.actions[0].alertmanager")


def event(one: Verdict) -> Any:
    return event_of(one, "/inferometer/test")


async def test_an_alarm_is_an_alert_from_firing_to_resolved(alertmanager: Alertmanager) -> None:
    sent = channel(alertmanager.url, labels={"team": "risk"})
    await sent.deliver(event(verdict()))
    (alert,) = alertmanager.alerts()
    assert alert["labels"] == {
        "alertname": "drift",
        "severity": "page",
        "model": "flight-delay",
        "version": "7",
        "segment_region": "eu",
        "source": "weather",
        "alarm": "a-1",
        "team": "risk",
    }
    assert alert["annotations"]["summary"] == verdict().why
    assert alert["annotations"]["explained_by"] == "weather distance missing; dep_hour loc"
    assert alert["status"]["state"] == "active"
    assert alert["startsAt"] == "2026-01-05T11:00:00.000Z"
    assert alert["endsAt"] > alert["updatedAt"]
    # What changes while it fires changes no label, so it stays one alert.
    await sent.deliver(event(verdict(feature="dep_hour", why="still", severity=Severity.TICKET)))
    (again,) = alertmanager.alerts()
    assert again["fingerprint"] == alert["fingerprint"]
    assert again["annotations"]["summary"] == "still"
    await sent.deliver(event(verdict(State.RESOLVED, previous=State.FIRING)))
    assert alertmanager.alerts() == []
    await sent.close()


async def test_alerts_end_by_themselves_unless_they_are_sent_again(
    alertmanager: Alertmanager,
) -> None:
    sent = channel(alertmanager.url, resend_s=0.5)
    await sent.deliver(event(verdict()))
    task = asyncio.ensure_future(sent.run())
    first = alertmanager.alerts()[0]["endsAt"]
    await eventually(
        lambda: (found := alertmanager.alerts()) and found[0]["endsAt"] > first, timeout_s=10
    )
    task.cancel()  # the agent is gone: four resends later the alert is, too
    await eventually(lambda: not alertmanager.alerts(), timeout_s=10)
    await sent.close()


async def test_what_fired_before_a_restart_is_sent_again_after_it(
    alertmanager: Alertmanager,
) -> None:
    sent = channel(alertmanager.url)
    sent.restore([verdict(alarm="a-1"), verdict(alarm="a-2", monitor="quality")])
    await sent.resend()
    assert sorted(a["labels"]["alertname"] for a in alertmanager.alerts()) == ["drift", "quality"]
    await sent.deliver(event(verdict(State.RESOLVED, alarm="a-1")))
    assert [a["labels"]["alarm"] for a in alertmanager.alerts()] == ["a-2"]
    await sent.close()


async def test_one_member_that_accepts_is_enough_and_the_others_hear_later(
    alertmanager: Alertmanager,
) -> None:
    sent = channel("http://127.0.0.1:9", alertmanager.url)
    await sent.deliver(event(verdict()))
    assert len(alertmanager.alerts()) == 1
    alone = channel("http://127.0.0.1:9")
    with pytest.raises(TransientExportError, match="cannot be reached"):
        await alone.deliver(event(verdict()))
    await sent.close()
    await alone.close()


async def test_an_end_that_was_missed_is_told_again(alertmanager: Alertmanager) -> None:
    sent = channel(alertmanager.url)
    await sent.deliver(event(verdict()))
    alertmanager.stop()
    with pytest.raises(TransientExportError):
        await sent.deliver(event(verdict(State.RESOLVED, previous=State.FIRING)))
    alertmanager.start()
    await sent.resend()
    await eventually(lambda: not alertmanager.alerts(), timeout_s=10)
    await sent.close()


async def test_many_alerts_are_sent_in_batches(alertmanager: Alertmanager) -> None:
    sent = channel(alertmanager.url)
    sent.restore(verdict(alarm=f"a-{i}") for i in range(300))
    await sent.resend()
    assert len(alertmanager.alerts(alertname="drift")) == 300
    await sent.close()


async def test_names_that_are_no_labels_are_made_ones(alertmanager: Alertmanager) -> None:
    stream = verdict().stream._replace(segment=(("data centre-1", "a b"), ("ö", "x")))
    sent = channel(alertmanager.url)
    await sent.deliver(event(verdict(stream=stream, alarm="")))
    (alert,) = alertmanager.alerts()
    assert alert["labels"]["segment_data_centre_1"] == "a b"
    assert alert["labels"]["segment__"] == "x"
    assert alert["labels"]["alarm"] == "drift/flight-delay/7/a b/x"
    await sent.close()


async def test_a_real_alertmanager_notifies_whoever_is_configured(
    alertmanager: Alertmanager, tmp_path: Path
) -> None:
    alertmanager.stop()  # another one is wanted, with somebody to notify
    async with HttpReceiver() as pager:
        running = Alertmanager(tmp_path, webhook_url=f"{pager.url}/page")
        running.start()
        try:
            sent = channel(running.url)
            await sent.deliver(event(verdict()))
            await eventually(lambda: pager.heard)
            body: Any = pager.heard[0].json
            assert body["status"] == "firing" and body["alerts"][0]["labels"]["alarm"] == "a-1"
            await sent.deliver(event(verdict(State.RESOLVED, previous=State.FIRING)))
            await eventually(lambda: pager.heard[-1].json["status"] == "resolved")  # type: ignore[index]
            await sent.close()
        finally:
            running.stop()
