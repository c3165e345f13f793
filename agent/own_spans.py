"""The agent's own spans: consume and cut for each chunk with rows, seal for each window, export.

    consume ──child──► cut ──child──► seal
                        ▲
    export ───link──────┘   (to the cuts that the snapshot is the first to hold, at most MAX_LINKS)

Few by construction: one consume and one cut each `delivery.cut_interval_s`, and only with rows.
"""

from __future__ import annotations

import time
from collections import deque

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer

from agent.fold.effects import Effects
from agent.types import Chunk

#: Cuts that one export span links to; of more, the newest.
MAX_LINKS = 32


class OwnSpans:
    """Writes the agent's own spans to one tracer. On the loop."""

    def __init__(self, tracer: Tracer, group_id: str) -> None:
        self._tracer = tracer
        self._group_id = group_id
        self._cuts: deque[trace.SpanContext] = deque(maxlen=MAX_LINKS)
        self._last_cut_ns = time.time_ns()

    def folded(self, chunk: Chunk, cut_ns: int, effects: Effects) -> None:
        """A chunk has been cut at `cut_ns` (epoch) and folded by now."""
        began_ns, self._last_cut_ns = self._last_cut_ns, cut_ns
        if not chunk.tally.records:
            return
        now_ns = time.time_ns()
        consume = self._tracer.start_span(
            "consume",
            kind=SpanKind.CONSUMER,
            start_time=began_ns,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "poll",
                "messaging.operation.type": "receive",
                "messaging.consumer.group.name": self._group_id,
                "messaging.batch.message_count": chunk.tally.records,
            },
        )
        consume.end(cut_ns)
        cut = self._tracer.start_span(
            "cut",
            context=trace.set_span_in_context(consume),
            start_time=cut_ns,
            attributes={
                "inferometer.chunk": chunk.number,
                "inferometer.epoch": chunk.epoch,
                "inferometer.rows": chunk.tally.rows,
                "inferometer.groups": len(chunk.groups),
            },
        )
        inside_cut = trace.set_span_in_context(cut)
        for window in sorted({profile.window for profile in effects.sealed}):
            profiles = [profile for profile in effects.sealed if profile.window == window]
            seal = self._tracer.start_span(
                "seal",
                context=inside_cut,
                start_time=cut_ns,
                attributes={
                    "inferometer.window.start_ms": window * profiles[0].width_ms,
                    "inferometer.window.streams": len(profiles),
                    "inferometer.window.rows": sum(profile.rows for profile in profiles),
                },
            )
            seal.end(now_ns)
        cut.end(now_ns)
        self._cuts.append(cut.get_span_context())

    def exported(self, began_ns: int, points: int, accepted: bool, message: str) -> None:
        """An export that began at `began_ns` has ended by now."""
        links = [Link(context) for context in self._cuts]
        if accepted:
            self._cuts.clear()
        span = self._tracer.start_span(
            "export",
            kind=SpanKind.CLIENT,
            start_time=began_ns,
            links=links,
            attributes={"inferometer.points": points, "inferometer.accepted": accepted},
        )
        if not accepted:
            span.set_status(Status(StatusCode.ERROR, message))
        span.end(time.time_ns())
