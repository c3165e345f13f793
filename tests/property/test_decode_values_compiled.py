"""What the compiled parsers accept is what orjson, float() and `decode.times` say, bit by bit."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.decode.times import event_time_ms
from agent.sketch.hash import merge_hash
from tests.support.kernel_values import (
    BEHIND,
    N_APART,
    decimal,
    integer_length,
    keyed_hash_of,
    merge_hash_of,
    number,
    text_length,
    time_of_float,
    time_of_integer,
    time_of_text,
    vector,
)

MANY = settings(max_examples=1000, deadline=None)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DIGITS = st.text("0123456789", min_size=1, max_size=26)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def by_orjson(text: bytes) -> float | None:
    """The number that this text is, as a row gets it; None when it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return float(value) if type(value) in (int, float) else None


def check_number(text: bytes, *, must_fit: bool = False) -> None:
    for i, behind in enumerate(BEHIND):
        found = number(text, behind)
        if found is None or found[0] < len(text):
            assert not must_fit or i >= N_APART, text
            continue
        expected = by_orjson(text)
        assert expected is not None, text
        assert bits(found[1]) == bits(expected), (text, behind)


# ---------------------------------------------------------------- numbers


@given(FINITE)
@MANY
def test_any_float_as_written_by_python_is_read_exactly(value: float) -> None:
    is_normal = value == 0 or abs(value) >= 2.2250738585072014e-308
    text = repr(value).encode()
    n_digits = sum(chr(byte).isdigit() for byte in text.split(b"e")[0])
    check_number(text, must_fit=is_normal and n_digits <= 19)


@given(st.integers(-(10**19) + 1, 10**19 - 1))
@example(2**53 + 1)
@example(2**63)
@example(-(2**63))
@example(10**19 - 1)
@example(9007199254740993)
@MANY
def test_any_integer_of_19_digits_is_read_exactly(value: int) -> None:
    check_number(str(value).encode(), must_fit=True)


@given(
    st.booleans(),
    DIGITS,
    st.none() | DIGITS,
    st.sampled_from(["", "e", "E"]),
    st.integers(-400, 400),
)
@MANY
def test_any_digits_are_read_exactly_or_not_at_all(
    is_negative: bool, whole: str, decimals: str | None, exponent: str, power: int
) -> None:
    text = f"{'-' if is_negative else ''}{whole}"
    if decimals is not None:
        text += f".{decimals}"
    if exponent:
        text += f"{exponent}{power:+d}" if power % 2 else f"{exponent}{power}"
    fits = (
        (whole == "0" or whole[0] != "0")
        and not exponent
        and len(whole) <= 19
        and len(whole + (decimals or "")) <= 19
    )
    check_number(text.encode(), must_fit=fits)


@given(st.floats(1e-290, 1e290), st.integers(-2, 2), st.integers(17, 19))
@MANY
def test_digits_next_to_half_way_between_two_floats_are_rounded_right(
    value: float, step: int, n_digits: int
) -> None:
    mantissa, exponent = math.frexp(value)
    halves = int(mantissa * 2**54) + 1  # half way, in units of 2^(exponent - 54)
    power = exponent - 54
    # The first digits of the exact middle, cut or moved by a unit.
    exact = halves * 2**power if power >= 0 else halves * 5**-power
    shift = 0 if power >= 0 else power
    text = str(exact)
    digits = int(text[:n_digits]) + step
    shift += len(text) - len(text[:n_digits])
    for written in (
        f"{digits}e{shift}",
        f"{digits}E+{shift}" if shift >= 0 else f"{digits}e{shift}",
    ):
        check_number(written.encode(), must_fit=True)


@pytest.mark.parametrize(
    "text",
    [
        "0.00000000000000000000001",
        "123456789012345678.5",
        "0.30000000000000004",
        "9007199254740993.0",
        "9007199254740992.5",
        "4503599627370496.5",
        "4503599627370497.5",
        "4503599627370497.499",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "1e22",
        "1e23",
        "8.5e-5",
        "0e5",
        "0.0e-400",
        "-0",
        "-0.0",
        "-0e0",
        "0",
    ],
)
def test_numbers_at_the_edges_are_read_exactly(text: str) -> None:
    check_number(text.encode(), must_fit=True)


