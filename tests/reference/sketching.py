"""One-line access to the sketches under test, and the shapes of data they are tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
    CellPages,
    zeroed,
)
from agent.sketch.delta import Delta
from agent.sketch.hash import hash_spans
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.packed import PackedCells, pack
from agent.sketch.views import NumericView, StringView
from agent.types import Block, Column, JsonType, Role, StreamKey

Record = NDArray[np.uint8]


_KEY, _FEATURE, NUMBER = StreamKey("m", ""), Role.FEATURE, JsonType.NUMBER


class _OneStream:
    """A stream table of one stream with so many lanes."""

    def __init__(self, numbers: int, strings: int) -> None:
        self.keys = [_KEY]
        self.numeric_lanes = [[(Column(_FEATURE, f"x{i}"), NUMBER) for i in range(numbers)]]
        self.string_lanes = [[Column(_FEATURE, f"s{i}") for i in range(strings)]]


def block_of_lanes(
    numbers: NDArray[np.float64],
    hashes: NDArray[np.uint64] | None = None,
    start: NDArray[np.int64] | None = None,
    length: NDArray[np.int32] | None = None,
    text: NDArray[np.uint8] | None = None,
) -> Block:
    """Rows of stream 0 with these numbers, float64[n, lanes], and at most one string each, uint64[n]."""
    n, lanes = numbers.shape
    texts = 0 if hashes is None else 1
    return Block(
        n=n,
        stream=np.zeros(n, np.int32),
        event_time_ms=np.zeros(n, np.int64),
        window=np.zeros(n, np.int64),
        is_error=np.zeros(n, np.uint8),
        numbers=np.ascontiguousarray(numbers).ravel(),
        number_start=np.arange(n + 1, dtype=np.int64) * lanes,
        string_hash=np.zeros(0, np.uint64) if hashes is None else hashes,
        string_start=np.zeros(0, np.int64) if start is None else start,
        string_length=np.zeros(0, np.int32) if length is None else length,
        string_first=np.arange(n + 1, dtype=np.int64) * texts,
        text=np.zeros(128, np.uint8) if text is None else text,
    )


def sketched(blocks: Iterable[Block], numbers: int, strings: int) -> tuple[list[Record], Record]:
    """Records of all numeric lanes, and of the string lane, after a delta has taken the blocks."""
    delta = Delta(_OneStream(numbers, strings))
    for block in blocks:
        delta.add(block)
    groups, numeric, texts = delta.freeze()
    records = [np.zeros(NUMERIC_CELL_BYTES, np.uint8) for _ in range(numbers)]
    string = np.zeros(STRING_CELL_BYTES, np.uint8)
    for ref in (ref for group in groups for ref in group.cells):
        if ref.type is JsonType.STRING:
            string = texts[ref.cell]
        else:
            records[int(ref.column.name[1:])] = numeric[ref.cell]
    return records, string


def numeric_records(columns: NDArray[np.float64], block: int = 2048) -> list[Record]:
    """One narrow record for each column of float64[n, lanes], fed in blocks."""
    parts = (columns[at : at + block] for at in range(0, len(columns), block))
    return sketched(map(block_of_lanes, parts), columns.shape[1], 0)[0]


def numeric(values: Sequence[float] | NDArray[np.float64], block: int = 2048) -> Record:
    """The narrow record of some values."""
    return numeric_records(np.asarray(values, np.float64).reshape(-1, 1), block)[0]


def spans(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    """A padded text, starts and lengths."""
    text = np.frombuffer(bytes(64) + b"".join(texts) + bytes(64), np.uint8)
    length = np.array([len(t) for t in texts], np.int32)
    start = (64 + np.cumsum(length, dtype=np.int64) - length).astype(np.int64)
    return text, start, length


def strings(texts: Sequence[bytes], block: int = 2048) -> Record:
    """The record of some texts."""
    text, start, length = spans(texts)
    hashes = np.empty(len(texts), np.uint64)
    hash_spans(text, start, length, hashes)
    blocks = (
        block_of_lanes(
            np.empty((len(h), 0)), h, start[at : at + block], length[at : at + block], text
        )
        for at in range(0, len(texts), block)
        for h in [hashes[at : at + block]]
    )
    return sketched(blocks, 0, 1)[1]


def packed(records: Sequence[Record]) -> PackedCells:
    """Records of one size, packed."""
    memory = zeroed(sum(map(len, records))).reshape(len(records), -1)
    memory[:] = records
    addresses = memory.ctypes.data + memory.shape[1] * np.arange(len(records))
    return pack(addresses, memory.shape[1])


def merged(records: Sequence[Record], wide: bool = False) -> Record:
    """All records merged, in order, into an empty numeric cell (or string cell, by their size)."""
    size = len(records[0]) if not wide else NUMERIC_WIDE_CELL_BYTES
    pages = CellPages(size, 16)
    cell = pages.alloc()
    for record in records:
        source = packed([record])
        if size == STRING_CELL_BYTES:
            merge_strings(pages.addresses[[cell]], source, np.zeros(1, np.int64))
        else:
            merge_numeric(pages.addresses[[cell]], source, np.zeros(1, np.int64), size)
    return pages.copy_out([cell])[0]


def exact_part(view: NumericView) -> tuple[object, ...]:
    """What must be the same whatever the order of updates and merges."""
    return (
        view.count,
        view.nulls,
        view.non_finite,
        view.zeros,
        view.over_positive,
        view.over_negative,
        repr(view.min),
        repr(view.max),
        view.scale,
        view.positive_offset if len(view.positive) else None,
        view.positive.tolist(),
        view.negative_offset if len(view.negative) else None,
        view.negative.tolist(),
        view.registers.tobytes(),
    )


def exact_string_part(view: StringView) -> tuple[object, ...]:
    """The same for texts; heavy hitters are bounded, not exact."""
    return (
        view.count,
        view.nulls,
        view.length_sum,
        view.length_min,
        view.length_max,
        view.hashed_buckets.tolist(),
        view.registers.tobytes(),
    )


Generator = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _log_uniform(rng: np.random.Generator, n: int, low: float, high: float) -> NDArray[np.float64]:
    return np.exp2(rng.uniform(low, high, n))


SHAPES: dict[str, Generator] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "uniform": lambda rng, n: rng.uniform(0, 40, n),
    "lognormal": lambda rng, n: rng.lognormal(3, 2, n),
    "exponential": lambda rng, n: rng.exponential(0.01, n),
    "pareto": lambda rng, n: rng.pareto(0.8, n) + 1,
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "constant": lambda rng, n: np.full(n, 0.1),
    "binary": lambda rng, n: rng.integers(0, 2, n).astype(float),
    "small integers": lambda rng, n: rng.integers(-50, 50, n).astype(float),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
    "two clusters": lambda rng, n: (
        np.where(rng.random(n) < 0.5, -1e6, 1e-6) * rng.uniform(0.9, 1.1, n)
    ),
    "edges of 0..1": lambda rng, n: rng.beta(0.1, 0.1, n),
    "timestamps": lambda rng, n: 1.7e9 + np.sort(rng.uniform(0, 1e5, n)),
    "narrow": lambda rng, n: 1000 + rng.normal(size=n) * 1e-3,
    "drifting": lambda rng, n: np.linspace(-1e6, 1e6, n) + rng.normal(size=n),
    "outlier first": lambda rng, n: np.concatenate(([1e15], rng.normal(size=max(0, n - 1))))[:n],
    "whole domain": lambda rng, n: _log_uniform(rng, n, -63.9, 63.9) * rng.choice([-1, 1], n),
    "powers of two": lambda rng, n: np.exp2(rng.integers(-60, 60, n)),
    "beyond the domain": lambda rng, n: _log_uniform(rng, n, -1070, 1020) * rng.choice([-1, 1], n),
}
