"""Records that are Python objects already, laid out as an arena: files, and the stock consumer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.decode.indexed import Columns, Indexed
from agent.decode.scalars import header_bytes
from agent.types import Record

_PADDING = bytes(64)
#: Room behind the records, for text without its escapes.
_FREE = bytes(1 << 16)


def lay_out(records: Sequence[Record], to_offset: int) -> Indexed:
    """An index of these records over a buffer of their own; keys are left out.

    Of the headers only the trace context is kept: what the compiled tiers read.
    """
    n = len(records)
    values = [record.value for record in records]
    sizes = [-1 if value is None else len(value) for value in values]
    parts: list[bytes] = [_PADDING, *(value for value in values if value is not None)]
    columns = np.zeros((len(Columns._fields), n), np.int64)
    index = dict(zip(Columns._fields, columns, strict=True))
    index["offset"][:] = [record.offset for record in records]
    index["timestamp_ms"][:] = [record.timestamp_ms for record in records]
    length = index["vlen"]
    length[:] = sizes
    filled = np.maximum(length, 0)
    index["vpos"][:] = np.cumsum(filled) - filled + len(_PADDING)
    index["tpos"][:] = -1
    index["klen"][:] = -1
    end = len(_PADDING) + int(filled.sum())
    for row, record in enumerate(records):
        if record.headers:
            end = _lay_headers(record, row, index, parts, end)
    index["hpos"][index["hcount"] == 0] = end
    parts += (_PADDING, _FREE, _PADDING)
    text = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
    first = columns.ctypes.data
    addresses = Columns(*(first + 8 * n * column for column in range(len(columns))))
    return Indexed(
        n=n,
        hi=0,
        to_offset=to_offset,
        rows=columns,
        address=text.ctypes.data,
        text=text,
        at=addresses,
        unread=[],
    )


def _lay_headers(
    record: Record, row: int, index: dict[str, NDArray[np.int64]], parts: list[bytes], end: int
) -> int:
    """Append the trace context of one record behind the values; the new end."""
    raw = header_bytes(record.headers, "traceparent")
    if raw is None:
        return end
    index["tpos"][row], index["tlen"][row] = end, len(raw)
    parts.append(raw)
    end += len(raw)
    state = header_bytes(record.headers, "tracestate")
    if state is None:
        return end
    # Two headers in the log's own form, the first one empty: a reader looks for a second only.
    raw = b"\0\0" + _sized(b"tracestate") + _sized(state)
    index["hpos"][row], index["hlen"][row], index["hcount"][row] = end, len(raw), 2
    parts.append(raw)
    return end + len(raw)


def _sized(raw: bytes) -> bytes:
    """The bytes behind their length as a zigzag varint."""
    bits = len(raw) << 1
    size = bytearray()
    while bits > 127:
        size.append(bits & 127 | 128)
        bits >>= 7
    return bytes([*size, bits]) + raw
