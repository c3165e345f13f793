"""Load shedding: which records are left out, how they are counted, and what the fold says of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.config import Config, Overload
from agent.decode.events import JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.raw_batches import table_of
from agent.decode.shed import (
    Level,
    SheddingDecoder,
    are_chosen,
    hash_keys,
    hash_places,
    joined_keys,
    salt_of,
)
from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.fold.persist import dump, load
from agent.fold.profile import Profile, merge
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.state.parts import Manifest, Part, join, read_record, records_of
from agent.types import Drop, Fetch, Partition, RawFetch, Record, StreamKey, Tally
from tests.fuzz.digests import Digester, Outcome
from tests.support.blocks import Row, chunk_of, feature, range_of
from tests.support.decoded import PARTITION, fetch_of
from tests.support.events import make_events
from tests.support.raw_batches import CODECS, batches_of, built

MS = 1_767_225_600_000
M64 = (1 << 64) - 1


def mixed(x: int) -> int:
    """The finaliser of SplitMix64, in plain integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def place_hash(offset: int, partition: Partition = PARTITION) -> int:
    return mixed(((offset * 0x9E3779B97F4A7C15) & M64) ^ int(salt_of(partition)))


def key_hash(key: bytes) -> int:
    h = mixed((len(key) * 0x9E3779B97F4A7C15) & M64)
    for at in range(0, min(len(key), 64), 8):
        h = mixed(h ^ int.from_bytes(key[at : min(at + 8, 64)], "little"))
    return h


def events(n: int, *, seed: int = 5) -> list[bytes | None]:
    """Of one row each, none of them bad."""
    shares = {"bad_share": 0.0, "label_share": 0.0, "batch_share": 0.0, "array_share": 0.0}
    return make_events(n, seed, **shares)[0]


def is_kept(record: Record, bits: int, by: str) -> bool:
    by_key = by == "key" and record.key is not None
    h = key_hash(record.key or b"") if by_key else place_hash(record.offset)
    return h >> (64 - bits) == 0


def some_records(n: int, *, first: int = 1000) -> list[Record]:
    keys = (None, b"", b"k", b"customer-%d", b"a-key-of-more-than-16-bytes-%d", b"x" * 70 + b"%d")
    out = []
    for i, value in enumerate(events(n)):
        key = keys[i % len(keys)]
        key = key % i if key and b"%" in key else key
        out.append(Record(first + i, MS + i, key, value, ()))
    return out


class Side:
    def __init__(self, kind: Any, config: Config) -> None:
        self.table = StreamTable()
        self.decoder = kind(config, self.table, None)
        self.tally = Tally()
        self.ends: list[int] = []

    def decode(self, fetch: Fetch | RawFetch) -> Outcome:
        self.decoder.now_ms = MS + 10_000_000

        def seen() -> Any:
            for part in self.decoder.decode(fetch, "lineage"):
                self.tally.add(part.tally)
                self.ends.append(part.to_offset)
                yield part

        return Digester(self.table).outcome(seen())


def shedding(config: Config, bits: int) -> Side:
    level = Level()
    level.bits = bits
    return Side(lambda c, table, sampler: SheddingDecoder(c, table, sampler, level=level), config)


def raw_fetch(records: Sequence[Record], *, is_label_topic: bool = False) -> RawFetch:
    batches = []
    for at in range(0, len(records), 100):
        data = built(records[at : at + 100], codec=CODECS["lz4"])
        batches += batches_of(bytes(data), records[at].offset)[0]
    end = records[-1].offset + 1
    return RawFetch(1, PARTITION, records[0].offset, end, table_of(batches), end, 1, is_label_topic)


@pytest.mark.parametrize("by", ["offset", "key"])
@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("bits", [1, 3])
def test_what_is_decoded_is_exactly_what_the_hash_chooses(by: str, is_raw: bool, bits: int) -> None:
    config = Config(overload=Overload(mode="shed", by=by))  # type: ignore[arg-type]
    records = some_records(3000)
    kept = [record for record in records if is_kept(record, bits, by)]
    assert len(records) / 2**bits * 0.8 < len(kept) < len(records) / 2**bits * 1.2 or by == "key"
    side = shedding(config, bits)
    found = side.decode(raw_fetch(records) if is_raw else fetch_of(records))
    whole = Side(JsonDecoder, config).decode(fetch_of(kept))
    assert sorted(found.rows.tolist()) == sorted(whole.rows.tolist())
    assert side.tally.records == len(records)
    assert side.tally.rows == len(kept)
    assert side.tally.dropped == {Drop.SHED: len(records) - len(kept)}
    assert side.ends[-1] == records[-1].offset + 1
    assert not found.dead


def test_a_slice_counts_what_was_left_out_in_the_offsets_it_covers_and_no_more() -> None:
    """A cut falls between two slices: what the first ones counted is committed, the rest is read again."""
    records = some_records(3000)
    side = shedding(Config(overload=Overload(mode="shed")), 2)
    counted = 0
    for part in side.decoder.decode(raw_fetch(records), "lineage"):
        counted += part.tally.records
        assert counted == part.to_offset - records[0].offset
    assert counted == len(records)


def test_a_higher_level_keeps_some_of_those_that_a_lower_one_keeps() -> None:
    hashes = hash_places(salt_of(Partition("t", 3)), np.arange(100_000))
    sets = [set(np.flatnonzero(are_chosen(hashes, bits)).tolist()) for bits in range(7)]
    for more, fewer in itertools.pairwise(sets):
        assert fewer < more
        assert len(fewer) == pytest.approx(len(more) / 2, rel=0.08)


