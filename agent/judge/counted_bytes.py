"""Counts as bytes and back, bit by bit: what judging keeps of windows that it has added up.

A profile has bytes of its own; sums that were weighted have fractions, which no profile can hold.
"""

from __future__ import annotations

import msgspec
import numpy as np

from agent.errors import DecodeError
from agent.judge.counted import Counted, CountedColumn
from agent.judge.sketch_counts import Counts, Numbers, Texts
from agent.sketch.kernels import layout
from agent.types import Column, Kind


class _Numbers(msgspec.Struct, array_like=True):
    count: float
    non_finite: int
    zeros: float
    low: float
    high: float
    scale: int
    first_positive: int
    positive: bytes
    first_negative: int
    negative: bytes
    over: int


class _Texts(msgspec.Struct, array_like=True):
    count: float
    named: list[tuple[int, float]]
    hashed: bytes
    names: list[tuple[int, str]]
    bounds: tuple[float, ...]


class _Column(msgspec.Struct, array_like=True):
    name: Column
    kind: Kind | None
    missing: float
    numbers: _Numbers | None
    texts: _Texts | None
    distinct: float


class _Counted(msgspec.Struct, array_like=True):
    rows: float
    columns: list[_Column]


def to_bytes(counted: Counted) -> bytes:
    """All of it; `from_bytes` reads it back."""
    columns = [
        _Column(
            name,
            held.kind,
            float(held.missing),
            _kept_numbers(held.numbers) if held.numbers is not None else None,
            _kept_texts(held.texts) if held.texts is not None else None,
            float(held.distinct),
        )
        for name, held in counted.columns.items()
    ]
    return msgspec.msgpack.encode(_Counted(float(counted.rows), columns))


def from_bytes(data: bytes) -> Counted:
    """What `to_bytes` wrote. Raises DecodeError."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Counted)
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"counts: {error}") from None
    columns = {}
    for held in kept.columns:
        numbers = _numbers(held.numbers) if held.numbers is not None else None
        texts = _texts(held.texts) if held.texts is not None else None
        columns[held.name] = CountedColumn(held.kind, held.missing, numbers, texts, held.distinct)
    return Counted(kept.rows, columns)


def _kept_numbers(a: Numbers) -> _Numbers:
    return _Numbers(
        float(a.count),
        a.non_finite,
        float(a.zeros),
        a.low,
        a.high,
        a.scale,
        a.first_positive,
        a.positive.tobytes(),
        a.first_negative,
        a.negative.tobytes(),
        a.over,
    )


def _numbers(a: _Numbers) -> Numbers:
    return Numbers(
        a.count,
        a.non_finite,
        a.zeros,
        a.low,
        a.high,
        a.scale,
        a.first_positive,
        _counts(a.positive),
        a.first_negative,
        _counts(a.negative),
        a.over,
    )


def _kept_texts(a: Texts) -> _Texts:
    named = [(key, float(n)) for key, n in a.named.items()]
    bounds = tuple(float(bound) for bound in a.bounds)
    return _Texts(float(a.count), named, a.hashed.tobytes(), list(a.names.items()), bounds)


def _texts(a: _Texts) -> Texts:
    hashed = _counts(a.hashed)
    if len(hashed) != layout.HASHED_BUCKETS or len(a.bounds) != layout.SETS:
        raise DecodeError(f"counts: {len(hashed)} buckets and {len(a.bounds)} sets of texts")
    return Texts(a.count, dict(a.named), hashed, dict(a.names), a.bounds)


def _counts(data: bytes) -> Counts:
    if len(data) % 8:
        raise DecodeError(f"counts: {len(data)} bytes are no counts")
    return np.frombuffer(data, np.float64).copy()
