"""All actions of a configuration, and the trail of what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from agent.config import Action, Kafka, Respond
from agent.emit.events import EventExporter
from agent.emit.otlp_logs import INFO, WARN, LogEvent
from agent.emit.verdict_events import UID, stream_attributes
from agent.respond.action import ActionRunner, Item
from agent.respond.alertmanager import AlertmanagerChannel
from agent.respond.audit import Audit
from agent.respond.channel import Channel
from agent.respond.event import event_of
from agent.respond.kafka_topic import KafkaTopicChannel
from agent.respond.signing import read_keys
from agent.respond.webhook import WebhookChannel
from agent.secret_file import secret_text
from agent.telemetry import Telemetry
from agent.types import Json
from agent.verdict import Verdict

ACTION_EVENT: Final = "inferometer.action"
#: Lines that wait for the disk; past this the oldest are not written.
MAX_UNWRITTEN: Final = 4096
_BAD: Final = frozenset(("refused", "failed", "dropped", "left"))


class Responder:
    """Made inside the running loop. `own_actions`: the actions that a monitor names, by its name.

    `open` raises ConfigError; nothing after it does.
    """

    def __init__(
        self,
        config: Respond,
        kafka: Kafka,
        service_name: str,
        telemetry: Telemetry,
        *,
        own_actions: Callable[[str], Sequence[str]] = lambda _: (),
        events: EventExporter | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._source = config.source or f"/inferometer/{service_name}"
        self._own_actions = own_actions
        self._telemetry = telemetry
        self._events = events
        self._wall_clock = wall_clock
        self._audit = Audit(
            Path(config.audit_path) if config.audit_path else None, config.audit_max_bytes
        )
        self._unwritten: deque[Json] = deque(maxlen=MAX_UNWRITTEN)
        self._written = asyncio.Event()
        self.runners = [
            ActionRunner(
                action,
                channel_of(action, kafka, index),
                telemetry,
                on_outcome=self._note,
                was_delivered=self._audit.was_delivered,
                dry_run=config.dry_run,
            )
            for index, action in enumerate(config.actions)
        ]

    def open(self) -> None:
        """Read the audit trail. Raises ConfigError when it cannot be kept."""
        self._audit.open()

    def restore(self, firing: Iterable[Verdict]) -> None:
        """Alarms that fire since before this process, once, before anything is offered."""
        known = list(firing)
        for runner in self.runners:
            runner.restore(v for v in known if runner.wants(v, self._own_actions(v.monitor)))

    def offer(self, verdict: Verdict, settled: Callable[[], None]) -> None:
        """Give a transition to every action that wants it; `settled` is called when all are done."""
        own = self._own_actions(verdict.monitor)
        for runner in self.runners:
            runner.passed(verdict)
        wanting = [runner for runner in self.runners if runner.wants(verdict, own)]
        if not wanting:
            settled()
            return
        event = event_of(verdict, self._source)
        left = len(wanting)

        def one_settled() -> None:
            nonlocal left
            left -= 1
            if not left:
                settled()

        for runner in wanting:
            runner.offer(event, one_settled)

    async def run(self) -> None:
        """Act, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(), name="audit")
            for runner in self.runners:
                group.create_task(runner.run(), name=f"action {runner.name}")
                group.create_task(runner.channel.run(), name=f"channel {runner.name}")

    async def flush(self, timeout_s: float) -> None:
        """A last try of all that waits, together within `timeout_s`."""
        async with asyncio.TaskGroup() as group:
            for runner in self.runners:
                group.create_task(runner.flush(timeout_s))
        while self._unwritten:
            await self._audit.add(self._unwritten.popleft())

    async def close(self) -> None:
        for runner in self.runners:
            await runner.close()

    def observe(self) -> None:
        """Set gauges; about once a second."""
        for runner in self.runners:
            self._telemetry.set("inferometer.actions.waiting", runner.n_waiting, action=runner.name)

    def state(self) -> list[Json]:
        """Its part of `/v1/state`."""
        return [runner.state() for runner in self.runners]

    # -- outcomes

    def _note(self, runner: ActionRunner, item: Item, outcome: str) -> None:
        now_ns = self._wall_clock()
        verdict = item.event.verdict
        line: Json = {
            "time": datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
            "action": runner.name,
            "outcome": outcome,
            "id": item.event.id,
            "alarm": verdict.alarm or None,
            "monitor": verdict.monitor,
            "model": verdict.stream.model,
            "version": verdict.stream.version,
            "state": verdict.state.value,
            "severity": verdict.severity.value,
            "tries": item.n_tries,
            "said": item.said or None,
        }
        if outcome == "dry_run":
            line["event"] = orjson.Fragment(item.event.body)
        self._unwritten.append(line)
        self._written.set()
        if self._events is not None:
            self._events.put(_event(line, verdict, now_ns))

    async def _write(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            while self._unwritten:
                await self._audit.add(self._unwritten.popleft())


def check(config: Respond, kafka: Kafka) -> None:
    """What can be known of actions before anything is sent. Raises ConfigError."""
    for index, action in enumerate(config.actions):
        channel_of(action, kafka, index)
        webhook = action.webhook
        if webhook is not None and webhook.secret_file is not None:
            read_keys(webhook.secret_file, f"respond.actions[{index}].webhook.secret_file")
        if webhook is not None and webhook.url_file is not None:
            secret_text(webhook.url_file, f"respond.actions[{index}].webhook.url_file")


def channel_of(action: Action, kafka: Kafka, index: int) -> Channel:
    """The way out that is configured. Raises ConfigError for headers that are none."""
    option = f"respond.actions[{index}]"
    if action.webhook is not None:
        return WebhookChannel(action.webhook, f"{option}.webhook")
    if action.kafka is not None:
        return KafkaTopicChannel(action.kafka, kafka)
    assert action.alertmanager is not None
    return AlertmanagerChannel(action.alertmanager, f"{option}.alertmanager")


def _event(line: Json, verdict: Verdict, now_ns: int) -> LogEvent:
    outcome = line["outcome"]
    said = f": {line['said']}" if line["said"] else ""
    return LogEvent(
        ACTION_EVENT,
        time_ns=now_ns,
        observed_ns=now_ns,
        severity=WARN if outcome in _BAD else INFO,
        body=f"action {line['action']}: {verdict.monitor} {verdict.state.value}, {outcome}{said}",
        attributes={
            UID: f"{line['id']}/{line['action']}/{outcome}/{now_ns}",
            "inferometer.action.name": line["action"],
            "inferometer.outcome": outcome,
            "inferometer.action.tries": line["tries"],
            "inference.verdict.id": line["id"],
            "inference.monitor.name": verdict.monitor,
            "inference.verdict.state": verdict.state.value,
            **stream_attributes(verdict.stream),
        },
    )
