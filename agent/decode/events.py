"""JSON records to blocks: the orjson tier. One Python pass a row; nothing a producer sends raises.

How things are counted (`Tally`)
  records    every record handed in, once
  dropped    a record that cannot be opened: once, by its reason. An opened record holds 1..n events;
             each is either counted in `events` or dropped by its own reason, so
             events + dropped = records that could not be opened + events of those that could
  dead       a record with at least one drop appears once, with the first reason, whole
  rows       of the events counted; `labels` besides: an event may be both
  irregular  events (a duplicate key: records). Late and future rows are only marked in the block:
             the fold counts them

Readings
  ts         `decode.times`; without it the record's timestamp; without both the time of the row before
  model      text, or a number as its JSON text; version and segment values likewise (segments: booleans too)
  batches    `features` as an array: one row for each object. `prediction` and `label` of the same length
             are one for each row. Anything else that belongs to the request as a whole is counted once,
             on its first row (prediction, usage); latency and status hold for every row
  usage      numbers, flattened; other values are left out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from agent.config import Config
from agent.decode.duplicates import has_duplicate_key
from agent.decode.fields import FieldMap
from agent.decode.kept import Facts, Sampler, SpanKeeper, view_of
from agent.decode.lanes import Names, OwnShape, Segment, StreamLanes, StreamTable
from agent.decode.rows import Rejected, RowBuffer
from agent.decode.scalars import (
    cut_name,
    error_text,
    header_text,
    json_bytes,
    max_depth,
    number_text,
    valid_traceparent,
)
from agent.decode.tables import TableShape
from agent.decode.times import LIMIT_MS, event_time_ms
from agent.decode.vector_sample import RowSample, vectors_of
from agent.types import (
    OVERFLOW,
    Block,
    Column,
    Drop,
    Exemplar,
    Fetch,
    Irregular,
    Partition,
    Record,
    RequestSpan,
    Role,
    TableFetch,
    Tally,
    Tier,
)

#: A slice ends at this many records or bytes: it holds the GIL, and the owner answers messages between two.
SLICE_RECORDS = 512
SLICE_BYTES = 1 << 20
#: A slice ends at this many values: each may need a cell of its own (about 10 kB), and the owner looks
#: at its memory between two slices only.
SLICE_VALUES = 8192
#: Models whose labels are counted by name; further ones are counted as OVERFLOW.
MAX_LABEL_MODELS = 1000

_LATENCY_DIVISOR = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NO_SEGMENT: Segment = ()


@dataclass(slots=True)
class Decoded:
    """What one slice of a fetch became. `to_offset`: the end of what has been read, exclusive."""

    to_offset: int
    blocks: list[Block] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    dead: list[tuple[Record, Drop]] = field(default_factory=list)
    spans: list[RequestSpan] = field(default_factory=list)
    exemplars: list[Exemplar] = field(default_factory=list)
    max_event_time_ms: int = -1  # of admissible rows; -1 none


class _Source(NamedTuple):
    """Where the events in hand come from."""

    offset: int
    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...]
    is_label_topic: bool
    tier: Tier
    default_model: str | None


class JsonDecoder:
    """Decodes the records of one kernel thread. Never raises on input; memory is bounded by the slice."""

    def __init__(self, config: Config, table: StreamTable, sampler: Sampler | None) -> None:
        decode = config.decode
        self.sealed_until = -LIMIT_MS
        #: Event time of rows that come before any time is known: neither `ts` nor a timestamp.
        self.untimed_ms = 0
        #: Model of the last label that made no row.
        self.label_model: str | None = None
        #: Wall clock, set by the owner: bounds what a record's timestamp may claim.
        self.now_ms = LIMIT_MS
        #: Values after which a slice ends; the owner makes it smaller while each needs a new cell.
        self.slice_values = SLICE_VALUES
        self._table = table
        self._keeper = (
            None if sampler is None else SpanKeeper(sampler, table, links=config.judge.enabled)
        )
        self._rows = RowBuffer(config, table)
        self._fields = FieldMap(decode.fields)
        self._default_model = decode.default_model
        self._max_record_bytes = decode.max_record_bytes
        self._max_depth = decode.max_depth
        self._max_name_bytes = decode.max_name_bytes
        self._max_values = decode.max_features
        self._segments = None if decode.segments is None else frozenset(decode.segments)
        self._latency_divisor = _LATENCY_DIVISOR[decode.fields.latency_unit]
        self._label_models: set[str] = set()
        self._facts: list[Facts] = []
        self._sampling = config.judge.enabled and config.judge.vectors == "auto"
        self._samples: dict[Partition, RowSample] = {}
        self._tally = Tally()
        self._shape: TableShape | None = None

    def decode(self, fetch: Fetch, lineage: str) -> Iterator[Decoded]:
        """Blocks of the fetch, slice by slice, in offset order. Sketch a slice before asking for the next."""
        records = fetch.records
        n = len(records)
        at = 0
        while at < n:
            out = self.begin(0, fetch.partition)
            size_bytes = 0
            while (
                at < n
                and self._tally.records < SLICE_RECORDS
                and size_bytes < SLICE_BYTES
                and self._rows.n_values < self.slice_values
            ):
                record = records[at]
                at += 1
                self.take(record, fetch.is_label_topic, out)
                size_bytes += len(record.value or b"")
            self._tally.size_bytes = size_bytes
            out.to_offset = records[at - 1].offset + 1 if at < n else fetch.to_offset
            yield self.end(out, fetch.partition, lineage)

    def decode_table(self, fetch: TableFetch, lineage: str) -> Iterator[Decoded]:
        """The same for rows of a table; each row is a record of one event."""
        if self._shape is None or self._shape.columns != fetch.columns:
            self._shape = TableShape(fetch.columns, self._fields)
        shape = self._shape
        n = len(fetch.rows)
        for low in range(0, n, SLICE_RECORDS):
            high = min(low + SLICE_RECORDS, n)
            out = self.begin(fetch.from_offset + high, fetch.partition)
            for idx in range(low, high):
                self._tally.records += 1
                offset = fetch.from_offset + idx
                source = _Source(offset, -1, (), False, Tier.TABLE, fetch.default_model)
                event = shape.event(fetch.rows[idx], fetch.is_text)
                reason = self._try_event(event, source)
                if reason is not None:
                    value = json_bytes(event)
                    out.dead.append((Record(offset, -1, None, value, ()), reason))
            self._tally.size_bytes = fetch.size_bytes * high // n - fetch.size_bytes * low // n
            yield self.end(out, fetch.partition, lineage)

    # ------------------------------------------------------------ a slice

    @property
    def rows(self) -> RowBuffer:
        """The rows of the slice in hand."""
        return self._rows

    def on_cut(self) -> None:
        """The owner's delta is empty again. Nothing here is kept by it."""

    def begin(self, to_offset: int, partition: Partition) -> Decoded:
        """A new slice of a partition; `take` adds records to it, `end` makes its blocks."""
        out = Decoded(to_offset)
        self._tally = out.tally
        self._rows.clear()
        self._rows.sample = self.sample_of(partition)
        self._facts.clear()
        return out

    def end(
        self, out: Decoded, partition: Partition, lineage: str, median_ms: int | None = None
    ) -> Decoded:
        """Blocks, spans and exemplars of the slice. `median_ms`: see `RowBuffer.blocks`."""
        out.blocks, out.max_event_time_ms = self._rows.blocks(
            self.sealed_until, self.now_ms, median_ms
        )
        if self._keeper is not None:
            low = 0
            for block in out.blocks:
                high = low + block.n
                view = view_of(block, self._facts[low:high])
                spans, exemplars = self._keeper.keep(view, partition, lineage)
                out.spans += spans
                out.exemplars += exemplars
                low = high
        self._rows.clear()
        self._facts.clear()
        return out

    # ------------------------------------------------------------ vectors

    def sample_of(self, partition: Partition) -> RowSample | None:
        """Which rows of this partition have their vectors looked at; None: no row."""
        if not self._sampling:
            return None
        found = self._samples.get(partition)
        if found is None:
            found = self._samples[partition] = RowSample(partition)
        return found

    def vectors_of(self, value: bytes) -> Iterator[tuple[Column, list[int | float]]]:
        """Vectors in the one row of a record that a compiled tier took, as this tier would have put them."""
        event = orjson.loads(value)
        native = event if self._fields.is_native else self._fields.native(event)
        features, prediction = native.get("features"), native.get("prediction")
        flatten = self._rows.flatten
        yield from vectors_of(
            flatten(features) if type(features) is dict else {},
            flatten(prediction) if type(prediction) is dict else prediction,
        )
        self._rows.odd.clear()

    # ------------------------------------------------------------ a record

    def take(self, record: Record, is_label_topic: bool, out: Decoded) -> Drop | None:
        """Count and decode one record into the slice; the reason of its first drop, if there is one."""
        reason = self._record(record, is_label_topic)
        if reason is not None:
            out.dead.append((record, reason))
        return reason

    def _record(self, record: Record, is_label_topic: bool) -> Drop | None:
        tally = self._tally
        tally.records += 1
        tree, reason = self._open(record.value)
        if reason is not None:
            tally.dropped[reason] += 1
            return reason
        source = _Source(
            record.offset,
            record.timestamp_ms,
            record.headers,
            is_label_topic,
            Tier.ORJSON,
            self._default_model,
        )
        if type(tree) is not list:
            return self._try_event(tree, source)
        first: Drop | None = None
        for event in tree:
            reason = self._try_event(event, source)
            first = first or reason
        return first

    def _open(self, value: bytes | None) -> tuple[Any, Drop | None]:
        """The parsed record: an object, or an array with at least one element and one object."""
        if value is None:
            return None, Drop.TOMBSTONE
        if not value:
            return None, Drop.EMPTY
        if len(value) > self._max_record_bytes:
            return None, Drop.TOO_LARGE
        try:
            tree = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            # orjson's own limit is 1024 levels, far beyond what max_depth may be.
            too_deep = "depth" in str(error) or "ecursion" in str(error)
            return None, Drop.TOO_DEEP if too_deep else Drop.INVALID_JSON
        # Few brackets cannot nest deeply; only the rest is walked.
        if (
            value.count(b"{") + value.count(b"[") > self._max_depth
            and max_depth(tree) > self._max_depth
        ):
            return None, Drop.TOO_DEEP
        if type(tree) is list:
            if not tree:
                return None, Drop.EMPTY
            if dict not in set(map(type, tree)):
                return None, Drop.NOT_AN_EVENT
        elif type(tree) is not dict:
            return None, Drop.NOT_AN_EVENT
        if has_duplicate_key(value, tree):
            self._tally.irregular[Irregular.DUPLICATE_KEY] += 1
        return tree, None

    # ------------------------------------------------------------ an event

    def _try_event(self, event: Any, source: _Source) -> Drop | None:
        """Decode one event, wholly or not at all; the reason when it is dropped."""
        rows = self._rows
        mark = rows.mark()
        n_facts = len(self._facts)
        try:
            if type(event) is not dict:
                raise Rejected(Drop.NOT_AN_EVENT)
            native = event if self._fields.is_native else self._fields.native(event)
            try:
                self._event(native, source)
            except OwnShape as move:
                rows.rollback(mark)
                rows.odd.clear()
                del self._facts[n_facts:]
                self._table.move(move.model)
                self._event(native, source)
        except Rejected as rejected:
            rows.rollback(mark)
            rows.odd.clear()
            del self._facts[n_facts:]
            self._tally.dropped[rejected.reason] += 1
            return rejected.reason
        self._tally.events += 1
        if rows.odd:
            for irregular in rows.odd:
                self._tally.irregular[irregular] += 1
            rows.odd.clear()
        return None

    def _event(self, event: dict[str, Any], source: _Source) -> None:
        get = event.get
        features = get("features")
        prediction = get("prediction")
        usage = get("usage")
        label = get("label")
        has_rows = not (features is None and prediction is None and usage is None)
        if source.is_label_topic:
            has_rows = False
        if not has_rows and label is None:
            raise Rejected(Drop.NO_CONTENT)
        model = get("model")
        model = None if model is None else self._name(model)
        time_ms = self._time(get("ts"), source.timestamp_ms)
        if not has_rows:
            # No default model: a label without one belongs to the row of its id, of whatever model.
            self.count_labels(model, 1)
            self.label_model = model
            return
        model = model or self._default_model or source.default_model
        if model is None:
            raise Rejected(Drop.NO_MODEL)

        inputs: list[Any]
        if type(features) is list:
            inputs = features
            if not inputs:
                raise Rejected(Drop.EMPTY)
        else:
            inputs = [features]
        n = len(inputs)
        predictions = [prediction]
        n_labels = 1
        if type(features) is list:
            if type(prediction) is list and len(prediction) == n:
                predictions = prediction
            if type(label) is list and len(label) == n:
                n_labels = n

        version = get("version")
        segment = get("segment")
        version = "" if version is None else self._name(version)
        segment = _NO_SEGMENT if segment is None else self._segment(segment)
        stream = self._table.find(model, version, segment)
        if stream is None:
            names = _names(inputs[0], predictions[0], usage)
            stream = self._table.make(model, version, segment, names)
        latency_s = self._latency(get("latency_ms"))
        status = get("status")
        status = "" if status is None else error_text(status)
        trace = self._trace(event, source.headers)
        rows = self._rows
        for row, values in enumerate(inputs):
            rows.place = source.offset, row
            if type(values) is dict:
                rows.put(stream, stream.features, Role.FEATURE, values)
            elif values is not None or type(features) is list:
                raise Rejected(Drop.BAD_FIELD)
            if row < len(predictions):
                self._prediction(stream, predictions[row])
            if row == 0 and usage is not None:
                self._usage(stream, usage)
            if latency_s is not None:
                rows.put_latency(stream, latency_s)
            rows.end_row(stream, time_ms, source.timestamp_ms, status != "")
            if self._keeper is not None:
                self._facts.append(
                    Facts(
                        source.offset,
                        row,
                        n,
                        latency_s,
                        status,
                        _request_id(get("id")),
                        *trace,
                    )
                )
        self.untimed_ms = time_ms
        self._tally.rows += n
        self._tally.rows_by_tier[source.tier] += n
        if label is not None:
            self.count_labels(model, n_labels)

    # ------------------------------------------------------------ fields

    def _name(self, value: Any) -> str:
        """Text, or a number as its JSON text, cut to the longest name allowed."""
        kind = type(value)
        if kind is str:
            name: str = value
        elif kind is int or kind is float:
            name = number_text(value)
        else:
            raise Rejected(Drop.BAD_FIELD)
        if len(name) * 4 > self._max_name_bytes:
            short = cut_name(name, self._max_name_bytes)
            if short != name:
                self._rows.odd.add(Irregular.LONG_NAME)
                return short
        return name

    def _segment(self, value: Any) -> Segment:
        if type(value) is not dict:
            raise Rejected(Drop.BAD_FIELD)
        if len(value) > self._max_values:
            raise Rejected(Drop.TOO_WIDE)
        wanted = self._segments
        parts = {}
        for name, part in value.items():
            if wanted is not None and name not in wanted:
                continue
            if part is None:
                continue
            text = number_text(part) if type(part) is bool else self._name(part)
            parts[self._name(name)] = text
        return tuple(sorted(parts.items()))

    def _time(self, value: Any, timestamp_ms: int) -> int:
        """Event time. Also refuses a wrong `ts` of a label, though nothing reads it here."""
        if value is None:
            return min(timestamp_ms, LIMIT_MS) if timestamp_ms >= 0 else self.untimed_ms
        time_ms = event_time_ms(value)
        if time_ms is None:
            raise Rejected(Drop.BAD_FIELD)
        return time_ms

    def _latency(self, value: Any) -> float | None:
        """Seconds; None when absent, or when it is no latency (then counted)."""
        if value is None:
            return None
        kind = type(value)
        if (kind is float or kind is int) and 0 <= value < float("inf"):
            return float(value / self._latency_divisor)
        self._rows.odd.add(Irregular.BAD_LATENCY)
        return None

    def _prediction(self, stream: StreamLanes, value: Any) -> None:
        kind = type(value)
        if value is None:
            return
        if kind is dict:
            self._rows.put(stream, stream.predictions, Role.PREDICTION, value)
            return
        name = "label" if kind is str else "vector" if kind is list else "value"
        self._rows.put_one(stream, stream.predictions, Role.PREDICTION, name, value)

    def _usage(self, stream: StreamLanes, value: Any) -> None:
        if type(value) is not dict:
            raise Rejected(Drop.BAD_FIELD)
        counts: dict[str, Any] = {}
        for name, count in self._rows.flatten(value).items():
            if type(count) is int or type(count) is float:
                if name == "ttft_ms":
                    counts["ttft"] = float(count) / 1000
                else:
                    counts[name] = count
        self._rows.put(stream, stream.usage, Role.USAGE, counts)

    def _trace(
        self, event: dict[str, Any], headers: tuple[tuple[str, bytes | None], ...]
    ) -> tuple[str | None, str]:
        """(traceparent, tracestate): of the record's headers, else of the body."""
        parent: Any = None
        state: Any = None
        if headers:
            parent = header_text(headers, "traceparent")
            if parent is not None:
                state = header_text(headers, "tracestate")
        if parent is None:
            parent = event.get("traceparent")
            if parent is None:
                return None, ""
            state = event.get("tracestate")
        if type(parent) is not str or not valid_traceparent(parent):
            self._rows.odd.add(Irregular.BAD_TRACE_CONTEXT)
            return None, ""
        return parent, state if type(state) is str else ""

    def count_labels(self, model: str | None, n: int) -> None:
        """Count n labels of the model in the slice's tally; further models than MAX_LABEL_MODELS together."""
        self._tally.labels += n
        self._tally.labels_by_model[self.label_name(model)] += n

    def label_name(self, model: str | None) -> str:
        """The name that labels of this model are counted by."""
        name = model or ""
        known = self._label_models
        if name not in known:
            if len(known) < MAX_LABEL_MODELS:
                known.add(name)
            else:
                name = OVERFLOW
        return name


def _names(features: Any, prediction: Any, usage: Any) -> Names:
    """Names at the top of an event's first row: what a new model's shape is chosen by."""
    parts = (
        (Role.FEATURE, features),
        (Role.PREDICTION, prediction),
        (Role.USAGE, usage),
    )
    return frozenset(
        (role, "ttft" if name == "ttft_ms" and role is Role.USAGE else name)
        for role, items in parts
        if type(items) is dict
        for name in items
    )


def _request_id(value: Any) -> str:
    if type(value) is str:
        return value[:200]
    return number_text(value) if type(value) is int or type(value) is float else ""
