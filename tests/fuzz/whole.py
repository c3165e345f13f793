"""The whole decoder, all tiers joined, beside the orjson decoder alone: each with a stream table of its own.

Records arrive in every form that decoders take: raw batches of all codecs and sizes, or record objects;
with and without trace context in headers; with the producer's or the broker's times; on label topics;
before and behind sealed windows. Not compared: records without timestamps, where the median time of a
slice decides what is too far ahead, and slices differ.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agent.config import Config, Traces
from agent.decode.events import Decoded, JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.raw_batches import table_of
from agent.decode.spans import SpanSampler
from agent.types import Fetch, Irregular, Partition, RawBatch, RawFetch, Record, StreamKey
from tests.fuzz.configurations import ALL
from tests.fuzz.digests import Digester, Outcome
from tests.fuzz.shapes import START_MS
from tests.fuzz.spellings import random_trace_parent
from tests.support.decoded import read_rows
from tests.support.raw_batches import CODECS, LOG_APPEND_TIME, batches_of, built

PARTITION = Partition("events", 0)
#: A budget that no round uses up: who gets the last of it would depend on the order of rows.
TRACES = Traces(base_rate=0.02, max_per_s=100_000)
EVERY_ROW = Traces(base_rate=1.0, max_per_s=100_000)
_STATES = (
    None,
    b"",
    b"ot=th:8",
    b"a=b",
    b"ot=rv:0123456789abcd",
    b"a=b,ot=th:c;rv:fedcba98765432",
    b"\xff",
    b"x" * 600,
)
_TRACES: tuple[tuple[tuple[str, bytes | None], ...], ...] = (
    (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),),
    (("TraceParent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), ("a", None)),
    (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),),
    (("traceparent", b"no trace context"), ("tracestate", b"a=b")),
    (("traceparent", b""), ("other", b"x" * 70)),
    (("traceparent", None), ("tracestate", b"ot=th:8")),
)


class WholeSubject:
    """Both decoders of one configuration, through many fetches.

    raw_share   of the fetches that come as raw batches
    """

    raw_share = 0.7

    def __init__(self, name: str, seed: str = "") -> None:
        config = ALL[name]
        self._rng = random.Random(f"{name}/{seed}")
        self._offset = 0
        # Now and then every row is a request span: its trace context and values in full.
        traces = EVERY_ROW if self._rng.random() < 0.1 else TRACES
        self._expected = Side(JsonDecoder, config, traces)
        self._found = self.fast_side(config, traces)
        self.passed_over = 0
        self._lessons: list[bytes] = []
        self._is_full = False
        self._accepted: Counter[str] = Counter()

    def fast_side(self, config: Config, traces: Traces) -> Side:
        return Side(FastDecoder, config, traces)

    def accepted(self) -> Counter[str]:
        return self._accepted

    def teach(self, records: list[bytes]) -> None:
        """The decoder teaches itself: these come first in what is decoded next."""
        self._lessons = records

    def check(self, records: list[bytes | None], gap: bytes) -> list[tuple[bytes, str]]:
        made = self._records([*self._lessons, *records])
        self._lessons = []
        is_label_topic = self._rng.random() < 0.08
        is_cut = self._rng.random() < 0.1
        is_cleared = is_cut and self._rng.random() < 0.5
        if self._is_full:  # nothing that comes later could be compared
            is_cut, is_cleared, self._is_full = True, True, False
        # The owner makes slices shorter while rows need new cells.
        self._found.decoder.slice_values = self._rng.choice((300, 2000, *(8192,) * 8))
        for side in (self._expected, self._found):
            if is_cleared:
                side.table.clear()
            if is_cut:
                side.start_over()
            side.decoder.sealed_until = (START_MS + 600_000) // 60_000
            side.decoder.now_ms = START_MS + 3_000_000
        return self._differences(made, is_label_topic)

    # ------------------------------------------------------------ comparing

    def _differences(self, records: list[Record], is_label_topic: bool) -> list[tuple[bytes, str]]:
        """Those of the records that differ, found by halves: by then both sides have learned them all."""
        expected, found = self._both(records, is_label_topic)
        if expected.agrees(found):
            self._accepted.update(found.tiers)
            return []
        if _is_full(expected) or _is_full(found):
            self.passed_over += len(records)
            self._is_full = True
            return []
        if len(records) == 1:
            value = records[0].value
            return [(b"" if value is None else value, self._why(records, is_label_topic))]
        middle = len(records) // 2
        parts = self._differences(records[:middle], is_label_topic)
        if len(parts) < 10:
            parts += self._differences(records[middle:], is_label_topic)
        if not parts:
            parts = [(b"", f"only together: {_gap(expected, found)}")]
        return parts

    def _both(self, records: list[Record], is_label_topic: bool) -> tuple[Outcome, Outcome]:
        begin, end = records[0].offset, records[-1].offset + 1
        fetch: Fetch | RawFetch | None = None
        if self._rng.random() < self.raw_share:
            batches, records = self._batches(records)
            fetch = RawFetch(1, PARTITION, begin, end, table_of(batches), -1, 0, is_label_topic)
        stock = Fetch(1, PARTITION, begin, end, records, -1, 0, is_label_topic)
        fetch = fetch or stock
        return self._expected.outcome(stock), self._found.outcome(fetch)

    def _why(self, records: list[Record], is_label_topic: bool) -> str:
        """The rows and counts of one record, by both."""
        fetch = Fetch(1, PARTITION, 0, records[0].offset + 1, records, -1, 0, is_label_topic)
        sides = [side.rows(fetch) for side in (self._expected, self._found)]
        again = self._both(records, is_label_topic)
        return f"expected {sides[0]}, found {sides[1]}; {_gap(*again)}"

    # ------------------------------------------------------------ making

    def _records(self, values: list[bytes | None]) -> list[Record]:
        rng = self._rng
        records = []
        has_headers = rng.random() < 0.3
        for value in values:
            headers = self._headers() if has_headers and rng.random() < 0.3 else ()
            # Before, about and behind the event's time: rows in time, and too far ahead.
            at = START_MS + rng.randrange(4_000_000)
            key = b"key" if rng.random() < 0.1 else None
            records.append(Record(self._offset, at, key, value, headers))
            self._offset += 1
        return records

    def _headers(self) -> tuple[tuple[str, bytes | None], ...]:
        rng = self._rng
        if rng.random() < 0.5:
            return rng.choice(_TRACES)
        name, state = (
            rng.choice(("traceparent", "TRACEPARENT")),
            rng.choice(("tracestate", "tracEstate")),
        )
        headers = [(name, random_trace_parent(rng)), (state, rng.choice(_STATES)), ("a\xe9", b"b")]
        return tuple(rng.sample(headers, rng.randrange(1, 4)))

    def _batches(self, records: list[Record]) -> tuple[list[RawBatch], list[Record]]:
        """Batches of these records, and the records as they are to be read: with the broker's times."""
        rng = self._rng
        batches: list[RawBatch] = []
        read: list[Record] = []
        largest = (
            rng.choice((1, 20, 200, 2000)) if len(records) < 200 else rng.choice((60, 500, 2000))
        )
        codec = rng.choice([0, 0, *CODECS.values()])
        at = 0
        while at < len(records):
            n = rng.randrange(1, largest + 1)
            part = records[at : at + n]
            attributes = 0
            if rng.random() < 0.1:
                attributes = LOG_APPEND_TIME
                newest = max(record.timestamp_ms for record in part)
                read += [record._replace(timestamp_ms=newest) for record in part]
            else:
                read += part
            data = built(part, codec=codec, attributes=attributes)
            items, _ = batches_of(bytes(data), records[at].offset)
            batches += [item for item in items if isinstance(item, RawBatch)]
            at += n
        return batches, read


