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
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from agent.emit.environment import SignalSettings
from agent.emit.otlp_logs import (
    INFO,
    RECORD_FRAME,
    LogEvent,
    encode_event,
    pack_records,
    room_for_records,
)
from agent.emit.request_sender import RequestSender
from agent.emit.resource import AgentResource
from agent.emit.transport import OtlpTransport
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
        self._resource = resource
        self._max_events = max_events
        self._room_bytes = room_for_records(
            resource.encoded, resource.scope, settings.max_request_bytes
        )
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._sender = RequestSender(
            client,
            settings,
            telemetry,
            log,
            signal="logs",
            what="log events",
            patience_s=patience_s,
            repeats_uncertain=True,
            clock=clock,
        )

    def put(self, event: LogEvent, settled: Callable[[], None] = _nobody) -> None:
        """Queue one event; `settled` is called when it has its outcome, at once where it is dropped."""
        room = self._max_events
        if event.severity == INFO:
            room = int(room * ORDINARY_SHARE)
        record = encode_event(event)
        if len(self._queue) >= room:
            self._sender.complaints.say(
                "full", f"{len(self._queue)} log events wait; new ones are dropped"
            )
        elif len(record) + RECORD_FRAME > self._room_bytes:
            self._sender.complaints.say(
                "large", f"a log event of {len(record)} bytes fits no request"
            )
        else:
            self._queue.append(_Waiting(record, settled))
            self._arrived.set()
            return
        self._sender.count("dropped", 1)
        settled()

    def __len__(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._sender.drain(self._queue, self._send_batch)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Send what is queued now within `timeout_s`; the rest is dropped and counted."""
        await self._sender.flush(self._queue, self._send_batch, timeout_s)

    async def close(self) -> None:
        """Close connections."""
        await self._sender.close()

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
        outcomes = await self._sender.send(data, len(batch))
        for outcome, n in outcomes.items():
            self._sender.count(outcome, n)
        for _ in batch:  # the oldest ones
            self._queue.popleft().settled()
