"""What a decoder made of some records, as one number for each row: fast to compare, blind to order.

A row's digest is made of its stream, event time, window, error and every value with its column: bits of
numbers, texts by hash (checked against the text itself) and length. Lanes, tiers and the order of rows
do not enter. Two decoders agree when the sorted digests are equal.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.decode.events import Decoded
from agent.decode.lanes import StreamTable
from agent.sketch.cells import ABSENT_BITS, HASH_ABSENT, HASH_NULL, NULL_BITS
from agent.sketch.hash import hash_spans
from agent.types import Block, JsonType, Tally

Words = NDArray[np.uint64]
_U = np.uint64
_TEXT_LENGTH, _NULL = _U(0x9FB21C651E98DF25), _U(0x2545F4914F6CDD1D)


def mixed(words: Words) -> Words:
    """A bijection of 64-bit words that spreads every bit (murmur3's finalizer)."""
    words = words ^ (words >> _U(33))
    words = words * _U(0xFF51AFD7ED558CCD)
    words = words ^ (words >> _U(33))
    words = words * _U(0xC4CEB9FE1A85EC53)
    return words ^ (words >> _U(33))


@functools.lru_cache(1 << 16)
def code(*parts: Any) -> int:
    """A 64-bit name for a stream, or for a column and type."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


@dataclass
class Outcome:
    """Everything that decoding some records gave."""

    rows: Words = field(default_factory=lambda: np.zeros(0, np.uint64))  # sorted
    tally: dict[str, Any] = field(default_factory=dict)  # tiers left out
    tiers: dict[str, int] = field(default_factory=dict)
    dead: list[tuple[int, str]] = field(default_factory=list)
    newest_ms: int = -1
    spans: list[str] = field(default_factory=list)  # request spans and exemplars, sorted

    def agrees(self, other: Outcome) -> bool:
        return (
            self.tally == other.tally
            and self.dead == other.dead
            and self.newest_ms == other.newest_ms
            and self.spans == other.spans
            and np.array_equal(self.rows, other.rows)
        )


class Digester:
    """Digests of the blocks of one stream table."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self._generation = table.generation
        self._streams: list[int] = []
        self._numeric: dict[int, Words] = {}
        self._strings: dict[int, Words] = {}

    def outcome(self, parts: Iterable[Decoded]) -> Outcome:
        """Of everything that these slices hold. Blocks may be reused once this returns."""
        found = Outcome()
        tally = Tally()
        rows = []
        for part in parts:
            tally.add(part.tally)
            rows += [self.rows(block) for block in part.blocks]
            found.dead += [(record.offset, reason.value) for record, reason in part.dead]
            found.newest_ms = max(found.newest_ms, part.max_event_time_ms)
            for span in part.spans:
                span.out_of_range = tuple(sorted(span.out_of_range))  # in the order of lanes
                found.spans.append(repr(span))
            found.spans += map(repr, part.exemplars)
        if rows:
            found.rows = np.sort(np.concatenate(rows))
        found.dead.sort()
        found.spans.sort()
        found.tiers = {str(tier): n for tier, n in tally.rows_by_tier.items() if n}
        found.tally = {
            name: {str(key): n for key, n in value.items() if n}
            if isinstance(value, dict)
            else value
            for name in Tally.__slots__
            if name != "rows_by_tier"
            for value in [getattr(tally, name)]
        }
        return found

    def rows(self, block: Block) -> Words:
        """The digest of each row that is counted."""
        if self._table.generation != self._generation:
            self._generation = self._table.generation
            self._streams.clear()
            self._numeric.clear()
            self._strings.clear()
        n = block.n
        counted = block.stream >= 0
        streams = np.where(counted, block.stream, 0)
        for idx in range(len(self._streams), len(self._table.keys)):
            self._streams.append(code(self._table.keys[idx]))
        if not self._streams:
            return np.zeros(0, np.uint64)
        whole = mixed(np.array(self._streams, np.uint64)[streams])
        whole += mixed(block.event_time_ms.view(np.uint64) ^ _U(1))
        whole += mixed(block.window.view(np.uint64) ^ _U(2))
        whole += mixed(block.is_error.astype(np.uint64) + _U(3))

        starts = block.number_start
        bits = block.numbers.view(np.uint64)[starts[0] : starts[n]]
        codes = self._codes(streams, starts, self._numeric, is_numeric=True)
        values = mixed(mixed(bits) ^ codes)
        # A null counts for its column: its lane depends on what came before.
        is_null = bits == _U(NULL_BITS)
        if is_null.any():
            columns = self._codes(streams, starts, self._numeric, is_numeric=True, of_nulls=True)
            values[is_null] = mixed(columns[is_null] ^ _NULL)
        values[bits == _U(ABSENT_BITS)] = 0
        whole += _sums(values, starts)

        starts = block.string_first
        low, high = int(starts[0]), int(starts[n])
        hashes = block.string_hash[low:high]
        length = np.ascontiguousarray(block.string_length[low:high])
        is_text = hashes > _U(HASH_NULL)
        check_texts(block, low, high, is_text)
        codes = self._codes(streams, starts, self._strings, is_numeric=False)
        values = mixed(mixed(hashes) ^ codes) ^ mixed(length.astype(np.uint64) + _TEXT_LENGTH)
        is_null = hashes == _U(HASH_NULL)
        if is_null.any():
            columns = self._codes(streams, starts, self._strings, is_numeric=False, of_nulls=True)
            values[is_null] = mixed(columns[is_null] ^ _NULL)
        values[hashes == _U(HASH_ABSENT)] = 0
        whole += _sums(values, starts)
        return mixed(whole)[counted]

    def _codes(
        self,
        streams: NDArray[Any],
        starts: NDArray[np.int64],
        known: dict[int, Words],
        *,
        is_numeric: bool,
        of_nulls: bool = False,
    ) -> Words:
        """The code of the column of each value."""
        widths = np.diff(starts)
        used = np.unique(streams).tolist()
        offsets = np.zeros(len(self._streams), np.int64)
        pieces = []
        at = 0
        for idx in used:
            offsets[idx] = at
            lanes: Any = (
                self._table.numeric_lanes[idx] if is_numeric else self._table.string_lanes[idx]
            )
            # Streams of one shape have one list.
            codes = known.get(id(lanes))
            if codes is None or codes.shape[1] < len(lanes):
                codes = np.array(
                    [
                        [
                            code(*lane) if is_numeric else code(lane, JsonType.STRING)
                            for lane in lanes
                        ],
                        [code(lane[0] if is_numeric else lane) for lane in lanes],
                    ],
                    np.uint64,
                ).reshape(2, len(lanes))
                known[id(lanes)] = codes
            pieces.append(codes[1 if of_nulls else 0])
            at += codes.shape[1]
        place = np.arange(starts[0], starts[-1]) - np.repeat(starts[:-1], widths)
        place += np.repeat(offsets[streams], widths)
        # A row that is not counted may have lanes all the same, of whatever shape.
        flat = np.concatenate([*pieces, np.zeros(1, np.uint64)])
        return flat[np.minimum(place, len(flat) - 1)]


def check_texts(block: Block, low: int, high: int, is_text: NDArray[np.bool_]) -> None:
    """Every hash is that of the text it stands beside. Raises AssertionError."""
    start = np.ascontiguousarray(block.string_start[low:high][is_text])
    length = np.ascontiguousarray(block.string_length[low:high][is_text])
    made = np.empty(len(start), np.uint64)
    hash_spans(block.text, start, length, made)
    assert np.array_equal(made, block.string_hash[low:high][is_text]), (
        "a text is not that of its hash"
    )


def _sums(values: Words, starts: NDArray[np.int64]) -> Words:
    """Sums of the values of each row, modulo 2^64."""
    totals = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)))
    places = starts - starts[0]
    return totals[places[1:]] - totals[places[:-1]]
