"""Which requests become spans, and under which ids (docs/decisions/0004-export.md).

Kept are: errors, requests slower than the stream's last sealed 99th percentile, requests with a
value out of its declared range, and a base rate of the rest.

Invariants
1. Ids are a fixed hash of (lineage, topic, partition, offset, row): a replay makes the same spans.
2. The base rate is decided by the low 56 bits of the trace id against a threshold, so every sampler
   that does the same keeps the same traces; the threshold stands in the trace state as `ot=th:`.
3. Nothing is added to a trace that its origin did not sample. An error, slow or out-of-range row of
   such a request becomes a trace of its own, which links to it.
4. At most `max_per_s` spans a second; half of a second's budget is kept for errors.
5. What the budget refuses is counted exactly, and costs no Python object.
6. Between two cuts at most 4096 spans, or what the budget gives in ten seconds: they wait in memory,
   and a cut waits for its commit.

A row alone in its event is a child of the event's trace context. Rows of a batch cannot all be: each
is a trace of its own that links to the context. So is a row without context, but for the link.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from agent.config import Feature, Traces
from agent.decode.candidates import WHY, Facts, Found, RowView, StreamRules
from agent.decode.kernels.candidates import ERROR
from agent.decode.span_ids import Seeds, ids, seeds
from agent.decode.trace_context import (
    is_sound,
    parse_traceparent,
    rejection_threshold,
    threshold_in,
    with_threshold,
)
from agent.types import Column, Partition, RequestSpan, SpanWhy, StreamKey

#: Longest status and request id of a span, in characters.
MAX_TEXT = 200

#: Spans of one sampler between two cuts, at least; and at most, in seconds of its budget. A cut comes
#: every second as long as commits are answered.
MAX_A_CUT, MAX_A_CUT_S = 4096, 10.0

#: Part of the budget of one second that only errors may use.
RESERVED_FOR_ERRORS = 0.5

#: Latest end and longest request of a span: 2262, 31 years.
_LAST_MS, _LONGEST_S = (1 << 63) // 1_000_000 - 1, 1e9

#: Partitions whose seeds are kept.
_MAX_SEEDS = 10_000


class SpanSampler:
    """Decides which rows of a block become spans: `choose`, then `span` for each of the few.

    `slow_above_s` maps a stream to its last sealed 99th percentile of latency; replace the whole
    mapping to change it. `limits` are the declared ranges by feature name.

    Safe to share between kernel threads. Memory: three words a partition.
    """

    def __init__(
        self,
        traces: Traces,
        features: Mapping[str, Feature],
        *,
        clock: Callable[[], float] = time.monotonic,
        share: float = 1.0,
    ) -> None:
        """`share` is this sampler's part of the budget, when several work side by side."""
        self.slow_above_s: dict[StreamKey, float] = {}
        self.limits: dict[str, tuple[float, float]] = {
            name: (
                -math.inf if feature.min is None else feature.min,
                math.inf if feature.max is None else feature.max,
            )
            for name, feature in features.items()
            if feature.min is not None or feature.max is not None
        }
        self._slow = traces.slow
        self._never_slow: dict[StreamKey, float] = {}
        self._threshold = rejection_threshold(traces.base_rate)
        self._budget = _Budget(traces.max_per_s * share, clock)
        self._lock = threading.Lock()
        self._most = max(MAX_A_CUT, math.ceil(traces.max_per_s * share * MAX_A_CUT_S))
        self._since_cut = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seeds: dict[tuple[str, Partition], Seeds] = {}

    def choose(
        self, view: RowView, rules: StreamRules, partition: Partition, lineage: str
    ) -> Found:
        """Rows of the block that become spans; good until the next call. What the budget refuses is counted.

        About 10 ns a row, and 10 us a block.
        """
        slow_above_s = self.slow_above_s if self._slow else self._never_slow
        seed = self._seeds_of(lineage, partition)[1]
        found = rules.find(view, slow_above_s, self._threshold, seed)
        if not len(found):
            return found
        why = found.why.tobytes()
        with self._lock:
            n_any, n_errors = self._budget.take(why)
            room = self._most - self._since_cut
            n_any, n_errors = min(n_any, room), min(n_errors, max(0, room - n_any))
            self._since_cut += n_any + n_errors
            if n_any + n_errors == len(why):
                return found
            for code in WHY:
                refused = why.count(code, n_any) - (n_errors if code == ERROR else 0)
                if refused:
                    self._counts["over_budget", WHY[code].value] += refused
        if not n_errors:
            return Found(found.rows[:n_any], found.why[:n_any])
        granted = found.why == ERROR
        granted[:n_any] = True
        kept = np.flatnonzero(granted)[: n_any + n_errors]
        return Found(found.rows[kept], found.why[kept])

    def span(
        self,
        why: SpanWhy,
        facts: Facts,
        stream: StreamKey,
        end_ms: int,
        place: tuple[Partition, str],
        out_of_range: tuple[Column, ...],
    ) -> RequestSpan:
        """The span of a row that was chosen; `place`: its partition and lineage."""
        partition, lineage = place
        trace_id, span_id = ids(self._seeds_of(lineage, partition), facts.offset, facts.row)
        context = None if facts.traceparent is None else parse_traceparent(facts.traceparent)
        trace_state = ""
        is_child = False
        if context is not None:
            is_child = bool(context[2] & 1) and facts.n_rows == 1
            if is_child:
                trace_id = context[0]
                trace_state = facts.tracestate if is_sound(facts.tracestate) else ""
        threshold = None
        if why is SpanWhy.BASE_RATE:
            threshold = max(self._threshold, threshold_in(trace_state))
        # An event may claim any time and any latency; OTLP has 64 bits for a time.
        end_ns = min(max(end_ms, 0), _LAST_MS) * 1_000_000
        latency_ns = round(min(facts.latency_s or 0.0, _LONGEST_S) * 1e9)
        return RequestSpan(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=context[1] if context is not None and is_child else b"",
            link=None if context is None or is_child else (context[0], context[1]),
            trace_state=with_threshold(trace_state, threshold),
            start_ns=max(end_ns - latency_ns, 0),
            end_ns=end_ns,
            stream=stream,
            why=why,
            status=facts.status[:MAX_TEXT],
            request_id=facts.request_id[:MAX_TEXT],
            partition=partition,
            offset=facts.offset,
            row=facts.row,
            sampling_threshold=threshold,
            out_of_range=out_of_range,
        )

    def take_counts(self) -> Counter[tuple[str, str]]:
        """Spans that were refused, by ("over_budget", why), since the last call: at a cut."""
        with self._lock:
            self._since_cut = 0
            counts, self._counts = self._counts, Counter()
            return counts

    def _seeds_of(self, lineage: str, partition: Partition) -> Seeds:
        found = self._seeds.get((lineage, partition))
        if found is None:
            if len(self._seeds) >= _MAX_SEEDS:  # partitions that came and went
                self._seeds.clear()
            found = self._seeds[lineage, partition] = seeds(lineage, partition)
        return found


class _Budget:
    """A token bucket of one second's spans; the lower half of it is for errors alone."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s) if per_s > 0 else 0.0
        # A bucket of one token has no half to keep: it goes to whoever comes first.
        self._floor = 0.0 if self._size < 2.0 else self._size * RESERVED_FOR_ERRORS
        self._clock = clock
        self._tokens = self._size
        self._filled_at = clock()

    def take(self, why: bytes) -> tuple[int, int]:
        """How many of these, in order, get a token each: the first so many; behind them, so many of the errors.

        why  code of each

        One after the other: each takes one while there is one, those that are no errors only while
        the reserve stays whole. So the first of them all get theirs, and after those only errors.
        """
        now = self._clock()
        added = max(0.0, now - self._filled_at) * self._per_s
        self._tokens = min(self._size, self._tokens + added)
        self._filled_at = now
        n_any = min(int(max(0.0, self._tokens - self._floor)), len(why))
        n_errors = min(int(self._tokens) - n_any, why.count(ERROR, n_any))
        self._tokens -= n_any + n_errors
        return n_any, n_errors
