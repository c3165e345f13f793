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

A row alone in its event is a child of the event's trace context. Rows of a batch cannot all be: each
is a trace of its own that links to the context. So is a row without context, but for the link.

Sources: W3C Trace Context, section 3.2; OpenTelemetry "TraceState: Probability Sampling".
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from agent.config import Feature, Traces
from agent.types import Column, Partition, RequestSpan, SpanWhy, StreamKey

_BITS = 56
_DIGITS = _BITS // 4

#: Significant digits of a threshold after its leading `f`s, as the specification advises.
THRESHOLD_PRECISION = 4

#: Longest status and request id of a span, in characters.
MAX_TEXT = 200

#: Part of the budget of one second that only errors may use.
RESERVED_FOR_ERRORS = 0.5

#: W3C asks for at least 512 characters to be passed on; what is longer is left out.
MAX_TRACE_STATE = 512

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_RANDOMNESS = re.compile(r"(?:^|[,\s])ot=(?:[^,]*;)?rv:([0-9a-f]{14})(?:[;,\s]|$)")
_PLACE = struct.Struct(">qI").pack


def parse_traceparent(text: str) -> tuple[bytes, bytes, int] | None:
    """Trace id, parent span id and flags of a W3C traceparent; None when it is not valid.

    Version 00 is exactly 55 characters. A higher version may be longer, after another `-`; version
    ff, ids of zeros and upper-case digits are refused.
    """
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return bytes.fromhex(found[2]), bytes.fromhex(found[3]), int(found[4], 16)


def rejection_threshold(rate: float) -> int:
    """The 56-bit number below which a trace's randomness is not kept; 2^56 when nothing is.

    Rounded to `THRESHOLD_PRECISION` digits after the leading `f`s, so that it stays short in the
    trace state: the rate kept differs from the one asked for by less than 1 part in 1000.
    """
    if rate <= 0:
        return 1 << _BITS
    threshold = round((1 - min(rate, 1.0)) * (1 << _BITS))
    text = f"{threshold:0{_DIGITS}x}"
    precision = len(text) - len(text.lstrip("f")) + THRESHOLD_PRECISION
    step = 1 << 4 * max(0, _DIGITS - precision)
    return min(round(threshold / step) * step, (1 << _BITS) - 1)


def with_threshold(trace_state: str, threshold: int | None) -> str:
    """The trace state with `th` of its `ot` member set, or taken away when None; `ot` comes first."""
    members = [member.strip() for member in trace_state.split(",") if member.strip()]
    ours = next((member for member in members if member.startswith("ot=")), "ot=")
    parts = [part for part in ours[3:].split(";") if part and not part.startswith("th:")]
    if threshold is not None:
        parts.insert(0, f"th:{f'{threshold:0{_DIGITS}x}'.rstrip('0') or '0'}")
    others = [member for member in members if not member.startswith("ot=")]
    return ",".join(([f"ot={';'.join(parts)}"] if parts else []) + others)


def threshold_in(trace_state: str) -> int:
    """The threshold that an upstream sampler wrote; 0 (everything is kept) when there is none."""
    for member in trace_state.split(","):
        if member.strip().startswith("ot="):
            for part in member.strip()[3:].split(";"):
                if part.startswith("th:") and 1 <= len(part) - 3 <= _DIGITS:
                    try:
                        return int(part[3:].ljust(_DIGITS, "0"), 16)
                    except ValueError:
                        return 0
    return 0


