"""Chunk and profile bytes: what goes in comes out, and damage is always noticed."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.fold.profile import Profile
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.types import Chunk, Exemplar, RequestSpan, SpanWhy, StreamKey
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of

CONFIG = Config()
T0_MS = 1_700_000_000_000
VALUES = st.one_of(
    st.none(), st.floats(allow_nan=True, allow_infinity=True), st.booleans(), st.text(max_size=80)
)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    columns = [feature("a"), feature("b"), prediction("score"), LATENCY]
    rows = [
        Row(
            StreamKey(draw(st.sampled_from(["m", "n", "ä"])), draw(st.sampled_from(["", "1"]))),
            T0_MS + draw(st.integers(0, 200_000)),
            draw(st.dictionaries(st.sampled_from(columns), VALUES)),
            is_error=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(0, 15)))
    ]
    return chunk_of(
        [[rows[::2]], [rows[1::2]]],
        digest=merge_digest(CONFIG),
        ranges=[range_of(0, rows)],
        labels_by_model=draw(st.dictionaries(st.text(max_size=5), st.integers(0, 9))),
    )


def assert_equal(a: Chunk, b: Chunk) -> None:
    assert (a.run_id, a.number, a.epoch, a.digest) == (b.run_id, b.number, b.epoch, b.digest)
    assert (a.ranges, a.groups, a.tally) == (b.ranges, b.groups, b.tally)
    assert (a.spans, a.exemplars) == (b.spans, b.exemplars)
    for cells, others in ((a.numeric, b.numeric), (a.strings, b.strings)):
        assert len(cells) == len(others)
        assert all(cells.payload(i) == others.payload(i) for i in range(len(cells)))
    assert to_bytes(a) == to_bytes(b)


@settings(max_examples=50, deadline=None)
@given(chunks())
def test_a_chunk_survives_its_bytes(chunk: Chunk) -> None:
    assert_equal(chunk, from_bytes(to_bytes(chunk)))


@cache
def sample_chunk() -> Chunk:
    key = StreamKey("m", "1", (("region", "eu"),))
    span = RequestSpan(
        bytes(range(16)), bytes(8), b"", (bytes(16), bytes(8)), "ot=th:8", 1, 2, key,
        SpanWhy.SLOW, "", "r-1", range_of(0).partition, 7, 0, None, (feature("x"),),
    )  # fmt: skip
    rows = [
        Row(key, T0_MS + i * 10, {feature("x"): float(i), feature("c"): f"v{i % 3}"})
        for i in range(50)
    ]
    chunk = chunk_of(
        [[rows]],
        digest=merge_digest(CONFIG),
        ranges=[range_of(0, rows)],
        exemplars=[Exemplar(key, feature("x"), 1.5, 3, bytes(16), bytes(8))],
    )
    chunk.spans.append(span)
    return chunk


@cache
def samples() -> dict[str, bytes]:
    fold = Fold(CONFIG, start_ns=1)
    fold.apply(sample_chunk(), 2)
    (profile,) = fold.seal_all(3).sealed
    return {"chunk": to_bytes(sample_chunk()), "profile": profile.to_bytes()}


READERS = {"chunk": from_bytes, "profile": Profile.from_bytes}


def test_spans_and_exemplars_survive_too() -> None:
    assert_equal(sample_chunk(), from_bytes(samples()["chunk"]))


def test_a_profile_survives_its_bytes() -> None:
    data = samples()["profile"]
    assert Profile.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize("what", ["chunk", "profile"])
def test_every_truncation_is_refused(what: str) -> None:
    data = samples()[what]
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            READERS[what](data[:length])
    with pytest.raises(DecodeError, match="its lengths say"):
        READERS[what](data + b"\0")


@pytest.mark.parametrize("what", ["chunk", "profile"])
def test_every_flipped_bit_is_refused(what: str) -> None:
    data = bytearray(samples()[what])
    rng = random.Random(7)
    for at in range(len(data)):
        bit = 1 << rng.randrange(8)
        data[at] ^= bit
        with pytest.raises(DecodeError):
            READERS[what](bytes(data))
        data[at] ^= bit


@pytest.mark.parametrize("what", ["chunk", "profile"])
def test_random_mutations_with_a_right_checksum_never_raise_anything_else(what: str) -> None:
    """Bytes that somebody wrote wrongly, not a wire that flipped them: still a DecodeError or a value."""
    import zlib

    data = samples()[what]
    rng = random.Random(11)
    refused = 0
    for _ in range(400):
        changed = bytearray(data[:-4])
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(20, len(changed))] = rng.randrange(256)
        changed += zlib.crc32(changed).to_bytes(4, "little")
        try:
            READERS[what](bytes(changed))
        except DecodeError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("what", ["chunk", "profile"])
def test_a_newer_version_says_so(what: str) -> None:
    data = bytearray(samples()[what])
    data[4] = 2
    with pytest.raises(DecodeError, match=rf"{what}: version 2; this program reads up to 1"):
        READERS[what](bytes(data))