NO_NUMBERS = """01 -01 00 00.5 1. .5 - + +1 1e 1e+ 1.e5 1.5e 1_0 0x1 NaN Infinity -Infinity 1e400 -1e400 1..5
    1.5.5 --1 e5 1e00001 5e-324 1e-400 12345678901234567890 1234567890.12345678901 00000000000000000001.5"""


@pytest.mark.parametrize("text", NO_NUMBERS.split())
def test_what_is_no_number_or_not_for_this_tier_is_a_misfit(text: str) -> None:
    for behind in BEHIND:
        found = number(text.encode(), behind)
        assert found is None or found[0] < len(text)


@given(st.integers(0, 10**19 - 1), st.integers(-345, 310))
@MANY
def test_digits_times_a_power_of_ten_are_rounded_right(digits: int, power: int) -> None:
    expected = float(f"{digits}e{power}")
    found = decimal(digits, power)
    if found is None:
        assert expected in (0.0, math.inf) or expected < 2.3e-308
    else:
        assert bits(found) == bits(expected)


@given(st.text("-0123456789.eE", max_size=22))
@MANY
def test_a_canonical_integer_is_its_own_shortest_text(text: str) -> None:
    found = integer_length(text.encode(), b",")
    if found is not None:
        assert str(int(text[:found])) == text[:found] and text[found : found + 1] not in (
            ".",
            "e",
            "E",
        )
    elif text.lstrip("-").isdigit() and len(text.lstrip("-")) <= 18:
        assert text.startswith("--") or str(int(text)) != text


# ---------------------------------------------------------------- vectors


@given(
    st.lists(FINITE | st.integers(-(10**6), 10**6), max_size=20),
    st.sampled_from([",", ", ", " ,\n "]),
)
@MANY
def test_the_norm_of_a_vector_is_the_root_of_a_plain_sum(values: list[float], comma: str) -> None:
    text = (comma.join(map(repr, values)) + "]").encode()
    total = 0.0
    for value in values:
        total += float(value) * float(value)
    found = vector(text)
    if all(value == 0 for value in values):
        expected = 0.0
    elif 1e-280 < total < 1e280:
        expected = float(np.sqrt(total))
    else:
        assert found is None
        return
    if found is None:  # some value is subnormal
        assert any(0 < abs(value) < 2.3e-308 for value in values)
    else:
        assert found == (len(text), expected)


@pytest.mark.parametrize(
    "text", ["1,]", ",1]", "1 2]", "1", "1,", "", "1,null]", "[1]]", "1,01]", "1}", "1,2"]
)
def test_what_is_no_array_of_numbers_is_a_misfit(text: str) -> None:
    for behind in BEHIND:
        found = vector(text.encode(), behind)
        assert found is None or found[0] > len(text)


# ---------------------------------------------------------------- text


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@example(b"\xed\xa0\x80")
@example(b"\xf4\x8f\xbf\xbf")
@example(b"\xf4\x90\x80\x80")
@example(b"x" * 31 + b"\xc3\xa9")
@example(b"\xe0\x9f\xbf")
@MANY
def test_text_is_accepted_when_orjson_does_and_it_has_no_escape(text: bytes) -> None:
    quoted = b'"' + text + b'"'
    for behind in BEHIND:
        found = text_length(text + b'"', behind)
        end = text.find(b'"')
        body = text if end < 0 else text[:end]
        try:
            orjson.loads(b'"' + body + b'"')
            is_valid = b"\\" not in body
        except orjson.JSONDecodeError:
            is_valid = False
        assert found == (len(body) if is_valid else None), quoted


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 70))
@MANY
def test_every_utf8_sequence_is_judged_as_by_orjson(a: int, b: int, c: int, before: int) -> None:
    text = b"x" * before + bytes([a | 0x80, b, c]) + b"yz"
    if b'"' in text or b"\\" in text:
        return
    try:
        orjson.loads(b'"' + text + b'"')
        expected: int | None = len(text)
    except orjson.JSONDecodeError:
        expected = None
    assert text_length(text + b'"') == expected


