"""What a column is: declared, or decided once from the first chunk that has values of it, then held.

The decision looks at counts that add up over threads and windows, never at an order within the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.types import Column, JsonType, Kind, Role

#: Ties are decided in this order.
PREFERENCE: Final = (JsonType.NUMBER, JsonType.STRING, JsonType.BOOLEAN, JsonType.VECTOR)

#: The JSON type whose values belong to a kind; all others are violations.
TYPE_OF: Final = {
    Kind.NUMERIC: JsonType.NUMBER,
    Kind.BOOLEAN: JsonType.BOOLEAN,
    Kind.CATEGORICAL: JsonType.STRING,
    Kind.TEXT: JsonType.STRING,
    Kind.VECTOR: JsonType.VECTOR,
}


def is_string_kind(kind: Kind) -> bool:
    """Whether values of this kind are kept in string cells."""
    return TYPE_OF[kind] is JsonType.STRING


LONG_TEXT_BYTES: Final = 64
FREE_TEXT_BYTES: Final = 24
FREE_TEXT_VALUES: Final = 200
FREE_TEXT_DISTINCT: Final = 0.9


def most_frequent(present: Sequence[int]) -> JsonType | None:
    """The type with most values (by JsonType), None when there is none that has a kind."""
    best = max(PREFERENCE, key=lambda t: (present[t], -PREFERENCE.index(t)))
    return best if present[best] else None


def kind_of_type(winner: JsonType) -> Kind | None:
    """The kind, or None when it depends on the texts."""
    match winner:
        case JsonType.NUMBER:
            return Kind.NUMERIC
        case JsonType.BOOLEAN:
            return Kind.BOOLEAN
        case JsonType.VECTOR:
            return Kind.VECTOR
        case _:
            return None


def kind_of_texts(count: int, length_sum: int, distinct: float) -> Kind:
    """Category, or text: long, or hardly ever the same twice. `count` > 0, lengths in bytes."""
    mean = length_sum / count
    if mean > LONG_TEXT_BYTES:
        return Kind.TEXT
    if (
        count >= FREE_TEXT_VALUES
        and distinct / count > FREE_TEXT_DISTINCT
        and mean > FREE_TEXT_BYTES
    ):
        return Kind.TEXT
    return Kind.CATEGORICAL


def given_kind(column: Column, declared: Kind | None) -> Kind | None:
    """What is known without looking at values: a declaration, or the column's role."""
    if column.role in (Role.LATENCY, Role.USAGE):
        return Kind.NUMERIC
    return declared if column.role is Role.FEATURE else None