class SpanSampler:
    """Decides for each row whether its request becomes a span.

    `slow_above_s` maps a stream to its last sealed 99th percentile of latency; replace the whole
    mapping to change it. `limits` are the declared ranges by feature name, for the decoder.

    Safe to share between kernel threads: the path of a kept row takes a lock, the common row none.
    Common row: 0.4-0.8 us. Memory: one hash state per partition.
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
        self._threshold = rejection_threshold(traces.base_rate)
        # Lower-case hexadecimal texts of one length compare as their numbers do. "g" is above all.
        self._threshold_text = (
            f"{self._threshold:0{_DIGITS}x}" if self._threshold < 1 << _BITS else "g"
        )
        self._threshold_bytes = (
            self._threshold.to_bytes(7, "big") if self._threshold < 1 << _BITS else b"\xff" * 8
        )
        self._budget = _Budget(traces.max_per_s * share, clock)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._hashes: dict[tuple[str, Partition], Callable[[], hashlib.blake2b]] = {}
        self._last: tuple[str, Partition | None, Callable[[], hashlib.blake2b]] = (
            "",
            None,
            hashlib.blake2b,
        )

    def consider(
        self,
        *,
        stream: StreamKey,
        partition: Partition,
        lineage: str,
        offset: int,
        row: int,
        n_rows: int,
        end_ms: int,
        latency_s: float | None,
        status: str,
        request_id: str,
        traceparent: str | None,
        tracestate: str,
        out_of_range: tuple[Column, ...] = (),
    ) -> RequestSpan | None:
        """The span of one row, or None. `status` is "" for a success; `latency_s` is not negative.

        A `traceparent` that is not valid counts as absent.
        """
        if status:
            why = SpanWhy.ERROR
        elif (
            latency_s is not None
            and self._slow
            and latency_s > self.slow_above_s.get(stream, math.inf)
        ):
            why = SpanWhy.SLOW
        elif out_of_range:
            why = SpanWhy.OUT_OF_RANGE
        else:
            why = SpanWhy.BASE_RATE
            if traceparent is not None and n_rows == 1 and len(traceparent) >= 55:
                # Most rows end here. What passes is checked in full below.
                if traceparent[21:35] < self._threshold_text and "rv:" not in tracestate:
                    return None
            elif self._ids(lineage, partition, offset, row)[9:16] < self._threshold_bytes:
                return None
        return self._keep(
            why,
            stream,
            partition,
            lineage,
            offset,
            row,
            n_rows,
            end_ms,
            latency_s,
            status,
            request_id,
            traceparent,
            tracestate,
            out_of_range,
        )

    def take_counts(self) -> Counter[tuple[str, str]]:
        """Spans that the budget refused, by ("over_budget", why), since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            return counts

    def _keep(
        self,
        why: SpanWhy,
        stream: StreamKey,
        partition: Partition,
        lineage: str,
        offset: int,
        row: int,
        n_rows: int,
        end_ms: int,
        latency_s: float | None,
        status: str,
        request_id: str,
        traceparent: str | None,
        tracestate: str,
        out_of_range: tuple[Column, ...],
    ) -> RequestSpan | None:
        ids = self._ids(lineage, partition, offset, row)
        if not any(ids[:16]) or not any(ids[16:]):
            ids = bytes(byte or 1 for byte in ids)
        context = None if traceparent is None else parse_traceparent(traceparent)
        trace_state = tracestate if context is not None and _is_sound(tracestate) else ""
        is_sampled = context is None or bool(context[2] & 1)
        is_child = context is not None and is_sampled and n_rows == 1
        trace_id = context[0] if context is not None and is_child else ids[:16]
        threshold = None
        if why is SpanWhy.BASE_RATE:
            if not is_sampled:
                return None
            randomness = int.from_bytes(trace_id[9:], "big")
            if is_child:
                if found := _RANDOMNESS.search(trace_state):
                    randomness = int(found[1], 16)
                threshold = max(self._threshold, threshold_in(trace_state))
            else:
                threshold = self._threshold
            if randomness < self._threshold:
                return None
        with self._lock:
            if not self._budget.take(is_error=why is SpanWhy.ERROR):
                self._counts["over_budget", why.value] += 1
                return None
        end_ns = end_ms * 1_000_000
        return RequestSpan(
            trace_id=trace_id,
            span_id=ids[16:],
            parent_span_id=context[1] if context is not None and is_child else b"",
            link=None if context is None or is_child else (context[0], context[1]),
            trace_state=with_threshold(trace_state if is_child else "", threshold),
            start_ns=end_ns if latency_s is None else end_ns - round(latency_s * 1e9),
            end_ns=end_ns,
            stream=stream,
            why=why,
            status=status[:MAX_TEXT],
            request_id=request_id[:MAX_TEXT],
            partition=partition,
            offset=offset,
            row=row,
            sampling_threshold=threshold,
            out_of_range=out_of_range,
        )

    def _ids(self, lineage: str, partition: Partition, offset: int, row: int) -> bytes:
        """24 bytes: a trace id and a span id (all zeros, which are not valid, once in 2^64)."""
        last_lineage, last_partition, copy = self._last
        if lineage is not last_lineage or partition is not last_partition:
            copy = self._hashes.get((lineage, partition)) or self._seed(lineage, partition)
            self._last = (lineage, partition, copy)  # one assignment: safe when shared
        state = copy()
        state.update(_PLACE(offset, row))
        return state.digest()

    def _seed(self, lineage: str, partition: Partition) -> Callable[[], hashlib.blake2b]:
        """The hash state after the parts that all rows of a partition share."""
        state = hashlib.blake2b(digest_size=24, person=b"inferometer span")
        for part in (lineage.encode(), partition.topic.encode("utf-8", "replace")):
            state.update(struct.pack(">I", len(part)) + part)
        state.update(struct.pack(">i", partition.partition))
        if len(self._hashes) >= 10_000:  # partitions that came and went
            self._hashes.clear()
        self._hashes[lineage, partition] = state.copy
        return state.copy


class _Budget:
    """A token bucket of one second's spans; the lower half of it is for errors alone."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s) if per_s > 0 else 0.0
        self._clock = clock
        self._tokens = self._size
        self._filled_at = clock()

    def take(self, *, is_error: bool) -> bool:
        """Take one token if the rules allow."""
        now = self._clock()
        added = max(0.0, now - self._filled_at) * self._per_s
        self._tokens = min(self._size, self._tokens + added)
        self._filled_at = now
        # A bucket of one token has no half to keep: it goes to whoever comes first.
        floor = 0.0 if is_error or self._size < 2.0 else self._size * RESERVED_FOR_ERRORS
        if self._tokens < 1.0 or self._tokens - 1.0 < floor:
            return False
        self._tokens -= 1.0
        return True


def _is_sound(trace_state: str) -> bool:
    return (
        0 < len(trace_state) <= MAX_TRACE_STATE
        and trace_state.isascii()
        and trace_state.isprintable()
    )
