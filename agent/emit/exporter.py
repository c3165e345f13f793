"""Metric snapshots -> a receiver, one export in flight, memory bounded to one encoded export.

Invariants
1. At most one export is in flight; its bytes, and nothing older, are what a retry sends.
2. `Outcome.accepted` means: every request of this snapshot was answered with success. Points that
   the receiver refused in a partial success, and points dropped here as too large, are counted and
   do not hold it back: sending them again would be refused again, for ever.
3. A request refused for good is not sent again; the snapshot's other requests still are. Its
   outcome is REJECTED: the receiver does not hold this snapshot, and the caller decides.
4. Without an answer for `patience_s`, an export is UNANSWERED and its bytes are dropped. Cumulative
   points lose nothing by that: the next snapshot holds them. Delta points neither: only accepted
   requests move their reference (`delta`).
5. Every point is counted once: accepted, rejected, dropped, or in a later snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.emit.backoff import Backoff
from agent.emit.complaints import Complaints
from agent.emit.delta import DeltaConverter
from agent.emit.environment import ExportSettings
from agent.emit.otlp_metrics import Body, Encoded, MetricEncoder
from agent.emit.resource import AgentResource
from agent.emit.transport import OtlpTransport
from agent.errors import PermanentExportError, TransientExportError
from agent.telemetry import Telemetry
from agent.types import Partition, Snapshot

log = logging.getLogger(__name__)

#: More points than this are encoded in a thread: 300 histograms take about a millisecond.
INLINE_POINTS = 300

#: A request is closed at this size: larger ones save little CPU, and cost memory while they are sent.
REQUEST_BYTES = 1 << 20


class Verdict(enum.StrEnum):
    """What became of a snapshot."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # at least one request was refused for good
    UNANSWERED = "unanswered"  # given up; a newer snapshot takes its place


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one export. `covers` are the snapshot's offsets, to commit when it is accepted."""

    verdict: Verdict
    n_accepted: int = 0
    n_rejected: int = 0  # refused by the receiver, in whole or in part
    n_dropped: int = 0  # larger than a request may be
    message: str = ""
    covers: dict[Partition, int] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether commits may follow."""
        return self.verdict is Verdict.ACCEPTED


class MetricExporter:
    """Exports snapshots of metrics to one receiver.

    `patience_s` is how long one snapshot is retried before a newer one is worth more; by default
    the export interval.
    """

    def __init__(
        self,
        client: OtlpTransport,
        settings: ExportSettings,
        resource: AgentResource,
        telemetry: Telemetry,
        *,
        patience_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._settings = settings.metrics
        self._telemetry = telemetry
        self._patience_s = settings.interval_s if patience_s is None else patience_s
        self._clock = clock
        self._encoder = MetricEncoder(
            resource.encoded,
            resource.scope,
            max_bytes=settings.metrics.max_request_bytes,
            target_bytes=REQUEST_BYTES,
        )
        self._delta = DeltaConverter() if settings.temporality == "delta" else None
        self._backoff = Backoff(settings.metrics.retry_initial_s, settings.metrics.retry_max_s)
        self._complaints = Complaints(log, clock=clock)
        self._turn = asyncio.Lock()
        self._encoding = threading.Lock()
        self._hurried = asyncio.Event()
        self._scope: asyncio.Timeout | None = None

    async def export(self, snapshot: Snapshot, *, patience_s: float | None = None) -> Outcome:
        """Send one snapshot; returns when it is accepted, rejected, or not worth waiting for.

        Never raises an ExportError. Cancellation leaves the exporter usable.
        """
        return await self._export(snapshot, self._patience_s if patience_s is None else patience_s)

    async def _export(
        self, snapshot: Snapshot, patience_s: float, *, urgent: bool = False
    ) -> Outcome:
        async with self._turn:
            self._hurried.clear()
            limit = self._clock() + patience_s
            if urgent:
                self._backoff.not_before = 0.0
            if self._backoff.not_before > limit:
                return self._unanswered(snapshot, "the receiver asked for more time")
            encoded = await self._encode(snapshot)
            return await self._send_all(snapshot, encoded, limit)

    async def flush(self, snapshot: Snapshot, timeout_s: float) -> Outcome:
        """The last export before a stop: ends the one in flight, then tries within `timeout_s`."""
        started = self._clock()
        self.hurry()
        try:
            async with asyncio.timeout(timeout_s):
                left_s = max(0.0, timeout_s - (self._clock() - started))
                return await self._export(snapshot, left_s, urgent=True)
        except TimeoutError:
            return self._unanswered(snapshot, f"no answer within {timeout_s} s")

    def hurry(self) -> None:
        """Give up the export in flight, if any: it returns UNANSWERED at once."""
        self._hurried.set()
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # its scope has just ended
                self._scope.reschedule(0.0)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    # -- encode

    async def _encode(self, snapshot: Snapshot) -> Encoded:
        n_points = sum(len(metric.points) for metric in snapshot.metrics)
        if n_points <= INLINE_POINTS:
            return self._encode_now(snapshot)
        return await asyncio.to_thread(self._encode_now, snapshot)

    def _encode_now(self, snapshot: Snapshot) -> Encoded:
        with self._encoding:  # a cancelled export may have left a thread at work
            if self._delta is None:
                return self._encoder.encode(snapshot.metrics)
            metrics = self._delta.convert(snapshot.metrics)
            return self._encoder.encode(metrics, is_delta=True, keep_points=True)

    # -- send

    async def _send_all(self, snapshot: Snapshot, encoded: Encoded, limit: float) -> Outcome:
        n_accepted = n_rejected = 0
        refusal = ""
        if encoded.n_dropped:
            self._count_points("dropped", encoded.n_dropped)
            self._telemetry.add(
                "inferometer.export.failures",
                encoded.n_dropped,
                signal="metrics",
                outcome="too_large",
            )
            self._complaints.say(
                "too_large",
                f"{encoded.n_dropped} points are larger than export.otlp.max_request_bytes ({self._settings.max_request_bytes}) and were dropped; raise it",
            )
        for body in encoded.bodies:
            try:
                accepted = await self._send_until(body, limit)
            except PermanentExportError as error:
                refusal = refusal or str(error)
                n_rejected += body.n_points
                self._count_points("rejected", body.n_points)
                continue
            except TransientExportError as error:
                return Outcome(
                    Verdict.UNANSWERED,
                    n_accepted,
                    n_rejected,
                    encoded.n_dropped,
                    str(error),
                    snapshot.covers,
                )
            n_accepted += body.n_points - accepted
            n_rejected += accepted
        return Outcome(
            Verdict.REJECTED if refusal else Verdict.ACCEPTED,
            n_accepted,
            n_rejected,
            encoded.n_dropped,
            refusal,
            snapshot.covers,
        )

    async def _send_until(self, body: Body, limit: float) -> int:
        """Send one request until it is answered; returns the points refused in a partial success.

        Raises PermanentExportError, or TransientExportError when `limit` comes first.
        """
        while True:
            await self._pause()
            if self._hurried.is_set():
                raise TransientExportError("gave way to a newer snapshot")
            try:
                return await self._send_once(body)
            except TransientExportError as error:
                due = self._backoff.failed(self._clock(), error.retry_after_s)
                self._complaints.say("transient", f"export of metrics failed, will go on: {error}")
                if due > limit:
                    raise

    async def _pause(self) -> None:
        wait_s = self._backoff.not_before - self._clock()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()

    async def _send_once(self, body: Body) -> int:
        started = self._clock()
        outcome = "transient"
        try:
            # The client keeps its own time limit; this one catches what escapes it, and `hurry`.
            async with asyncio.timeout(self._settings.timeout_s + 1.0) as self._scope:
                accepted = await self._client.send(body.data)
            outcome = "accepted"
        except (TransientExportError, TimeoutError) as error:
            self._count_failure(outcome)
            if isinstance(error, TransientExportError):
                raise
            raise TransientExportError(f"{self._settings.place} did not answer in time") from None
        except PermanentExportError as error:
            outcome = "permanent"
            self._count_failure(outcome)
            self._backoff.succeeded()
            self._complaints.say("permanent", f"metrics were refused for good: {error}")
            raise
        finally:
            self._scope = None
            self._telemetry.record(
                "inferometer.export.duration",
                self._clock() - started,
                signal="metrics",
                outcome=outcome,
            )
        self._backoff.succeeded()
        if self._delta is not None:
            self._delta.accept(body.points)
        n_rejected = min(accepted.n_rejected, body.n_points)
        self._count_points("accepted", body.n_points - n_rejected)
        self._telemetry.add("inferometer.export.bytes", len(body.data), signal="metrics")
        if n_rejected:
            self._count_points("rejected", n_rejected)
            self._complaints.say(
                "partial",
                f"{self._settings.place} refused {n_rejected} of {body.n_points} points: {accepted.message}",
            )
        return n_rejected

    def _unanswered(self, snapshot: Snapshot, message: str) -> Outcome:
        return Outcome(Verdict.UNANSWERED, message=message, covers=snapshot.covers)

    def _count_points(self, outcome: str, n: int) -> None:
        self._telemetry.add("inferometer.export.points", n, signal="metrics", outcome=outcome)

    def _count_failure(self, outcome: str) -> None:
        self._telemetry.add("inferometer.export.failures", signal="metrics", outcome=outcome)