def test_partitions_have_samples_of_their_own() -> None:
    at = np.arange(10_000)
    one, two = (
        set(np.flatnonzero(are_chosen(hash_places(salt_of(Partition("t", n)), at), 3)).tolist())
        for n in (0, 1)
    )
    assert len(one & two) == pytest.approx(10_000 / 64, rel=0.3)


def test_hashes_agree_with_a_plain_reading_of_their_definition() -> None:
    keys = [b"", b"a", b"abcdefgh", b"abcdefghi", b"z" * 64, b"z" * 64 + b"beyond", b"\0" * 9]
    found = hash_keys(*joined_keys(keys)).tolist()
    assert found == [key_hash(key) for key in keys]
    offsets = np.array([0, 1, 2**40])
    expected = [place_hash(int(offset)) for offset in offsets]
    assert hash_places(salt_of(PARTITION), offsets).tolist() == expected


def test_by_key_all_records_of_a_key_are_kept_or_none() -> None:
    config = Config(overload=Overload(mode="shed", by="key"))
    values = events(4000, seed=9)
    records = [Record(i, MS, b"user-%d" % (i % 40), value, ()) for i, value in enumerate(values)]
    kept = {key for i in range(40) if key_hash(key := b"user-%d" % i) >> 63 == 0}
    side = shedding(config, 1)
    side.decode(raw_fetch(records))
    assert 5 < len(kept) < 35
    assert side.tally.rows == 100 * len(kept)


def test_label_topics_are_left_alone() -> None:
    side = shedding(Config(overload=Overload(mode="shed")), 6)
    records = [Record(i, MS, None, b'{"id":"a","model":"m","label":1}', ()) for i in range(200)]
    side.decode(raw_fetch(records, is_label_topic=True))
    assert (side.tally.labels, side.tally.dropped) == (200, {})


def test_a_fetch_of_which_nothing_is_kept_is_read_to_its_end() -> None:
    offset = next(i for i in range(100) if place_hash(i) >> 48)
    side = shedding(Config(overload=Overload(mode="shed")), 16)
    one = [Record(offset, MS, None, events(1)[0], ())]
    for fetch in (raw_fetch(one), fetch_of(one)):
        side.ends.clear()
        side.decode(fetch)
        assert side.ends == [offset + 1]
    assert side.tally.records == 2
    assert side.tally.dropped == {Drop.SHED: 2}


def test_a_level_begins_at_a_cut() -> None:
    records = some_records(500)
    level = Level()
    decoder = SheddingDecoder(Config(), StreamTable(), None, level=level)

    def rows() -> int:
        return sum(part.tally.rows for part in decoder.decode(raw_fetch(records), ""))

    level.bits = 2
    assert rows() == 500
    decoder.on_cut()
    assert rows() == sum(is_kept(record, 2, "offset") for record in records)


def test_at_level_0_it_is_the_decoder_it_was() -> None:
    records = some_records(1000)
    one, other = shedding(Config(), 0), Side(FastDecoder, Config())
    assert one.decode(raw_fetch(records)).agrees(other.decode(raw_fetch(records)))


# ---------------------------------------------------------------- what the fold says

KEY = StreamKey("m", "1", ())


def chunk_at(level: int, n: int, number: int = 1) -> Any:
    rows = [Row(KEY, MS + number, {feature("x"): float(i)}) for i in range(n)]
    chunk = chunk_of(
        [[rows]], digest=merge_digest(Config()), ranges=[range_of(0, rows)], number=number
    )
    return replace(chunk, shed_bits=level)


def stream_of(fold: Fold) -> Any:
    (stream,) = fold.state(0)["streams"]
    return stream


def test_counts_stay_raw_and_the_ratio_stands_beside_them() -> None:
    fold = Fold(Config(), start_ns=1)
    fold.apply(chunk_at(0, 100), 2)
    assert "sampling" not in stream_of(fold)
    fold.apply(chunk_at(2, 50, 2), 3)
    stream = stream_of(fold)
    assert stream["rows"] == 150
    assert stream["sampling"] == {"ratio": 150 / 300, "rows": 300}
    assert stream["totals"]["features"]["x"]["count"] == 150
    (profile,) = fold.seal_all(4).sealed
    assert (profile.rows, profile.unseen, profile.sampling_ratio) == (150, 150, 0.5)
    (window,) = stream_of(fold)["windows"]
    assert window["sampling"] == {"ratio": 0.5, "rows": 300}


def test_the_ratio_survives_bytes_and_merging() -> None:
    fold = Fold(Config(), start_ns=1)
    chunk = from_bytes(to_bytes(chunk_at(3, 10)))
    assert chunk.shed_bits == 3
    fold.apply(chunk, 2)
    again = load(Config(), dump(fold))
    assert stream_of(again) == stream_of(fold)
    (profile,) = again.seal_all(4).sealed
    read = Profile.from_bytes(profile.to_bytes())
    assert (read.unseen, merge(read, read).unseen) == (70, 140)
    sealed = load(Config(), dump(again))
    assert stream_of(sealed)["windows"][0]["sampling"]["rows"] == 80


def test_every_shard_of_a_fleet_learns_the_level() -> None:
    records = [read_record(data) for data in records_of(chunk_at(4, 10), 0, 2, [])]
    manifest = records[-1]
    assert isinstance(manifest, Manifest)
    parts = [part.data for part in records if isinstance(part, Part)]
    assert join(manifest, parts).shed_bits == 4


def test_bytes_that_claim_an_impossible_level_are_refused() -> None:
    with pytest.raises(DecodeError, match="chunk header"):
        from_bytes(to_bytes(chunk_at(17, 1)))
