"""Spans -> a receiver: a bounded queue, one sender task, at most once.

Invariants
1. The queue is bounded; a span that finds it full is dropped and counted.
2. A request span leaves at most once: a request that may have arrived (no answer) is not repeated.
   One that surely did not arrive (connection refused, "come back later") is, for a while.
3. Every span is counted once: `queue_full`, or accepted, rejected or dropped.

The agent's own spans come from an OpenTelemetry tracer (`tracer`), may end on any thread, and share
the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NoOpTracer, Tracer

from agent import __version__
from agent.emit.backoff import Backoff
from agent.emit.complaints import Complaints
from agent.emit.environment import ExportSettings
from agent.emit.otlp_traces import encode_own_span, encode_request_span, pack_spans
from agent.emit.resource import SCOPE_NAME, AgentResource
from agent.emit.transport import OtlpTransport, UncertainExportError
from agent.errors import PermanentExportError, TransientExportError
from agent.telemetry import Telemetry
from agent.types import RequestSpan

log = logging.getLogger(__name__)

#: Spans waiting; about 1 kB each. At the default budget of 50 a second: 40 s of a receiver's absence.
QUEUE_SPANS = 2048
#: Spans of one request, and the longest wait for it to fill.
BATCH_SPANS = 512
BATCH_WAIT_S = 1.0
#: How long one batch is tried again while it surely has not arrived.
PATIENCE_S = 30.0

OWN = "self"


class SpanExporter:
    """Sends request spans and the agent's own spans. `put` and the tracer never block."""

    def __init__(
        self,
        client: OtlpTransport,
        settings: ExportSettings,
        resource: AgentResource,
        telemetry: Telemetry,
        *,
        max_spans: int = QUEUE_SPANS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._settings = settings.traces
        self._resource = resource
        self._telemetry = telemetry
        self._max_spans = max_spans
        self._clock = clock
        self._queue: deque[RequestSpan | ReadableSpan] = deque()
        self._backoff = Backoff(settings.traces.retry_initial_s, settings.traces.retry_max_s)
        self._complaints = Complaints(log, clock=clock)
        self._turn = asyncio.Lock()
        self._filled = asyncio.Event()
        self._hurried = asyncio.Event()

    def put(self, spans: Iterable[RequestSpan]) -> None:
        """Queue request spans whose chunk counts. On the loop."""
        for span in spans:
            self._telemetry.add("inferometer.spans", outcome="kept", why=span.why.value)
            self._enqueue(span, span.why.value)
        if len(self._queue) >= BATCH_SPANS:
            self._filled.set()

    def put_own(self, span: ReadableSpan) -> None:
        """Queue a finished span of `tracer`. From any thread; it leaves with the next batch."""
        self._enqueue(span, OWN)

    def __len__(self) -> int:
        return len(self._queue)

    def tracer(self) -> Tracer:
        """A tracer whose finished spans go to this queue."""
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=self._resource.sdk, shutdown_on_exit=False
        )
        provider.add_span_processor(_ToQueue(self))
        return provider.get_tracer(SCOPE_NAME, __version__)

    async def run(self) -> None:
        """Send what is queued, every second or when a batch is full, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BATCH_WAIT_S):
                    await self._filled.wait()
            self._filled.clear()
            async with self._turn:
                while self._queue:
                    await self._send_batch()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Send what is queued now, each request once, within `timeout_s`; the rest is dropped and counted."""
        self._hurried.set()
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                while self._queue:
                    await self._send_batch()
        except TimeoutError:
            self._complaints.say("flush", f"{len(self._queue)} spans were not sent before the stop")
            self._count_lost(len(self._queue))
            self._queue.clear()
        finally:
            self._hurried.clear()

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    # -- one batch

    def _enqueue(self, span: RequestSpan | ReadableSpan, why: str) -> None:
        if len(self._queue) >= self._max_spans:
            self._telemetry.add("inferometer.spans", outcome="queue_full", why=why)
            self._complaints.say("full", f"the queue of {self._max_spans} spans is full; dropping")
            return
        if why == OWN:
            self._telemetry.add("inferometer.spans", outcome="kept", why=OWN)
        self._queue.append(span)

    async def _send_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
        requests, n_dropped = pack_spans(
            (
                encode_request_span(span)
                if isinstance(span, RequestSpan)
                else encode_own_span(span)
                for span in batch
            ),
            self._resource.encoded,
            self._resource.scope,
            max_bytes=self._settings.max_request_bytes,
        )
        if n_dropped:
            self._count_lost(n_dropped)
            self._complaints.say("too_large", f"{n_dropped} spans are larger than a request may be")
        unsent = sum(n_spans for _, n_spans in requests)
        try:
            for data, n_spans in requests:
                await self._send(data, n_spans)
                unsent -= n_spans
        finally:
            self._count_lost(unsent)  # above zero only when cancelled

    async def _send(self, data: bytes, n_spans: int) -> None:
        limit = self._clock() + PATIENCE_S
        while True:
            await self._pause()
            started, outcome = self._clock(), "transient"
            try:
                accepted = await self._client.send(data)
                outcome = "accepted"
            except TransientExportError as error:
                self._count_failure(outcome)
                due = self._backoff.failed(self._clock(), error.retry_after_s)
                is_over = isinstance(error, UncertainExportError) or due > limit
                self._complaints.say(
                    "transient",
                    f"export of {n_spans} spans failed, {'dropped' if is_over else 'will go on'}: {error}",
                )
                if is_over or self._hurried.is_set():
                    self._count_lost(n_spans)
                    return
                continue
            except PermanentExportError as error:
                outcome = "permanent"
                self._count_failure(outcome)
                self._count("rejected", n_spans)
                self._backoff.succeeded()
                self._complaints.say("permanent", f"{n_spans} spans were refused for good: {error}")
                return
            finally:
                self._telemetry.record(
                    "inferometer.export.duration",
                    self._clock() - started,
                    signal="traces",
                    outcome=outcome,
                )
            break
        self._backoff.succeeded()
        n_rejected = min(accepted.n_rejected, n_spans)
        self._count("accepted", n_spans - n_rejected)
        self._telemetry.add("inferometer.export.bytes", len(data), signal="traces")
        if n_rejected:
            self._count("rejected", n_rejected)
            self._complaints.say(
                "partial", f"{n_rejected} of {n_spans} spans were refused: {accepted.message}"
            )

    async def _pause(self) -> None:
        wait_s = self._backoff.not_before - self._clock()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()

    def _count_lost(self, n: int) -> None:
        if n:
            self._count("dropped", n)

    def _count(self, outcome: str, n: int) -> None:
        self._telemetry.add("inferometer.export.points", n, signal="traces", outcome=outcome)

    def _count_failure(self, outcome: str) -> None:
        self._telemetry.add("inferometer.export.failures", signal="traces", outcome=outcome)


class _ToQueue(SpanProcessor):
    """Hands finished spans to the queue."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        self._exporter.put_own(span)

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def self_tracer(exporter: SpanExporter | None, *, enabled: bool = True) -> Tracer:
    """The tracer of the agent's own spans (cut, seal, export, consume); one that does nothing when there is no exporter."""
    if exporter is None or not enabled:
        return NoOpTracer()
    return exporter.tracer()


def count_unsampled(telemetry: Telemetry, counts: Counter[tuple[str, str]]) -> None:
    """Add what `SpanSampler.take_counts` returned to self-telemetry."""
    for (outcome, why), n in counts.items():
        telemetry.add("inferometer.spans", n, outcome=outcome, why=why)
