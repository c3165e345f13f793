"""Blocks of rows as the decoder hands them over, made without it: seeded, any number of streams."""

from __future__ import annotations

import numpy as np

from agent.sketch.cells import ABSENT_BITS
from agent.sketch.hash import hash_spans
from agent.types import Block, Column, JsonType, Role, StreamKey

START_WINDOW = 1_700_000_000_000 // 60_000
BLOCK_ROWS = 2048
_PAD = 64


class Table:
    """A stream table: `n_streams` streams with the same columns."""

    def __init__(self, n_streams: int, n_numbers: int, n_strings: int) -> None:
        numbers = [(Column(Role.FEATURE, f"f{j}"), JsonType.NUMBER) for j in range(n_numbers)]
        strings = [Column(Role.FEATURE, f"c{j}") for j in range(n_strings)]
        self.keys = [StreamKey(f"m{i:04d}", "1") for i in range(n_streams)]
        self.numeric_lanes = [numbers] * n_streams
        self.string_lanes = [strings] * n_streams


def make_blocks(
    n_blocks: int,
    *,
    seed: int,
    n_streams: int,
    n_numbers: int,
    cardinalities: tuple[int, ...] = (),
    n_windows: int = 3,
    absent_share: float = 0.0,
    rows: int = BLOCK_ROWS,
) -> list[Block]:
    """Blocks of `rows` rows, each of a stream and window of its own drawing.

    Numbers: the first half normal(0, 1), the rest log-normal(3, 1). One string lane for each
    cardinality, its values drawn evenly.
    """
    rng = np.random.default_rng(seed)
    return [
        _block(rng, rows, n_streams, n_numbers, cardinalities, n_windows, absent_share)
        for _ in range(n_blocks)
    ]


def _block(
    rng: np.random.Generator,
    n: int,
    n_streams: int,
    n_numbers: int,
    cardinalities: tuple[int, ...],
    n_windows: int,
    absent_share: float,
) -> Block:
    numbers = rng.standard_normal((n, n_numbers))
    half = n_numbers // 2
    numbers[:, half:] = np.exp(3.0 + numbers[:, half:])
    if absent_share:
        numbers.view(np.uint64)[rng.random(numbers.shape) < absent_share] = ABSENT_BITS
    window = START_WINDOW + rng.integers(0, n_windows, n)
    n_strings = len(cardinalities)
    texts = [
        f"value-{value:07d}".encode()
        for row in zip(*(rng.integers(0, c, n).tolist() for c in cardinalities), strict=True)
        for value in row
    ]
    length = np.array([len(text) for text in texts], np.int32)
    start = np.zeros(len(texts), np.int64)
    if len(texts):
        start[1:] = np.cumsum(length[:-1])
    start += _PAD
    text = np.frombuffer(bytes(_PAD) + b"".join(texts) + bytes(_PAD), np.uint8).copy()
    hashes = np.empty(len(texts), np.uint64)
    if len(texts):
        hash_spans(text, start, length, hashes)
    return Block(
        n=n,
        stream=rng.integers(0, n_streams, n).astype(np.int32),
        event_time_ms=window * 60_000,
        window=window,
        is_error=np.zeros(n, np.uint8),
        numbers=np.ascontiguousarray(numbers).reshape(-1),
        number_start=np.arange(0, (n + 1) * n_numbers, n_numbers)
        if n_numbers
        else np.zeros(n + 1, np.int64),
        string_hash=hashes,
        string_start=start,
        string_length=length,
        string_first=np.arange(0, (n + 1) * n_strings, n_strings)
        if n_strings
        else np.zeros(n + 1, np.int64),
        text=text,
    )


def lane(block: Block, n_lanes: int, j: int) -> np.ndarray:
    """One column of a block of equal rows, float64[n]."""
    return block.numbers.reshape(block.n, n_lanes)[:, j]


def string_lane(block: Block, n_lanes: int, j: int) -> list[str]:
    """One column of texts."""
    starts = block.string_start.reshape(block.n, n_lanes)[:, j].tolist()
    lengths = block.string_length.reshape(block.n, n_lanes)[:, j].tolist()
    raw = block.text.tobytes()
    return [raw[at : at + n].decode() for at, n in zip(starts, lengths, strict=True)]
