"""Rows worth a request span: offers each row to the sampler, makes exemplars of what it keeps."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from agent.decode.lanes import StreamLanes, StreamTable
from agent.types import (
    Block,
    Column,
    Exemplar,
    JsonType,
    Partition,
    RequestSpan,
    Role,
    StreamKey,
)

#: Beyond this magnitude a value is out of range whatever is declared: histograms end here.
DOMAIN_LIMIT = 2.0**64


class Sampler(Protocol):
    """What the decoder needs of `decode.spans.SpanSampler`."""

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
        out_of_range: tuple[Column, ...],
    ) -> RequestSpan | None: ...


class Facts(NamedTuple):
    """What a request span says of a row, beyond its values."""

    offset: int
    row: int  # index in its event
    n_rows: int
    latency_s: float | None
    status: str
    request_id: str
    traceparent: str | None
    tracestate: str


def out_of_range(
    block: Block, streams: list[StreamLanes], table: StreamTable
) -> dict[int, tuple[Column, ...]]:
    """Columns of each row that are outside of their declared range, or beyond 2^64; ordinary rows are not in it."""
    found: dict[int, list[Column]] = {}
    with np.errstate(invalid="ignore"):
        beyond = np.flatnonzero(np.abs(block.numbers) > DOMAIN_LIMIT)
    of_row = np.searchsorted(block.number_start, beyond, "right") - 1
    of_lane = beyond - block.number_start[of_row]
    for row, lane in zip(of_row.tolist(), of_lane.tolist(), strict=True):
        column, kind = table.numeric_lanes[streams[row].idx][lane]
        if kind is JsonType.NUMBER:
            found.setdefault(row, []).append(column)
    for stream in set(streams):
        bounded = [c for c in stream.features.values() if c.bounds is not None and c.number >= 0]
        if not bounded:
            continue
        of_stream = np.flatnonzero(block.stream == stream.idx)
        widths = block.number_start[of_stream + 1] - block.number_start[of_stream]
        for lanes in bounded:
            assert lanes.bounds is not None
            low, high = lanes.bounds
            rows = of_stream[widths > lanes.number]
            values = block.numbers[block.number_start[rows] + lanes.number]
            with np.errstate(invalid="ignore"):
                outside = (values < low) | (values > high)
            for row in rows[outside].tolist():
                columns = found.setdefault(row, [])
                if lanes.column not in columns:
                    columns.append(lanes.column)
    return {row: tuple(columns) for row, columns in found.items()}


def keep(
    sampler: Sampler,
    block: Block,
    streams: list[StreamLanes],
    facts: list[Facts],
    table: StreamTable,
    partition: Partition,
    lineage: str,
) -> tuple[list[RequestSpan], list[Exemplar]]:
    """Offer every row of the block; `streams` and `facts` are those of its rows."""
    spans: list[RequestSpan] = []
    exemplars: list[Exemplar] = []
    odd = out_of_range(block, streams, table)
    times = block.event_time_ms.tolist()
    consider = sampler.consider
    for idx, fact in enumerate(facts):
        stream = streams[idx]
        columns = odd.get(idx, ()) if odd else ()
        span = consider(
            stream=stream.key,
            partition=partition,
            lineage=lineage,
            offset=fact.offset,
            row=fact.row,
            n_rows=fact.n_rows,
            end_ms=times[idx],
            latency_s=fact.latency_s,
            status=fact.status,
            request_id=fact.request_id,
            traceparent=fact.traceparent,
            tracestate=fact.tracestate,
            out_of_range=columns,
        )
        if span is not None:
            spans.append(span)
            exemplars.extend(_exemplars(span, block, idx, table.numeric_lanes[stream.idx], columns))
    return spans, exemplars


def _exemplars(
    span: RequestSpan,
    block: Block,
    row: int,
    lanes: list[tuple[Column, JsonType]],
    odd: tuple[Column, ...],
) -> list[Exemplar]:
    """Latency, the prediction's score or value, and whatever is out of range."""
    made = []
    first, end = block.number_start[row : row + 2].tolist()
    for lane, (column, kind) in enumerate(lanes[: end - first]):
        if kind is not JsonType.NUMBER:
            continue
        if not (
            column.role is Role.LATENCY
            or (column.role is Role.PREDICTION and column.name in ("score", "value"))
            or column in odd
        ):
            continue
        value = float(block.numbers[first + lane])
        if value - value == 0.0:  # present and finite
            made.append(
                Exemplar(span.stream, column, value, span.end_ns, span.trace_id, span.span_id)
            )
    return made
