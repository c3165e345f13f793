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
from agent.emit.environment import ExportSettings
from agent.emit.otlp_traces import encode_own_span, encode_request_span, pack_spans
from agent.emit.request_sender import RequestSender
from agent.emit.resource import SCOPE_NAME, AgentResource
from agent.emit.transport import OtlpTransport
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
        self._max_request_bytes = settings.traces.max_request_bytes
        self._resource = resource
        self._telemetry = telemetry
        self._max_spans = max_spans
        self._queue: deque[RequestSpan | ReadableSpan] = deque()
        self._filled = asyncio.Event()
        self._sender = RequestSender(
            client,
            settings.traces,
            telemetry,
            log,
            signal="traces",
            what="spans",
            patience_s=PATIENCE_S,
            repeats_uncertain=False,
            clock=clock,
        )

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
            await self._sender.drain(self._queue, self._send_batch)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Send what is queued now, each request once, within `timeout_s`; the rest is dropped and counted."""
        await self._sender.flush(self._queue, self._send_batch, timeout_s)

    async def close(self) -> None:
        """Close connections."""
        await self._sender.close()

    # -- one batch

    def _enqueue(self, span: RequestSpan | ReadableSpan, why: str) -> None:
        if len(self._queue) >= self._max_spans:
            self._telemetry.add("inferometer.spans", outcome="queue_full", why=why)
            self._sender.complaints.say(
                "full", f"the queue of {self._max_spans} spans is full; dropping"
            )
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
            max_bytes=self._max_request_bytes,
        )
        if n_dropped:
            self._sender.count("dropped", n_dropped)
            self._sender.complaints.say(
                "too_large", f"{n_dropped} spans are larger than a request may be"
            )
        unsent = sum(n_spans for _, n_spans in requests)
        try:
            for data, n_spans in requests:
                for outcome, n in (await self._sender.send(data, n_spans)).items():
                    self._sender.count(outcome, n)
                unsent -= n_spans
        finally:
            self._sender.count("dropped", unsent)  # above zero only when cancelled


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
