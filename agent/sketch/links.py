"""Links of a kept row: which of its values lie in which bins, for verdicts that name requests.

A verdict says that a column has moved; whoever is paged wants to see requests that moved. The rows that become
spans are known with their trace ids, so for some of their columns they leave an `Exemplar` without a span id: it
is shown beside no histogram, and only `judge.traces` reads it. No value is in it, only the bin that a sketch
counts the value in:

    a number, a boolean   the middle of its bucket at the sketch's finest scale (0.14 % of the value), or 0
    a text                1 + its hashed bucket, 1..256; the middle of a bucket is never such a number
"""

from __future__ import annotations

import math
from typing import Final

from agent.sketch.cells import HASH_ABSENT, HASH_NULL
from agent.sketch.histogram import DOMAIN_LIMIT, MAX_SCALE, ZERO_THRESHOLD
from agent.types import Block, Column, Exemplar, JsonType, RequestSpan

#: Links of one row; rows of more columns take turns, so that each column has its share.
MOST_LINKS: Final = 8
_BUCKETS: Final = 256


def links_of(
    block: Block,
    row: int,
    numbers: list[tuple[Column, JsonType]],
    strings: list[Column],
    span: RequestSpan,
) -> list[Exemplar]:
    """At most MOST_LINKS links of a row that became `span`. The same whichever decoder read the row.

    numbers, strings  lanes of the row's stream
    """
    found: dict[Column, float] = {}
    first, end = block.number_start[row : row + 2].tolist()
    values = block.numbers[first:end].tolist()
    for (column, kind), value in zip(numbers, values, strict=False):  # a row may be narrower
        if kind in (JsonType.NUMBER, JsonType.BOOLEAN) and abs(value) <= DOMAIN_LIMIT:
            found[column] = middle_of(value)
    first, end = block.string_first[row : row + 2].tolist()
    hashes = block.string_hash[first:end].tolist()
    for column, text in zip(strings, hashes, strict=False):
        if text not in (HASH_ABSENT, HASH_NULL):
            found[column] = 1.0 + (text >> 4 & _BUCKETS - 1)
    columns = sorted(found)
    if len(columns) > MOST_LINKS:
        start = int.from_bytes(span.span_id) % len(columns)
        columns = (columns[start:] + columns[:start])[:MOST_LINKS]
    return [Exemplar(span.stream, c, found[c], span.end_ns, span.trace_id, b"") for c in columns]


def middle_of(value: float) -> float:
    """The middle of the bucket that a number is counted in, |value| up to 2^64."""
    size = abs(value)
    if size <= ZERO_THRESHOLD:
        return 0.0
    bucket = math.ceil(math.log2(size) * (1 << MAX_SCALE)) - 1
    return math.copysign(2.0 ** ((bucket + 0.5) / (1 << MAX_SCALE)), value)


def is_link(exemplar: Exemplar) -> bool:
    """Whether it only says which bin a request is in."""
    return not exemplar.span_id


def text_bucket(value: float) -> int | None:
    """The hashed bucket that a link's value stands for; None: it stands for a number."""
    return int(value) - 1 if 1.0 <= value <= _BUCKETS and value.is_integer() else None
