"""Tells of verdicts: log lines, log events and actions, from what the fold thread keeps untold.

Invariants
1. Nothing is told that rests on an entry that is not durable: `may_leave`, asked on the fold thread when there is
   something to tell, makes it so, or says that it cannot. (Ticks come all the time, and wait for the next sync: to
   tell only when nothing waits by chance would be to tell at some time or never.)
2. A transition is settled when its event and its actions have their outcomes; the fold then forgets it.
   What a crash or a stop left unsettled is told again by a process that keeps state, under the same id.
3. Judging and consumption wait for nothing here: this asks the fold, the fold never asks this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from agent.config import Config
from agent.emit.environment import ExportSettings
from agent.emit.events import EventExporter
from agent.emit.otlp_logs import ERROR, WARN
from agent.emit.resource import AgentResource
from agent.emit.transport import OtlpClient
from agent.emit.verdict_events import iso, severity_number, verdict_event
from agent.fold.base import Fold
from agent.judging import JudgingFold
from agent.owner_thread import OwnerThread
from agent.respond.responder import Responder
from agent.respond.standing import Untold
from agent.telemetry import Telemetry
from agent.types import Json
from agent.verdict import Severity, Verdict

log = logging.getLogger(__name__)

#: Longest time between a verdict and its first try.
POLL_S: Final = 0.5
BATCH: Final = 256
#: Log lines of one batch; the rest is one line.
MAX_LINES: Final = 20

_LEVELS: Final = {ERROR: logging.WARNING, WARN: logging.WARNING}


class Telling:
    """Made inside the running loop. `events`: None where no receiver takes logs."""

    def __init__(
        self,
        fold: OwnerThread[Fold],
        responder: Responder,
        events: EventExporter | None,
        *,
        may_leave: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fold = fold
        self._responder = responder
        self._events = events
        self._may_leave = may_leave
        self._told = 0  # number of the last transition that was given out
        self._is_restored = False
        self._open: dict[int, int] = {}  # outcomes that are waited for, by number
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Tell, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._responder.run(), name="actions")
            if self._events is not None:
                group.create_task(self._events.run(), name="events")
            while True:
                await asyncio.sleep(POLL_S)
                while await self.tell():
                    pass

    async def tell(self) -> bool:
        """Give out what is untold now; True when there may be more."""
        async with self._turn:
            after, settled = self._told, self._settled_upto()
            firing, found = await self._fold.call(lambda fold: self._fetch(fold, after, settled))
            self._responder.restore(firing)
            for untold in found:
                self._told = untold.number
                try:
                    self._give_out(untold)
                except Exception:  # a mistake in this program: it costs this verdict, not the agent
                    self._open.pop(untold.number, None)
                    log.exception("a verdict could not be told: %s", line_of(untold.verdict))
            self._say([untold.verdict for untold in found])
            return len(found) == BATCH

    async def flush(self, timeout_s: float) -> None:
        """Tell all there is, and try what waits once more, within `timeout_s`."""
        started = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s / 4):
                while await self.tell():
                    pass
        await self._responder.flush(max(0.0, (started + timeout_s - time.monotonic()) / 2))
        if self._events is not None:
            await self._events.flush(max(0.0, started + timeout_s - time.monotonic()))
        settled = self._settled_upto()
        self._fold.call(lambda fold: _settle(fold, settled))

    async def close(self) -> None:
        """End connections."""
        await self._responder.close()
        if self._events is not None:
            await self._events.close()

    def observe(self) -> None:
        """Set gauges; about once a second."""
        self._responder.observe()

    def state(self) -> Json:
        """Its part of `/v1/state`."""
        return {"actions": self._responder.state(), "unsettled_verdicts": len(self._open)}

    # -- one batch

    def _fetch(self, fold: Fold, after: int, settled: int) -> tuple[list[Verdict], list[Untold]]:
        """On the fold thread: alarms that fired before this process, once, and what is untold."""
        if not isinstance(fold, JudgingFold):
            return [], []
        standing = fold.standing
        standing.settle(settled)
        is_asked = standing.has_untold(after) or not self._is_restored
        if not is_asked or not self._may_leave():
            return [], []
        firing = [] if self._is_restored else standing.firing()
        self._is_restored = True
        return firing, standing.untold(after, BATCH)

    def _give_out(self, untold: Untold) -> None:
        number, verdict = untold
        self._open[number] = 1 if self._events is None else 2

        def settled() -> None:
            left = self._open.pop(number, 0) - 1
            if left > 0:
                self._open[number] = left

        if self._events is not None:
            self._events.put(verdict_event(verdict, time.time_ns()), settled)
        self._responder.offer(verdict, settled)

    def _settled_upto(self) -> int:
        """All transitions up to this number have their outcomes."""
        return min(self._open) - 1 if self._open else self._told

    def _say(self, verdicts: list[Verdict]) -> None:
        verdicts.sort(key=lambda v: -severity_number(v))
        for verdict in verdicts[:MAX_LINES]:
            level = _LEVELS.get(severity_number(verdict), logging.INFO)
            log.log(level, "%s", line_of(verdict))
        if len(verdicts) > MAX_LINES:
            log.warning("... and %d verdicts more", len(verdicts) - MAX_LINES)


def line_of(verdict: Verdict) -> str:
    """A verdict as one log line."""
    stream = verdict.stream
    name = " ".join(filter(None, (stream.model, stream.version)))
    segment = ",".join(f"{key}={value}" for key, value in stream.segment)
    where = f"{name} [{segment}]" if segment else name
    who = "" if verdict.severity is Severity.INFO else f", {verdict.severity.value}"
    why = f": {verdict.why}" if verdict.why else ""
    return (
        f"{where}: {verdict.monitor} is {verdict.state.value}{who} "
        f"(window from {iso(verdict.window_start_ms)}){why}"
    )


def _settle(fold: Fold, upto: int) -> None:
    if isinstance(fold, JudgingFold):
        fold.standing.settle(upto)


def make_telling(
    config: Config,
    settings: ExportSettings,
    resource: AgentResource,
    fold: OwnerThread[Fold],
    telemetry: Telemetry,
    *,
    may_leave: Callable[[], bool] = lambda: True,
) -> Telling:
    """As configured. Inside the running loop. Raises ConfigError where an action cannot be had."""
    events = (
        EventExporter(OtlpClient(settings.logs), settings.logs, resource, telemetry)
        if settings.logs.enabled
        else None
    )
    own_actions = {monitor.name: monitor.actions for monitor in config.monitors}
    responder = Responder(
        config.respond,
        config.kafka,
        resource.attributes["service.name"],
        telemetry,
        own_actions=lambda monitor: own_actions.get(monitor, ()),
        events=events,
    )
    responder.open()
    return Telling(fold, responder, events, may_leave=may_leave)
