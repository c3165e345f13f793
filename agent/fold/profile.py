"""Profile: the mergeable sketches of one stream over one sealed window.

Bytes: the frame of `state.frame` (magic "IFPR", version, lengths, crc32) around a msgpack header and the
compact cells. `merge(a, b)` equals one profile of both inputs' rows, within the sketches' own bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from agent.errors import DecodeError
from agent.fold.kinds import TYPE_OF, is_string_kind
from agent.fold.shown import frequent_texts
from agent.sketch.arrays import address_of
from agent.sketch.cells import NUMERIC_WIDE_CELL_BYTES, STRING_CELL_BYTES, Bytes, zeroed
from agent.sketch.codec import (
    numeric_from_bytes,
    numeric_to_bytes,
    payload_of,
    string_from_bytes,
    string_to_bytes,
)
from agent.sketch.merge import merge_numeric, merge_strings
from agent.sketch.packed import from_payloads
from agent.sketch.pair_sums import PairSums, united_pairs
from agent.sketch.vector_sums import from_bytes as vectors_from_bytes
from agent.sketch.vector_sums import united_vectors
from agent.sketch.views import NumericView, StringView, numeric_view, string_view
from agent.state.frame import open_frame, seal_frame
from agent.types import Column, JsonType, Kind, StreamKey

MAGIC = b"IFPR"
VERSION = 1


class Facts(NamedTuple):
    """What gauges say of a column in a window; None where there is no value, or no such thing."""

    distinct: int | None = None
    min: float | None = None
    max: float | None = None


@dataclass(eq=False)
class ProfileColumn:
    """One column: its kind (None: only nulls so far), values by JsonType, and its sketch's compact bytes.

    `sketch` is empty when no value of the column's kind is in the window.
    """

    kind: Kind | None
    present: list[int]
    sketch: bytes = b""
    _facts: Facts | None = None
    _top: tuple[int, int, list[tuple[str, int]]] | None = None

    def violations(self) -> int:
        """Values of another type than the kind's; 0 while undecided."""
        return violations(self.kind, self.present)

    @property
    def numbers(self) -> NumericView | None:
        """The sketch of a numeric, boolean or vector column, decoded (75 us) and not kept."""
        if not self.sketch or self.kind is None or is_string_kind(self.kind):
            return None
        return numeric_view(numeric_from_bytes(self.sketch))

    @property
    def texts(self) -> StringView | None:
        """The sketch of a categorical or text column, decoded and not kept."""
        if not self.sketch or self.kind is None or not is_string_kind(self.kind):
            return None
        return string_view(string_from_bytes(self.sketch))

    @property
    def facts(self) -> Facts:
        """Distinct values and extremes."""
        if self._facts is None:
            view = self.numbers or self.texts
            if view is None or not view.count:
                self._facts = Facts()
            elif isinstance(view, NumericView):
                self._facts = Facts(round(view.distinct()), view.min, view.max)
            else:
                self._facts = Facts(round(view.distinct()))
        return self._facts

    def top(self, k: int, at_least: int = 1) -> list[tuple[str, int]]:
        """The most frequent texts and their counts, within 5 %; kept, since every export asks again.

        Raw texts: what is shown of them is `shown`'s to say. `at_least`: fewer rows are not listed.
        """
        if self._top is None or self._top[:2] != (k, at_least):
            view = self.texts
            self._top = k, at_least, frequent_texts(view, k, at_least) if view is not None else []
        return self._top[2]

    def remember(self, facts: Facts) -> None:
        """Facts that were read in bulk: the sketch need not be decoded for them."""
        self._facts = facts


def violations(kind: Kind | None, present: list[int]) -> int:
    """Values that do not have the type of the column's kind; 0 while there is no kind."""
    return 0 if kind is None else sum(present) - present[TYPE_OF[kind]]


