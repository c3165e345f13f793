"""What becomes of the value at one path: the question that templates and path tables ask once.

A *leaf* is a scalar, an array of numbers or an empty object, at a path of object keys from the top of
an event. `Resolver.resolve` says what the compiled tiers do with it. Its answers are those of the
orjson tier (`events`, `rows`), which stays the definition: where a row of that kind could be refused,
be counted as irregular or depend on another leaf, the answer is None and the row goes down to it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from agent.decode.lanes import Shape


class Op(enum.IntEnum):
    """What a compiled tier does with a leaf."""

    SKIP = 0  # validate, keep nothing
    NUMBER = 1  # numbers[lane] = value
    SCALED = 2  # numbers[lane] = value / divisor; a value that is negative or not finite: misfit
    BOOLEAN = 3  # numbers[lane] = 0.0 or 1.0
    STRING = 4  # string lane: merge_hash, start, length
    CODE = 5  # string lane: raw text of a canonical integer, or true/false; other numbers: misfit
    NULL_NUMBER = 6  # numbers[lane] = NULL_BITS
    NULL_STRING = 7  # string_hash[lane] = HASH_NULL
    VECTOR = 8  # numbers[lane] = Euclidean norm
    FIELD = 9  # lane is the number of the field: text position; string, or canonical integer
    SEGMENT = 10  # a segment value: string, canonical integer, true/false; salt: that of its name
    TIME = 11  # event time: a number or text, as `times` reads it
    LABEL = 12  # nothing but the LABEL flag


class WireKind(enum.IntEnum):
    """What a leaf is on the wire. EMPTY and ARRAY may be left to the orjson tier unasked."""

    NULL = 0
    BOOL = 1
    NUMBER = 2
    STRING = 3
    VECTOR = 4  # array of numbers, possibly empty
    EMPTY = 5  # object without keys
    ARRAY = 6  # any other array; never holds an answer but SKIP, LABEL or None


#: Flags of a leaf; a row's flags are those of its leaves together.
CONTENT = 1  #: below features, prediction or usage: the event makes a row
LABEL = 2  #: the event carries a label

#: Fields whose text is kept by position.
MODEL, VERSION, STATUS, ID, TRACEPARENT, TRACESTATE = range(6)
N_FIELDS = 6


class Leaf(NamedTuple):
    """What to do with a value. `lane`: lane of the shape, or number of the field for FIELD."""

    op: Op
    lane: int = -1
    divisor: float = 1.0
    salt: int = 0  # uint64
    flags: int = 0


class Resolver(Protocol):
    """What templates and path tables need of `decode.resolver.ConfigResolver`."""

    def resolve(self, shape: Shape, path: tuple[str, ...], kind: WireKind) -> Leaf | None:
        """What to do with a value of `kind` at `path` in events of this shape; None: they are misfits.

        Adds the lane to the shape when it is new and allowed. The answer for one (shape, path, kind)
        never changes from one leaf to another; None may become a leaf. A row must not be accepted
        when a leaf or key of it has had no answer.
        """
        ...

    def is_skipped(self, path: tuple[str, ...]) -> bool:
        """Whether nothing at or below `path` is ever read: only that it is valid JSON."""
        ...
