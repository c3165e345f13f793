"""Load shedding: of the records of a load, only some are decoded; the others are counted as dropped.

Which ones is a function of the record's place or key and of the level alone: the same in every agent, run
and order. With `bits` of level one record of 2^bits is kept, and those are among the ones kept at any
lower level. So what is counted of a sample is as exact as without: the rows of known records.

    chosen   the upper `bits` bits of the hash are 0
    place    hash of topic, partition, offset
    key      hash of the first 64 bytes of the key, and its length; without a key by place

Left alone: label topics, whose labels must find the rows that were kept.

The hash is public, so a producer that chooses keys can choose which of its own are kept. Choosing costs 2 ns
a record by place, 21 by keys of 16 bytes, 49 by keys of 36; leaving the others out 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.decode.events import Decoded
from agent.decode.fast import FastDecoder
from agent.decode.indexed import Indexed
from agent.decode.kept import Sampler
from agent.decode.lanes import StreamTable
from agent.types import Drop, Fetch, Partition, RawFetch, Record

#: Of the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_WORD = 8
_KEY_WORDS = 8
#: Masks of the last word of a key, by the bytes of it that belong to the key.
_MASK = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], np.uint64)

Words = NDArray[np.uint64]


class Level:
    """How many bits. Set by the loop; each kernel thread takes it when it cuts (`delivery.overload`)."""

    __slots__ = ("bits",)

    def __init__(self) -> None:
        self.bits = 0


class SheddingDecoder(FastDecoder):
    """A decoder that leaves records out as `level` says. Counts each as a record, dropped as `shed`.

    A level begins with a cut. A load that was begun before goes on as it began, so up to a mebibyte of
    records of the next chunk are still those of the level before.
    """

    def __init__(
        self, config: Config, table: StreamTable, sampler: Sampler | None, *, level: Level
    ) -> None:
        super().__init__(config, table, sampler)
        self._level = level
        self._bits = level.bits
        self._by_key = config.overload.by == "key"
        self._salts: dict[Partition, np.uint64] = {}

    def on_cut(self) -> None:
        """The owner's delta is empty again: a new level begins here."""
        super().on_cut()
        self._bits = self._level.bits

    def _decode(
        self,
        index: Indexed,
        record_of: Callable[[int], Record],
        fetch: Fetch | RawFetch,
        lineage: str,
        *,
        is_last: bool,
    ) -> Iterator[Decoded]:
        if not self._bits or fetch.is_label_topic or not index.n:
            yield from super()._decode(index, record_of, fetch, lineage, is_last=is_last)
            return
        rows, left_out = self._choose(index, fetch)
        thin(index, rows)
        if isinstance(fetch, Fetch):  # its records are found by their number in the fetch
            record_of = _among(fetch.records, rows)
        n_counted = 0
        for part in super()._decode(index, record_of, fetch, lineage, is_last=is_last):
            n_counted = _count(left_out, n_counted, part)
            yield part
        if n_counted < len(left_out):  # none of the load was kept
            part = self._json.begin(index.to_offset, fetch.partition)
            _count(left_out, n_counted, part)
            yield part

    def _choose(
        self, index: Indexed, fetch: Fetch | RawFetch
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the index that are kept, and the offsets of the others; both ascending."""
        partition = fetch.partition
        salt = self._salts.get(partition)
        if salt is None:
            salt = self._salts[partition] = salt_of(partition)
        hashes = hash_places(salt, index.offset)
        if self._by_key:
            text, start, length = index.text, index.kpos, index.klen
            if isinstance(fetch, Fetch):  # laid out without keys
                text, start, length = joined_keys([record.key for record in fetch.records])
            hashes = np.where(length < 0, hashes, hash_keys(text, start, length))
        is_kept = are_chosen(hashes, self._bits)
        return np.flatnonzero(is_kept), index.offset[~is_kept]


def thin(index: Indexed, rows: NDArray[np.int64]) -> None:
    """Leave only these rows (ascending) in the index, in place: kernels know its columns by address."""
    n = len(rows)
    index.rows[:, :n] = index.rows[:, rows]
    index.n = n


def _among(records: Sequence[Record], rows: NDArray[np.int64]) -> Callable[[int], Record]:
    return lambda row: records[rows[row]]


def _count(left_out: NDArray[np.int64], n_counted: int, part: Decoded) -> int:
    """Count what was left out in the offsets that this slice is the first to cover; how many were by now."""
    n = int(np.searchsorted(left_out, part.to_offset))
    if n > n_counted:
        part.tally.records += n - n_counted
        part.tally.dropped[Drop.SHED] += n - n_counted
    return max(n, n_counted)


# ---------------------------------------------------------------- hashes


def are_chosen(hashes: Words, bits: int) -> NDArray[np.bool_]:
    """Whether each is one of the 2^-bits that are kept."""
    return (hashes >> np.uint64(64 - bits)) == 0 if bits else np.ones(len(hashes), np.bool_)


def salt_of(partition: Partition) -> np.uint64:
    """A fixed number of a partition, so that each has a sample of its own."""
    name = f"{partition.topic}\0{partition.partition}".encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))


def hash_places(salt: np.uint64, offsets: NDArray[np.int64]) -> Words:
    """Of the places in one partition."""
    return _mixed((offsets.astype(np.uint64) * _GOLDEN) ^ salt)


def hash_keys(
    text: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]
) -> Words:
    """Of the keys text[start : start + length]; 7 bytes behind each must be readable. Null keys: any value."""
    words = np.ndarray((len(text) - _WORD + 1,), np.dtype("<u8"), buffer=text, strides=(1,))
    hashes = _mixed(length.astype(np.uint64) * _GOLDEN)
    for word in range(_KEY_WORDS):
        left = length - _WORD * word
        rows = np.flatnonzero(left > 0)
        if not len(rows):
            break
        found = words[start[rows] + _WORD * word] & _MASK[np.minimum(left[rows], _WORD)]
        hashes[rows] = _mixed(hashes[rows] ^ found)
    return hashes


def joined_keys(
    keys: Sequence[bytes | None],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Text, starts and lengths of keys, as `hash_keys` wants them; null: -1."""
    length = np.array([-1 if key is None else len(key) for key in keys], np.int64)
    filled = np.maximum(length, 0)
    text = np.frombuffer(b"".join(key for key in keys if key) + bytes(_WORD), np.uint8)
    return text, np.cumsum(filled) - filled, length


def _mixed(x: Words) -> Words:
    """The finaliser of SplitMix64: a bijection whose every output bit depends on every input bit."""
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)
