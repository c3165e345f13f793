"""Records of formats before version 2, written again as a batch of version 2, uncompressed.

Old formats are rare (brokers have converted to version 2 since 0.11), so this is plain Python: one
pass a record. The checksum is left zero: whoever reads the result trusts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from agent.types import RawBatch, Record

# base offset, length behind it, leader epoch, magic, checksum, attributes, last offset delta, first
# and largest timestamp, producer id and epoch, base sequence, number of records
_HEADER = Struct(">qiibIhiqqqhii")
_LENGTH_FROM = 12


def rewritten(records: Sequence[Record]) -> RawBatch:
    """One batch with these records (at least one, in offset order): the same offsets and timestamps."""
    base, first_ms = records[0].offset, records[0].timestamp_ms
    body = bytearray()
    for record in records:
        one = bytearray(b"\0")  # attributes
        _put_varint(one, record.timestamp_ms - first_ms)
        _put_varint(one, record.offset - base)
        _put_bytes(one, record.key)
        _put_bytes(one, record.value)
        _put_varint(one, len(record.headers))
        for name, value in record.headers:
            _put_bytes(one, name.encode())
            _put_bytes(one, value)
        _put_varint(body, len(one))
        body += one
    max_ms = max(record.timestamp_ms for record in records)
    last = records[-1].offset
    header = _HEADER.pack(
        base,
        _HEADER.size - _LENGTH_FROM + len(body),
        -1,
        2,
        0,
        0,
        last - base,
        first_ms,
        max_ms,
        -1,
        -1,
        -1,
        len(records),
    )
    data = memoryview(header + bytes(body))
    return RawBatch(data, base, last + 1, 0, first_ms, max_ms, len(records), base)


def _put_bytes(out: bytearray, value: bytes | None) -> None:
    if value is None:
        _put_varint(out, -1)
        return
    _put_varint(out, len(value))
    out += value


def _put_varint(out: bytearray, value: int) -> None:
    """Zigzag, seven bits a byte, lowest first."""
    bits = (value << 1) ^ (value >> 63)
    while bits > 127:
        out.append(bits & 127 | 128)
        bits >>= 7
    out.append(bits)
