"""One stream as bytes, and back: a record, then its cells and the sketches of its sealed profiles.

    record length uint32, record (msgpack)
    cells      in the order of the record: of the columns, then of the open windows (`sketch.codec`)
    sketches   of the sealed profiles, as they are

Lengths stand in the record; 0: there is none. Every cell is checked before it is taken. Sketches of sealed
profiles are covered by the checksum of the whole only, and read when somebody looks at them: there may be
a thousand times as many.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from agent.errors import DecodeError
from agent.fold.costs import Costs
from agent.fold.kinds import is_string_kind
from agent.fold.persist_records import (
    LENGTH,
    WHAT,
    Body,
    ColumnRecord,
    Parts,
    ProfileColumnRecord,
    ProfileRecord,
    StreamRecord,
    WindowColumnRecord,
    WindowRecord,
    decoded,
    stream_decoder,
)
from agent.fold.profile import Profile, ProfileColumn
from agent.fold.series import Series, SeriesState
from agent.fold.snapshot import Lives, stream_attributes
from agent.fold.store import Store
from agent.fold.streams import (
    MAX_EXEMPLARS,
    N_TYPES,
    ColumnTotals,
    Stream,
    StreamWindow,
    WindowColumn,
)
from agent.sketch.cells import NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES, Bytes, CellPages
from agent.sketch.codec import frame_numeric, frame_string, numeric_from_bytes, string_from_bytes
from agent.sketch.kernels import layout
from agent.sketch.packed import pack
from agent.sketch.pair_sums import PairSums
from agent.sketch.vector_sums import from_bytes as vectors_from_bytes
from agent.types import Kind, Role, StreamKey

# ---------------------------------------------------------------- writing


def write_stream(out: Parts, stream: Stream, store: Store) -> None:
    """Append a stream."""
    cells: list[tuple[CellPages, int]] = []
    for total in stream.columns.values():
        if total.cell >= 0:
            assert total.kind is not None
            cells.append((store.total_pages(is_string_kind(total.kind)), total.cell))
    for window in stream.open.values():
        for column, seen in window.columns.items():
            if seen.cell >= 0:
                kind = stream.columns[column].kind
                assert kind is not None
                cells.append((store.window_pages(is_string_kind(kind)), seen.cell))
    written = _cells_to_bytes(cells, store)
    lengths = [len(data) for data in written]
    lengths.reverse()
    record = msgspec.msgpack.encode(_record_of(stream, lengths))
    out.write(LENGTH.pack(len(record)))
    out.write(record)
    for data in written:
        out.write(data)
    for profile in stream.sealed:
        for at in profile.columns.values():
            out.write(at.sketch)


def _cells_to_bytes(cells: Sequence[tuple[CellPages, int]], store: Store) -> list[bytes]:
    """Compact bytes of cells of all pages, in order."""
    out = [b""] * len(cells)
    for pages in (store.totals, store.windows, store.strings):
        places = [i for i, (of, _) in enumerate(cells) if of is pages]
        if not places:
            continue
        ids = np.array([cells[i][1] for i in places], np.int64)
        packed = pack(pages.addresses[ids], pages.cell_bytes)
        framed = frame_string if pages is store.strings else frame_numeric
        for i, at in enumerate(places):
            out[at] = framed(packed.payload(i))
    return out


def _record_of(stream: Stream, lengths: list[int]) -> StreamRecord:
    """`lengths` of the cells, last one first; taken from its end."""
    assert stream.counters is not None and stream.gauges is not None
    return StreamRecord(
        key=stream.key,
        seen_ns=stream.seen_ns,
        rows=stream.rows,
        errors=stream.errors,
        late=stream.late,
        future=stream.future,
        first_event_ms=stream.first_event_ms,
        last_event_ms=stream.last_event_ms,
        unsketched=sorted(stream.unsketched),
        unsketched_values=stream.unsketched_values,
        counters=stream.counters.state(),
        gauges=stream.gauges.state(),
        columns=[
            ColumnRecord(
                column=column,
                kind=total.kind,
                present=total.present,
                length=lengths.pop() if total.cell >= 0 else 0,
                exemplars=tuple(total.exemplars),
                recent=total.recent,
                missing=_state_of(total.missing),
                counters=_state_of(total.counters),
                histogram=total.histogram.state() if total.histogram is not None else None,
                gauges=_state_of(total.gauges),
                categories=[(text, s.state()) for text, s in total.categories.items()],
            )
            for column, total in stream.columns.items()
        ],
        open=[
            WindowRecord(
                number,
                window.rows,
                window.errors,
                [
                    WindowColumnRecord(column, seen.present, lengths.pop() if seen.cell >= 0 else 0)
                    for column, seen in window.columns.items()
                ],
                window.unseen,
                window.pairs,
                window.vectors,
            )
            for number, window in stream.open.items()
        ],
        sealed=[
            ProfileRecord(
                profile.window,
                profile.rows,
                profile.errors,
                profile.coverage,
                [
                    ProfileColumnRecord(column, at.kind, at.present, len(at.sketch), at.facts)
                    for column, at in profile.columns.items()
                ],
                profile.unseen,
                profile.pairs,
                profile.vectors,
            )
            for profile in stream.sealed
        ],
        unseen=stream.unseen,
    )


def _state_of(series: Series | None) -> SeriesState | None:
    return None if series is None else series.state()


# ---------------------------------------------------------------- reading


def read_stream(body: Body, store: Store, lives: Lives, costs: Costs, width_ms: int) -> Stream:
    """The next stream; its cells are taken into `store`, its costs are the present ones.

    Raises DecodeError. The phases that `lives` hands out meanwhile mean nothing.
    """
    record = decoded(stream_decoder, body.record(), WHAT)
    stream = Stream(record.key, stream_attributes(record.key), record.seen_ns, costs.stream)
    stream.rows, stream.errors = record.rows, record.errors
    stream.late, stream.future = record.late, record.future
    stream.unseen = record.unseen
    stream.first_event_ms, stream.last_event_ms = record.first_event_ms, record.last_event_ms
    stream.unsketched = set(record.unsketched)
    stream.unsketched_values = record.unsketched_values
    lives.begin_stream(stream)
    _restore(stream.counters, record.counters)
    _restore(stream.gauges, record.gauges)
    for of_column in record.columns:
        total = _read_column(of_column, stream, body, store, lives, costs)
        stream.granted += total.cost
    for of_window in record.open:
        if of_window.window in stream.open:
            raise DecodeError(f"{WHAT}: window {of_window.window} occurs twice")
        stream.open[of_window.window] = _read_window(of_window, stream, body, store)
    for of_profile in record.sealed:
        stream.sealed.append(_read_profile(of_profile, stream.key, body, width_ms))
    return stream


def _read_column(
    state: ColumnRecord, stream: Stream, body: Body, store: Store, lives: Lives, costs: Costs
) -> ColumnTotals:
    column, kind = state.column, state.kind
    if column in stream.columns:
        raise DecodeError(f"{WHAT}: column {column.name!r} occurs twice")
    if column.role in (Role.LATENCY, Role.USAGE) and kind not in (None, Kind.NUMERIC):
        raise DecodeError(f"{WHAT}: column {column.name!r} is of kind {kind}")
    total = ColumnTotals(column, costs.column(column.role, kind), kind, _present(state.present))
    stream.columns[column] = total
    total.exemplars.extend(state.exemplars)
    total.recent = state.recent[-MAX_EXEMPLARS:]
    lives.begin_column(stream, total)
    if kind is not None:
        lives.begin_kind(total)
        total.cell = _read_cell(body, state.length, store.total_pages(is_string_kind(kind)), kind)
    elif state.length:
        raise DecodeError(f"{WHAT}: column {column.name!r} has no kind, but values")
    _restore(total.missing, state.missing)
    _restore(total.counters, state.counters)
    _restore(total.gauges, state.gauges)
    if (total.histogram is None) != (state.histogram is None):
        raise DecodeError(f"{WHAT}: column {column.name!r} of kind {kind}: histogram")
    if total.histogram is not None and state.histogram is not None:
        total.histogram.restore(state.histogram)
    if state.categories and kind is not Kind.CATEGORICAL:
        raise DecodeError(f"{WHAT}: column {column.name!r} of kind {kind}: categories")
    for text, series in state.categories:
        total.categories[text] = lives.category(total, text)
        total.categories[text].restore(series)
    return total


def _read_window(state: WindowRecord, stream: Stream, body: Body, store: Store) -> StreamWindow:
    window = StreamWindow(state.rows, state.errors, state.unseen, pairs=_pairs(state.pairs))
    window.vectors = _vectors(state.vectors)
    for seen in state.columns:
        total = stream.columns.get(seen.column)
        if total is None or seen.column in window.columns:
            raise DecodeError(f"{WHAT}: window {state.window}, column {seen.column.name!r}")
        column = window.columns[seen.column] = WindowColumn(_present(seen.present))
        if seen.length:
            if total.kind is None:
                raise DecodeError(f"{WHAT}: column {seen.column.name!r} has no kind, but values")
            pages = store.window_pages(is_string_kind(total.kind))
            column.cell = _read_cell(body, seen.length, pages, total.kind)
    return window


def _read_profile(state: ProfileRecord, key: StreamKey, body: Body, width_ms: int) -> Profile:
    profile = Profile(
        key, state.window, width_ms, state.rows, state.errors, state.coverage, unseen=state.unseen
    )
    profile.pairs = _pairs(state.pairs)
    profile.vectors = _vectors(state.vectors)
    for at in state.columns:
        column = ProfileColumn(at.kind, _present(at.present), bytes(body.take(at.length)))
        column.remember(at.facts)
        profile.columns[at.column] = column
    return profile


def _read_cell(body: Body, length: int, pages: CellPages, kind: Kind) -> int:
    """A new cell with what the next bytes hold."""
    data = bytes(body.take(length))
    record = string_from_bytes(data) if is_string_kind(kind) else numeric_from_bytes(data)
    if len(record) != pages.cell_bytes:
        record = _widened(record, pages.cell_bytes)
    cell = pages.alloc()
    pages.record(cell)[:] = record
    return cell


def _widened(record: Bytes, cell_bytes: int) -> Bytes:
    """A narrow numeric record as a wide one: the frame says only which of them the counts need."""
    if (len(record), cell_bytes) != (NUMERIC_CELL_BYTES, NUMERIC_WIDE_CELL_BYTES):
        raise DecodeError(f"{WHAT}: a cell of {len(record)} bytes where {cell_bytes} are kept")
    wide = np.zeros(cell_bytes, np.uint8)
    wide[: layout.BUCKETS] = record[: layout.BUCKETS]
    wide[layout.BUCKETS :].view(np.uint64)[:] = record[layout.BUCKETS :].view(np.uint32)
    return wide


def _pairs(data: bytes) -> bytes:
    """Raises DecodeError for bytes that are no pair sums."""
    return PairSums.from_bytes(data).to_bytes() if data else b""


def _vectors(data: bytes) -> bytes:
    """Raises DecodeError for bytes that are no sums of vectors."""
    vectors_from_bytes(data)
    return data


def _present(counts: list[int]) -> list[int]:
    if len(counts) != N_TYPES:
        raise DecodeError(f"{WHAT}: values of {len(counts)} types")
    return counts


def _restore(series: Series | None, state: SeriesState | None) -> None:
    if (series is None) != (state is None):
        raise DecodeError(f"{WHAT}: a column has other series than its kind and role say")
    if series is not None and state is not None:
        series.restore(state)