@dataclass(slots=True, eq=False)
class Profile:
    """Window [window, window + 1) * width_ms of a stream. `coverage` below 1: sealed before all had arrived.

    `unseen`: rows left out under overload, by estimate. No count here is scaled by it: whoever shows one as
    a rate divides it by `sampling_ratio`, and says so.
    `pairs`: sums of products of scores (`sketch.pair_sums`), b"" where the model has no score table.
    `vectors`: sums of sampled vectors (`sketch.vector_sums`), b"" where no row had any.
    """

    stream: StreamKey
    window: int
    width_ms: int
    rows: int
    errors: int
    coverage: float
    columns: dict[Column, ProfileColumn] = field(default_factory=dict)
    unseen: int = 0
    pairs: bytes = b""
    vectors: bytes = b""

    @property
    def sampling_ratio(self) -> float:
        """Rows counted, of those that arrived; 1 when none was left out."""
        return self.rows / (self.rows + self.unseen) if self.unseen else 1.0

    @property
    def is_partial(self) -> bool:
        return self.coverage < 1.0

    @property
    def start_ms(self) -> int:
        return self.window * self.width_ms

    @property
    def end_ms(self) -> int:
        return (self.window + 1) * self.width_ms

    def missing(self, column: ProfileColumn) -> int:
        """Rows without a value of any type."""
        return self.rows - sum(column.present)

    def to_bytes(self) -> bytes:
        """Versioned and checksummed; `Profile.from_bytes` reads it back."""
        head = _Header(
            stream=self.stream,
            window=self.window,
            width_ms=self.width_ms,
            rows=self.rows,
            errors=self.errors,
            coverage=self.coverage,
            columns=[
                _Column(column, c.kind, c.present, len(c.sketch))
                for column, c in self.columns.items()
            ],
            unseen=self.unseen,
            pairs=self.pairs,
            vectors=self.vectors,
        )
        body = b"".join(c.sketch for c in self.columns.values())
        return seal_frame(MAGIC, VERSION, msgspec.msgpack.encode(head), body)

    @staticmethod
    def from_bytes(data: bytes) -> Profile:
        """Raises DecodeError for bytes that are not exactly what `to_bytes` wrote."""
        raw, body = open_frame(MAGIC, VERSION, data, "profile")
        try:
            head = msgspec.msgpack.decode(raw, type=_Header)
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            raise DecodeError(f"profile header: {error}") from None
        total = sum(c.length for c in head.columns)
        if any(c.length < 0 for c in head.columns) or total != len(body):
            raise DecodeError(f"profile: sketches take {total} bytes, the body has {len(body)}")
        columns: dict[Column, ProfileColumn] = {}
        at = 0
        for c in head.columns:
            sketch = bytes(body[at : at + c.length])
            at += c.length
            if len(c.present) != len(JsonType):
                raise DecodeError(f"profile: column {c.column.name!r} counts {c.present}")
            read = ProfileColumn(c.kind, c.present, sketch)
            if sketch and c.kind is not None:  # a sketch that cannot be read is found now
                (string_from_bytes if is_string_kind(c.kind) else numeric_from_bytes)(sketch)
            columns[c.column] = read
        if head.pairs:
            PairSums.from_bytes(head.pairs)
        vectors_from_bytes(head.vectors)
        return Profile(
            head.stream,
            head.window,
            head.width_ms,
            head.rows,
            head.errors,
            head.coverage,
            columns,
            head.unseen,
            head.pairs,
            head.vectors,
        )


class _Column(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    column: Column
    kind: Kind | None
    present: list[int]
    length: int


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    stream: StreamKey
    window: int
    width_ms: int
    rows: int
    errors: int
    coverage: float
    columns: list[_Column]
    unseen: Annotated[int, msgspec.Meta(ge=0)] = 0
    pairs: bytes = b""
    vectors: bytes = b""


def merge(a: Profile, b: Profile) -> Profile:
    """Both profiles' rows as one; `a` and `b` are left alone. Raises ValueError for another stream or window.

    A column that the two hold as different kinds keeps the kind with more values (ties: `a`'s); the
    other's values are then violations, as if they had arrived here. Coverage is weighted by rows.
    """
    if (a.stream, a.window, a.width_ms) != (b.stream, b.window, b.width_ms):
        raise ValueError(
            f"cannot merge window {b.window} of {b.stream} into window {a.window} of {a.stream}"
        )
    rows = a.rows + b.rows
    weight = a.rows / rows if rows else 0.5
    columns = {
        column: _merged(a.columns.get(column), b.columns.get(column))
        for column in [*a.columns, *(c for c in b.columns if c not in a.columns)]
    }
    return Profile(
        a.stream,
        a.window,
        a.width_ms,
        rows,
        a.errors + b.errors,
        weight * a.coverage + (1 - weight) * b.coverage if a.coverage != b.coverage else a.coverage,
        columns,
        a.unseen + b.unseen,
        united_pairs((a.pairs, b.pairs)),
        united_vectors((a.vectors, b.vectors)),
    )


def _merged(a: ProfileColumn | None, b: ProfileColumn | None) -> ProfileColumn:
    if a is None or b is None:
        only = a or b
        assert only is not None
        return ProfileColumn(only.kind, list(only.present), only.sketch)
    present = [x + y for x, y in zip(a.present, b.present, strict=True)]
    if a.kind is None or b.kind is None:
        known = b if a.kind is None else a
        return ProfileColumn(known.kind, present, known.sketch)
    winner, other = a, b
    if a.kind is not b.kind and b.present[TYPE_OF[b.kind]] > a.present[TYPE_OF[a.kind]]:
        winner, other = b, a
    assert winner.kind is not None and other.kind is not None
    strings = is_string_kind(winner.kind)
    if TYPE_OF[winner.kind] is not TYPE_OF[other.kind] or not other.sketch:
        return ProfileColumn(winner.kind, present, winner.sketch)
    if not winner.sketch:
        return ProfileColumn(winner.kind, present, other.sketch)
    return ProfileColumn(winner.kind, present, _united(winner.sketch, other.sketch, strings))


def _united(a: bytes, b: bytes, strings: bool) -> bytes:
    """One sketch of two."""
    size = STRING_CELL_BYTES if strings else NUMERIC_WIDE_CELL_BYTES
    target: Bytes = zeroed(size)
    address = np.array([address_of(target)] * 2, np.int64)
    both = from_payloads([payload_of(a), payload_of(b)], strings)
    if strings:
        merge_strings(address, both, np.arange(2))
        return string_to_bytes(target)
    merge_numeric(address, both, np.arange(2), size)
    return numeric_to_bytes(target)