def test_text_that_nothing_closes_is_a_misfit() -> None:
    for length in range(70):
        assert text_length(b"x" * length, b'"') is None
        assert text_length(b"\xc3\xa9" * length, b'"') is None


# ---------------------------------------------------------------- hashes


@given(st.binary(max_size=70))
@MANY
def test_the_fast_merge_hash_is_the_hash(text: bytes) -> None:
    assert merge_hash_of(text) == merge_hash(text)


@given(st.binary(max_size=70))
@MANY
def test_the_keyed_hash_does_not_depend_on_what_lies_behind(text: bytes) -> None:
    assert keyed_hash_of(text, b"\0") == keyed_hash_of(text, b"\xff")


def test_keyed_hashes_of_different_texts_differ() -> None:
    texts = (
        [b"x" * n for n in range(70)]
        + [b"m%04d" % n for n in range(5000)]
        + [b"\0" * n for n in range(1, 40)]
    )
    assert len({keyed_hash_of(text) for text in texts}) == len(texts)


# ---------------------------------------------------------------- times


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-(10**15), 10**15))
@example(10**11)
@example(10**11 - 1)
@example(10**14)
@example(10**14 - 1)
@example(10**17)
@example(10**17 - 1)
@MANY
def test_integers_are_read_as_the_times_they_are(value: int) -> None:
    assert time_of_integer(value) == event_time_ms(value)


@given(FINITE | st.floats(-1e19, 1e19) | st.floats(0, 2e9))
@MANY
def test_floats_are_read_as_the_times_they_are(value: float) -> None:
    found = time_of_float(value)
    if found is None:
        assert abs(value) >= 9e18
    else:
        assert found == event_time_ms(value)


ZONES = st.sampled_from(["Z", "+00:00", "-00:00", "+05:30", "-23:59", "+23:59", "+14:00"])


@given(st.datetimes(), st.text("0123456789", max_size=9), ZONES)
@MANY
def test_rfc3339_is_read_as_the_time_it_is(at: datetime, fraction: str, zone: str) -> None:
    text = at.strftime("%Y").zfill(4) + at.strftime("-%m-%dT%H:%M:%S")
    text += f".{fraction}{zone}" if fraction else zone
    assert time_of_text(text.encode()) == event_time_ms(text)


@given(
    st.tuples(*(st.integers(0, top) for top in (9999, 13, 32, 25, 61, 61))),
    st.sampled_from(["", ".", ".5", ".1234567890", ",5", ".5x"]),
    ZONES | st.sampled_from(["", "z", "+0530", "+05", "+24:00", "+05:60", "+05:30:15", "Zx"]),
    st.sampled_from(["T", "t", " "]),
)
@MANY
def test_what_is_strict_is_read_right_and_the_rest_is_left(
    parts: tuple[int, ...], fraction: str, zone: str, letter: str
) -> None:
    year, month, day, hour, minute, second = parts
    text = f"{year:04}-{month:02}-{day:02}{letter}{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
    found = time_of_text(text.encode())
    if found is not None:
        assert found == event_time_ms(text)
        assert letter == "T"
    else:
        is_strict = letter == "T" and fraction in ("", ".5") and zone in ("Z", "+05:30", "-23:59")
        if is_strict:
            assert event_time_ms(text) is None or second == 60 or hour == 24


@given(st.text("0123456789-:.TZ+ ", max_size=36))
@MANY
def test_any_text_is_the_time_it_is_or_a_misfit(text: str) -> None:
    found = time_of_text(text.encode())
    if found is not None:
        assert found == event_time_ms(text)


def test_days_of_four_centuries_are_counted_right() -> None:
    day = datetime(1899, 12, 31, 23, 59, 59, tzinfo=UTC)
    for _ in range(2000):
        day += timedelta(days=73, hours=1)
        text = day.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert time_of_text(text.encode()) == int(day.timestamp()) * 1000
        local = day.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
        assert (
            time_of_text(local.strftime("%Y-%m-%dT%H:%M:%S-09:30").encode())
            == int(day.timestamp()) * 1000
        )
