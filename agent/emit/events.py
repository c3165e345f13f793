"""Log events -> a receiver: a bounded queue, one sender task, at least once.

Invariants
1. The queue is bounded; an event that finds it full is dropped and counted. Ordinary events (INFO) may
   fill only `ORDINARY_SHARE` of it, so that a crowd of them leaves room for what somebody has to know.
2. A request without an answer is sent again: events carry a `log.record.uid`, by which a receiver that
   got both knows that they are one. A batch is given up after `PATIENCE_S`, counted as dropped.
3. The outcome of every event is counted once: accepted, rejected or dropped. Whoever put it is told so,
   and not before; but not of those dropped by a stop, which another process may tell again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from agent.emit.backoff import Backoff
from agent.emit.complaints import Complaints
from agent.emit.environment import SignalSettings
from agent.emit.otlp_logs import (
    INFO,
    RECORD_FRAME,
    LogEvent,
    encode_event,
    pack_records,
    room_for_records,
)
from agent.emit.resource import AgentResource
from agent.emit.transport import OtlpTransport
from agent.errors import PermanentExportError, TransientExportError
from agent.telemetry import Telemetry

log = logging.getLogger(__name__)

#: Events waiting; about 2 kB each.
QUEUE_EVENTS: Final = 4096
ORDINARY_SHARE: Final = 0.75
#: Events of one request.
BATCH_EVENTS: Final = 256
#: A receiver that is away this long does not want this batch any more: what follows is newer.
PATIENCE_S: Final = 600.0


def _nobody() -> None:
    """Nobody waits for the outcome."""


class _Waiting(NamedTuple):
    record: bytes
    settled: Callable[[], None]


class EventExporter:
    """Sends log events in the order they were put. `put` never blocks. All on one loop."""

    def __init__(
        self,
        client: OtlpTransport,
        settings: SignalSettings,
        resource: AgentResource,
        telemetry: Telemetry,
        *,
        max_events: int = QUEUE_EVENTS,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._resource = resource
        self._telemetry = telemetry
        self._max_events = max_events
        self._room_bytes = room_for_records(
            resource.encoded, resource.scope, settings.max_request_bytes
        )
        self._patience_s = patience_s
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._backoff = Backoff(settings.retry_initial_s, settings.retry_max_s)
        self._complaints = Complaints(log, clock=clock)
        self._turn = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._hurried = asyncio.Event()

    def put(self, event: LogEvent, settled: Callable[[], None] = _nobody) -> None:
        """Queue one event; `settled` is called when it has its outcome, at once where it is dropped."""
        room = self._max_events
        if event.severity == INFO:
            room = int(room * ORDINARY_SHARE)
        record = encode_event(event)
        if len(self._queue) >= room:
            self._complaints.say(
                "full", f"{len(self._queue)} log events wait; new ones are dropped"
            )
        elif len(record) + RECORD_FRAME > self._room_bytes:
            self._complaints.say("large", f"a log event of {len(record)} bytes fits no request")
        else:
            self._queue.append(_Waiting(record, settled))
            self._arrived.set()
            return
        self._count("dropped", 1)
        settled()

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            async with self._turn:
                while self._queue:
                    await self._send_batch()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Send what is queued now within `timeout_s`; the rest is dropped and counted."""
        self._hurried.set()
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                while self._queue:
                    await self._send_batch()
        except TimeoutError:
            self._complaints.say("flush", f"{len(self._queue)} log events were not sent in time")
            self._count("dropped", len(self._queue))
            self._queue.clear()
        finally:
            self._hurried.clear()

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    # -- one batch

    async def _send_batch(self) -> None:
        """Events stay in the queue until they have an outcome: a cancelled send loses none."""
        batch: list[bytes] = []
        room = self._room_bytes
        for waiting in itertools.islice(self._queue, BATCH_EVENTS):
            room -= len(waiting.record) + RECORD_FRAME
            if room < 0:
                break
            batch.append(waiting.record)
        data = pack_records(batch, self._resource.encoded, self._resource.scope)
        outcomes = await self._send(data, len(batch), self._clock() + self._patience_s)
        self._settle(len(batch), outcomes)

    async def _send(self, data: bytes, n_events: int, limit: float) -> dict[str, int]:
        """Send one request until it has an outcome; returns events by outcome."""
        while True:
            await self._pause()
            started, outcome = self._clock(), "transient"
            try:
                accepted = await self._client.send(data)
                outcome = "accepted"
            except TransientExportError as error:
                self._count_failure(outcome)
                due = self._backoff.failed(self._clock(), error.retry_after_s)
                is_over = due > limit or self._hurried.is_set()
                self._complaints.say(
                    "transient",
                    f"export of {n_events} log events failed, {'dropped' if is_over else 'will go on'}: {error}",
                )
                if is_over:
                    return {"dropped": n_events}
                continue
            except PermanentExportError as error:
                outcome = "permanent"
                self._count_failure(outcome)
                self._backoff.succeeded()
                self._complaints.say(
                    "permanent", f"{n_events} log events were refused for good: {error}"
                )
                return {"rejected": n_events}
            finally:
                self._telemetry.record(
                    "inferometer.export.duration",
                    self._clock() - started,
                    signal="logs",
                    outcome=outcome,
                )
            break
        self._backoff.succeeded()
        self._telemetry.add("inferometer.export.bytes", len(data), signal="logs")
        n_rejected = min(accepted.n_rejected, n_events)
        if n_rejected:
            self._complaints.say(
                "partial", f"{n_rejected} of {n_events} log events were refused: {accepted.message}"
            )
        return {"accepted": n_events - n_rejected, "rejected": n_rejected}

    async def _pause(self) -> None:
        wait_s = self._backoff.not_before - self._clock()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()

    def _settle(self, n_events: int, outcomes: Mapping[str, int]) -> None:
        """The oldest `n_events` have their outcomes."""
        for outcome, n in outcomes.items():
            if n:
                self._count(outcome, n)
        for _ in range(n_events):
            self._queue.popleft().settled()

    def _count(self, outcome: str, n: int) -> None:
        self._telemetry.add("inferometer.export.points", n, signal="logs", outcome=outcome)

    def _count_failure(self, outcome: str) -> None:
        self._telemetry.add("inferometer.export.failures", signal="logs", outcome=outcome)
