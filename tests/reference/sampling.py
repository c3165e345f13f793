"""Which rows become spans, row by row, and their ids: as docs/decisions/0004-export.md says it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np

from agent.decode.trace_context import is_sound, parse_traceparent, randomness_in
from agent.types import Partition, SpanWhy

G, A, B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(A)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(B)
    return x ^ (x >> np.uint64(31))


def id_words(lineage: str, place: Partition, offset: int, row: int) -> list[int]:
    """The three words behind a row's ids, in numpy's wrapping arithmetic."""
    parts = b""
    for text in (lineage, place.topic):
        parts += struct.pack(">I", len(text.encode())) + text.encode()
    parts += struct.pack(">i", place.partition)
    digest = hashlib.blake2b(parts, digest_size=24, person=b"inferometer span").digest()
    words = []
    with np.errstate(over="ignore"):
        for seed in np.frombuffer(digest, ">u8").astype(np.uint64):
            x = _mix(seed + np.uint64(offset) * np.uint64(G))
            words.append(int(_mix(x + np.uint64(row + 1) * np.uint64(G))))
    return words


@dataclass
class Asked:
    """One row as the sampler is asked about it."""

    status: str = ""
    latency_s: float | None = None
    is_odd: bool = False
    traceparent: str | None = None
    tracestate: str = ""
    offset: int = 0
    row: int = 0
    n_rows: int = 1


def why(
    asked: Asked, slow_above_s: float, threshold: int, lineage: str, place: Partition
) -> SpanWhy | None:
    """Why the row is worth a span, whatever the budget says; None when it is not."""
    if asked.status:
        return SpanWhy.ERROR
    if asked.latency_s is not None and asked.latency_s > slow_above_s:
        return SpanWhy.SLOW
    if asked.is_odd:
        return SpanWhy.OUT_OF_RANGE
    context = None if asked.traceparent is None else parse_traceparent(asked.traceparent)
    if context is not None and not context[2] & 1:
        return None
    if context is not None and asked.n_rows == 1:
        explicit = randomness_in(asked.tracestate) if is_sound(asked.tracestate) else None
        randomness = int.from_bytes(context[0][9:], "big") if explicit is None else explicit
    else:
        randomness = id_words(lineage, place, asked.offset, asked.row)[1] & ((1 << 56) - 1)
    return SpanWhy.BASE_RATE if randomness >= threshold else None
