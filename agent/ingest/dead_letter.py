"""Sends dropped records to the dead-letter topic: original key, value and headers, and the reason.

Added headers (UTF-8 text): `inferometer.reason`, `inferometer.topic`, `inferometer.partition`,
`inferometer.offset`. The record's timestamp is kept when it has one.

Invariants
1. `put` never blocks and never raises: past the limit in bytes a record is dropped and counted.
2. Every record put ends in exactly one outcome: sent (acknowledged), failed, or dropped.
3. Nothing here delays the consume path or a commit: those that wait at a crash are gone, and a record that
   is read again is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaProducer

from agent.config import Config
from agent.errors import ConfigError
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import RECORD_OVERHEAD_BYTES
from agent.ingest.security import client_security, reread_password_at_connect
from agent.telemetry import Telemetry
from agent.types import Drop, Partition, Record

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20
_RETRY_S = 0.5
_RETRY_MAX_S = 10.0
_ANNOUNCE_S = 10.0
_END_S = 2.0
#: The broker's and the topic's limits decide what is too large, not the client's.
_MAX_REQUEST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class _Letter:
    record: Record
    headers: list[tuple[str, bytes | None]]
    size_bytes: int


class DeadLetters:
    """A bounded queue in front of an idempotent producer.

    `put` may be called from any thread; everything else belongs to the loop that made it.
    Memory: at most `max_bytes`, queued and in flight together.
    """

    def __init__(self, config: Config, telemetry: Telemetry, *, max_bytes: int = MAX_BYTES) -> None:
        """Raises ConfigError when `decode.dead_letter_topic` is not set."""
        topic = config.decode.dead_letter_topic
        if not topic:
            raise ConfigError("decode.dead_letter_topic is not set")
        self.topic = topic
        self._kafka = config.kafka
        self._telemetry = telemetry
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._queue: deque[_Letter] = deque()
        self._held_bytes = 0
        self._in_flight = 0
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._closing = False
        self._idempotent = True
        self._runner: asyncio.Task[Any] | None = None
        self._announcer = Announcer(_ANNOUNCE_S)

    @property
    def held_bytes(self) -> int:
        """Bytes queued or in flight."""
        return self._held_bytes

    def put(self, partition: Partition, record: Record, reason: Drop) -> bool:
        """Queue one record; False when it was dropped because the queue is full."""
        headers: list[tuple[str, bytes | None]] = [
            *record.headers,
            ("inferometer.reason", reason.value.encode()),
            ("inferometer.topic", partition.topic.encode()),
            ("inferometer.partition", b"%d" % partition.partition),
            ("inferometer.offset", b"%d" % record.offset),
        ]
        size_bytes = (
            len(record.key or b"")
            + len(record.value or b"")
            + sum(len(name) + len(value or b"") for name, value in headers)
            + RECORD_OVERHEAD_BYTES
        )
        with self._lock:
            fits = not self._closing and self._held_bytes + size_bytes <= self._max_bytes
            if fits:
                self._held_bytes += size_bytes
                self._queue.append(_Letter(record, headers, size_bytes))
        if not fits:
            self._telemetry.add("inferometer.dead_letters", outcome="dropped")
            return False
        self._loop.call_soon_threadsafe(self._note_arrival)
        return True

    async def run(self) -> None:
        """Produce until `stop`. Brokers that are away are waited for; the queue bounds what that costs."""
        pause_s = _RETRY_S
        producer: Any = None
        self._runner = asyncio.current_task()
        try:
            while True:
                await self._arrived.wait()
                if self._closing:
                    return
                if producer is not None and producer._sender.sender_task.done():
                    # Its sender has died of an error it cannot mend: lost sequence, or no permission
                    # to be idempotent. The next one makes no such promise.
                    await self._end(producer)
                    producer, self._idempotent = None, False
                if producer is None:
                    producer = await self._connect()
                    if producer is None:
                        await asyncio.sleep(pause_s)
                        pause_s = min(pause_s * 2, _RETRY_MAX_S)
                        continue
                    pause_s = _RETRY_S
                letter = self._next()
                if letter is None:
                    self._arrived.clear()
                    continue
                await self._produce(producer, letter)
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            await self._end(producer)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued has an outcome; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(0)  # arrivals from other threads that are already scheduled
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout_s: float) -> None:
        """Flush for at most `timeout_s`; what is left then counts as failed, and `run` returns."""
        await self.flush(timeout_s)
        with self._lock:
            self._closing = True
        while (letter := self._next()) is not None:
            with self._lock:
                self._held_bytes -= letter.size_bytes
            self._settle("failed")
        self._arrived.set()
        runner = self._runner
        if runner is not None and not runner.done():
            runner.cancel()  # it may wait for a broker or a topic
            await asyncio.wait({runner}, timeout=_END_S + 1)

    async def _connect(self) -> Any:
        """A started producer, idempotent where the broker lets us; None when there is no broker."""
        producer: Any = None
        try:
            producer = AIOKafkaProducer(
                bootstrap_servers=list(self._kafka.bootstrap_servers),
                client_id=f"{self._kafka.client_id}-dead-letters",
                acks="all",
                enable_idempotence=self._idempotent,
                linger_ms=20,
                max_request_size=_MAX_REQUEST_BYTES,
                request_timeout_ms=int(self._kafka.request_timeout_s * 1000),
                **client_security(self._kafka),
            )
            reread_password_at_connect(producer.client, self._kafka.sasl)
            await producer.start()
        except (kafka_errors.KafkaError, ConfigError, OSError, TimeoutError) as error:
            self._say(f"no producer: {error}")
            await self._end(producer)
            return None
        return producer

    async def _produce(self, producer: Any, letter: _Letter) -> None:
        record = letter.record
        key = record.key
        if key is None and record.value is None:
            key = b""  # aiokafka refuses a record without either; this is the one thing altered
        self._in_flight += 1
        try:
            future = await producer.send(
                self.topic,
                record.value,
                key=key,
                timestamp_ms=record.timestamp_ms if record.timestamp_ms >= 0 else None,
                headers=letter.headers,
            )
        except asyncio.CancelledError:
            self._give_back(letter, "failed")
            raise
        except (kafka_errors.KafkaError, ValueError, TypeError, OSError) as error:
            self._say(f"{type(error).__name__}: {error}")
            self._give_back(letter, "failed")
        else:
            future.add_done_callback(lambda done: self._acknowledged(letter, done))

    def _acknowledged(self, letter: _Letter, done: asyncio.Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            self._say(f"{type(error).__name__}: {error}" if error else "not acknowledged")
            self._give_back(letter, "failed")
        else:
            self._give_back(letter, "sent")

    def _give_back(self, letter: _Letter, outcome: str) -> None:
        self._in_flight -= 1
        with self._lock:
            self._held_bytes -= letter.size_bytes
        self._settle(outcome)

    def _settle(self, outcome: str) -> None:
        self._telemetry.add("inferometer.dead_letters", outcome=outcome)
        with self._lock:
            if not self._queue and self._in_flight == 0:
                self._settled.set()

    def _note_arrival(self) -> None:
        with self._lock:
            if self._queue:
                self._settled.clear()
        self._arrived.set()

    def _next(self) -> _Letter | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    async def _end(self, producer: Any) -> None:
        if producer is None:
            return
        stop = asyncio.ensure_future(producer.stop())
        await asyncio.wait({stop}, timeout=_END_S)
        if stop.done() and not stop.cancelled():
            stop.exception()  # looked at: it is over either way
        stop.cancel()

    def _say(self, what: str) -> None:
        if self._announcer.may_say("trouble"):
            log.warning("dead letters to %r: %s", self.topic, what)