class Side:
    """One decoder with its table."""

    def __init__(self, decoder: Any, config: Config, traces: Traces) -> None:
        self.table = StreamTable()
        sampler = SpanSampler(traces, config.features, clock=lambda: 0.0)
        sampler.slow_above_s = {StreamKey("fraud", "v3", ()): 0.03}
        self.decoder = decoder(config, self.table, sampler)
        self._digester = Digester(self.table)
        if isinstance(self.decoder, FastDecoder):
            # Templates may be learned for a share of the time; with time standing still the same
            # cases teach the same.
            templates = self.decoder._slices._templates
            templates._clock = lambda: 0.0
            templates._credited_at = 0.0

    def start_over(self) -> None:
        """The owner has cut: what sketches the blocks is empty again."""
        self.decoder.on_cut()

    def parts(self, fetch: Fetch | RawFetch) -> Iterator[Decoded]:
        yield from self.decoder.decode(fetch, "lineage")

    def outcome(self, fetch: Fetch | RawFetch) -> Outcome:
        return self._digester.outcome(self.parts(fetch))

    def rows(self, fetch: Fetch) -> list[Any]:
        found: list[Any] = []
        for part in self.parts(fetch):
            found += read_rows(self.table, part)
        return found


def _is_full(outcome: Outcome) -> bool:
    """A stream has all the columns it may have: which those are depends on the order of rows."""
    return Irregular.TOO_MANY_COLUMNS in outcome.tally["irregular"]


def _gap(expected: Outcome, found: Outcome) -> str:
    """What differs between two outcomes, in short."""
    parts = [
        f"{name}: expected {value}, found {found.tally[name]}"
        for name, value in expected.tally.items()
        if value != found.tally[name]
    ]
    if expected.dead != found.dead:
        parts.append(f"dead letters {set(expected.dead) ^ set(found.dead)}")
    if expected.newest_ms != found.newest_ms:
        parts.append(f"newest {expected.newest_ms}, {found.newest_ms}")
    if expected.spans != found.spans:
        parts.append(f"spans {set(expected.spans) ^ set(found.spans)}")
    if len(expected.rows) != len(found.rows) or (expected.rows != found.rows).any():
        parts.append(f"digests {set(expected.rows.tolist()) ^ set(found.rows.tolist())}")
    return "; ".join(parts)
