"""The records section of a batch, read byte by byte from the format's definition. Slow and plain."""

from __future__ import annotations

from typing import NamedTuple

from agent.types import Record


class Broken(Exception):
    """The section is not what the format allows, from here on."""


class Section(NamedTuple):
    """What was read: records in offset order, and the offset behind the last one that could be."""

    records: list[Record]
    reached: int
    is_damaged: bool


def read_section(
    data: bytes,
    *,
    n_records: int,
    base_offset: int = 0,
    next_offset: int,
    min_offset: int = 0,
    base_time: int = 0,
    append_time: int | None = None,
) -> Section:
    at = 0
    records: list[Record] = []
    reached = min_offset
    try:
        for _ in range(n_records):
            one, at = _record(data, at, base_offset, base_time, append_time)
            if one.offset >= next_offset:
                raise Broken
            if one.offset >= reached:
                reached = one.offset + 1
                records.append(one)
        if at != len(data):
            raise Broken
    except Broken:
        return Section(records, reached, True)
    return Section(records, reached, False)


def _record(
    data: bytes, at: int, base_offset: int, base_time: int, append_time: int | None
) -> tuple[Record, int]:
    length, at = _varint(data, at)
    if length < 0 or at + length > len(data):
        raise Broken
    body = data[at : at + length]
    behind = at + length
    if not body:
        raise Broken
    at = 1  # attributes
    time_delta, at = _varint(body, at)
    offset_delta, at = _varint(body, at)
    key, at = _bytes(body, at)
    value, at = _bytes(body, at)
    n_headers, at = _varint(body, at)
    if n_headers < 0:
        raise Broken
    headers = []
    for _ in range(n_headers):
        name, at = _bytes(body, at)
        if name is None:
            raise Broken
        content, at = _bytes(body, at)
        headers.append((name.decode("utf-8", "replace"), content))
    if at != len(body):
        raise Broken
    time = base_time + time_delta if append_time is None else append_time
    return Record(_int64(base_offset + offset_delta), _int64(time), key, value, tuple(headers)), (
        behind
    )


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise Broken
    return data[at : at + length], at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Zigzag, at most ten bytes, 64 bits."""
    bits = 0
    for place in range(10):
        if at >= len(data):
            raise Broken
        byte = data[at]
        at += 1
        bits |= (byte & 127) << 7 * place
        if byte < 128:
            bits &= (1 << 64) - 1
            return _int64((bits >> 1) ^ -(bits & 1)), at
    raise Broken


def _int64(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
