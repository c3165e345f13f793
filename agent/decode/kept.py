"""Rows worth a request span: the sampler's choice of a block, as spans, exemplars and links."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from agent.decode.candidates import (
    DOMAIN_LIMIT,
    LATENCY,
    WHY,
    Facts,
    Found,
    Lanes,
    Limits,
    RowView,
    StreamRules,
)
from agent.sketch.links import links_of
from agent.types import (
    Block,
    Column,
    Exemplar,
    JsonType,
    Partition,
    RequestSpan,
    Role,
    SpanWhy,
    StreamKey,
)

#: Columns out of range that a span names, and exemplars of them: an event may have thousands.
MAX_ODD = 32

__all__ = ["Facts", "RowView", "Sampler", "SpanKeeper", "view_of"]


class Sampler(Protocol):
    """What the decoder needs of `decode.spans.SpanSampler`."""

    limits: dict[str, tuple[float, float]]

    def choose(
        self, view: RowView, rules: StreamRules, partition: Partition, lineage: str
    ) -> Found: ...

    def span(
        self,
        why: SpanWhy,
        facts: Facts,
        stream: StreamKey,
        end_ms: int,
        place: tuple[Partition, str],
        out_of_range: tuple[Column, ...],
    ) -> RequestSpan: ...


class SpanKeeper:
    """Offers the blocks of one stream table to a sampler. One owner.

    links  whether kept rows leave links too (`sketch.links`), which only judging reads
    """

    def __init__(self, sampler: Sampler, table: Lanes, *, links: bool = False) -> None:
        self._sampler = sampler
        self._table = table
        self._links = links
        self._rules = StreamRules(table, sampler.limits)

    def keep(
        self, view: RowView, partition: Partition, lineage: str
    ) -> tuple[list[RequestSpan], list[Exemplar]]:
        """Spans and exemplars of a block; only rows that are kept make Python objects."""
        found = self._sampler.choose(view, self._rules, partition, lineage)
        spans: list[RequestSpan] = []
        exemplars: list[Exemplar] = []
        block = view.block
        for row, why in zip(found.rows.tolist(), found.why.tolist(), strict=True):
            stream = int(block.stream[row])
            values = _values(block, row, self._table.numeric_lanes[stream])
            columns = _first(c for c, x in values if _is_odd(c, x, self._sampler.limits))
            span = self._sampler.span(
                WHY[why],
                view.facts(row),
                self._table.keys[stream],
                int(block.event_time_ms[row]),
                (partition, lineage),
                columns,
            )
            spans.append(span)
            for column, x in values:
                if x - x == 0.0 and (_is_measured(column) or column in columns):
                    exemplars.append(
                        Exemplar(span.stream, column, x, span.end_ns, span.trace_id, span.span_id)
                    )
            if self._links:
                lanes = self._table.numeric_lanes[stream], self._table.string_lanes[stream]
                exemplars += links_of(block, row, *lanes, span)
        return spans, exemplars


def _values(
    block: Block, row: int, lanes: list[tuple[Column, JsonType]]
) -> list[tuple[Column, float]]:
    """The row's numbers by column; NaN where absent or null."""
    first, end = block.number_start[row : row + 2].tolist()
    numbers = block.numbers[first:end].tolist()
    # A row may be narrower than its stream.
    return [(c, x) for (c, kind), x in zip(lanes, numbers, strict=False) if kind is JsonType.NUMBER]


def _first(columns: Iterable[Column]) -> tuple[Column, ...]:
    """All of them, or the first ones by name."""
    found = tuple(columns)
    return found if len(found) <= MAX_ODD else tuple(sorted(found)[:MAX_ODD])


def _is_odd(column: Column, value: float, limits: Limits) -> bool:
    """Whether the value is out of the column's declared range, or of the domain of histograms."""
    if abs(value) > DOMAIN_LIMIT:
        return True
    declared = limits.get(column.name) if column.role is Role.FEATURE else None
    return declared is not None and (value < declared[0] or value > declared[1])


def _is_measured(column: Column) -> bool:
    """Latency, and the prediction's score or value."""
    return column == LATENCY or (
        column.role is Role.PREDICTION and column.name in ("score", "value")
    )


def view_of(block: Block, facts: Sequence[Facts]) -> RowView:
    """A view of rows whose facts are Python objects already; about 1 us a row."""
    n = len(facts)
    raw = [(fact.traceparent or "").encode() for fact in facts]
    raw += [fact.tracestate.encode("utf-8", "replace") for fact in facts]
    length = np.fromiter(map(len, raw), np.int64, 2 * n)
    start = np.cumsum(length) - length
    start[length == 0] = -1
    return RowView(
        block,
        np.fromiter((fact.offset for fact in facts), np.int64, n),
        np.fromiter((fact.row for fact in facts), np.int32, n),
        np.fromiter((fact.n_rows for fact in facts), np.int32, n),
        np.frombuffer(bytearray(b"".join(raw) or b" "), np.uint8),
        start[:n],
        start[n:],
        length[n:].astype(np.int32),
        facts.__getitem__,
    )
