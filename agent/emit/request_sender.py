"""Sends one request until it has an outcome: what exporters of spans and of log events have in common.

    accepted, rejected   as the receiver says, a part of a request each
    dropped              given up: `patience_s` is over, the process stops, or the request may have arrived

Pauses between tries are those of the receiver and of `Backoff`, across requests. A failure is counted and, now and
then, said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from agent.emit.backoff import Backoff
from agent.emit.complaints import Complaints
from agent.emit.environment import SignalSettings
from agent.emit.transport import OtlpTransport, UncertainExportError
from agent.errors import PermanentExportError, TransientExportError
from agent.telemetry import Telemetry

Outcome = Literal["accepted", "rejected", "dropped"]


class RequestSender:
    """One request at a time: `drain` and `flush` take turns. On one loop.

    signal             logs or traces, as telemetry names it; `what`: the plural of one thing, for people
    repeats_uncertain  whether a request that may have arrived is sent again: at least once, or at most once
    """

    def __init__(
        self,
        client: OtlpTransport,
        settings: SignalSettings,
        telemetry: Telemetry,
        log: logging.Logger,
        *,
        signal: Literal["logs", "traces"],
        what: str,
        patience_s: float,
        repeats_uncertain: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turn = asyncio.Lock()
        self.complaints = Complaints(log, clock=clock)
        self._client = client
        self._telemetry = telemetry
        self._signal = signal
        self._what = what
        self._patience_s = patience_s
        self._repeats_uncertain = repeats_uncertain
        self._clock = clock
        self._backoff = Backoff(settings.retry_initial_s, settings.retry_max_s)
        self._hurried = asyncio.Event()

    async def drain(self, queue: deque[Any], send_batch: Callable[[], Awaitable[None]]) -> None:
        """Send batches until nothing waits in `queue`, from which `send_batch` takes what it sends."""
        async with self._turn:
            while queue:
                await send_batch()

    async def flush(
        self, queue: deque[Any], send_batch: Callable[[], Awaitable[None]], timeout_s: float
    ) -> None:
        """As `drain`, each request tried once, within `timeout_s`; the rest is dropped and counted."""
        self._hurried.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self.drain(queue, send_batch)
        except TimeoutError:
            n = len(queue)
            self.complaints.say("flush", f"{n} {self._what} were not sent in time")
            self.count("dropped", n)
            queue.clear()
        finally:
            self._hurried.clear()

    async def send(self, data: bytes, n: int) -> dict[Outcome, int]:
        """Send a request that holds `n` things; how many had which outcome."""
        limit = self._clock() + self._patience_s
        while True:
            await self._pause()
            started, how = self._clock(), "transient"
            try:
                accepted = await self._client.send(data)
                how = "accepted"
            except TransientExportError as error:
                self._count_failure(how)
                due = self._backoff.failed(self._clock(), error.retry_after_s)
                is_uncertain = isinstance(error, UncertainExportError)
                is_over = due > limit or self._hurried.is_set()
                is_over |= is_uncertain and not self._repeats_uncertain
                then = "dropped" if is_over else "will go on"
                self.complaints.say(
                    "transient", f"export of {n} {self._what} failed, {then}: {error}"
                )
                if is_over:
                    return {"dropped": n}
                continue
            except PermanentExportError as error:
                how = "permanent"
                self._count_failure(how)
                self._backoff.succeeded()
                self.complaints.say("permanent", f"{n} {self._what} were refused for good: {error}")
                return {"rejected": n}
            finally:
                took_s = self._clock() - started
                self._telemetry.record(
                    "inferometer.export.duration", took_s, signal=self._signal, outcome=how
                )
            self._backoff.succeeded()
            self._telemetry.add("inferometer.export.bytes", len(data), signal=self._signal)
            n_rejected = min(accepted.n_rejected, n)
            if n_rejected:
                said = f"{n_rejected} of {n} {self._what} were refused: {accepted.message}"
                self.complaints.say("partial", said)
            return {"accepted": n - n_rejected, "rejected": n_rejected}

    def count(self, outcome: Outcome, n: int) -> None:
        """Add to what became of things."""
        if n:
            self._telemetry.add(
                "inferometer.export.points", n, signal=self._signal, outcome=outcome
            )

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _pause(self) -> None:
        wait_s = self._backoff.not_before - self._clock()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()

    def _count_failure(self, outcome: str) -> None:
        self._telemetry.add("inferometer.export.failures", signal=self._signal, outcome=outcome)
