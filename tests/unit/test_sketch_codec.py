"""Bytes of cells: round trips, and damage of every kind is refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DecodeError
from agent.sketch.codec import (
    numeric_from_bytes,
    numeric_to_bytes,
    string_from_bytes,
    string_to_bytes,
)
from agent.sketch.views import numeric_view, string_view
from tests.reference.sketching import (
    SHAPES,
    exact_string_part,
    merged,
    numeric,
    strings,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [0, 1, 300, 20_000])
def test_a_numeric_record_comes_back_byte_for_byte(shape: str, n: int) -> None:
    record = numeric(SHAPES[shape](np.random.default_rng(n), n))
    for original in (record, merged([record, record], wide=True)):
        data = numeric_to_bytes(original)
        assert np.array_equal(numeric_from_bytes(data), original)
        assert len(data) < len(original) / 1.5


@pytest.mark.parametrize("n", [0, 1, 7, 500, 20_000])
def test_a_string_record_comes_back(n: int) -> None:
    for cardinality in (1, 30, 100_000):
        words = [f"wörd {i % cardinality} ".encode() * (i % 5) for i in range(n)]
        record = strings(words)
        data = string_to_bytes(record)
        back = string_from_bytes(data)
        assert string_to_bytes(back) == data
        a, b = string_view(record), string_view(back)
        assert exact_string_part(a) == exact_string_part(b)
        assert (a.named, a.unlisted_bound) == (b.named, b.unlisted_bound)
        if n and cardinality <= 100:
            assert np.array_equal(back, record)


def test_small_sketches_make_few_bytes() -> None:
    assert len(numeric_to_bytes(numeric([]))) < 250
    assert len(numeric_to_bytes(numeric([1.0, 2.0]))) < 260
    assert len(string_to_bytes(strings([b"a", b"b"]))) < 250


CASES = [
    (numeric_to_bytes(numeric([1.0, -2.0, 0.0])), numeric_from_bytes),
    (numeric_to_bytes(merged([numeric([3.0])], wide=True)), numeric_from_bytes),
    (string_to_bytes(strings([b"a", b"bb", b"a"])), string_from_bytes),
]


@pytest.mark.parametrize(("data", "decode"), CASES)
def test_every_damaged_byte_is_noticed(data, decode) -> None:  # type: ignore[no-untyped-def]
    for place in range(len(data)):
        for change in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(DecodeError):
                decode(bytes(damaged))


@pytest.mark.parametrize(("data", "decode"), CASES)
def test_truncated_and_joined_bytes_are_refused(data, decode) -> None:  # type: ignore[no-untyped-def]
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:length])
    with pytest.raises(DecodeError, match="truncated or joined"):
        decode(data + b"\0")


def test_messages_name_what_is_wrong() -> None:
    data = numeric_to_bytes(numeric([1.0]))
    with pytest.raises(DecodeError, match="version 2; this program reads version 1"):
        numeric_from_bytes(data[:4] + b"\2" + data[5:])
    with pytest.raises(DecodeError, match="starts with b'IFNC'; must be b'IFSC'"):
        string_from_bytes(data)
    with pytest.raises(DecodeError, match="checksum does not match"):
        numeric_from_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(DecodeError, match="3 bytes; at least 16 are needed"):
        numeric_from_bytes(data[:3])
    with pytest.raises(ValueError, match="a numeric record has 3 bytes"):
        numeric_to_bytes(np.zeros(3, np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 1), st.booleans())
def test_payloads_with_a_right_checksum_are_still_checked(
    payload: bytes, flags: int, text: bool
) -> None:
    """Whatever decodes is a sound record: it can be read and merged."""
    from agent.sketch import codec

    magic = b"IFSC" if text else b"IFNC"
    data = codec._frame(magic, flags, payload)
    try:
        record = string_from_bytes(data) if text else numeric_from_bytes(data)
    except DecodeError:
        return
    view = string_view(record) if text else numeric_view(record)
    assert view.count >= 0


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 2))
def test_a_changed_payload_with_a_right_checksum_never_leaves_the_cell(
    place: int, value: int, case: int
) -> None:
    from agent.sketch import codec

    data, decode = CASES[case]
    payload = bytearray(data[16:])
    payload[place % len(payload)] = value
    try:
        record = decode(codec._frame(data[:4], data[5], bytes(payload)))
    except DecodeError:
        return
    merged([record], wide=case == 1)


def _sparse(width: int, places: list[int], values: list[int]) -> bytes:
    """A sparse part of a payload, as the format says."""
    head = bytes((1, width)) + len(places).to_bytes(2, "little")
    return (
        head
        + b"".join(p.to_bytes(2, "little") for p in places)
        + b"".join(v.to_bytes(width, "little") for v in values)
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (_sparse(1, [7, 7], [1, 1]), "places of counts do not rise"),
        (_sparse(1, [9, 7], [1, 1]), "places of counts do not rise"),
        (_sparse(8, [7], [1 << 53]), "a count of 9007199254740992"),
        (_sparse(1, [256], [1]), "count 256 of 256"),
    ],
)
def test_counts_that_a_merge_would_read_otherwise_are_refused(part: bytes, message: str) -> None:
    from agent.sketch import codec

    payload = string_to_bytes(strings([]))[16:]
    hashed = 65  # behind the head and the number of keys
    data = codec._frame(b"IFSC", 0, payload[:hashed] + part + payload[hashed + 4 :])
    with pytest.raises(DecodeError, match=message):
        string_from_bytes(data)


def test_registers_of_more_than_a_byte_are_refused() -> None:
    from agent.sketch import codec

    payload = string_to_bytes(strings([]))[16:]
    data = codec._frame(b"IFSC", 0, payload[:-4] + _sparse(2, [7], [40]))
    with pytest.raises(DecodeError, match="form 1 and width 2"):
        string_from_bytes(data)
