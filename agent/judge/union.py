"""Many profiles as one: panes of a baseline, segments of a model.

Like `fold.profile.merge`, in one pass over each column, and also of different streams and windows.
Judging the union is judging all of its rows: within the sketches' own bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.fold.kinds import TYPE_OF, is_string_kind
from agent.fold.profile import Profile, ProfileColumn
from agent.sketch.arrays import address_of
from agent.sketch.cells import NUMERIC_WIDE_CELL_BYTES, STRING_CELL_BYTES, Bytes, zeroed
from agent.sketch.codec import numeric_to_bytes, payload_of, string_to_bytes
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.packed import from_payloads
from agent.sketch.pair_sums import united_pairs
from agent.sketch.vector_sums import united_vectors
from agent.types import Column, JsonType, Kind, StreamKey


def united(profiles: Sequence[Profile], stream: StreamKey) -> Profile:
    """All rows of `profiles` (at least one) under the name `stream`; the inputs are left alone.

    Window and width are those of the first. A column that profiles hold as different kinds keeps the
    kind with most values (ties: the earlier one's); other values are violations then, as if they had
    arrived together. Coverage is weighted by rows.
    """
    first = profiles[0]
    if len(profiles) == 1 and first.stream == stream:
        return first
    rows = sum(p.rows for p in profiles)
    covered = sum(p.rows * p.coverage for p in profiles)
    parts: dict[Column, list[ProfileColumn]] = {}
    for profile in profiles:
        for name, column in profile.columns.items():
            parts.setdefault(name, []).append(column)
    return Profile(
        stream,
        first.window,
        first.width_ms,
        rows,
        sum(p.errors for p in profiles),
        min(1.0, covered / rows) if rows else first.coverage,
        {name: _column(columns) for name, columns in parts.items()},
        pairs=united_pairs(p.pairs for p in profiles),
        vectors=united_vectors(p.vectors for p in profiles),
    )


def _column(parts: list[ProfileColumn]) -> ProfileColumn:
    if len(parts) == 1:
        only = parts[0]
        return ProfileColumn(only.kind, list(only.present), only.sketch)
    present = [sum(part.present[t] for part in parts) for t in JsonType]
    kind = _kind(parts)
    if kind is None:
        return ProfileColumn(None, present)
    sketches = [
        part.sketch
        for part in parts
        if part.sketch and part.kind is not None and TYPE_OF[part.kind] is TYPE_OF[kind]
    ]
    if len(sketches) < 2:
        return ProfileColumn(kind, present, sketches[0] if sketches else b"")
    return ProfileColumn(kind, present, _sketch(sketches, strings=is_string_kind(kind)))


def _kind(parts: list[ProfileColumn]) -> Kind | None:
    """The kind with most values of its own type; the first one's among equals."""
    values: dict[Kind, int] = {}
    for part in parts:
        if part.kind is not None:
            values[part.kind] = values.get(part.kind, 0) + part.present[TYPE_OF[part.kind]]
    return max(values, key=lambda kind: values[kind]) if values else None


def _sketch(sketches: list[bytes], *, strings: bool) -> bytes:
    """One sketch of all."""
    size = STRING_CELL_BYTES if strings else NUMERIC_WIDE_CELL_BYTES
    target: Bytes = zeroed(size)
    addresses = np.full(len(sketches), address_of(target), np.int64)
    packed = from_payloads([payload_of(sketch) for sketch in sketches], strings)
    if strings:
        merge_strings(addresses, packed, np.arange(len(sketches)))
        return string_to_bytes(target)
    merge_numeric(addresses, packed, np.arange(len(sketches)), size)
    return numeric_to_bytes(target)
